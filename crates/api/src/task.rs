//! Tasks.

use crate::problem::ProblemView;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One unit of the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskView {
    /// UUIDv7.
    pub id: String,
    /// `vm:create`, `vm:delete`, `vm:execute`, `vm:start` and the other switches, `vm:snapshot-create`,
    /// `vm:snapshot-revert`, `vm:snapshot-delete`, `vm:backup-create`, `image:build`, `image:import`,
    /// `backup:verify`, `volume:create`, `volume:attach`, `volume:detach`, `volume:resize`, `volume:delete`,
    /// `network:create`, `network:delete`.
    pub kind: String,
    /// `pending`, `running`, `succeeded`, `failed`, `cancelled` or `dead`.
    pub state: String,
    /// `critical`, `high`, `default` or `low`.
    pub priority: String,
    /// Whose.
    pub tenant: String,
    /// Who asked.
    pub owner: String,
    /// The guest it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox_id: Option<String>,
    /// The image it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<String>,
    /// The volume it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_id: Option<String>,
    /// The network it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_id: Option<String>,
    /// The execution it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution_id: Option<String>,
    /// The backup it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_id: Option<String>,
    /// Claims so far.
    pub attempts: u32,
    /// Claims at most.
    pub attempts_max: u32,
    /// Who works on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// For people: what it does or waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_percent: Option<u8>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<ProblemView>,
    /// When it was asked for.
    pub created_at: String,
    /// Not before.
    pub scheduled_at: String,
    /// When it was claimed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<String>,
}

impl TaskView {
    /// Nothing more happens.
    pub fn is_final(&self) -> bool {
        matches!(self.state.as_str(), "succeeded" | "failed" | "cancelled" | "dead")
    }
}
