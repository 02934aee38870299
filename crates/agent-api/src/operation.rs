//! Long work on one guest: what a host is told to do, and what it says of it.

use perigee_model::guest::Problem;
use perigee_model::{GuestId, Operation, SnapshotId, Stored, Taken, TaskId};
use serde::{Deserialize, Serialize};

/// One operation on a guest. It may arrive again and again, and is done once.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Operate {
    /// Its task.
    pub task: TaskId,
    /// On which guest.
    pub guest: GuestId,
    /// What.
    pub operation: Operation,
    /// Every snapshot that the guest should have, this operation's own included. Others of ours that its
    /// host finds are what an operation that was given up has left: they are removed.
    pub snapshots: Vec<SnapshotId>,
    /// Nobody wants it any more: its end is failure, unless it is done already. Only of backups.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancelled: bool,
}

/// How an operation goes. Its end is repeated until `OperationTaken`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct OperationReport {
    /// Its task.
    pub task: TaskId,
    /// On which guest.
    pub guest: GuestId,
    /// How.
    pub stage: OperationStage,
}

/// Where an operation is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationStage {
    /// It moves.
    Running {
        /// For people.
        note: String,
        /// 0 to 100.
        percent: Option<u8>,
    },
    /// It is done.
    Done(OperationResult),
    /// It failed; what it had begun is undone.
    Failed(Problem),
}

impl OperationStage {
    /// Nothing more happens.
    pub fn is_end(&self) -> bool {
        !matches!(self, Self::Running { .. })
    }
}

/// What came of an operation.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationResult {
    /// A snapshot is there.
    Kept(Taken),
    /// The guest is as it was then.
    WentBack,
    /// The snapshot is gone.
    Forgotten,
    /// A backup is there.
    Stored(Stored),
}
