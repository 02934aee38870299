//! What a host can do to guests.
//!
//! Owns: the [`Hypervisor`] seam and its ability traits, and the drivers behind it: QEMU `microvm`
//! ([`microvm`]), full VMs by libvirt ([`libvirt`]) and a simulated one ([`simulated`]). What a driver
//! can do is data ([`Abilities`]); nobody branches on a driver's name.
//! Refuses: deciding. Which guest should run, when it may boot and what to do when it does not is
//! the agent's; this room only does it, and may be asked the same thing again and again.

mod backups;
mod cpu;
pub mod libvirt;
pub mod microvm;
mod nbd;
mod networks;
mod nic;
mod qcow2;
mod room;
mod session;
pub mod simulated;
mod snapshots;
mod sockets;
pub mod usage;
mod volumes;
mod work;
mod workflow;

use async_trait::async_trait;
pub use backups::{BackupWish, Backups, DiskBytes, NewDisk, OpenDisk};
use bytes::Bytes;
pub use networks::{FoundNetwork, NetworkPlan, Networks};
pub use nic::{Nic, Nic6};
pub use perigee_guest::protocol::{ExecEnd, ExecStart, GuestHello};
pub use perigee_model::Seat;
use perigee_model::{Abilities, GuestId, Name, PartRole, Resources, VmSpec};
pub use room::{Reserve, Room, Space};
pub use snapshots::{Keep, Kept, Progress, Snapshots};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::broadcast;
pub use usage::{GuestUsage, Measure, NodeUsage};
use uuid::Uuid;
pub use volumes::{Plugs, Volumes};

/// Everything a driver needs to bring a guest up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Identity.
    pub guest: GuestId,
    /// The guest's host name.
    pub name: Name,
    /// CPUs and memory.
    pub resources: Resources,
    /// The image's parts in the host's cache.
    pub parts: Vec<(PartRole, PathBuf)>,
    /// How its clock runs.
    pub pace: Pace,
    /// What only a full VM has.
    pub vm: Option<VmSpec>,
    /// Its card on a TAP; `None`: it has none of that kind.
    pub nic: Option<Nic>,
    /// Kept with the guest where the driver can, and told by `inventory`: whoever lost all else
    /// finds it there. Opaque to the driver; at most 64 KiB, without control characters.
    pub memo: Option<String>,
}

/// How a guest's clock runs under translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// With the host's.
    Ordinary,
    /// Counted in instructions (`-icount`): slower, but a starved host cannot stall its timers.
    /// The same as `Ordinary` where a driver has no such thing.
    Steady,
}

/// A guest of this instance that exists on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Identity.
    pub guest: GuestId,
    /// Its VMM lives. When it does not, only leftovers are there, for `destroy`.
    pub alive: bool,
    /// The VMM's process, where there is one.
    pub pid: Option<u32>,
    /// Its CPUs are stopped.
    pub paused: bool,
    /// They are because a write found no room on the host's disk.
    pub starved: bool,
    /// The plan's, as of the newest start.
    pub memo: Option<String>,
}

impl Found {
    /// One whose VMM lives.
    pub fn living(guest: GuestId, pid: Option<u32>) -> Self {
        Self { guest, alive: true, pid, paused: false, starved: false, memo: None }
    }
    /// One whose VMM is not there.
    pub fn dead(guest: GuestId) -> Self {
        Self { guest, alive: false, pid: None, paused: false, starved: false, memo: None }
    }
}

/// What a driver tells unasked. A hint: `inventory` is the truth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestEvent {
    /// The VMM of a guest ended.
    Ended {
        /// Whose.
        guest: GuestId,
        /// For the log and the user: exit status, last console lines.
        text: String,
        /// The guest turned itself off; it did not crash and was not killed.
        clean: bool,
    },
    /// Something else about a guest is not as it was, done by others: it was paused, started, its
    /// definition is gone.
    Changed {
        /// Whose.
        guest: GuestId,
    },
}

/// What could not be done to a guest.
#[derive(Debug, thiserror::Error)]
pub enum HypervisorError {
    /// The guest does not exist here, or its VMM is dead.
    #[error("the guest is not running here")]
    NotRunning,
    /// The plan cannot be run by this driver.
    #[error("the plan cannot be run: {0}")]
    BadPlan(String),
    /// The VMM could not be started or ended at once.
    #[error("the VMM did not start: {0}")]
    DidNotStart(String),
    /// The guest did not say hello in time.
    #[error("the guest did not say hello within {0:?}")]
    Silent(Duration),
    /// No memory, no disk, no process left on the host.
    #[error("the host has no room: {0}")]
    NoRoom(String),
    /// What is kept free of the host's disk would not be any more, or it is full.
    #[error("the host's disk is full: {0}")]
    DiskFull(String),
    /// The channel into the guest broke.
    #[error("the channel into the guest broke: {0}")]
    Channel(String),
    /// The hypervisor's daemon lets nobody at the guest, and will not by itself; the text says what to do.
    #[error("the guest is locked: {0}")]
    Locked(String),
    /// The hypervisor was asked for something that it can do, and did not do it.
    #[error("the hypervisor says: {0}")]
    Refused(String),
    /// It cannot be taken away while somebody uses it.
    #[error("it is in use: {0}")]
    InUse(String),
    /// A disk is not as it was made: nothing opens it.
    #[error("{0}")]
    Tampered(String),
    /// The guest has no such snapshot.
    #[error("there is no such snapshot on its host")]
    NoSnapshot,
    /// The guest does not know this execution (any more).
    #[error("the guest does not know the execution")]
    UnknownExecution,
    /// The guest refused; the text is its own, bounded and free of control characters.
    #[error("the guest refused: {code}: {text}")]
    GuestRefused {
        /// The guest's code: `not_found`, `denied`, `no_space`, …
        code: String,
        /// The guest's text.
        text: String,
    },
    /// The operating system refused.
    #[error("{doing}")]
    Os {
        /// What was being done.
        doing: String,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
}

/// What a host can do to guests. Every call may be repeated; one call per guest at a time is the
/// caller's duty, different guests run in parallel.
#[async_trait]
pub trait Hypervisor: Send + Sync {
    /// What this driver can do here.
    fn abilities(&self) -> Abilities;

    /// Every guest of this instance on this host, and every leftover of one.
    ///
    /// # Errors
    /// `Os` when the host cannot be read.
    async fn inventory(&self) -> Result<Vec<Found>, HypervisorError>;

    /// Brings the VMM up, or finds it up. Returns when it runs; the guest still boots.
    ///
    /// # Errors
    /// `BadPlan`, `DidNotStart`, `NoRoom`, `Os`; after an error nothing is left behind.
    async fn start(&self, plan: &Plan) -> Result<Found, HypervisorError>;

    /// Ends the guest at once and leaves nothing: no process, socket, cgroup or file. Fine when
    /// there is nothing.
    ///
    /// # Errors
    /// `Os` when something could not be removed.
    async fn destroy(&self, guest: GuestId) -> Result<(), HypervisorError>;

    /// Hints from now on. A slow receiver loses the oldest.
    fn events(&self) -> broadcast::Receiver<GuestEvent>;

    /// Commands and files, where the driver has a channel into its guests.
    fn channel(&self) -> Option<&dyn Channel> {
        None
    }
    /// Pause and resume, where the driver can.
    fn pause(&self) -> Option<&dyn Pause> {
        None
    }
    /// Stopping without losing disks, where the driver has any.
    fn halt(&self) -> Option<&dyn Halt> {
        None
    }
    /// Serial console and screen, where there are such.
    fn console(&self) -> Option<&dyn Console> {
        None
    }
    /// Where guests can be reached, where the driver can tell.
    fn addresses(&self) -> Option<&dyn Addresses> {
        None
    }
    /// Guests of others made ours and back, where there can be any.
    fn adopt(&self) -> Option<&dyn Adopt> {
        None
    }
    /// Points in a guest's life that it can be put back to, where the driver can keep such.
    fn snapshots(&self) -> Option<&dyn Snapshots> {
        None
    }
    /// Disks carried away and brought back, where the driver can.
    fn backups(&self) -> Option<&dyn Backups> {
        None
    }
    /// Disks that outlive guests, where the driver can attach such.
    fn volumes(&self) -> Option<&dyn Volumes> {
        None
    }
    /// Networks that guests are on, where the driver can make such.
    fn networks(&self) -> Option<&dyn Networks> {
        None
    }
    /// How much room guests' files have, where they have any.
    fn room(&self) -> Option<&dyn Room> {
        None
    }
    /// What guests use, where the driver can tell.
    fn measure(&self) -> Option<&dyn Measure> {
        None
    }
}

/// A way into guests.
#[async_trait]
pub trait Channel: Send + Sync {
    /// Opens the session with a guest, waiting for its hello until the deadline.
    ///
    /// # Errors
    /// `Silent`, `NotRunning`, `Channel`.
    async fn open(&self, guest: GuestId, within: Duration) -> Result<Arc<dyn Session>, HypervisorError>;
}

/// One multiplexed session with one guest.
#[async_trait]
pub trait Session: Send + Sync {
    /// What the guest said of itself.
    fn hello(&self) -> GuestHello;

    /// Starts an execution, or attaches to the one with this id (see `perigee_guest::protocol`).
    ///
    /// # Errors
    /// `UnknownExecution` for `attach_only`, `GuestRefused`, `Channel`.
    async fn exec(&self, start: ExecStart) -> Result<Box<dyn ExecStream>, HypervisorError>;

    /// Sends a signal to an execution.
    ///
    /// # Errors
    /// `UnknownExecution`, `Channel`.
    async fn signal(&self, execution: Uuid, signal: i32) -> Result<(), HypervisorError>;

    /// Lets the guest forget an ended execution. Fine when it already did.
    ///
    /// # Errors
    /// `Channel`.
    async fn acknowledge(&self, execution: Uuid) -> Result<(), HypervisorError>;

    /// Writes a file; `None` ends it. Nothing is there under that path until all of it is.
    ///
    /// # Errors
    /// `GuestRefused`, `Channel`.
    async fn put_file(&self, path: &str, mode: u32, bytes: FileSource) -> Result<u64, HypervisorError>;

    /// Reads a regular file.
    ///
    /// # Errors
    /// `GuestRefused`, `Channel`.
    async fn get_file(&self, path: &str) -> Result<FileSource, HypervisorError>;

    /// Resolves when the session is over.
    async fn closed(&self);
}

/// Bytes of a file, one chunk after the other; bounded, so that a slow end slows the other.
/// An `Err` ends it. The channel's close is the end of the file.
pub type FileSource = tokio::sync::mpsc::Receiver<Result<Bytes, HypervisorError>>;

/// One execution, attached.
#[async_trait]
pub trait ExecStream: Send {
    /// The next thing that happened. The guest's flow-control window opens only with the next
    /// call, so a caller that writes down before it asks again loses nothing. `None` after `End`.
    async fn next(&mut self) -> Option<Result<ExecEvent, HypervisorError>>;
    /// Where standard input can be written, taken once.
    fn stdin(&mut self) -> Option<Box<dyn ExecStdin>>;
}

/// Standard input of an attached execution.
#[async_trait]
pub trait ExecStdin: Send {
    /// The position of the next byte to write. Right after an attach: how many bytes the command
    /// was given in earlier sessions; write from there.
    fn offset(&self) -> u64 {
        0
    }
    /// Writes all of it, waiting while the command does not read.
    ///
    /// # Errors
    /// `Channel` when the session broke or the command closed its input.
    async fn write(&mut self, bytes: Bytes) -> Result<(), HypervisorError>;
    /// End of file.
    ///
    /// # Errors
    /// As `write`.
    async fn finish(&mut self) -> Result<(), HypervisorError>;
}

/// What happened to an attached execution.
#[derive(Clone, Debug, PartialEq)]
pub enum ExecEvent {
    /// It runs.
    Started,
    /// Standard output.
    Stdout(Bytes),
    /// Standard error.
    Stderr(Bytes),
    /// It ended; the last event.
    End(ExecEnd),
}

/// Pausing.
#[async_trait]
pub trait Pause: Send + Sync {
    /// Stops the guest's CPUs. Fine when they are stopped.
    ///
    /// # Errors
    /// `NotRunning`, `Channel`.
    async fn pause(&self, guest: GuestId) -> Result<(), HypervisorError>;
    /// Lets them run again.
    ///
    /// # Errors
    /// `NotRunning`, `Channel`.
    async fn resume(&self, guest: GuestId) -> Result<(), HypervisorError>;
}

/// Stopping a guest so that it can be started again.
#[async_trait]
pub trait Halt: Send + Sync {
    /// Asks the guest to turn itself off, and ends it when it has not after `grace`; at once when
    /// that is zero. Its disks and what else it keeps stay. Fine when it does not run.
    ///
    /// # Errors
    /// `Os` or `Channel` when its end cannot be brought about.
    async fn halt(&self, guest: GuestId, grace: Duration) -> Result<Halted, HypervisorError>;
}

/// How a guest stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halted {
    /// It turned itself off, or was off.
    ByItself,
    /// It was ended.
    ByForce,
}

/// Bytes both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Sitting at a guest.
#[async_trait]
pub trait Console: Send + Sync {
    /// Opens a seat. Whoever sat at the serial port before is sent away.
    ///
    /// # Errors
    /// `NotRunning`, `Channel`, `BadPlan` for a seat the guest does not have.
    async fn sit(&self, guest: GuestId, seat: Seat) -> Result<Box<dyn Stream>, HypervisorError>;
}

/// Telling where guests can be reached.
#[async_trait]
pub trait Addresses: Send + Sync {
    /// A guest's addresses that are known, the surest first: by its lease, by its own agent; when these say nothing,
    /// by what the host has heard of it on the wire (ARP). None when nothing is known yet.
    ///
    /// # Errors
    /// `NotRunning`, `Channel`.
    async fn addresses(&self, guest: GuestId) -> Result<Vec<IpAddr>, HypervisorError>;
}

/// Taking over what others made.
#[async_trait]
pub trait Adopt: Send + Sync {
    /// Makes a guest of nobody's ours, running or not; its id is its hypervisor's. Fine when it is.
    ///
    /// # Errors
    /// `NotRunning` when there is none, `BadPlan` when it is another instance's.
    async fn adopt(&self, guest: GuestId, memo: &str) -> Result<Found, HypervisorError>;
    /// Makes it nobody's again and leaves it otherwise as it is. Fine when there is none.
    ///
    /// # Errors
    /// `Os` or `Channel` when its mark cannot be removed.
    async fn release(&self, guest: GuestId) -> Result<(), HypervisorError>;
}
