//! Volumes: disks that outlive the virtual machines they are attached to.

use crate::word;
use perigee_model::{Name, Refusal, Volume, VolumeStatus};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A new volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeRequest {
    /// A DNS label, unique in the tenant.
    pub name: String,
    /// Its size: a multiple of 1 MiB.
    pub bytes: u64,
    /// Name or id of its host; without one the host with the most room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Marks.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What to attach a volume to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeAttachRequest {
    /// Name or id of a VM on the volume's host.
    pub vm: String,
}

/// How large a volume is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeResizeRequest {
    /// More than it has: a volume only grows.
    pub bytes: u64,
}

/// A disk that outlives the virtual machines it is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeView {
    /// UUIDv7.
    pub id: String,
    /// Unique in the tenant.
    pub name: String,
    /// `creating`, `detached`, `attaching`, `attached`, `detaching`, `resizing` or `deleting`.
    pub status: String,
    /// Its size; while it grows, the one it is to have.
    pub bytes: u64,
    /// Name of its host.
    pub host: String,
    /// Id of its host.
    pub host_id: String,
    /// Name of the VM that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
    /// Id of the VM that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_id: Option<String>,
    /// Its disk's serial number in the VM: `/dev/disk/by-id/virtio-SERIAL`.
    pub serial: String,
    /// Marks.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Whose.
    pub tenant: String,
    /// Who made it.
    pub owner: String,
    /// When it was asked for.
    pub created_at: String,
}

impl VolumeView {
    /// What is shown of it, with the names of its host and of its VM.
    pub fn of(volume: &Volume, status: VolumeStatus, host: String, vm: Option<String>) -> Self {
        Self {
            id: volume.id.to_string(),
            name: volume.name.to_string(),
            status: word(&status),
            bytes: volume.bytes,
            host,
            host_id: volume.host.to_string(),
            vm,
            vm_id: volume.guest.map(|guest| guest.to_string()),
            serial: volume.serial(),
            labels: volume.labels.clone(),
            tenant: volume.tenant.to_string(),
            owner: volume.owner.clone(),
            created_at: volume.created_at.to_string(),
        }
    }
}

impl VolumeRequest {
    /// Its name.
    ///
    /// # Errors
    /// `BadField`.
    pub fn name(&self) -> Result<Name, Refusal> {
        Name::parse(&self.name).map_err(|fault| Refusal::field("name", fault.to_string()))
    }
}
