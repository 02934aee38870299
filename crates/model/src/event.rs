//! Audit events: one for each change, written in the change's own transaction.

use crate::{EventId, Tenant, Timestamp};
use serde::{Deserialize, Serialize};

/// What an event is about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Subject {
    /// `host`, `guest`, `image`, `volume`, `network`, `task`, `execution`, `token`.
    pub noun: String,
    /// Its id.
    pub id: String,
}

/// One thing somebody did, or was refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Identity; orders events of one process.
    pub id: EventId,
    /// When.
    pub at: Timestamp,
    /// In whose name space.
    pub tenant: Tenant,
    /// Who: a key's name, `host:<id>`, or `perigee` itself.
    pub actor: String,
    /// `guest.create`, `task.cancel`, …
    pub verb: String,
    /// About what.
    pub subject: Subject,
    /// The request that caused it, when one did.
    pub request_id: Option<String>,
    /// A short text without secrets or personal data.
    pub detail: String,
}
