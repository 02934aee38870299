//! Executions.

use crate::problem::ProblemView;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// What to run in a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecuteRequest {
    /// Program and arguments; no shell is involved.
    pub argv: Vec<String>,
    /// Added to the guest's environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Working directory; `/` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// User name or uid in the guest; root by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Killed after this long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Kept per stream, 16 MiB by default; the rest is counted and dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_limit_bytes: Option<u64>,
    /// `critical`, `high`, `default` or `low`; only for the queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<String>,
}

/// One command's run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecutionView {
    /// UUIDv7.
    pub id: String,
    /// In which guest.
    pub sandbox_id: String,
    /// Its guest's name.
    pub sandbox: String,
    /// The task that asked for it; absent for interactive use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<String>,
    /// What was run.
    pub argv: Vec<String>,
    /// `pending`, `running`, `exited`, `signaled`, `timed_out`, `failed_to_start` or `lost`.
    pub state: String,
    /// As a shell would report it: the code, 128 + signal, 124 for a time-out, 127 when it could
    /// not be started. Absent while it runs and when it was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Beginning and end of standard output as UTF-8 (invalid bytes replaced), at most 64 KiB.
    pub stdout: String,
    /// The same bytes, base64, when they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout_base64: Option<String>,
    /// How much the command wrote.
    pub stdout_bytes: u64,
    /// As `stdout`.
    pub stderr: String,
    /// As `stdout_base64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_base64: Option<String>,
    /// As `stdout_bytes`.
    pub stderr_bytes: u64,
    /// Output beyond the limit was dropped.
    pub truncated: bool,
    /// When it was asked for.
    pub created_at: String,
    /// When the guest started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// How long it ran in the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// Why it did not end well on our side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<ProblemView>,
}
