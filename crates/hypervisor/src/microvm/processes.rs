//! The VMMs of this instance among the host's processes.
//!
//! Owns: reading `/proc` (proc(5)). A process counts when its arguments carry our instance's mark
//! and it runs as a user that we start guests as: nobody else can pass a process off as a guest.
//! Refuses: to trust a pid alone; a pid may be another process's by the time it is used.

use super::arguments::marked_guest;
use super::sys;
use perigee_model::{GuestId, InstanceId};
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

/// Arguments are read up to here; a VMM's are far shorter.
const ARGUMENTS_BYTES_MAX: u64 = 64 << 10;

/// A VMM that lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Whose.
    pub guest: GuestId,
    /// Its process.
    pub pid: u32,
    /// The user it runs as.
    pub uid: u32,
    /// When it started, in ticks since boot: with the pid, no other process has this.
    started: u64,
}

/// All of them. Processes that end meanwhile are left out.
pub fn all(instance: &InstanceId, uids: &RangeInclusive<u32>) -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        found.extend(one(pid, instance, uids));
    }
    found.sort_by_key(|process| (process.started, process.pid));
    Ok(found)
}

fn one(pid: u32, instance: &InstanceId, uids: &RangeInclusive<u32>) -> Option<Process> {
    let uid = fs::metadata(format!("/proc/{pid}")).ok()?.uid();
    if !uids.contains(&uid) {
        return None;
    }
    let guest = guest_of(pid, instance)?;
    Some(Process { guest, pid, uid, started: started(pid)? })
}

/// A dead process has no arguments, so a zombie is no guest.
fn guest_of(pid: u32, instance: &InstanceId) -> Option<GuestId> {
    use io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(format!("/proc/{pid}/cmdline")).ok()?.take(ARGUMENTS_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    let mut arguments = bytes.split(|byte| *byte == 0);
    arguments.find(|argument| *argument == b"-name")?;
    marked_guest(std::str::from_utf8(arguments.next()?).ok()?, instance)
}

/// Field 22 of stat. The second field, the name in brackets, may hold anything but its own end.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(19)?.parse().ok()
}

impl Process {
    /// A descriptor of exactly this process, `None` when it is gone.
    pub fn pidfd(&self, instance: &InstanceId) -> io::Result<Option<OwnedFd>> {
        let pidfd = match sys::pidfd_open(self.pid) {
            Ok(pidfd) => pidfd,
            Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => return Ok(None),
            Err(error) => return Err(error),
        };
        // The descriptor holds on to one process: if that is the one we saw, it stays the one.
        let same = started(self.pid) == Some(self.started) && guest_of(self.pid, instance) == Some(self.guest);
        Ok(same.then_some(pidfd))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_the_mark_is_nobody() {
        let own = std::process::id();
        let instance = InstanceId::from_bits(1);
        assert_eq!(guest_of(own, &instance), None);
        assert!(started(own).unwrap() > 0);
        assert!(all(&instance, &(0..=u32::MAX)).unwrap().is_empty());
    }

    #[test]
    fn a_stranger_with_our_mark_is_no_guest() {
        let name = "guest=perigee-0000fade-01890000-0000-7000-8000-000000000001";
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read x", "-name", name])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // The kernel lets the spawner go on a moment before a new program's arguments can be read.
        let arguments = format!("/proc/{}/cmdline", child.id());
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while fs::read(&arguments).unwrap().is_empty() {
            assert!(std::time::Instant::now() < deadline, "it never got its arguments");
            std::thread::yield_now();
        }
        let instance = InstanceId::from_bits(0xfade);
        let own = nix::unistd::getuid().as_raw();
        let mine = all(&instance, &(own..=own)).unwrap();
        let theirs = all(&instance, &(own + 1..=u32::MAX)).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((mine.len(), theirs.len()), (1, 0));
        assert!(mine[0].pidfd(&instance).unwrap().is_none(), "it is dead");
    }
}
