//! Virtual machines of this host's libvirt that are nobody's of ours: looked at, never touched.
//!
//! Owns: two connections for statistics, one for what libvirt knows, each time, and one for what VMMs must be
//! asked for, now and then ([`Inquiries`]). Refuses: every change, and to complain of a libvirt that was never
//! here.

mod inquiries;

use crate::HypervisorError;
use crate::usage::{DiskUsage, GuestUsage, Measure, NicUsage, NodeUsage, RunState};
use async_trait::async_trait;
use inquiries::{Inquired, Inquiries};
use perigee_clock::Clock;
use perigee_libvirt::{Endpoint, Glance, Named, NodeUse, State, Watch, Wish};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::Mutex;
use uuid::Uuid;

/// libvirt's number for a domain that is paused because a disk of its failed.
const PAUSED_BY_DISK: u64 = 5;
/// And for one that is paused for it does not know what.
const PAUSED_UNKNOWN: u64 = 0;
/// The driver whose domains are looked at, unless another is named.
const URI: &str = "qemu:///system";

/// The domains of one libvirt.
pub struct Domains {
    clock: Clock,
    sockets: Vec<PathBuf>,
    deadline: Duration,
    asking: Mutex<Option<Asking>>,
}

struct Asking {
    glances: Watch,
    inquiries: Inquiries,
}

impl Asking {
    fn of(clock: &Clock, wish: Wish) -> Self {
        Self { glances: Watch::new(wish.clone()), inquiries: Inquiries::new(clock.clone(), wish) }
    }
}

impl Domains {
    /// Behind the first of these sockets that is there, now or one day. Nothing is asked before the
    /// first [`Measure::usages`], which takes little longer than the deadline.
    pub fn behind(clock: Clock, sockets: Vec<PathBuf>, deadline: Duration) -> Self {
        Self { clock, sockets, deadline, asking: Mutex::default() }
    }

    /// Of the one libvirt that is wished for. Nothing is asked before the first [`Measure::usages`].
    pub(super) fn of(clock: Clock, wish: Wish) -> Self {
        let (deadline, asking) = (wish.deadline, Asking::of(&clock, wish));
        Self { clock, sockets: Vec::new(), deadline, asking: Mutex::new(Some(asking)) }
    }

    /// What they use, and of which it is not known why they are paused.
    pub(super) async fn told(&self) -> Result<(Vec<GuestUsage>, Vec<Uuid>), HypervisorError> {
        let mut asking = self.asking.lock().await;
        if asking.is_none() {
            let Some(socket) = self.sockets.iter().find(|socket| socket.exists()) else {
                return Ok(Default::default());
            };
            let endpoint = Endpoint::Unix(socket.clone());
            let wish = Wish { endpoint, uri: URI.to_owned(), deadline: self.deadline };
            *asking = Some(Asking::of(&self.clock, wish));
        }
        let Some(Asking { glances, inquiries }) = asking.as_mut() else { return Ok(Default::default()) };
        let told = glances.glance().await.map_err(told_why)?;
        inquiries.about(told.iter().map(|glance| &glance.stats.domain)).await;
        let unknown =
            |one: &&Glance| one.stats.state == State::Paused && one.stats.state_reason == Some(PAUSED_UNKNOWN);
        let unknown = told.iter().filter(unknown).map(|one| one.stats.domain.uuid).collect();
        let usage = |glance: Glance| {
            let inquired = inquiries.of(&glance.stats.domain);
            usage(glance, inquired)
        };
        Ok((told.into_iter().map(usage).collect(), unknown))
    }

    /// Their machine, where it may be another than this one.
    pub(super) async fn machine(&self) -> Result<Option<NodeUsage>, HypervisorError> {
        let mut asking = self.asking.lock().await;
        let far = asking.as_mut().map(|asking| &mut asking.glances).filter(|watch| watch.is_far());
        let Some(watch) = far else { return Ok(None) };
        Ok(Some(node_usage(watch.node().await.map_err(told_why)?)))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn told_why(error: perigee_libvirt::Error) -> HypervisorError {
    HypervisorError::Channel(error.to_string())
}

#[async_trait]
impl Measure for Domains {
    async fn usages(&self) -> Result<Vec<GuestUsage>, HypervisorError> {
        Ok(self.told().await?.0)
    }
    async fn node(&self) -> Result<Option<NodeUsage>, HypervisorError> {
        self.machine().await
    }
}

fn node_usage(NodeUse { hostname, cpu, memory }: NodeUse) -> NodeUsage {
    let of = |all: &[Named], name: &str| all.iter().find(|(known, _)| known == name).map(|(_, value)| *value);
    let bytes = |name| of(&memory, name).map(|kib| kib.saturating_mul(1024));
    NodeUsage {
        name: hostname,
        user_ns: of(&cpu, "user"),
        system_ns: of(&cpu, "kernel"),
        idle_ns: of(&cpu, "idle"),
        iowait_ns: of(&cpu, "iowait"),
        memory_bytes: bytes("total"),
        free_bytes: bytes("free"),
        buffers_bytes: bytes("buffers"),
        cached_bytes: bytes("cached"),
    }
}

fn usage(Glance { stats, info }: Glance, inquired: Inquired<'_>) -> GuestUsage {
    let state = match stats.state {
        State::Unknown => RunState::Unknown,
        State::Running => RunState::Running,
        State::Blocked => RunState::Blocked,
        State::Paused => RunState::Paused,
        State::ShuttingDown => RunState::ShuttingDown,
        State::ShutOff => RunState::Off,
        State::Crashed => RunState::Crashed,
        State::Suspended => RunState::Suspended,
    };
    let disk = |disk: &perigee_libvirt::Disk| DiskUsage {
        name: disk.name.clone(),
        read_bytes: disk.read.bytes,
        written_bytes: disk.written.bytes,
        reads: disk.read.requests,
        writes: disk.written.requests,
    };
    let nic = |nic: perigee_libvirt::Nic| NicUsage {
        name: nic.name,
        received_bytes: nic.received.bytes,
        sent_bytes: nic.sent.bytes,
        drops: nic.received.drops.zip(nic.sent.drops).map(|(received, sent)| received.saturating_add(sent)),
    };
    let told = if let Inquired::Told(told, at) = inquired { Some((told, at)) } else { None };
    let memory = told.map(|(told, _)| told.memory);
    GuestUsage {
        id: stats.domain.uuid,
        name: Some(stats.domain.name),
        ours: false,
        life: stats.domain.id.and_then(|id| u64::try_from(id).ok()).unwrap_or(0),
        state,
        starved: state == RunState::Paused && stats.state_reason == Some(PAUSED_BY_DISK),
        busy: inquired == Inquired::Silent || told.is_some_and(|(told, _)| told.busy),
        cpus: info.map(|info| info.vcpus).filter(|cpus| *cpus > 0),
        // Of one that does not run libvirt says 0.
        cpu_ns: stats.domain.id.and(info).map(|info| info.cpu_ns),
        memory_bytes: info.map(|info| info.memory_bytes),
        resident_bytes: memory.and_then(|memory| memory.resident_bytes),
        usable_bytes: memory.and_then(|memory| memory.usable_bytes),
        disks: told.map(|(told, _)| told.disks.iter().map(disk).collect()).unwrap_or_default(),
        disks_at: told.map(|(_, at)| at),
        nics: stats.nics.into_iter().map(nic).collect(),
    }
}
