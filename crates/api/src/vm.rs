//! Virtual machines.

use crate::SandboxView;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// What to create. `env` and `ttl_ms` are of sandboxes alone; `description` and what follows it are
/// of VMs alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VmRequest {
    /// A DNS label; made up when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `vm` (the default) or `sandbox`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Name or id of an image; `base` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// 1 GiB by default; a multiple of 1 MiB.
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
    /// For people; at most 4 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Size of its disk, a multiple of 1 MiB: an overlay of the image's disk, or an empty one where
    /// the image has none. The image's own size, or no disk, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// Network of its host that its card is on; no card when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Hardware address of that card; made up when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Public keys that its first user lets in, one line of `authorized_keys` each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh_keys: Vec<String>,
    /// For its cloud-init; at most 1 MiB. What it says wins over `ssh_keys`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
    /// `bios` (the default) or `uefi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    /// With an emulated TPM 2.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<bool>,
    /// `always`, `on_failure` (the default: not when it turned itself off) or `never`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<String>,
    /// When its host comes up, guests with a lower number are up before it; 0 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_order: Option<u32>,
}

/// A merge patch (RFC 7396) of a VM: what is absent stays; labels given as `null` are removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VmPatch {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Labels to set or remove.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, Option<String>>,
    /// From its next start on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// From its next start on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// `always`, `on_failure` or `never`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<String>,
    /// When its host comes up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_order: Option<u32>,
}

/// How to stop or restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StopRequest {
    /// So long it may take to turn itself off before it is ended, at most one hour; 0 ends it at
    /// once. One minute by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
}

/// How to take over a VM that was there before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AdoptRequest {
    /// Its name here; made of its own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A guest of any kind, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmView {
    /// What every guest has.
    #[serde(flatten)]
    pub guest: SandboxView,
    /// What only a full VM has.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmPart>,
}

/// What only a full VM has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmPart {
    /// For people.
    pub description: String,
    /// Size of its disk, where one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// Network of its host that its card is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Hardware address of its card.
    pub mac: String,
    /// Where it can be reached, as far as its host knows.
    pub addresses: Vec<String>,
    /// `bios` or `uefi`.
    pub firmware: String,
    /// With an emulated TPM 2.0.
    pub tpm: bool,
    /// `always`, `on_failure` or `never`.
    pub restart: String,
    /// When its host comes up, guests with a lower number are up before it.
    pub start_order: u32,
    /// Its size was changed and holds from its next start on.
    pub restart_needed: bool,
    /// It was there before and was taken over.
    pub adopted: bool,
}

/// What a create would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmPlanView {
    /// The guest as it would be made. Its id is of this answer alone.
    pub vm: VmView,
    /// The host it would be placed on now; absent when it would wait for room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Why, host by host.
    pub placement: Vec<HostReason>,
}

/// What placement thinks of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostReason {
    /// Name of the host.
    pub host: String,
    /// `chosen`, or why not.
    pub reason: String,
}

/// A virtual machine that Perigee did not make: shown, measured, not touched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ForeignVmView {
    /// Its hypervisor's UUID of it.
    pub id: String,
    /// As its hypervisor names it.
    pub name: String,
    /// `running`, `paused`, `stopping`, `stopped`, `failed`, or `unknown` when nothing was heard of it
    /// for half a minute.
    pub status: String,
    /// Somebody's work on it (a migration, a backup) keeps it from telling all.
    pub busy: bool,
    /// Its host's name.
    pub host: String,
    /// Its host's id.
    pub host_id: String,
    /// What runs it: `libvirt`.
    pub driver: String,
    /// Virtual CPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Memory it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// What its host keeps in memory for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resident_bytes: Option<u64>,
    /// CPUs' worth of time it uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_cores: Option<f64>,
    /// When this was so.
    pub measured_at: String,
}
