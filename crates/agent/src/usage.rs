//! Measuring guests: what their hypervisors tell, written on the sheet of the `vm` stream.
//!
//! Owns: asking every source at once, the series of each guest and their rates. Refuses: making up a
//! number: what is not told this time has no value, and a counter that began again has no rate.
//!
//! ```text
//! driver ─┐                        ┌ perigee_guest_*{guest,name}          ─▶ Sheet ─▶ frame
//! libvirt ┴─▶ Vec<GuestUsage> ─▶ Member: totals, and rates since the last round
//!             NodeUsage, if far ─▶ Machine: perigee_libvirt_node_*{node}
//! ```

mod machine;
mod member;

use crate::frames::FrameSpool;
use crate::watch::Sampler;
use machine::Machine;
use member::{CPU_CORES, Member, RESIDENT_BYTES};
use perigee_clock::{Clock, Instant};
use perigee_hypervisor::{GuestUsage, Hypervisor, HypervisorError, Measure, NodeUsage};
use perigee_model::Timestamp;
use perigee_model::frame::{Series, Sheet, Slot, StreamName};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use uuid::Uuid;

/// What a guest uses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Used {
    /// CPUs' worth of time.
    pub cpu_cores: Option<f64>,
    /// What its host keeps in memory for it.
    pub resident_bytes: Option<u64>,
}

impl Used {
    /// As it was measured last; nothing where nobody told.
    pub fn on(sheet: &Sheet, guest: Uuid) -> Self {
        let guest = guest.to_string();
        let mut used = Self::default();
        for (series, value) in sheet.values() {
            if series.labels.get("guest") != Some(&guest) {
                continue;
            }
            match series.name.as_str() {
                CPU_CORES => used.cpu_cores = Some(value),
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "bytes of a machine's memory"
                )]
                RESIDENT_BYTES => used.resident_bytes = Some(value as u64),
                _ => {}
            }
        }
        used
    }
}

/// Who tells of guests.
pub enum Teller {
    /// The driver, of those it runs.
    Driver(Arc<dyn Hypervisor>),
    /// Another hypervisor of this host, of guests that are not ours.
    Other(Arc<dyn Measure>),
}

impl Teller {
    fn measure(&self) -> Option<&dyn Measure> {
        match self {
            Self::Driver(driver) => driver.measure(),
            Self::Other(measure) => Some(measure.as_ref()),
        }
    }
}

/// A source of usages.
struct Source {
    name: String,
    teller: Teller,
    success: Option<Slot>,
    duration: Option<Slot>,
    machine: Option<Machine>,
    failing: bool,
}

/// Measures the guests of this host.
pub struct Usages {
    runtime: Handle,
    clock: Clock,
    spool: Arc<FrameSpool>,
    sources: Vec<Source>,
    members: BTreeMap<(usize, Uuid), Member>,
    /// By source.
    answers: Vec<Answer>,
}

/// What a source told.
struct Answer {
    told: Result<Vec<GuestUsage>, HypervisorError>,
    took: Duration,
    at: Instant,
    node: Option<NodeUsage>,
}

impl Usages {
    /// Asks these, each under the name that its `collector` label and the guests' `driver` label have.
    /// `spool` is the stream's own.
    pub fn new(runtime: Handle, clock: Clock, spool: Arc<FrameSpool>, tellers: Vec<(String, Teller)>) -> Self {
        let (success, duration) = (None, None);
        let source = |(name, teller)| Source { name, teller, success, duration, machine: None, failing: false };
        let sources = tellers.into_iter().map(source).collect();
        Self { runtime, clock, spool, sources, members: BTreeMap::new(), answers: Vec::new() }
    }

    /// Writes down what one source told.
    fn take(&mut self, place: usize, told: Vec<GuestUsage>, at: Instant, sheet: &mut Sheet) {
        for usage in told {
            let key = (place, usage.id);
            let driver = &self.sources[place].name;
            // Renamed, taken over or let go: another series.
            if self.members.get(&key).is_some_and(|known| !known.fits(&usage))
                && let Some(old) = self.members.remove(&key)
            {
                old.retire(sheet);
            }
            self.members.entry(key).or_insert_with(|| Member::new(&usage, driver, sheet)).write(&usage, at, sheet);
        }
        let gone = self.members.extract_if(.., |(of, _), member| *of == place && !member.was_seen(at));
        gone.for_each(|(_, member)| member.retire(sheet));
    }
}

impl Sampler for Usages {
    fn look(&mut self) {
        let asked = self.sources.iter().map(async |source| {
            let began = self.clock.instant();
            let measure = source.teller.measure();
            let told = match measure {
                Some(measure) => measure.usages().await,
                None => Ok(Vec::new()),
            };
            // Counters are of when they were told: a late answer must not look like a fast guest.
            let (took, at) = (began.elapsed(), self.clock.instant());
            let node = match measure.filter(|_| told.is_ok()) {
                Some(measure) => measure.node().await.ok().flatten(),
                None => None,
            };
            Answer { told, took, at, node }
        });
        self.answers = self.runtime.block_on(futures::future::join_all(asked));
    }

    fn sample(&mut self, sheet: &mut Sheet, _: Timestamp) {
        for (place, Answer { told, took, at, node }) in std::mem::take(&mut self.answers).into_iter().enumerate() {
            let source = &mut self.sources[place];
            source.account(told.is_ok(), took, sheet);
            Machine::tell(&mut source.machine, node, sheet);
            match told {
                Ok(told) => {
                    source.failing = false;
                    self.take(place, told, at, sheet);
                }
                Err(error) => {
                    if !std::mem::replace(&mut source.failing, true) {
                        tracing::warn!(source = source.name, error = %crate::chain(&error), "guests are not measured");
                    }
                    let known = self.members.iter_mut().filter(|((of, _), _)| *of == place);
                    known.for_each(|(_, member)| member.clear(sheet));
                }
            }
        }
        crate::watch::about_spool(StreamName::Vm, &self.spool, sheet);
    }

    fn is_idle(&self) -> bool {
        self.members.is_empty()
    }
}

impl Source {
    fn account(&mut self, good: bool, took: Duration, sheet: &mut Sheet) {
        let name = self.name.clone();
        let define = |sheet: &mut Sheet, series: Series| sheet.define(series.with("collector", &name));
        if self.success.is_none() {
            self.success = define(sheet, Series::gauge("perigee_collector_success", 0));
            self.duration = define(sheet, Series::gauge("perigee_collector_duration_seconds", 6));
        }
        if let (Some(success), Some(duration)) = (self.success, self.duration) {
            sheet.set(success, i64::from(good));
            sheet.set(duration, i64::try_from(took.as_micros()).unwrap_or(i64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::{Caps, Pace};
    use crate::watch::{SharedSheet, Watch};
    use async_trait::async_trait;
    use perigee_hypervisor::usage::{DiskUsage, NicUsage, RunState};
    use perigee_model::{HostId, RunId};
    use std::sync::Mutex;

    /// A hypervisor that says what it is told to.
    #[derive(Default)]
    struct Told(Mutex<Option<Vec<GuestUsage>>>);

    #[async_trait]
    impl Measure for Told {
        async fn usages(&self) -> Result<Vec<GuestUsage>, HypervisorError> {
            self.0.lock().unwrap().clone().ok_or(HypervisorError::NotRunning)
        }
    }

    fn guest(life: u64, cpu_ns: u64, read_bytes: u64) -> GuestUsage {
        let disk = DiskUsage { name: "vda".into(), read_bytes: Some(read_bytes), ..DiskUsage::default() };
        let nic = NicUsage { name: "vnet0".into(), sent_bytes: Some(read_bytes / 2), ..NicUsage::default() };
        GuestUsage {
            id: Uuid::from_u128(7),
            name: Some("db".into()),
            ours: false,
            life,
            state: RunState::Running,
            starved: false,
            busy: false,
            cpus: Some(2),
            cpu_ns: Some(cpu_ns),
            memory_bytes: Some(1 << 30),
            resident_bytes: None,
            usable_bytes: None,
            disks: vec![disk],
            disks_at: None,
            nics: vec![nic],
        }
    }

    struct Lab {
        runtime: tokio::runtime::Runtime,
        told: Arc<Told>,
        usages: Usages,
        sheet: Sheet,
        _folder: tempfile::TempDir,
    }

    /// Time stands still but for [`Lab::after`].
    fn lab() -> Lab {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let spool = Arc::new(FrameSpool::open(folder.path().into(), Caps::default()).unwrap());
        let told = Arc::new(Told::default());
        let tellers = vec![("libvirt".to_owned(), Teller::Other(told.clone()))];
        let usages = Usages::new(runtime.handle().clone(), Clock::simulated(1), spool, tellers);
        Lab { runtime, told, usages, sheet: Sheet::default(), _folder: folder }
    }

    impl Lab {
        fn after(&mut self, seconds: u64, told: Option<Vec<GuestUsage>>) {
            self.runtime.block_on(tokio::time::advance(Duration::from_secs(seconds)));
            *self.told.0.lock().unwrap() = told;
            let _inside = self.runtime.enter();
            let mut sheet = std::mem::take(&mut self.sheet);
            self.usages.look();
            self.usages.sample(&mut sheet, Timestamp::from_micros(0));
            self.sheet = sheet;
        }
        fn value(&self, name: &str) -> Option<f64> {
            self.sheet.values().find(|(series, _)| series.name == name).map(|(_, value)| value)
        }
    }

    /// Answers once somebody has looked at the sheet. In an agent that was a user's request, on the very thread that
    /// the answer was to come by.
    struct AfterAReader(Arc<SharedSheet>);

    #[async_trait]
    impl Measure for AfterAReader {
        async fn usages(&self) -> Result<Vec<GuestUsage>, HypervisorError> {
            drop(self.0.lock());
            Ok(Vec::new())
        }
    }

    #[test]
    fn readers_of_the_sheet_do_not_wait_for_who_is_asked() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (clock, sheet, pace) = (Clock::real(), Arc::new(SharedSheet::default()), Arc::new(Pace::default()));
        let spool = Arc::new(FrameSpool::in_memory(Caps::default()));
        let tellers = vec![("libvirt".to_owned(), Teller::Other(Arc::new(AfterAReader(sheet.clone()))))];
        let usages = Usages::new(runtime.handle().clone(), clock.clone(), spool.clone(), tellers);
        let (host, run) = (HostId::new(Uuid::nil()), RunId::new(Uuid::nil()));
        let interval = Duration::from_millis(100);
        let watch =
            Watch { host, run, interval, clock: clock.clone(), sheet, spool: spool.clone(), pace: pace.clone() };
        watch.start("measure-vm", usages).unwrap();
        let began = clock.instant();
        while spool.waiting() == 0 {
            assert!(began.elapsed() < Duration::from_secs(20), "it waits for a reader, who waits for it");
            std::thread::park_timeout(Duration::from_millis(10));
        }
        pace.stop();
    }

    #[test]
    fn totals_become_rates_and_a_new_life_begins_without_one() {
        let mut lab = lab();
        lab.after(0, Some(vec![guest(1, 0, 0)]));
        assert_eq!((lab.value("perigee_guest_state"), lab.value("perigee_guest_cpu_cores")), (Some(1.0), None));
        lab.after(2, Some(vec![guest(1, 3_000_000_000, 4096)]));
        assert_eq!(lab.value("perigee_guest_cpu_cores"), Some(1.5));
        assert_eq!(lab.value("perigee_guest_cpu_seconds_total"), Some(3.0));
        assert_eq!(lab.value("perigee_guest_disk_read_bytes_per_second"), Some(2048.0));
        assert_eq!(lab.value("perigee_guest_network_transmit_bytes_per_second"), Some(1024.0));
        assert_eq!(lab.value("perigee_guest_memory_resident_bytes"), None, "not told");
        // Started again: its totals are smaller, or by chance not.
        lab.after(2, Some(vec![guest(2, 9_000_000_000, 9000)]));
        assert_eq!(lab.value("perigee_guest_cpu_cores"), None);
        assert_eq!(lab.value("perigee_guest_disk_read_bytes_per_second"), None);
        lab.after(1, Some(vec![guest(2, 8_000_000_000, 9000)]));
        assert_eq!(lab.value("perigee_guest_cpu_cores"), None, "a total that shrinks has no rate");
    }

    #[test]
    fn disks_that_are_looked_at_now_and_then_have_the_rate_of_their_own_times() {
        let mut lab = lab();
        let start = lab.runtime.block_on(async { Clock::simulated(1).instant() });
        let read = |bytes, at| {
            let at = start.after(Duration::from_secs(at));
            Some(vec![GuestUsage { disks_at: Some(at), ..guest(1, 0, bytes) }])
        };
        let rate = |lab: &Lab| lab.value("perigee_guest_disk_read_bytes_per_second");
        lab.after(0, read(0, 0));
        assert_eq!(rate(&lab), None);
        lab.after(1, read(0, 0));
        assert_eq!(rate(&lab), None, "nobody looked again");
        lab.after(3, read(4000, 4));
        assert_eq!(rate(&lab), Some(1000.0), "four seconds lie between, not three");
        lab.after(1, read(4000, 4));
        assert_eq!((rate(&lab), lab.value("perigee_guest_disk_read_bytes_total")), (Some(1000.0), Some(4000.0)));
        lab.after(1, read(4000, 6));
        assert_eq!(rate(&lab), Some(0.0));
        lab.after(1, None);
        lab.after(1, read(4000, 6));
        assert_eq!((rate(&lab), lab.value("perigee_guest_disk_read_bytes_total")), (None, Some(4000.0)), "after a gap");
    }

    #[test]
    fn what_a_guest_uses_is_told_to_its_host_too() {
        let mut lab = lab();
        let resident = |guest| GuestUsage { resident_bytes: Some(300 << 20), ..guest };
        let other = GuestUsage { id: Uuid::from_u128(8), ..guest(1, 0, 0) };
        lab.after(0, Some(vec![other.clone(), resident(guest(1, 0, 0))]));
        let used = |lab: &Lab, id| Used::on(&lab.sheet, Uuid::from_u128(id));
        assert_eq!(used(&lab, 7), Used { cpu_cores: None, resident_bytes: Some(300 << 20) });
        lab.after(2, Some(vec![other, resident(guest(1, 3_000_000_000, 0))]));
        assert_eq!(used(&lab, 7), Used { cpu_cores: Some(1.5), resident_bytes: Some(300 << 20) });
        assert_eq!(used(&lab, 8), Used { cpu_cores: Some(0.0), resident_bytes: None });
        assert_eq!(used(&lab, 9), Used::default());
        lab.after(1, None);
        assert_eq!(used(&lab, 7), Used::default(), "what is not told is not made up");
    }

    #[test]
    fn a_busy_guest_is_busy_and_not_zero() {
        let mut lab = lab();
        lab.after(0, Some(vec![guest(1, 5_000_000_000, 4096)]));
        let busy = GuestUsage { busy: true, memory_bytes: None, disks: Vec::new(), ..guest(1, 6_000_000_000, 0) };
        lab.after(1, Some(vec![busy]));
        assert_eq!((lab.value("perigee_guest_busy"), lab.value("perigee_guest_memory_bytes")), (Some(1.0), None));
        assert_eq!(lab.value("perigee_guest_disk_read_bytes_total"), None);
        assert_eq!(lab.value("perigee_guest_cpu_cores"), Some(1.0));
    }

    #[test]
    fn a_silent_source_leaves_gaps_and_a_guest_that_went_leaves_nothing() {
        let mut lab = lab();
        lab.after(0, Some(vec![guest(1, 0, 0)]));
        lab.after(1, None);
        assert_eq!((lab.value("perigee_collector_success"), lab.value("perigee_guest_state")), (Some(0.0), None));
        assert_eq!(lab.value("perigee_guest_info"), Some(1.0), "nobody said that it is gone");
        lab.after(1, Some(vec![guest(1, 4_000_000_000, 0)]));
        assert_eq!(lab.value("perigee_guest_cpu_cores"), None, "not over a gap");
        assert!(!lab.usages.is_idle());
        lab.after(1, Some(Vec::new()));
        assert!(lab.usages.is_idle());
        assert_eq!(lab.sheet.values().filter(|(series, _)| series.name.starts_with("perigee_guest")).count(), 0);
    }

    #[test]
    fn a_renamed_guest_is_another_series() {
        let mut lab = lab();
        lab.after(0, Some(vec![guest(1, 0, 0)]));
        lab.after(1, Some(vec![GuestUsage { name: Some("db2".into()), ..guest(1, 0, 0) }]));
        let names: Vec<_> = lab.sheet.values().filter(|(series, _)| series.name == "perigee_guest_info").collect();
        assert_eq!(names.len(), 1);
        assert_eq!(names[0].0.labels["name"], "db2");
    }
}
