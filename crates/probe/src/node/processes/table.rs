//! The processes there are, each with a file kept open.
//!
//! ```text
//! forks counted by the kernel are as before ──▶ nobody is new: /proc is not listed
//! user process     /proc/PID/stat, read every round
//! kernel thread    /proc/PID/schedstat; /proc/PID/stat only if it ran since, or does not sleep
//! ```
//! A kernel thread's state, ticks and name change only when it runs: what is said of it is what its stat
//! line says, but that one woken and still waiting for its processor counts as asleep.
//! An open file belongs to one process and not to its number: when that ends, reading fails.

use crate::scan::{number, words};
use nix::dir::Dir;
use nix::fcntl::{OFlag, openat};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::Mode;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

/// A stat line is about 350 bytes.
const LINE_BYTES_MAX: usize = 1024;
/// Beyond this the newest are not counted; nobody has so many.
const KNOWN_MAX: usize = 131_072;
/// Files kept open; each costs the kernel a page. Of other processes they are opened each time.
const KEPT_MAX: u64 = 1024;
/// /proc is listed at least once in so many rounds: a change of `hidepid` is no fork.
const ROUNDS_UNLISTED_MAX: u32 = 60;
/// The kernel's own names end here (proc_task_name).
const COMM_BYTES_MAX: usize = 64;
/// PF_KTHREAD.
const KERNEL_THREAD: i64 = 0x0020_0000;

/// One process, as its stat line has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process<'a> {
    pub comm: &'a [u8],
    pub state: u8,
    pub kernel: bool,
    pub ticks: i64,
    pub threads: i64,
    pub started: i64,
    pub resident_pages: i64,
}

impl<'a> Process<'a> {
    /// `None` for what is no stat line. A name may hold blanks and parentheses: the last `)` ends it.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let open = line.iter().position(|b| *b == b'(')?;
        let close = line.iter().rposition(|b| *b == b')')?;
        let comm = line.get(open + 1..close)?;
        let mut fields = words(line.get(close + 1..)?);
        let state = *fields.next()?.first()?;
        // From here on the fields of proc_pid_stat(5) less 4: flags is the 9th, utime the 14th.
        let kernel = number(fields.nth(5)?)? & KERNEL_THREAD != 0;
        let utime = number(fields.nth(4)?)?;
        let stime = number(fields.next()?)?;
        let threads = number(fields.nth(4)?)?;
        let started = number(fields.nth(1)?)?;
        let resident_pages = number(fields.nth(1)?)?;
        Some(Self { comm, state, kernel, ticks: utime.checked_add(stime)?, threads, started, resident_pages })
    }
}

/// A process as the last round saw it.
#[derive(Default)]
pub struct Known {
    pub state: u8,
    pub threads: i64,
    pub started: i64,
    pub resident_pages: i64,
    /// Processor time since the round before; all it ever had, for one that is new since then.
    pub grown: i64,
    ticks: i64,
    comm: Vec<u8>,
    file: Option<File>,
    /// For a kernel thread that sleeps: what it had run when its stat line was read, in ns.
    ran: Option<i64>,
}

impl Known {
    /// Its name.
    pub fn comm(&self) -> &[u8] {
        &self.comm
    }

    fn take(&mut self, process: &Process<'_>) {
        // One that took over the number began at 0.
        let base = if self.started == process.started { self.ticks } else { 0 };
        self.grown = process.ticks.saturating_sub(base);
        (self.state, self.threads, self.ticks) = (process.state, process.threads, process.ticks);
        (self.started, self.resident_pages) = (process.started, process.resident_pages);
        if self.comm != process.comm {
            self.comm.clear();
            self.comm.extend_from_slice(&process.comm[..process.comm.len().min(COMM_BYTES_MAX)]);
        }
    }
}

/// What a schedstat line says was run; `None` where the kernel does not count.
fn ran(line: &[u8]) -> Option<i64> {
    number(words(line).next()?).filter(|ns| *ns > 0)
}

/// Reads of one /proc.
struct Reader {
    folder: Dir,
    /// Files are kept: this is the kernel's own /proc, where they end with their process.
    keeps: bool,
    room: u64,
    path: Vec<u8>,
    line: [u8; LINE_BYTES_MAX],
}

impl Reader {
    fn open(root: &PathBuf) -> nix::Result<Self> {
        let folder = Dir::open(root, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        let keeps = fstatfs(folder.as_fd()).is_ok_and(|stat| stat.filesystem_type() == PROC_SUPER_MAGIC);
        let files_max = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(now, _)| now);
        let room = if keeps { KEPT_MAX.min(files_max / 2) } else { 0 };
        Ok(Self { folder, keeps, room, path: Vec::new(), line: [0; LINE_BYTES_MAX] })
    }

    fn file(&mut self, pid: u32, name: &str) -> Option<File> {
        self.path.clear();
        write!(self.path, "{pid}/{name}").ok()?;
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        openat(self.folder.as_fd(), self.path.as_slice(), flags, Mode::empty()).map(File::from).ok()
    }

    /// Brings one up to date; `false` when there is no such process any more.
    fn look(&mut self, pid: u32, known: &mut Known) -> bool {
        if let Some(file) = known.file.take() {
            // Whoever has the number now is read by its own file.
            if let Ok(length) = file.read_at(&mut self.line, 0) {
                known.file = Some(file);
                return self.understand(pid, known, length);
            }
            self.room += 1;
            known.ran = None;
        }
        let Some(file) = self.file(pid, "stat") else { return false };
        let Ok(length) = file.read_at(&mut self.line, 0) else { return false };
        let Some(process) = Process::parse(&self.line[..length]) else { return false };
        known.take(&process);
        if self.room > 0 {
            let schedstat = if process.kernel { self.file(pid, "schedstat") } else { None };
            known.ran = schedstat.is_some().then_some(0);
            known.file = schedstat.or(Some(file));
            self.room -= 1;
        }
        true
    }

    /// The line is of the file that is kept.
    fn understand(&mut self, pid: u32, known: &mut Known, length: usize) -> bool {
        let line = &self.line[..length];
        let Some(before) = known.ran else {
            let process = Process::parse(line);
            process.iter().for_each(|process| known.take(process));
            return process.is_some();
        };
        let now = ran(line);
        if now == Some(before) {
            known.grown = 0;
            return true;
        }
        let Some(file) = self.file(pid, "stat") else { return false };
        let Ok(length) = file.read_at(&mut self.line, 0) else { return false };
        let Some(process) = Process::parse(&self.line[..length]) else { return false };
        known.take(&process);
        // One that runs or waits is looked at again, whether it ran or not.
        known.ran = now.filter(|_| matches!(process.state, b'S' | b'I')).or(Some(0));
        true
    }
}

/// All processes, by number.
pub struct Table {
    root: PathBuf,
    reader: Option<Reader>,
    known: BTreeMap<u32, Known>,
    forks: Option<i64>,
    unlisted: u32,
}

impl Table {
    pub fn new(root: PathBuf) -> Self {
        Self { root, reader: None, known: BTreeMap::new(), forks: None, unlisted: 0 }
    }

    /// Looks at every process, in the order of their numbers. `forks` is the kernel's count of them, read
    /// before; without it /proc is listed.
    ///
    /// # Errors
    /// What opening or listing /proc said.
    pub fn look(&mut self, forks: Option<i64>, mut seen: impl FnMut(u32, &Known)) -> nix::Result<()> {
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => Reader::open(&self.root)?,
        };
        let none_new = reader.keeps && forks.is_some() && forks == self.forks;
        if !none_new || self.unlisted >= ROUNDS_UNLISTED_MAX {
            list(&mut reader.folder, &mut self.known)?;
            (self.forks, self.unlisted) = (forks, 0);
        }
        self.unlisted += 1;
        self.known.retain(|pid, known| {
            let there = reader.look(*pid, known);
            if there {
                seen(*pid, known);
            } else if known.file.is_some() {
                reader.room += 1;
            }
            there
        });
        self.reader = Some(reader);
        Ok(())
    }

    /// One that the last round saw.
    pub fn get(&self, pid: u32) -> Option<&Known> {
        self.known.get(&pid)
    }
}

fn list(folder: &mut Dir, known: &mut BTreeMap<u32, Known>) -> nix::Result<()> {
    for entry in folder.iter() {
        let entry = entry?;
        let Some(pid) = number(entry.file_name().to_bytes()).and_then(|pid| u32::try_from(pid).ok()) else { continue };
        if known.len() < KNOWN_MAX {
            known.entry(pid).or_default();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    const LINE: &str = "4242 (a (b) c) R 1 4242 4242 0 -1 4194560 100 200 3 4 150 50 7 8 20 0 5 0 98765 1000000 321 \
                        18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 3 0 0 0 0 0\n";

    #[test]
    fn a_name_may_hold_anything() {
        let process = Process::parse(LINE.as_bytes()).unwrap();
        let expected = Process {
            comm: b"a (b) c",
            state: b'R',
            kernel: false,
            ticks: 200,
            threads: 5,
            started: 98765,
            resident_pages: 321,
        };
        assert_eq!(process, expected);
    }

    #[test]
    fn kernels_that_do_not_count_are_not_believed() {
        assert_eq!(ran(b"1234 5 6\n"), Some(1234));
        assert_eq!(ran(b"0 0 0\n"), None);
        assert_eq!(ran(b""), None);
    }

    /// What this machine's /proc says of one process.
    fn stat(pid: u32) -> Vec<u8> {
        std::fs::read(format!("/proc/{pid}/stat")).unwrap()
    }

    #[test]
    fn who_comes_and_goes_is_noticed_by_forks_alone() {
        let mut table = Table::new("/proc".into());
        let pids = |table: &mut Table, forks| {
            let mut pids = Vec::new();
            table.look(Some(forks), |pid, _| pids.push(pid)).unwrap();
            pids
        };
        assert!(pids(&mut table, 1).contains(&std::process::id()));
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        assert!(!pids(&mut table, 1).contains(&child.id()), "nobody forked, they said: nothing is listed");
        assert!(pids(&mut table, 2).contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!pids(&mut table, 2).contains(&child.id()), "its file ended with it");
    }

    #[test]
    fn what_is_said_of_a_kernel_thread_is_what_its_stat_line_says() {
        let mut table = Table::new("/proc".into());
        let mut agreed = 0;
        for round in 0..3 {
            table.look(Some(1), |_, _| {}).unwrap();
            for (pid, known) in &table.known {
                let Ok(line) = std::fs::read(format!("/proc/{pid}/stat")) else { continue };
                let Some(process) = Process::parse(&line).filter(|process| process.kernel) else { continue };
                // One that ran since the round has more to say.
                if process.ticks == known.ticks && matches!(process.state, b'S' | b'I') {
                    assert_eq!((known.threads, known.started), (1, process.started), "{pid} in round {round}");
                    agreed += i32::from(known.state == process.state);
                }
            }
        }
        let own = Process::parse(&stat(std::process::id())).unwrap().kernel;
        assert!(!own, "a test is no kernel thread");
        // In a container there is none to be seen.
        let any = table.known.values().any(|known| known.ran.is_some());
        assert!(agreed > 0 || !any, "{agreed}");
    }

    proptest! {
        #[test]
        fn cut_and_broken_lines_are_no_panic(cut in 0usize..240, at in 0usize..240, byte: u8) {
            let mut line = LINE.as_bytes().to_vec();
            let length = line.len();
            line[at % length] = byte;
            line.truncate(cut);
            let _ = (Process::parse(&line), ran(&line));
        }
    }
}
