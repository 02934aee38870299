//! Audit events.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One thing somebody did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventView {
    /// Counts up; give the last as `after` to go on.
    pub seq: i64,
    /// UUIDv7.
    pub id: String,
    /// When.
    pub at: String,
    /// Who.
    pub actor: String,
    /// `guest.create`, `task.cancel`, …
    pub verb: String,
    /// `guest`, `image`, `task`, `host`, `execution`, `token`.
    pub noun: String,
    /// Its id.
    pub subject_id: String,
    /// The request that caused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// A short text.
    pub detail: String,
}
