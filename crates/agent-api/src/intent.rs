//! What was done on a host itself, perhaps while its control plane was away.

use perigee_model::{GuestId, GuestSpec, Labels, Name, Switch, Timestamp, VmChange};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One act, written down on the host before it was done. It is repeated on every link until it is
/// taken, and applied once.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Intent {
    /// Of this act; later acts have greater ones.
    pub id: Uuid,
    /// The user of the host who asked for it; `None` came with the local token.
    pub uid: Option<u32>,
    /// When.
    pub at: Timestamp,
    /// About which guest.
    pub guest: GuestId,
    /// What the host knew to be desired then. It is refused when that had moved on.
    pub base_generation: u64,
    /// What was done.
    pub act: Act,
}

/// What can be done on a host itself.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// Its power switch was moved.
    Switch(Switch),
    /// It was deleted.
    Delete,
    /// What may be changed of it was.
    Update(Box<VmChange>),
    /// It was made here, as generation 1.
    Create {
        /// Its name here.
        name: Name,
        /// To find it by.
        #[serde(default, skip_serializing_if = "Labels::is_empty")]
        labels: Labels,
        /// What was asked for.
        spec: Box<GuestSpec>,
    },
}

impl Act {
    /// For people and the audit log: `guest.stop`, …
    pub fn verb(&self) -> String {
        match self {
            Self::Switch(switch) => switch.text().replace("vm:", "guest."),
            Self::Delete => "guest.delete".to_owned(),
            Self::Update(_) => "guest.update".to_owned(),
            Self::Create { .. } => "guest.create".to_owned(),
        }
    }
}
