//! Operations: long work on one guest, other than bringing it where its switch points.
//!
//! A task carries one; its host is told of it under the task's id, does it once the guest is at rest, one
//! at a time for each guest, and tells how it goes until its end is taken. The same id is never done twice
//! to its end, and each may be begun again after a crash.

use crate::{Name, Resources, SnapshotId};
use serde::{Deserialize, Serialize};

/// What is done to a guest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Operation {
    /// Keep it as it is now.
    CreateSnapshot {
        /// Under which id.
        snapshot: SnapshotId,
        /// What it is called, for people on the host.
        name: Name,
        /// With its memory.
        memory: bool,
    },
    /// Put it back to where it was; what it is now is lost.
    RevertSnapshot {
        /// To which.
        snapshot: SnapshotId,
        /// With its memory: it runs then, whatever it did before.
        memory: bool,
        /// What it had been started with, when its memory is kept.
        booted: Option<Resources>,
    },
    /// Forget one of its snapshots.
    DeleteSnapshot {
        /// Which.
        snapshot: SnapshotId,
    },
}

impl Operation {
    /// `vm:snapshot-create`, …
    pub fn text(&self) -> &'static str {
        match self {
            Self::CreateSnapshot { .. } => "vm:snapshot-create",
            Self::RevertSnapshot { .. } => "vm:snapshot-revert",
            Self::DeleteSnapshot { .. } => "vm:snapshot-delete",
        }
    }
    /// The snapshot it is about.
    pub fn snapshot(&self) -> SnapshotId {
        match self {
            Self::CreateSnapshot { snapshot, .. }
            | Self::RevertSnapshot { snapshot, .. }
            | Self::DeleteSnapshot { snapshot } => *snapshot,
        }
    }
}
