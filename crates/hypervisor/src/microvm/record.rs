//! Text that a VMM writes, kept in bounded memory instead of on the disk.
//!
//! A [`Record`] is a sealed memfd (memfd_create(2)): the kernel refuses every byte beyond its
//! size, so a guest that floods its console fills nothing. The VMM has it as standard output or
//! error; whoever adopts the VMM finds it there again. It keeps the first bytes, not the last.

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::process::Stdio;

/// Bytes kept of a guest's console.
pub const CONSOLE_BYTES: u64 = 64 << 10;
/// Bytes kept of what the VMM says itself.
pub const ERRORS_BYTES: u64 = 8 << 10;
const LINES_SHOWN: usize = 12;
const LINE_CHARS_SHOWN: usize = 160;

/// A bounded text that another process writes.
#[derive(Debug)]
pub struct Record(File);

impl Record {
    /// An empty one.
    pub fn new(name: &str, bytes: u64) -> io::Result<Self> {
        let file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
        file.set_len(bytes)?;
        let seals = SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        Ok(Self(file))
    }

    /// What a living process has as its standard output (1) or error (2), when it is a record.
    pub fn of_process(pid: u32, fd: u32) -> Option<Self> {
        let path = format!("/proc/{pid}/fd/{fd}");
        let target = std::fs::read_link(&path).ok()?;
        target.to_str()?.starts_with("/memfd:perigee-").then_some(())?;
        File::open(path).ok().map(Self)
    }

    /// The writer's end.
    pub fn writer(&self) -> io::Result<Stdio> {
        Ok(Stdio::from(self.0.try_clone()?))
    }

    /// The last lines that fit into a message: printable, bounded. Empty when there are none.
    pub fn last_lines(&self) -> String {
        let mut bytes = vec![0; CONSOLE_BYTES as usize];
        let length = self.0.read_at(&mut bytes, 0).unwrap_or(0);
        bytes.truncate(length);
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let text = String::from_utf8_lossy(&bytes[..end]);
        let lines: Vec<_> = text.lines().map(clean).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n")
    }
}

/// Without control characters and terminal sequences' ends that would hide or fake text.
fn clean(line: &str) -> String {
    let shown = line.trim_end().chars().filter(|c| !c.is_control()).take(LINE_CHARS_SHOWN);
    shown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_stops_at_the_bound() {
        let record = Record::new("perigee-test", 4096).unwrap();
        record.0.write_all_at(&[b'x'; 4096], 0).unwrap();
        assert!(record.0.write_all_at(b"y", 4096).is_err());
        assert!(record.0.set_len(1 << 30).is_err());
        assert_eq!(record.last_lines().len(), LINE_CHARS_SHOWN);
    }

    #[test]
    fn what_is_shown_is_printable_and_last() {
        let record = Record::new("perigee-test", 4096).unwrap();
        let text: String = (0..40).map(|n| format!("line {n} \x1b[2J\r\n")).collect();
        record.0.write_all_at(text.as_bytes(), 0).unwrap();
        let shown = record.last_lines();
        assert!(shown.starts_with("line 28 [2J\n") && shown.ends_with("line 39 [2J"), "{shown:?}");
    }
}
