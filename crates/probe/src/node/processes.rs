//! Processes: how many in which state, and the largest by CPU and by memory.
//!
//! Command lines are not read at all: they hold secrets.

mod line;
mod table;

use super::{Collector, Fault, Round, Settings};
use crate::scan::lossy;
use perigee_model::frame::{Series, Slot};
use std::collections::HashMap;
use std::time::Duration;
use table::{Known, Table};

/// One of USER_HZ, see `cpu`.
const TICK: Duration = Duration::from_millis(10);
const STATES: [&str; 8] = ["R", "S", "D", "Z", "T", "t", "I", "X"];

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

/// Thousandths of a processor that so many ticks are over that time.
fn millicores(ticks: i64, over: Option<Duration>) -> i64 {
    let nanos = over.map_or(0, |over| i128::try_from(over.as_nanos()).unwrap_or(i128::MAX));
    let run = i128::from(ticks) * i128::try_from(TICK.as_nanos()).unwrap_or(i128::MAX);
    if nanos == 0 { 0 } else { i64::try_from((run * 1000 + nanos / 2) / nanos).unwrap_or(i64::MAX) }
}

/// The scan of /proc.
pub struct Processes {
    table: Table,
    by_cpu: Largest,
    by_memory: Largest,
    cpu_board: Board,
    memory_board: Board,
    states: Vec<Option<Slot>>,
    total: Option<Slot>,
    threads: Option<Slot>,
    page_bytes: i64,
    number: u64,
}

/// What one pass counted.
#[derive(Default)]
struct Tally {
    states: [i64; STATES.len()],
    processes: i64,
    threads: i64,
}

impl Tally {
    fn note(&mut self, known: &Known) {
        self.processes += 1;
        self.threads = self.threads.saturating_add(known.threads);
        // Dead is written x or X, and parked threads P, by the kernel's version: together they are few.
        let at = STATES.iter().position(|state| state.as_bytes()[0] == known.state).unwrap_or(STATES.len() - 1);
        self.states[at] += 1;
    }
}

impl Processes {
    pub fn new(settings: &Settings) -> Self {
        let largest = || Largest { room: settings.top.min(Settings::TOP_MAX), entries: Vec::new() };
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
        #[allow(clippy::useless_conversion, reason = "a C long is 32 bits wide on some machines")]
        let page_bytes = page.map_or(4096, i64::from);
        Self {
            table: Table::new(settings.proc_root.clone()),
            by_cpu: largest(),
            by_memory: largest(),
            cpu_board: Board::new(Series::gauge("perigee_process_cpu_cores", 3)),
            memory_board: Board::new(Series::gauge("perigee_process_resident_memory_bytes", 0)),
            states: Vec::new(),
            total: None,
            threads: None,
            page_bytes,
            number: 0,
        }
    }

    fn define(&mut self, round: &mut Round<'_>) {
        let state = |name: &&str| round.sheet.define(Series::gauge("node_processes_state", 0).with("state", name));
        self.states = STATES.iter().map(state).collect();
        self.total = round.sheet.define(Series::gauge("node_processes_pids", 0));
        self.threads = round.sheet.define(Series::gauge("node_processes_threads", 0));
    }

    fn show(&mut self, round: &mut Round<'_>) {
        let (by_cpu, by_memory) =
            (std::mem::take(&mut self.by_cpu.entries), std::mem::take(&mut self.by_memory.entries));
        for entry in &by_cpu {
            let Some(known) = self.table.get(entry.pid) else { continue };
            let slot = self.cpu_board.show(*entry, known.comm(), self.number, round);
            round.put(slot, Some(entry.value));
        }
        for entry in &by_memory {
            let Some(known) = self.table.get(entry.pid) else { continue };
            let slot = self.memory_board.show(*entry, known.comm(), self.number, round);
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
        let (by_cpu, by_memory) = (&mut self.by_cpu, &mut self.by_memory);
        let seen = |pid: u32, known: &Known| {
            tally.note(known);
            let started = known.started;
            by_memory.offer(Entry { value: known.resident_pages, pid, started });
            by_cpu.offer(Entry { value: millicores(known.grown, known.over), pid, started });
        };
        self.table.look(*round.census, round.at, seen).map_err(std::io::Error::from)?;
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

    proptest! {
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
