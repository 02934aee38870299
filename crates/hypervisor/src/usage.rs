//! What guests use of their host, as their hypervisor tells it.
//!
//! Owns: one shape for what a control group, a VMM and libvirt say. Refuses: rates; everything that
//! counts counts since the guest's [`life`](GuestUsage::life) began. `None` is "not told", never zero.

use crate::HypervisorError;
use async_trait::async_trait;
use perigee_clock::Instant;
use uuid::Uuid;

/// What a guest does, by libvirt's numbers (`virDomainState`), so that a chart of it needs no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RunState {
    /// Nobody can tell.
    Unknown = 0,
    /// On a CPU, or ready for one.
    Running = 1,
    /// Waits for a resource.
    Blocked = 2,
    /// Stopped, with its memory.
    Paused = 3,
    /// On its way down.
    ShuttingDown = 4,
    /// Not running.
    Off = 5,
    /// Ended by a fault.
    Crashed = 6,
    /// Suspended by its own power management.
    Suspended = 7,
}

impl RunState {
    /// From its number; one that is not known here is `Unknown`.
    pub fn from_code(code: u64) -> Self {
        let all = [Self::Unknown, Self::Running, Self::Blocked, Self::Paused];
        let more = [Self::ShuttingDown, Self::Off, Self::Crashed, Self::Suspended];
        let found = all.into_iter().chain(more).find(|state| u64::from(*state as u8) == code);
        found.unwrap_or(Self::Unknown)
    }
}

/// One guest's use of its host at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestUsage {
    /// The guest's id; of a foreign one what its hypervisor calls it.
    pub id: Uuid,
    /// As its hypervisor knows it.
    pub name: Option<String>,
    /// Made by this instance.
    pub ours: bool,
    /// Another number is another start: its counters began again.
    pub life: u64,
    /// What it does.
    pub state: RunState,
    /// It stands because its host's disk is full.
    pub starved: bool,
    /// Somebody else's work on it kept it from telling all of this.
    pub busy: bool,
    /// Virtual CPUs.
    pub cpus: Option<u32>,
    /// CPU time of its whole VMM, in nanoseconds.
    pub cpu_ns: Option<u64>,
    /// Memory it was given.
    pub memory_bytes: Option<u64>,
    /// What the host keeps in memory for it.
    pub resident_bytes: Option<u64>,
    /// Free in the guest without swapping, as the guest says.
    pub usable_bytes: Option<u64>,
    /// By name.
    pub disks: Vec<DiskUsage>,
    /// When the disks were looked at, where that is not each time.
    pub disks_at: Option<Instant>,
    /// By name.
    pub nics: Vec<NicUsage>,
}

/// A guest's disk, since its life began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// `vda`.
    pub name: String,
    /// Bytes read.
    pub read_bytes: Option<u64>,
    /// Bytes written.
    pub written_bytes: Option<u64>,
    /// Requests to read.
    pub reads: Option<u64>,
    /// Requests to write.
    pub writes: Option<u64>,
}

/// A guest's network card, since its life began, from the guest's side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NicUsage {
    /// The host's interface.
    pub name: String,
    /// Bytes received.
    pub received_bytes: Option<u64>,
    /// Bytes sent.
    pub sent_bytes: Option<u64>,
    /// Packets dropped, both ways.
    pub drops: Option<u64>,
}

/// What the machine uses that guests are on; the times since it was booted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeUsage {
    /// What it calls itself.
    pub name: String,
    /// Processor time of programs, in nanoseconds.
    pub user_ns: Option<u64>,
    /// Processor time of its kernel.
    pub system_ns: Option<u64>,
    /// Time of processors that had nothing to do.
    pub idle_ns: Option<u64>,
    /// Time of processors that had nothing to do but to wait for disks.
    pub iowait_ns: Option<u64>,
    /// Memory.
    pub memory_bytes: Option<u64>,
    /// Memory that nobody has.
    pub free_bytes: Option<u64>,
    /// Memory of block devices' buffers.
    pub buffers_bytes: Option<u64>,
    /// Memory of the page cache.
    pub cached_bytes: Option<u64>,
}

/// Telling what guests use.
#[async_trait]
pub trait Measure: Send + Sync {
    /// Every guest's, those at rest included where they are known.
    ///
    /// # Errors
    /// `Os` or `Channel` when nothing can be told of any of them.
    async fn usages(&self) -> Result<Vec<GuestUsage>, HypervisorError>;

    /// The machine that they are on, where it is not this one, whose own collectors tell more.
    ///
    /// # Errors
    /// As of [`Measure::usages`].
    async fn node(&self) -> Result<Option<NodeUsage>, HypervisorError> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_libvirts_numbers() {
        for code in 0..=7 {
            assert_eq!(RunState::from_code(code) as u64, code);
        }
        assert_eq!(RunState::from_code(8), RunState::Unknown);
    }
}
