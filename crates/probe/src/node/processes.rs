//! Processes: how many in which state, and the largest by CPU and by memory.
//!
//! Of each process one read of /proc/<pid>/stat; command lines are not read at all: they hold secrets.

use super::{Collector, Fault, Round, Settings};
use crate::scan::{lossy, number, words};
use nix::dir::Dir;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::read as read_fd;
use perigee_model::frame::{Series, Slot};
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

/// A stat line is about 350 bytes.
const STAT_BYTES_MAX: usize = 1024;
/// USER_HZ, see `cpu`.
const TICKS_PER_SECOND: f64 = 100.0;
const STATES: [&str; 8] = ["R", "S", "D", "Z", "T", "t", "I", "X"];
/// Beyond this the newest have no CPU share; nobody has so many.
const KNOWN_MAX: usize = 131_072;

/// One process, as its stat line has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process<'a> {
    pub comm: &'a [u8],
    pub state: u8,
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
        // From here on the fields of proc_pid_stat(5) less 4: utime is the 14th.
        let utime = number(fields.nth(10)?)?;
        let stime = number(fields.next()?)?;
        let threads = number(fields.nth(4)?)?;
        let started = number(fields.nth(1)?)?;
        let resident_pages = number(fields.nth(1)?)?;
        Some(Self { comm, state, ticks: utime.checked_add(stime)?, threads, started, resident_pages })
    }
}

#[derive(Clone, Copy)]
struct Known {
    started: i64,
    ticks: i64,
    round: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    value: i64,
    pid: u32,
    started: i64,
}

/// The largest of many in one pass: a sorted row of at most `room`, the smallest first to go.
#[derive(Default)]
struct Largest {
    room: usize,
    entries: Vec<Entry>,
}

impl Largest {
    fn offer(&mut self, entry: Entry) {
        if entry.value <= 0 {
            return;
        }
        if self.entries.len() == self.room {
            match self.entries.last() {
                Some(smallest) if entry.value > smallest.value => self.entries.pop(),
                _ => return,
            };
        }
        let at = self.entries.partition_point(|other| other.value >= entry.value);
        self.entries.insert(at, entry);
    }
}

struct Shown {
    started: i64,
    comm: Vec<u8>,
    slot: Option<Slot>,
    round: u64,
}

/// The series of those shown, by pid.
struct Board {
    series: Series,
    shown: HashMap<u32, Shown>,
}

impl Board {
    fn new(series: Series) -> Self {
        Self { series, shown: HashMap::new() }
    }

    fn show(&mut self, entry: Entry, comm: &[u8], number: u64, round: &mut Round<'_>) -> Option<Slot> {
        if let Some(shown) = self.shown.get_mut(&entry.pid) {
            if shown.started == entry.started && shown.comm == comm {
                shown.round = number;
                return shown.slot;
            }
            // Another process under that number, or the same after exec.
            shown.slot.into_iter().for_each(|slot| round.sheet.retire(slot));
        }
        let series = self.series.clone().with("pid", &entry.pid.to_string()).with("comm", &lossy(comm));
        let slot = round.sheet.define(series);
        let shown = Shown { started: entry.started, comm: comm.to_owned(), slot, round: number };
        self.shown.insert(entry.pid, shown);
        slot
    }

    fn sweep(&mut self, number: u64, round: &mut Round<'_>) {
        self.shown.retain(|_, shown| {
            if shown.round != number {
                shown.slot.into_iter().for_each(|slot| round.sheet.retire(slot));
            }
            shown.round == number
        });
    }
}

/// The scan of /proc.
pub struct Processes {
    root: PathBuf,
    folder: Option<Dir>,
    known: HashMap<u32, Known>,
    by_cpu: Largest,
    by_memory: Largest,
    cpu_board: Board,
    memory_board: Board,
    states: Vec<Option<Slot>>,
    total: Option<Slot>,
    threads: Option<Slot>,
    page_bytes: i64,
    last: Option<Duration>,
    number: u64,
}

/// What one pass counted.
#[derive(Default)]
struct Tally {
    states: [i64; STATES.len()],
    processes: i64,
    threads: i64,
}

impl Processes {
    pub fn new(settings: &Settings) -> Self {
        let largest = || Largest { room: settings.top.min(Settings::TOP_MAX), entries: Vec::new() };
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
        #[allow(clippy::useless_conversion, reason = "a C long is 32 bits wide on some machines")]
        let page_bytes = page.map_or(4096, i64::from);
        Self {
            root: settings.proc_root.clone(),
            folder: None,
            known: HashMap::new(),
            by_cpu: largest(),
            by_memory: largest(),
            cpu_board: Board::new(Series::gauge("perigee_process_cpu_cores", 3)),
            memory_board: Board::new(Series::gauge("perigee_process_resident_memory_bytes", 0)),
            states: Vec::new(),
            total: None,
            threads: None,
            page_bytes,
            last: None,
            number: 0,
        }
    }

    fn define(&mut self, round: &mut Round<'_>) {
        let state = |name: &&str| round.sheet.define(Series::gauge("node_processes_state", 0).with("state", name));
        self.states = STATES.iter().map(state).collect();
        self.total = round.sheet.define(Series::gauge("node_processes_pids", 0));
        self.threads = round.sheet.define(Series::gauge("node_processes_threads", 0));
    }

    fn note(&mut self, pid: u32, process: &Process<'_>, tally: &mut Tally) {
        tally.processes += 1;
        tally.threads = tally.threads.saturating_add(process.threads);
        // Dead is written x or X, and parked threads P, by the kernel's version: together they are few.
        let at = STATES.iter().position(|state| state.as_bytes()[0] == process.state).unwrap_or(STATES.len() - 1);
        tally.states[at] += 1;
        let started = process.started;
        self.by_memory.offer(Entry { value: process.resident_pages, pid, started });
        let now = Known { started, ticks: process.ticks, round: self.number };
        if let Some(before) = self.known.get_mut(&pid) {
            // A process that is new since the last round began at 0 then.
            let base = if before.started == started { before.ticks } else { 0 };
            *before = now;
            self.by_cpu.offer(Entry { value: process.ticks.saturating_sub(base), pid, started });
        } else {
            if self.last.is_some() {
                self.by_cpu.offer(Entry { value: process.ticks, pid, started });
            }
            if self.known.len() < KNOWN_MAX {
                self.known.insert(pid, now);
            }
        }
    }

    fn scan(&mut self, tally: &mut Tally) -> nix::Result<()> {
        let mut folder = match self.folder.take() {
            Some(folder) => folder,
            None => Dir::open(&self.root, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?,
        };
        let handle = std::os::fd::AsFd::as_fd(&folder).try_clone_to_owned().map_err(|_| nix::Error::EMFILE)?;
        let mut path = Vec::with_capacity(16);
        let mut line = [0u8; STAT_BYTES_MAX];
        for entry in folder.iter() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let Some(pid) = number(name).and_then(|pid| u32::try_from(pid).ok()) else { continue };
            path.clear();
            path.extend_from_slice(name);
            path.extend_from_slice(b"/stat");
            // Whoever ended since the folder was read is not there any more.
            let Ok(file) = openat(&handle, path.as_slice(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) else {
                continue;
            };
            let Ok(length) = read_fd(&file, &mut line) else { continue };
            if let Some(process) = Process::parse(&line[..length]) {
                self.note(pid, &process, tally);
            }
        }
        self.folder = Some(folder);
        Ok(())
    }

    /// The name again, for the few that are shown: it may have changed, and keeping all costs more.
    fn comm<'a>(&self, pid: u32, buffer: &'a mut [u8; STAT_BYTES_MAX]) -> Option<&'a [u8]> {
        let file = std::fs::File::open(self.root.join(pid.to_string()).join("stat")).ok()?;
        let length = read_fd(&file, buffer).ok()?;
        Some(Process::parse(&buffer[..length])?.comm)
    }

    fn show(&mut self, round: &mut Round<'_>) {
        let elapsed = self.last.replace(round.at).map(|last| round.at.saturating_sub(last).as_secs_f64());
        let mut line = [0u8; STAT_BYTES_MAX];
        let (by_cpu, by_memory) =
            (std::mem::take(&mut self.by_cpu.entries), std::mem::take(&mut self.by_memory.entries));
        for entry in &by_cpu {
            let Some(seconds) = elapsed.filter(|seconds| *seconds > 0.0) else { break };
            let Some(comm) = self.comm(entry.pid, &mut line) else { continue };
            let slot = self.cpu_board.show(*entry, comm, self.number, round);
            #[expect(clippy::cast_precision_loss, reason = "ticks of one round are few")]
            round.put_f64(slot, entry.value as f64 / TICKS_PER_SECOND / seconds);
        }
        for entry in &by_memory {
            let Some(comm) = self.comm(entry.pid, &mut line) else { continue };
            let slot = self.memory_board.show(*entry, comm, self.number, round);
            round.put(slot, entry.value.checked_mul(self.page_bytes));
        }
        self.cpu_board.sweep(self.number, round);
        self.memory_board.sweep(self.number, round);
        (self.by_cpu.entries, self.by_memory.entries) = (by_cpu, by_memory);
    }
}

impl Collector for Processes {
    fn name(&self) -> &'static str {
        "processes"
    }

    fn collect(&mut self, round: &mut Round<'_>) -> Result<(), Fault> {
        if self.states.is_empty() {
            self.define(round);
        }
        self.number += 1;
        self.by_cpu.entries.clear();
        self.by_memory.entries.clear();
        let mut tally = Tally::default();
        self.scan(&mut tally).map_err(std::io::Error::from)?;
        let number = self.number;
        self.known.retain(|_, known| known.round == number);
        self.show(round);
        for (slot, count) in self.states.iter().zip(tally.states) {
            round.put(*slot, Some(count));
        }
        round.put(self.total, Some(tally.processes));
        round.put(self.threads, Some(tally.threads));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINE: &str = "4242 (a (b) c) R 1 4242 4242 0 -1 4194560 100 200 3 4 150 50 7 8 20 0 5 0 98765 1000000 321 \
                        18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 3 0 0 0 0 0\n";

    #[test]
    fn a_name_may_hold_anything() {
        let process = Process::parse(LINE.as_bytes()).unwrap();
        let expected =
            Process { comm: b"a (b) c", state: b'R', ticks: 200, threads: 5, started: 98765, resident_pages: 321 };
        assert_eq!(process, expected);
    }

    proptest! {
        #[test]
        fn cut_and_broken_lines_are_no_panic(cut in 0usize..240, at in 0usize..240, byte: u8) {
            let mut line = LINE.as_bytes().to_vec();
            let length = line.len();
            line[at % length] = byte;
            line.truncate(cut);
            let _ = Process::parse(&line);
        }

        #[test]
        fn the_largest_are_those_a_sort_would_find(values in proptest::collection::vec(0i64..50, 0..200), room in 0usize..12) {
            let mut largest = Largest { room, entries: Vec::new() };
            for (pid, value) in (0..).zip(&values) {
                largest.offer(Entry { value: *value, pid, started: 0 });
            }
            let mut sorted: Vec<i64> = values.into_iter().filter(|value| *value > 0).collect();
            sorted.sort_unstable_by(|a, b| b.cmp(a));
            sorted.truncate(room);
            let found: Vec<i64> = largest.entries.iter().map(|entry| entry.value).collect();
            prop_assert_eq!(found, sorted);
        }
    }
}
