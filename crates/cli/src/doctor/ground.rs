//! What everything stands on: clock, disk, memory, tools, privileges.

use super::Check;
use super::probe::{program, text};
use crate::units::show_bytes;
use perigee_model::Timestamp;
use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;

/// Less is not enough for one image; less than the second not for several guests.
const DISK_MIN: u64 = 1 << 30;
const DISK_GOOD: u64 = 5 << 30;
/// Less is not enough for one guest; less than the second not for a few.
const MEMORY_MIN: u64 = 256 << 20;
const MEMORY_GOOD: u64 = 1 << 30;
/// 2025-01-01 and 2100-01-01: certificates made outside are worth nothing.
const SANE_MICROS: std::ops::Range<i64> = 1_735_689_600_000_000..4_102_444_800_000_000;
/// Capabilities the agent uses, by number.
const CAPABILITIES: [(u32, &str); 7] = [
    (0, "chown"),
    (1, "dac_override"),
    (5, "kill"),
    (6, "setgid"),
    (7, "setuid"),
    (12, "net_admin"),
    (21, "sys_admin"),
];

/// Whether certificates and times-to-live can be trusted.
pub fn clock(now: Timestamp) -> Check {
    if !SANE_MICROS.contains(&now.micros()) {
        return Check::fail("clock", format!("it shows {now}"), "timedatectl set-ntp true");
    }
    let systemd = Path::new("/run/systemd/timesync").exists();
    if Path::new("/run/systemd/timesync/synchronized").exists() {
        return Check::ok("clock", "sane, and synchronised");
    }
    if systemd {
        let fix = "timedatectl set-ntp true; timedatectl timesync-status";
        return Check::warn("clock", "sane, but not synchronised yet", fix);
    }
    Check::ok("clock", "sane; whether it is synchronised is not known here")
}

/// Room where the data directory is or will be.
pub fn disk(data_dir: &Path) -> Check {
    let Some(there) = data_dir.ancestors().find(|dir| dir.is_dir()) else {
        return Check::fail("disk", format!("{} has no parent", data_dir.display()), "perigee --data-dir DIR …");
    };
    let Ok(found) = nix::sys::statvfs::statvfs(there) else {
        return Check::warn("disk", format!("{} cannot be asked", there.display()), "df -h");
    };
    let free = found.blocks_available().saturating_mul(found.fragment_size());
    disk_finding(free, there)
}

fn disk_finding(free: u64, there: &Path) -> Check {
    let finding = format!("{} free at {}", show_bytes(free), there.display());
    let fix = "free some, or perigee --data-dir DIR on another disk";
    match free {
        f if f < DISK_MIN => Check::fail("disk", finding, fix),
        f if f < DISK_GOOD => Check::warn("disk", finding, fix),
        _ => Check::ok("disk", finding),
    }
}

/// Room for guests.
pub fn memory() -> Check {
    memory_finding(available(&text("/proc/meminfo")))
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

fn memory_finding(available: Option<u64>) -> Check {
    let Some(available) = available else {
        return Check::warn("memory", "/proc/meminfo does not say how much is available", "mount -t proc proc /proc");
    };
    let finding = format!("{} available; a sandbox takes 256MiB unless told otherwise", show_bytes(available));
    let fix = "end something, or use smaller guests: --memory 128MiB";
    match available {
        a if a < MEMORY_MIN => Check::fail("memory", finding, fix),
        a if a < MEMORY_GOOD => Check::warn("memory", finding, fix),
        _ => Check::ok("memory", finding),
    }
}

/// Only building images needs it.
pub fn image_tools(search_path: &OsStr) -> Check {
    const FIX: &str = "apt-get install busybox-static";
    match program("busybox", search_path) {
        Some(file) if is_static(&file) => {
            Check::ok("image-tools", format!("{} is static; only image build needs it", file.display()))
        }
        Some(file) => {
            Check::warn("image-tools", format!("{} is not static; image build needs that", file.display()), FIX)
        }
        None => Check::warn("image-tools", "no busybox; image build needs it, nothing else does", FIX),
    }
}

/// A dynamic program names its loader in its first page.
fn is_static(file: &Path) -> bool {
    let mut head = Vec::new();
    let read = std::fs::File::open(file).and_then(|f| f.take(4096).read_to_end(&mut head));
    read.is_ok() && !head.windows(9).any(|w| w == b"/ld-linux" || w == b"/ld-musl-")
}

/// What we may do here.
pub fn privileges() -> Check {
    let root = nix::unistd::geteuid().is_root();
    let missing = missing_capabilities(&text("/proc/self/status"));
    privileges_finding(root, &missing)
}

fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:")).unwrap_or_default();
    let held = u64::from_str_radix(line.trim(), 16).unwrap_or(0);
    CAPABILITIES.iter().filter(|(bit, _)| held & (1 << bit) == 0).map(|(_, name)| *name).collect()
}

fn privileges_finding(root: bool, missing: &[&str]) -> Check {
    match (root, missing.is_empty()) {
        (true, true) => Check::ok("privileges", "root, with every capability the agent uses"),
        (true, false) => Check::warn(
            "privileges",
            format!("root, but without {}; guests run reduced", missing.join(", ")),
            "run outside the container, or give it these capabilities",
        ),
        (false, _) => Check::warn(
            "privileges",
            "not root: guests share one uid and the user-mode network, and have no cgroup limits",
            "sudo perigee up",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Grade;

    #[test]
    fn little_room_warns_and_none_fails() {
        let grade = |free| disk_finding(free, Path::new("/")).grade;
        assert_eq!([grade(0), grade(2 << 30), grade(9 << 30)], [Grade::Fail, Grade::Warn, Grade::Ok]);
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        let grade = |free| memory_finding(free).grade;
        assert_eq!([grade(Some(0)), grade(None), grade(Some(9 << 30))], [Grade::Fail, Grade::Warn, Grade::Ok]);
    }

    #[test]
    fn a_clock_of_another_age_fails() {
        assert_eq!(clock(Timestamp::from_micros(0)).grade, Grade::Fail);
        assert_ne!(clock(Timestamp::from_micros(1_800_000_000_000_000)).grade, Grade::Fail);
    }

    #[test]
    fn capabilities_are_named() {
        assert!(missing_capabilities("CapEff:\t000001ffffffffff\n").is_empty());
        assert!(missing_capabilities("CapEff:\t00000000a80425fb\n").contains(&"net_admin"));
        assert_eq!(privileges_finding(false, &[]).grade, Grade::Warn);
    }
}
