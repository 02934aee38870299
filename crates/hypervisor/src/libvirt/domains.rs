//! Virtual machines of this host's libvirt that are nobody's of ours: looked at, never touched.
//!
//! Owns: one connection for statistics, and one call at a time on it. Refuses: every change, and to
//! complain of a libvirt that was never here.

use crate::HypervisorError;
use crate::usage::{DiskUsage, GuestUsage, Measure, NicUsage, RunState};
use async_trait::async_trait;
use perigee_libvirt::{DomainStats, Endpoint, State, Watch, Wish};
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
    sockets: Vec<PathBuf>,
    deadline: Duration,
    watch: Mutex<Option<Watch>>,
}

impl Domains {
    /// Behind the first of these sockets that is there, now or one day. Nothing is asked before the
    /// first [`Measure::usages`], which takes no longer than the deadline.
    pub fn behind(sockets: Vec<PathBuf>, deadline: Duration) -> Self {
        Self { sockets, deadline, watch: Mutex::default() }
    }

    /// Of the one libvirt that is wished for. Nothing is asked before the first [`Measure::usages`].
    pub(super) fn of(wish: Wish) -> Self {
        let deadline = wish.deadline;
        Self { sockets: Vec::new(), deadline, watch: Mutex::new(Some(Watch::new(wish))) }
    }

    /// What they use, and of which it is not known why they are paused.
    pub(super) async fn told(&self) -> Result<(Vec<GuestUsage>, Vec<Uuid>), HypervisorError> {
        let mut watch = self.watch.lock().await;
        if watch.is_none() {
            let Some(socket) = self.sockets.iter().find(|socket| socket.exists()) else {
                return Ok(Default::default());
            };
            let endpoint = Endpoint::Unix(socket.clone());
            *watch = Some(Watch::new(Wish { endpoint, uri: URI.to_owned(), deadline: self.deadline }));
        }
        let Some(watch) = watch.as_mut() else { return Ok(Default::default()) };
        let told = watch.ask().await.map_err(|error| HypervisorError::Channel(error.to_string()))?;
        let unknown = |one: &&DomainStats| one.state == State::Paused && one.state_reason == Some(PAUSED_UNKNOWN);
        let unknown = told.iter().filter(unknown).map(|one| one.domain.uuid).collect();
        Ok((told.into_iter().map(usage).collect(), unknown))
    }
}

#[async_trait]
impl Measure for Domains {
    async fn usages(&self) -> Result<Vec<GuestUsage>, HypervisorError> {
        Ok(self.told().await?.0)
    }
}

fn usage(stats: DomainStats) -> GuestUsage {
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
    let disk = |disk: perigee_libvirt::Disk| DiskUsage {
        name: disk.name,
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
    GuestUsage {
        id: stats.domain.uuid,
        name: Some(stats.domain.name),
        ours: false,
        life: stats.domain.id.and_then(|id| u64::try_from(id).ok()).unwrap_or(0),
        state,
        starved: state == RunState::Paused && stats.state_reason == Some(PAUSED_BY_DISK),
        busy: stats.busy,
        cpus: u32::try_from(stats.vcpus.len()).ok().filter(|cpus| *cpus > 0),
        cpu_ns: stats.cpu.time_ns,
        memory_bytes: stats.memory.current_bytes,
        resident_bytes: stats.memory.resident_bytes,
        usable_bytes: stats.memory.usable_bytes,
        disks: stats.disks.into_iter().map(disk).collect(),
        nics: stats.nics.into_iter().map(nic).collect(),
    }
}
