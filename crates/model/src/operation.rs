//! Operations: long work on one guest, other than bringing it where its switch points.
//!
//! A task carries one; its host is told of it under the task's id, does it once the guest is at rest, one
//! at a time for each guest, and tells how it goes until its end is taken. The same id is never done twice
//! to its end, and each may be begun again after a crash.

use crate::{BackupId, Digest, Name, Resources, SnapshotId};
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
    /// Carry its disk, as it is now, to where backups are kept.
    CreateBackup {
        /// Under which id.
        backup: BackupId,
        /// Encrypted where it is kept.
        sealed: bool,
        /// Backups of it that are there, the newest first: after one of them only what was written since
        /// has to be read.
        bases: Vec<Base>,
    },
}

/// A backup that another one can be made after.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Base {
    /// Which.
    pub backup: BackupId,
    /// Its index.
    pub index: Digest,
}

impl Operation {
    /// `vm:snapshot-create`, …
    pub fn text(&self) -> &'static str {
        match self {
            Self::CreateSnapshot { .. } => "vm:snapshot-create",
            Self::RevertSnapshot { .. } => "vm:snapshot-revert",
            Self::DeleteSnapshot { .. } => "vm:snapshot-delete",
            Self::CreateBackup { .. } => "vm:backup-create",
        }
    }
    /// The snapshot it is about, if it is about one.
    pub fn snapshot(&self) -> Option<SnapshotId> {
        match self {
            Self::CreateSnapshot { snapshot, .. }
            | Self::RevertSnapshot { snapshot, .. }
            | Self::DeleteSnapshot { snapshot } => Some(*snapshot),
            Self::CreateBackup { .. } => None,
        }
    }
    /// The backup that it makes, if it makes one.
    pub fn backup(&self) -> Option<BackupId> {
        match self {
            Self::CreateBackup { backup, .. } => Some(*backup),
            Self::CreateSnapshot { .. } | Self::RevertSnapshot { .. } | Self::DeleteSnapshot { .. } => None,
        }
    }
}
