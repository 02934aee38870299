//! Snapshots of virtual machines.

use crate::word;
use perigee_model::{Guest, Name, Refusal, Snapshot};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What to keep of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRequest {
    /// A DNS label, unique in the VM.
    pub name: String,
    /// For people; at most 4 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// With what is in its memory; it runs then, and stands while that is written. `false` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<bool>,
}

/// A point in a VM's life that it can go back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotView {
    /// UUIDv7.
    pub id: String,
    /// Unique in its VM.
    pub name: String,
    /// `creating`, `ready` or `deleting`.
    pub status: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// With memory: a VM that goes back to it goes on where it was.
    pub memory: bool,
    /// What the memory in it takes up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Name of its VM.
    pub vm: String,
    /// Id of its VM.
    pub vm_id: String,
    /// When it was asked for.
    pub created_at: String,
    /// The moment it keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_at: Option<String>,
}

impl SnapshotView {
    /// One of a VM's.
    pub fn of(guest: &Guest, snapshot: &Snapshot) -> Self {
        let taken = snapshot.taken.as_ref();
        Self {
            id: snapshot.id.to_string(),
            name: snapshot.name.to_string(),
            status: word(&snapshot.state),
            description: snapshot.description.clone(),
            memory: snapshot.memory,
            memory_bytes: taken.map(|taken| taken.memory_bytes).filter(|_| snapshot.memory),
            vm: guest.name.to_string(),
            vm_id: guest.id.to_string(),
            created_at: snapshot.created_at.to_string(),
            taken_at: taken.map(|taken| taken.at.to_string()),
        }
    }
}

impl SnapshotRequest {
    /// Its name.
    ///
    /// # Errors
    /// `BadField`.
    pub fn name(&self) -> Result<Name, Refusal> {
        Name::parse(&self.name).map_err(|fault| Refusal::field("name", fault.to_string()))
    }
}
