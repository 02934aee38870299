//! Collectors: what a host measures of itself, written on a sheet at each tick.
//!
//! Owns: the round over all collectors, each with its cost and its breaker; the quick ones run in it,
//! the slow ones on threads of their own whose latest answer a round picks up.
//! Refuses: waiting. What can hang (network file systems, drives, GPUs, other hosts) never runs in the
//! round; a round reads only what the kernel answers from memory. Clocks come from the caller.
//!
//! ```text
//!            ┌ cpu load cpufreq memory vmstat disk network filesystem hwmon processes uname ─▶ Sheet
//! tick ─▶ Node                                         ▲
//!            └ links smart gpu latency, network mounts ┘ own threads; "stuck for 41 s" instead of a hole
//! ```

mod background;
mod cpu;
mod devices;
mod family;
mod filesystems;
mod gpu;
mod latency;
mod ledger;
mod links;
mod memory;
mod processes;
mod sensors;
mod smart;
mod system;

pub use latency::{Protocol, Target};

use crate::scan::Source;
use ledger::{Account, Breaker, Chance, Spent};
use nix::time::{ClockId, clock_gettime};
use perigee_model::frame::{Sheet, Slot};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A clock that only goes forward, from any beginning. The caller's, so that a simulation may own it.
pub type Monotonic = Arc<dyn Fn() -> Duration + Send + Sync>;

/// What to collect, and from where.
#[derive(Clone)]
pub struct Settings {
    /// `/proc`, but for tests.
    pub proc_root: PathBuf,
    /// `/sys`, but for tests.
    pub sys_root: PathBuf,
    /// So many processes by CPU, and so many by memory. At most [`Settings::TOP_MAX`].
    pub top: usize,
    /// Whose latency is measured. At most [`Settings::TARGETS_MAX`].
    pub targets: Vec<Target>,
    /// Collectors that are off, by the name that their `collector` label has.
    pub off: BTreeSet<String>,
    /// A round of a collector that takes longer is a fault.
    pub deadline: Duration,
    /// Spreads slow collectors and pauses over time: another number on each host.
    pub seed: u64,
    /// For deadlines and cost.
    pub clock: Monotonic,
}

impl Settings {
    /// More processes than this say no more.
    pub const TOP_MAX: usize = 100;
    /// They are asked one after another.
    pub const TARGETS_MAX: usize = 32;

    /// This machine, everything on, no targets.
    pub fn new(clock: Monotonic) -> Self {
        Self {
            proc_root: "/proc".into(),
            sys_root: "/sys".into(),
            top: 10,
            targets: Vec::new(),
            off: BTreeSet::new(),
            deadline: Duration::from_millis(100),
            seed: 0,
            clock,
        }
    }
}

/// Why a collector has nothing to say this time.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The kernel did not answer.
    #[error("cannot be read: {0}")]
    Os(#[from] std::io::Error),
    /// A text that is not what the kernel's documents say.
    #[error("{0} does not read as it should")]
    Malformed(&'static str),
    /// What runs on its own thread has not come back in time.
    #[error("stuck for {} s", .0.as_secs())]
    Stuck(Duration),
    /// What runs on its own thread failed there.
    #[error("{0}")]
    Slow(String),
}

/// One tick, as a collector sees it.
pub struct Round<'a> {
    sheet: &'a mut Sheet,
    /// For texts; one for all, so that a round allocates nothing.
    buffer: &'a mut Vec<u8>,
    /// When the round began, by the caller's clock.
    at: Duration,
    /// What the kernel counts of its tasks, as far as this tick has read it.
    census: &'a mut Census,
}

/// The kernel's own counts of tasks, threads among them. As long as both stand, nobody came and nobody went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Census {
    /// Made since the boot (`processes` of /proc/stat).
    forks: Option<i64>,
    /// There now (the fourth field of /proc/loadavg, behind its slash).
    tasks: Option<i64>,
}

impl Census {
    /// Both are known.
    fn is_whole(self) -> bool {
        self.forks.is_some() && self.tasks.is_some()
    }
}

impl Round<'_> {
    /// Writes a value, or that there is none.
    fn put(&mut self, slot: Option<Slot>, value: Option<i64>) {
        match (slot, value) {
            (Some(slot), Some(value)) => self.sheet.set(slot, value),
            (Some(slot), None) => self.sheet.clear(slot),
            (None, _) => {}
        }
    }
    fn put_f64(&mut self, slot: Option<Slot>, value: f64) {
        if let Some(slot) = slot {
            self.sheet.set_f64(slot, value);
        }
    }
}

/// One subject that is read in a round.
trait Collector: Send {
    /// Its `collector` label.
    fn name(&self) -> &'static str;
    /// Reads and writes on the sheet.
    fn collect(&mut self, round: &mut Round<'_>) -> Result<(), Fault>;
}

fn read<'a>(source: &mut Source, buffer: &'a mut Vec<u8>) -> Result<&'a [u8], Fault> {
    Ok(source.read(buffer)?)
}

struct Seat {
    collector: Box<dyn Collector>,
    breaker: Breaker,
    account: Option<Account>,
    fault: Option<Fault>,
}

/// All collectors of one host.
pub struct Node {
    seats: Vec<Seat>,
    buffer: Vec<u8>,
    deadline: Duration,
    chance: Chance,
    clock: Monotonic,
}

impl Node {
    /// Threads of slow collectors begin here and end when the node is dropped.
    pub fn new(settings: &Settings) -> Self {
        let mut collectors: Vec<Box<dyn Collector>> = vec![
            Box::new(cpu::Cpu::new(settings)),
            Box::new(cpu::Load::new(settings)),
            Box::new(cpu::Frequency::new(settings)),
            Box::new(memory::Memory::new(settings)),
            Box::new(memory::Kernel::new(settings)),
            Box::new(devices::Disks::new(settings)),
            Box::new(devices::Interfaces::new(settings)),
            Box::new(filesystems::FileSystems::new(settings)),
            Box::new(sensors::Sensors::new(settings)),
            Box::new(processes::Processes::new(settings)),
            Box::new(system::System::new(settings)),
        ];
        collectors.retain(|collector| !settings.off.contains(collector.name()));
        for (name, task) in [links::task(settings), smart::task(settings), gpu::task(settings), latency::task(settings)]
            .into_iter()
            .flatten()
        {
            if !settings.off.contains(name) {
                collectors.push(Box::new(background::Background::start(name, task, settings)));
            }
        }
        let seat = |collector| Seat { collector, breaker: Breaker::default(), account: None, fault: None };
        Self {
            seats: collectors.into_iter().map(seat).collect(),
            buffer: Vec::new(),
            deadline: settings.deadline,
            chance: Chance::new(settings.seed),
            clock: Arc::clone(&settings.clock),
        }
    }

    /// One tick: everything that can be said now is on the sheet afterwards.
    pub fn collect(&mut self, sheet: &mut Sheet) {
        let (mut before, mut cpu_before) = ((self.clock)(), thread_cpu());
        let mut census = Census::default();
        for seat in &mut self.seats {
            let mut round = Round { sheet, buffer: &mut self.buffer, at: before, census: &mut census };
            let account = seat.account.get_or_insert_with(|| Account::open(seat.collector.name(), &mut round));
            if !seat.breaker.allows(before) {
                account.write(None, true, &mut round);
                continue;
            }
            let outcome = seat.collector.collect(&mut round);
            let (after, cpu_after) = ((self.clock)(), thread_cpu());
            let took = after.saturating_sub(before);
            let good = outcome.is_ok() && took <= self.deadline;
            let spent = Spent { good, took, cpu: cpu_after.saturating_sub(cpu_before) };
            // A fault of a slow one is no reason to stop looking at its answers: its own thread waits.
            let trips = !matches!(outcome, Err(Fault::Stuck(_) | Fault::Slow(_)));
            seat.breaker.note(good || !trips, after, self.chance.next());
            seat.fault = outcome.err();
            account.write(Some(spent), seat.breaker.is_open(), &mut round);
            (before, cpu_before) = (after, cpu_after);
        }
    }

    /// What the collectors that failed last said, for logs and lists.
    pub fn faults(&self) -> impl Iterator<Item = (&'static str, &Fault)> {
        self.seats.iter().filter_map(|seat| Some((seat.collector.name(), seat.fault.as_ref()?)))
    }

    /// The collectors that are on.
    pub fn collectors(&self) -> impl Iterator<Item = &'static str> {
        self.seats.iter().map(|seat| seat.collector.name())
    }
}

/// What this thread has cost so far. Not a clock: it stands while the thread does.
fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
