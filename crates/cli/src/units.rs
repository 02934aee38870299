//! Sizes and durations as people write them, and marks as `KEY=VALUE`.

use std::time::Duration;

const SIZES: [(&str, u64); 13] = [
    ("b", 1),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    // As QEMU and Docker read them.
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
    ("t", 1 << 40),
];

const TIMES: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// `256MiB`, `2GiB`, `1.5GiB`. A bare number is refused: nobody knows which unit was meant.
///
/// # Errors
/// A sentence for the person who wrote it.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not a size; write it like 256MiB or 2GiB");
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
    let (number, unit) = text.split_at(split);
    let unit = unit.trim().to_ascii_lowercase();
    let scale = SIZES.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale).ok_or_else(bad)?;
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let whole: u64 = whole.parse().map_err(|_| bad())?;
    let digits = u32::try_from(part.len()).ok().filter(|n| (1..=6).contains(n)).ok_or_else(bad)?;
    let part: u64 = part.parse().map_err(|_| bad())?;
    let part = u128::from(part) * u128::from(scale) / u128::from(10_u64.pow(digits));
    let total = u128::from(whole) * u128::from(scale) + part;
    u64::try_from(total).map_err(|_| bad())
}

/// `90s`, `1h30m`, `250ms`, `2d`; `0` alone is zero.
///
/// # Errors
/// A sentence for the person who wrote it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration; write it like 90s or 1h30m");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total: u64 = 0;
    let mut last = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, next) = tail.split_at(letters);
        let scale = TIMES.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale).ok_or_else(bad)?;
        // From large to small and each once: `1m1h` is more likely a slip than a wish.
        if scale >= last {
            return Err(bad());
        }
        last = scale;
        let number: u64 = number.parse().map_err(|_| bad())?;
        total = number.checked_mul(scale).and_then(|n| total.checked_add(n)).ok_or_else(bad)?;
        rest = next;
    }
    if text.is_empty() { Err(bad()) } else { Ok(Duration::from_millis(total)) }
}

/// `KEY=VALUE`; the value may be empty and may hold `=`.
///
/// # Errors
/// A sentence for the person who wrote it.
pub fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not KEY=VALUE")),
    }
}

/// `256MiB`; one decimal where the number is not whole.
pub fn show_bytes(bytes: u64) -> String {
    let (unit, scale) = match bytes {
        b if b >= 1 << 40 => ("TiB", 1_u64 << 40),
        b if b >= 1 << 30 => ("GiB", 1 << 30),
        b if b >= 1 << 20 => ("MiB", 1 << 20),
        b if b >= 1 << 10 => ("KiB", 1 << 10),
        _ => return format!("{bytes}B"),
    };
    if bytes.is_multiple_of(scale) {
        return format!("{}{unit}", bytes / scale);
    }
    let tenths = u128::from(bytes) * 10 / u128::from(scale);
    format!("{}.{}{unit}", tenths / 10, tenths % 10)
}

/// `43s`, `5m`, `3h`, `12d`: one unit is enough to see how old something is.
pub fn show_age(age: Duration) -> String {
    match age.as_secs() {
        s @ 0..=119 => format!("{s}s"),
        s @ 120..=7199 => format!("{}m", s / 60),
        s @ 7200..=172_799 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

/// `850ms`, `1.2s`, `90s`.
pub fn show_millis(millis: u64) -> String {
    match millis {
        ms @ 0..=999 => format!("{ms}ms"),
        ms @ 1000..=59_999 => format!("{}.{}s", ms / 1000, ms % 1000 / 100),
        ms => format!("{}s", ms / 1000),
    }
}

/// `24h`, `90m`, `1500ms`: exactly, in the largest unit that does it.
pub fn show_span(millis: u64) -> String {
    let units = [(3_600_000, "h"), (60_000, "m"), (1000, "s")];
    let unit = units.into_iter().find(|(size, _)| millis > 0 && millis.is_multiple_of(*size));
    let (size, unit) = unit.unwrap_or((1, "ms"));
    format!("{}{unit}", millis / size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("256MiB", 256 << 20),
            ("2GiB", 2 << 30),
            ("1.5GiB", 3 << 29),
            ("512m", 512 << 20),
            ("1 GiB", 1 << 30),
            ("1GB", 1_000_000_000),
            ("0B", 0),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for bad in ["", "256", "MiB", "1.MiB", "-1MiB", "1XiB", "1.5.2GiB", "99999999999TiB", "1e3MiB"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        for (text, ms) in [("90s", 90_000), ("1h30m", 5_400_000), ("250ms", 250), ("2d", 172_800_000), ("0", 0)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "90", "s", "1m1h", "1h1h", "1.5h", "-1s", "1w", "99999999999999999999d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn pairs() {
        assert_eq!(parse_pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(parse_pair("a="), Ok(("a".to_owned(), String::new())));
        assert!(parse_pair("=b").is_err() && parse_pair("a").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in ".{0,20}") {
            let _ = (parse_bytes(&text), parse_duration(&text), parse_pair(&text));
        }
        #[test]
        fn whole_mebibytes_come_back(mib in 1_u64..(1 << 20)) {
            prop_assert_eq!(parse_bytes(&format!("{mib}MiB")), Ok(mib << 20));
        }
        #[test]
        fn shown_sizes_are_near(bytes in any::<u64>()) {
            let near = parse_bytes(&show_bytes(bytes)).unwrap();
            prop_assert!(near <= bytes && bytes - near <= bytes / 10);
        }
    }

    #[test]
    fn spans_are_shown_as_they_are_given() {
        for text in ["24h", "90m", "45s", "1500ms"] {
            let span = parse_duration(text).unwrap();
            assert_eq!(show_span(u64::try_from(span.as_millis()).unwrap()), text);
        }
        assert_eq!(show_span(0), "0ms");
    }
}
