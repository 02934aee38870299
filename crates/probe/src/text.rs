//! Parsers. Each takes a file's text and cannot fail for an outside reason.

/// `PRETTY_NAME` of os-release(5), unquoted; `Linux` when there is none.
pub fn pretty_name(os_release: &str) -> String {
    let name = os_field(os_release, "PRETTY_NAME");
    if name.is_empty() { "Linux".to_owned() } else { name }
}

/// A field of os-release(5), unquoted; empty when it is not there.
pub fn os_field(os_release: &str, field: &str) -> String {
    let value = |line: &str| line.trim().strip_prefix(field)?.strip_prefix('=').map(unquoted);
    os_release.lines().find_map(value).unwrap_or_default()
}

/// A shell-style value: quotes taken off, backslash escapes resolved (os-release(5)).
fn unquoted(value: &str) -> String {
    let value = value.trim();
    let inner = ['"', '\''].iter().find_map(|q| value.strip_prefix(*q).and_then(|v| v.strip_suffix(*q)));
    let mut plain = String::new();
    let mut escaped = false;
    for c in inner.unwrap_or(value).chars() {
        if c == '\\' && !escaped {
            escaped = true;
            continue;
        }
        escaped = false;
        plain.push(c);
    }
    plain
}

/// The CPU's model name out of /proc/cpuinfo; empty when it has none (many ARM kernels).
pub fn cpu_model(cpuinfo: &str) -> String {
    let fields = ["model name", "Model", "cpu model", "Processor"];
    let value = |field: &str| {
        cpuinfo.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == field).then(|| value.split_whitespace().collect::<Vec<_>>().join(" "))
        })
    };
    fields.iter().find_map(|field| value(field).filter(|v| !v.is_empty())).unwrap_or_default()
}

/// Logical CPUs in a list such as `0-3,6` (/sys/devices/system/cpu/online); `None` when it is not one.
pub fn cpu_count(list: &str) -> Option<u32> {
    let mut count = 0u32;
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        count = count.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(count)
}

/// A field of /proc/meminfo in bytes; `None` when it is not there.
pub fn meminfo_bytes(meminfo: &str, field: &str) -> Option<u64> {
    meminfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        if key.trim() != field {
            return None;
        }
        let mut words = value.split_whitespace();
        let number: u64 = words.next()?.parse().ok()?;
        match words.next() {
            None => Some(number),
            Some("kB") => number.checked_mul(1024),
            Some(_) => None,
        }
    })
}

/// Rounded down to a whole GiB, so that it seldom changes.
pub fn whole_gib(bytes: u64) -> u64 {
    bytes >> 30 << 30
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_names_are_unquoted() {
        let table = [
            ("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n", "Debian GNU/Linux 12 (bookworm)"),
            ("PRETTY_NAME='Arch Linux'", "Arch Linux"),
            ("  PRETTY_NAME=Alpine", "Alpine"),
            ("PRETTY_NAME=\"a \\\"b\\\" \\$c\"", "a \"b\" $c"),
            ("PRETTY_NAME=\"\"", "Linux"),
            ("", "Linux"),
            ("NAME=x", "Linux"),
        ];
        for (text, name) in table {
            assert_eq!(pretty_name(text), name, "{text:?}");
        }
    }

    #[test]
    fn cpu_models_of_several_kernels() {
        let table = [
            ("processor\t: 0\nmodel name\t: Intel(R)  Xeon(R) CPU\n", "Intel(R) Xeon(R) CPU"),
            ("processor : 0\nBogoMIPS : 50\nModel : Raspberry Pi 4\n", "Raspberry Pi 4"),
            ("processor : 0\n", ""),
            ("model name\t:\n", ""),
            ("", ""),
        ];
        for (text, model) in table {
            assert_eq!(cpu_model(text), model, "{text:?}");
        }
    }

    #[test]
    fn cpu_lists_are_counted() {
        let table = [
            ("0-3\n", Some(4)),
            ("0", Some(1)),
            ("0-1,4,6-7", Some(5)),
            ("", None),
            ("3-1", None),
            ("a", None),
            ("0-4294967295", None),
        ];
        for (text, count) in table {
            assert_eq!(cpu_count(text), count, "{text:?}");
        }
    }

    #[test]
    fn memory_is_in_bytes() {
        let text = "MemTotal:       16384256 kB\nMemFree: 12 kB\nHugePages_Total: 3\nOdd: 1 MB\n";
        let table =
            [("MemTotal", Some(16_384_256 * 1024)), ("HugePages_Total", Some(3)), ("Odd", None), ("Absent", None)];
        for (field, bytes) in table {
            assert_eq!(meminfo_bytes(text, field), bytes, "{field}");
        }
        assert_eq!(meminfo_bytes("MemTotal: 99999999999999999999 kB", "MemTotal"), None);
    }

    #[test]
    fn free_space_is_rounded_down() {
        assert_eq!(whole_gib((5 << 30) + 17), 5 << 30);
        assert_eq!(whole_gib((1 << 30) - 1), 0);
    }
}
