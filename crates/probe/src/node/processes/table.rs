//! The processes there are, each with a file kept open.
//!
//! ```text
//! forks and tasks counted by the kernel are as before ──▶ nobody came, nobody went: /proc is not listed
//! user process     /proc/PID/stat
//! kernel thread    /proc/PID/schedstat; /proc/PID/stat, too, if it ran since, or does not sleep
//! who slept long   looked at in every fourth round, or after 4 s: what it does then is known that much later,
//!                  and its rate is over that time
//! ```
//! A kernel thread's state, ticks and name change only when it runs: what is said of it is what its stat
//! line says, but that one woken and still waiting for its processor counts as asleep.
//! An open file belongs to one process and not to its number: when that ends, reading fails.

use super::line::{Process, ran};
use crate::node::Census;
use crate::scan::number;
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
use std::time::Duration;

/// A stat line is about 350 bytes.
const LINE_BYTES_MAX: usize = 1024;
/// Beyond this the newest are not counted; nobody has so many.
const KNOWN_MAX: usize = 131_072;
/// Files kept open; each costs the kernel a page. Of other processes they are opened each time.
const KEPT_MAX: u64 = 1024;
/// /proc is listed at least once in so many rounds: a change of `hidepid` is no fork.
const ROUNDS_UNLISTED_MAX: u32 = 60;
/// After so many looks that found nothing done, a process is looked at in each so-many-eth round only …
const LOOKS_BEFORE_REST: u32 = 8;
const REST_ROUNDS: u64 = 4;
/// … or once so much time passed.
const REST_MAX: Duration = Duration::from_secs(4);
/// The kernel's own names end here (proc_task_name).
const COMM_BYTES_MAX: usize = 64;
/// What no thread ever ran, in ns.
const LOOK_AGAIN: i64 = -1;

/// A process as it was when it was looked at last.
#[derive(Default)]
pub struct Known {
    pub state: u8,
    pub threads: i64,
    pub started: i64,
    pub resident_pages: i64,
    /// Processor time since the look before; all it ever had, for one that is new since then.
    pub grown: i64,
    /// The time between those looks; `None` in the first round of all.
    pub over: Option<Duration>,
    looked: Option<Duration>,
    /// Looks in a row that found nothing done.
    slept: u32,
    /// The listing that it was in.
    listing: u64,
    ticks: i64,
    comm: Vec<u8>,
    file: Option<File>,
    /// The stat line of a kernel thread that ran while it was known.
    stat: Option<File>,
    /// Of a kernel thread: what it had run when its stat line was read, in ns; `LOOK_AGAIN`: that is to be read again.
    ran: Option<i64>,
}

impl Known {
    /// Its name.
    pub fn comm(&self) -> &[u8] {
        &self.comm
    }

    /// Files kept open for it.
    fn kept(&self) -> u64 {
        u64::from(self.file.is_some()) + u64::from(self.stat.is_some())
    }

    /// Whether it is left alone in this round.
    fn rests(&self, pid: u32, round: u64, at: Duration) -> bool {
        let due = self.looked.is_none_or(|looked| at.saturating_sub(looked) >= REST_MAX);
        let turn = (u64::from(pid) + round).is_multiple_of(REST_ROUNDS);
        self.slept >= LOOKS_BEFORE_REST && matches!(self.state, b'S' | b'I') && !due && !turn
    }

    /// It was looked at; the round before was then.
    fn note(&mut self, at: Duration, last: Option<Duration>) {
        self.over = self.looked.or(last).map(|before| at.saturating_sub(before));
        self.looked = Some(at);
        self.slept = if self.grown == 0 { self.slept.saturating_add(1) } else { 0 };
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

    /// The file, where there is room for one more.
    fn keep(&mut self, file: File) -> Option<File> {
        self.room = self.room.checked_sub(1)?;
        Some(file)
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
            self.room += u64::from(known.stat.take().is_some());
            known.ran = None;
        }
        let Some(file) = self.file(pid, "stat") else { return false };
        let Ok(length) = file.read_at(&mut self.line, 0) else { return false };
        let Some(process) = Process::parse(&self.line[..length]) else { return false };
        known.take(&process);
        if self.room > 0 {
            let schedstat = if process.kernel { self.file(pid, "schedstat") } else { None };
            known.ran = schedstat.is_some().then_some(LOOK_AGAIN);
            known.file = self.keep(schedstat.unwrap_or(file));
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
        let kept = known.stat.take();
        self.room += u64::from(kept.is_some());
        let Some(file) = kept.or_else(|| self.file(pid, "stat")) else { return false };
        let Ok(length) = file.read_at(&mut self.line, 0) else { return false };
        let Some(process) = Process::parse(&self.line[..length]) else { return false };
        known.take(&process);
        // One that runs or waits is looked at again, whether it ran or not.
        known.ran = now.filter(|_| matches!(known.state, b'S' | b'I')).or(Some(LOOK_AGAIN));
        known.stat = self.keep(file);
        true
    }
}

/// All processes, by number.
pub struct Table {
    root: PathBuf,
    reader: Option<Reader>,
    known: BTreeMap<u32, Known>,
    census: Census,
    unlisted: u32,
    round: u64,
    last: Option<Duration>,
}

impl Table {
    pub fn new(root: PathBuf) -> Self {
        Self {
            root,
            reader: None,
            known: BTreeMap::new(),
            census: Census::default(),
            unlisted: 0,
            round: 0,
            last: None,
        }
    }

    /// Goes through all processes, in the order of their numbers, at a time of the caller's clock. `census` was
    /// read before; what is unknown of it is made up for by looking.
    ///
    /// # Errors
    /// What opening or listing /proc said.
    pub fn look(&mut self, census: Census, at: Duration, mut seen: impl FnMut(u32, &Known)) -> nix::Result<()> {
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => Reader::open(&self.root)?,
        };
        self.round += 1;
        let (round, last) = (self.round, self.last.replace(at));
        let none_new = reader.keeps && census.forks.is_some() && census.forks == self.census.forks;
        // Who went without being looked at is missing in a list.
        let may_rest = reader.keeps && census.is_whole();
        let none_gone = !may_rest || census.tasks == self.census.tasks;
        let listed = !(none_new && none_gone) || self.unlisted >= ROUNDS_UNLISTED_MAX;
        if listed {
            list(&mut reader.folder, &mut self.known, round)?;
            (self.census, self.unlisted) = (census, 0);
        }
        self.unlisted += 1;
        self.known.retain(|pid, known| {
            let there = if may_rest && known.rests(*pid, round, at) {
                known.grown = 0;
                !listed || known.listing == round
            } else {
                let there = reader.look(*pid, known);
                known.note(at, last);
                there
            };
            if there {
                seen(*pid, known);
            } else {
                reader.room += known.kept();
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

/// Notes who is there, in the listing of that number.
fn list(folder: &mut Dir, known: &mut BTreeMap<u32, Known>, listing: u64) -> nix::Result<()> {
    for entry in folder.iter() {
        let entry = entry?;
        let Some(pid) = number(entry.file_name().to_bytes()).and_then(|pid| u32::try_from(pid).ok()) else { continue };
        let room = known.len() < KNOWN_MAX;
        match known.get_mut(&pid) {
            Some(known) => known.listing = listing,
            None if room => drop(known.insert(pid, Known { listing, ..Known::default() })),
            None => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn no_more_files_are_open_than_there_is_room_for() {
        let mut table = Table::new("/proc".into());
        let look = |table: &mut Table| table.look(Census::default(), Duration::ZERO, |_, _| {}).unwrap();
        look(&mut table);
        let kept = |table: &Table| table.known.values().map(Known::kept).sum::<u64>();
        let all = kept(&table) + table.reader.as_ref().unwrap().room;
        for room in [0, 1, all] {
            let mut table = Table::new("/proc".into());
            let mut child = Command::new("sleep").arg("600").spawn().unwrap();
            let mut reader = Reader::open(&table.root).unwrap();
            reader.room = room;
            table.reader = Some(reader);
            (0..4).for_each(|_| look(&mut table));
            child.kill().unwrap();
            child.wait().unwrap();
            look(&mut table);
            assert_eq!(kept(&table) + table.reader.as_ref().unwrap().room, room);
            assert!(room > 1 || table.reader.as_ref().unwrap().room == 0, "as many as may be are kept");
        }
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
            let census = Census { forks: Some(forks), tasks: None };
            table.look(census, Duration::ZERO, |pid, _| pids.push(pid)).unwrap();
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

    /// A shell that waits for a word and computes from then on.
    struct Sleeper(std::process::Child);

    impl Sleeper {
        fn start() -> Self {
            let mut command = Command::new("sh");
            command.args(["-c", "read word; while :; do :; done"]).stdin(std::process::Stdio::piped());
            let sleeper = Self(command.spawn().unwrap());
            sleeper.until(|process| process.comm == b"sh" && process.state == b'S');
            sleeper
        }
        fn wake(&mut self) {
            self.0.stdin.as_mut().unwrap().write_all(b"word\n").unwrap();
            self.until(|process| process.ticks >= 5);
        }
        fn until(&self, so: impl Fn(&Process<'_>) -> bool) {
            let begun = std::time::Instant::now();
            while !Process::parse(&stat(self.0.id())).is_some_and(|process| so(&process)) {
                assert!(begun.elapsed() < Duration::from_secs(30), "the shell does something else");
                std::thread::yield_now();
            }
        }
        fn end(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            self.end();
        }
    }

    /// Looks at one process, twice in a second, while the kernel counts so many tasks.
    struct Looks {
        table: Table,
        at: Duration,
    }

    impl Looks {
        fn begin() -> Self {
            Self { table: Table::new("/proc".into()), at: Duration::ZERO }
        }
        /// Whether it was looked at just now, and what it did since the look before.
        fn at(&mut self, pid: u32, tasks: i64) -> Option<(bool, i64, Option<Duration>)> {
            self.at += Duration::from_millis(500);
            let census = Census { forks: Some(1), tasks: Some(tasks) };
            self.table.look(census, self.at, |_, _| {}).unwrap();
            self.table.get(pid).map(|known| (known.looked == Some(self.at), known.grown, known.over))
        }
    }

    #[test]
    fn who_sleeps_is_left_alone_until_it_does_something() {
        let (mut sleeper, mut looks) = (Sleeper::start(), Looks::begin());
        let pid = sleeper.0.id();
        let looked: Vec<bool> = (0..LOOKS_BEFORE_REST + 12).map(|_| looks.at(pid, 1).unwrap().0).collect();
        let (first, later) = looked.split_at(LOOKS_BEFORE_REST as usize);
        assert!(first.iter().all(|looked| *looked), "{looked:?}");
        assert!((2..=4).contains(&later.iter().filter(|looked| **looked).count()), "{looked:?}");
        sleeper.wake();
        let woken = (0..REST_ROUNDS).find_map(|_| looks.at(pid, 1).filter(|(looked, ..)| *looked));
        let (_, grown, over) = woken.expect("it has its turn");
        assert!(grown >= 4 && over == Some(Duration::from_secs(2)), "{grown} over {over:?}: since the look before");
        assert!((0..8).all(|_| looks.at(pid, 1).unwrap().0), "who computes is looked at in every round");
    }

    #[test]
    fn only_who_did_nothing_for_long_rests_and_not_for_long() {
        let seconds = Duration::from_secs;
        let mut known = Known { state: b'S', ..Known::default() };
        for look in 0..LOOKS_BEFORE_REST {
            assert!(!known.rests(0, 1, seconds(0)), "look {look}");
            known.note(seconds(0), None);
        }
        assert!(known.rests(0, 1, seconds(3)) && !known.rests(0, REST_ROUNDS, seconds(3)), "its turn comes");
        assert!(!known.rests(0, 1, REST_MAX), "it waited long enough");
        known.grown = 1;
        known.note(seconds(3), None);
        assert!(!known.rests(0, 1, seconds(3)), "asleep again, but it did something");
    }

    #[test]
    fn who_sleeps_and_goes_is_gone_at_once() {
        let (mut sleeper, mut looks) = (Sleeper::start(), Looks::begin());
        let pid = sleeper.0.id();
        assert!((0..40).all(|_| looks.at(pid, 2).is_some()));
        sleeper.end();
        // Not its turn: only the listing can tell.
        looks.table.round = 1000 * REST_ROUNDS - u64::from(pid) % REST_ROUNDS;
        assert_eq!(looks.at(pid, 1), None);
    }

    #[test]
    fn what_is_said_of_a_kernel_thread_is_what_its_stat_line_says() {
        let mut table = Table::new("/proc".into());
        let mut agreed = 0;
        for round in 0..3 {
            table.look(Census { forks: Some(1), tasks: None }, Duration::ZERO, |_, _| {}).unwrap();
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
}
