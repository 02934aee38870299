//! Reads and system calls.

use crate::text;
use nix::sys::statvfs::statvfs;
use nix::sys::utsname::uname;
use std::path::{Path, PathBuf};

/// What the machine is and has, but for its disks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its own name.
    pub hostname: String,
    /// `x86_64`, `aarch64`.
    pub arch: String,
    /// `uname -r`.
    pub kernel_release: String,
    /// Distribution.
    pub os: String,
    /// Logical CPUs that are on line.
    pub cpus: u32,
    /// The CPU's model name.
    pub cpu_model: String,
    /// Installed memory.
    pub memory_bytes: u64,
}

/// A file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its size.
    pub bytes: u64,
    /// What we may still write, rounded down to 1 GiB.
    pub free_bytes: u64,
}

/// What could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// A system call failed.
    #[error("{what} cannot be read")]
    Os {
        /// What was asked for.
        what: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// Reads the machine.
///
/// # Errors
/// `Os` when even uname(2) fails.
pub fn machine() -> Result<Machine, ProbeError> {
    let names = uname().map_err(|e| ProbeError::Os { what: "uname".into(), source: e.into() })?;
    let name = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
    let os_release = [read("/etc/os-release"), read("/usr/lib/os-release")];
    let os_release = os_release.iter().find(|t| !t.is_empty()).map_or("", String::as_str);
    let online = text::cpu_count(&read("/sys/devices/system/cpu/online"));
    let usable = || std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    Ok(Machine {
        hostname: name(names.nodename()),
        arch: name(names.machine()),
        kernel_release: name(names.release()),
        os: text::pretty_name(os_release),
        cpus: online.unwrap_or_else(usable),
        cpu_model: text::cpu_model(&read("/proc/cpuinfo")),
        memory_bytes: text::meminfo_bytes(&read("/proc/meminfo"), "MemTotal").unwrap_or(0),
    })
}

/// Reads the file system that holds a path.
///
/// # Errors
/// `Os` when the path does not exist.
pub fn disk(path: &Path) -> Result<Disk, ProbeError> {
    let stat = statvfs(path).map_err(|e| ProbeError::Os { what: path.to_owned(), source: e.into() })?;
    #[allow(clippy::useless_conversion, reason = "the fields' width depends on the machine")]
    let (unit, all, free) =
        (u64::from(stat.fragment_size()), u64::from(stat.blocks()), u64::from(stat.blocks_available()));
    let bytes = unit.saturating_mul(all);
    Ok(Disk { bytes, free_bytes: text::whole_gib(unit.saturating_mul(free)) })
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_read() {
        let machine = machine().unwrap();
        assert!(machine.cpus > 0 && machine.memory_bytes > 0 && !machine.arch.is_empty(), "{machine:?}");
        let disk = disk(Path::new("/")).unwrap();
        assert!(disk.bytes > 0 && disk.free_bytes <= disk.bytes && disk.free_bytes.is_multiple_of(1 << 30));
        assert!(super::disk(Path::new("/nowhere")).is_err());
    }
}
