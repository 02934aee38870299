//! Sandboxes. `/api/v1/vms` serves the same shape for every kind of guest.

use crate::problem::ProblemView;
use crate::word;
use perigee_model::{Egress, Guest, GuestStatus};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// What to create.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SandboxRequest {
    /// A DNS label; made up when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `sandbox` (the default) or `vm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Name or id of an image; `base` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// 256 MiB by default; a multiple of 1 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Life in milliseconds, one hour by default; 0 lives until deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// Environment of every command run in it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Marks.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Only this host (name or id) will do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// `critical`, `high`, `default` or `low`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<String>,
    /// A card, and what may be reached by it: `none`, `all` (the public internet), or places, like
    /// `example.com:443`, `*.debian.org`, `10.1.0.0/16:5432`. Without: no card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<String>>,
}

/// A merge patch (RFC 7396): labels given as `null` are removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SandboxPatch {
    /// Labels to set or remove.
    #[serde(default)]
    pub labels: BTreeMap<String, Option<String>>,
}

/// A sandbox, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SandboxView {
    /// UUIDv7.
    pub id: String,
    /// Unique in the tenant.
    pub name: String,
    /// `sandbox` or `vm`.
    pub kind: String,
    /// Whose.
    pub tenant: String,
    /// Who made it.
    pub owner: String,
    /// `pending`, `waiting`, `starting`, `running`, `stopping`, `stopped`, `failed`, `deleting`,
    /// `suspended` (paused),
    /// `deleted`, or `unknown` when its host is not connected.
    pub status: String,
    /// For people: what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<ProblemView>,
    /// Name of its image.
    pub image: String,
    /// Id of its image.
    pub image_id: String,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory.
    pub memory_bytes: u64,
    /// Name of its host, once placed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Id of its host, once placed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_id: Option<String>,
    /// Marks.
    pub labels: BTreeMap<String, String>,
    /// When it was asked for.
    pub created_at: String,
    /// When it ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// Kernel of the guest, from its own mouth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_release: Option<String>,
    /// From VMM start to the guest's hello.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_ms: Option<u64>,
    /// What it may reach by its card: `none`, `all`, or places. Absent: it has no card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<String>>,
    /// Its address on its host's network of sandboxes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Counts the writes of what is desired.
    pub generation: u64,
}

impl SandboxView {
    /// What is shown of a guest with this status, on a host of this name.
    pub fn of(guest: &Guest, status: GuestStatus, host: Option<String>) -> Self {
        let observed = guest.observed.as_ref();
        Self {
            id: guest.id.to_string(),
            name: guest.name.to_string(),
            kind: word(&guest.kind),
            tenant: guest.tenant.to_string(),
            owner: guest.owner.clone(),
            status: word(&status),
            note: observed.and_then(|o| o.note.clone()),
            problem: observed.and_then(|o| o.problem.as_ref()).map(ProblemView::from),
            image: guest.spec.image_name.to_string(),
            image_id: guest.spec.image.to_string(),
            cpus: guest.spec.resources.cpus,
            memory_bytes: guest.spec.resources.memory_bytes,
            host,
            host_id: guest.desired.host.map(|h| h.to_string()),
            labels: guest.labels.clone(),
            created_at: guest.created_at.to_string(),
            expires_at: guest.desired.expires_at.map(|at| at.to_string()),
            kernel_release: observed.and_then(|o| o.kernel_release.clone()),
            boot_ms: observed.and_then(|o| o.boot_ms),
            egress: guest.spec.egress.as_ref().map(Egress::words),
            address: observed
                .filter(|_| guest.spec.egress.is_some())
                .and_then(|o| o.addresses.first())
                .map(ToString::to_string),
            generation: guest.desired.generation,
        }
    }
}
