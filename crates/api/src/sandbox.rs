//! Sandboxes. `/api/v1/vms` serves the same shape for every kind of guest.

use crate::problem::ProblemView;
use crate::vm::HostReason;
use crate::word;
use perigee_model::{Egress, Forward, Guest, GuestKind, GuestStatus, PartRole};
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
    /// With a card: an IPv6 address, too, and what may be reached by it, in the same words; places are like
    /// `example.com:443`, `2001:db8::/32:443`, `[2001:db8::7]:443`. Without: no IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress6: Option<Vec<String>>,
}

/// A merge patch (RFC 7396): labels given as `null` are removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SandboxPatch {
    /// Labels to set or remove.
    #[serde(default)]
    pub labels: BTreeMap<String, Option<String>>,
    /// Of a sandbox with a card: what may be reached by it from now on, as in a request to create one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<String>>,
    /// Of a sandbox with IPv6: what may be reached by that from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress6: Option<Vec<String>>,
}

/// What a request would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SandboxPlanView {
    /// The sandbox as it would be. Of one that is not there yet the id is of this answer alone.
    pub sandbox: SandboxView,
    /// The host it would be placed on now, or is on; absent when it would wait for room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Why, host by host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub placement: Vec<HostReason>,
    /// Of a sandbox: the disks it would have, each its own, made from one of its image's and gone with it. Without any
    /// its files are in its memory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskPlanView>,
    /// The rules that its host would have for its card, as nft reads them, those for others left out. Absent: it has
    /// no card, or no host says so now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<String>,
}

/// A disk that a sandbox would have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskPlanView {
    /// What its image's takes up.
    pub image_bytes: u64,
}

impl SandboxPlanView {
    /// What would be done: the guest, as it is shown, on this host.
    pub fn of(guest: &Guest, sandbox: SandboxView, host: Option<String>) -> Self {
        let parts =
            guest.spec.parts.iter().filter(|part| guest.kind == GuestKind::Sandbox && part.role == PartRole::Disk);
        let disks = parts.map(|part| DiskPlanView { image_bytes: part.bytes }).collect();
        Self { sandbox, host, placement: Vec::new(), disks, rules: None }
    }
}

/// A port of a guest's host that is to lead to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ForwardRequest {
    /// At the host, 1 to 65535.
    pub host_port: u32,
    /// At the guest, 1 to 65535; the same by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_port: Option<u32>,
    /// `tcp` (the default) or `udp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
}

/// A port of a guest's host that leads to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ForwardView {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// At the host, at each of its addresses but the loopback ones.
    pub host_port: u16,
    /// At the guest.
    pub guest_port: u16,
    /// It leads there now. If not, the host has not heard of it yet, or `problem` says why.
    pub up: bool,
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
    /// What it may reach by IPv6: `none`, `all`, or places. Absent: it has no IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress6: Option<Vec<String>>,
    /// Its address on its host's own network of guests; a VM that is off keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Its IPv6 address there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<String>,
    /// Ports of its host that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<ForwardView>,
    /// Its host has done all that is desired of it. If not: not yet, or it cannot.
    pub caught_up: bool,
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
            egress6: guest.spec.egress6.as_ref().map(Egress::words),
            address: guest.address().map(|address| address.to_string()),
            address6: guest.address6().map(|address| address.to_string()),
            forwards: guest.spec.forwards.iter().map(|one| forward(guest, *one)).collect(),
            caught_up: guest.is_caught_up(),
            generation: guest.desired.generation,
        }
    }
}

fn forward(guest: &Guest, forward: Forward) -> ForwardView {
    ForwardView {
        protocol: forward.protocol.to_string(),
        host_port: forward.host_port,
        guest_port: forward.guest_port,
        up: guest.observed.as_ref().is_some_and(|o| o.forwards.contains(&forward)),
    }
}
