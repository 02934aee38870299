//! The ability to keep points in a guest's life and to put it back to them.

use crate::{Found, HypervisorError};
use async_trait::async_trait;
use perigee_model::{GuestId, Name, SnapshotId};
use std::time::SystemTime;
use tokio::sync::watch;

/// How far long work is: a word for people, and 0 to 100 where that is known.
pub type Progress = Option<(String, Option<u8>)>;

/// Keeping points in a guest's life. They are in its disk: `destroy` leaves nothing of them.
#[async_trait]
pub trait Snapshots: Send + Sync {
    /// The snapshots that are there, whole, oldest first. None of a guest that does not exist.
    ///
    /// # Errors
    /// `Channel`, `Os` when they cannot be read.
    async fn kept(&self, guest: GuestId) -> Result<Vec<Kept>, HypervisorError>;

    /// Keeps the guest as it is now, running, paused or stopped; it goes on as it was. One of this id that
    /// is there is the answer; what an interrupted attempt left is cleared up first.
    ///
    /// # Errors
    /// `NotRunning` when there is no such guest, or no memory to keep; `BadPlan` for a guest that cannot be
    /// kept; `NoRoom`, `Refused`; after these nothing is left behind. `Channel`, `Os`: ask again.
    async fn keep(&self, guest: GuestId, wish: &Keep, tell: &watch::Sender<Progress>) -> Result<Kept, HypervisorError>;

    /// Puts the guest back to where it was; what it is now is lost. With memory it runs then; without, it
    /// is off, whatever it was before. The memo stays the newest.
    ///
    /// # Errors
    /// `NoSnapshot`, `NotRunning` when there is no such guest, `BadPlan`, `Refused`, `NoRoom`;
    /// `Channel`, `Os`: ask again.
    async fn go_back(&self, guest: GuestId, snapshot: SnapshotId) -> Result<Found, HypervisorError>;

    /// Forgets a snapshot; the guest goes on as it is. Fine when there is none.
    ///
    /// # Errors
    /// `Refused`, `NoRoom`; `Channel`, `Os`: ask again.
    async fn forget(&self, guest: GuestId, snapshot: SnapshotId) -> Result<(), HypervisorError>;
}

/// What is to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Under which id.
    pub snapshot: SnapshotId,
    /// For people on the host.
    pub title: Name,
    /// Its memory, too, of which there are so many bytes at most.
    pub memory_bytes: Option<u64>,
}

/// A snapshot that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Which.
    pub snapshot: SnapshotId,
    /// The moment it keeps.
    pub at: SystemTime,
    /// What the memory in it takes up; 0 without.
    pub memory_bytes: u64,
}
