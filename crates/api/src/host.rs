//! Hosts and join tokens.

use crate::problem::ProblemView;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A machine with an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HostView {
    /// UUIDv7.
    pub id: String,
    /// Unique.
    pub name: String,
    /// `connected`, `reporting` (no agent of ours, but another reports over HTTP), `disconnected` (its
    /// guests' status is unknown then) or `revoked`.
    pub status: String,
    /// When its link came up or went down last, as far as this control plane saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_since: Option<String>,
    /// When it last spoke, as far as this control plane heard it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard_at: Option<String>,
    /// What is wrong with it: two agents have its identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<ProblemView>,
    /// Marks.
    pub labels: BTreeMap<String, String>,
    /// What another agent says of the host: `primary_interface_speed_mbps`, …
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Guests placed here.
    pub guests: u32,
    /// Memory of these guests.
    pub memory_taken_bytes: u64,
    /// When it joined.
    pub created_at: String,
    /// How busy it was when it was last measured; absent before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<LoadView>,
    /// What it is and has; absent before its first link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<InventoryView>,
}

/// How busy a host is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LoadView {
    /// When this was so.
    pub measured_at: String,
    /// Share of all CPUs that was busy between the last two measurements, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_usage_ratio: Option<f64>,
    /// Memory that is not available for use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_used_bytes: Option<f64>,
    /// All of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_total_bytes: Option<f64>,
    /// Runnable tasks, averaged over a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load1: Option<f64>,
    /// Frames of measurements that were taken and never arrived.
    pub frames_lost: u64,
}

/// What a host is and has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InventoryView {
    /// The machine's own name.
    pub hostname: String,
    /// `x86_64`, `aarch64`.
    pub arch: String,
    /// `uname -r`.
    pub kernel_release: String,
    /// Distribution.
    pub os: String,
    /// Logical CPUs.
    pub cpus: u32,
    /// The CPU's model name.
    pub cpu_model: String,
    /// Installed memory.
    pub memory_bytes: u64,
    /// Size of the file system that holds the agent's data.
    pub disk_bytes: u64,
    /// Free on it, rounded down to 1 GiB.
    pub disk_free_bytes: u64,
    /// Version of the agent.
    pub agent_version: String,
    /// `root`, or `reduced: …` with what is missing.
    pub privileges: String,
    /// What its drivers can do.
    pub drivers: Vec<AbilitiesView>,
}

/// What a driver can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AbilitiesView {
    /// `qemu-microvm`, `simulated`.
    pub driver: String,
    /// The VMM's version.
    pub version: String,
    /// `kvm`, `tcg` or `simulated`.
    pub acceleration: String,
    /// Commands and files.
    pub channel: bool,
    /// Pause and resume.
    pub pause: bool,
    /// Memory snapshots.
    pub snapshots: bool,
    /// Disks that outlive guests can be attached to them.
    #[serde(default)]
    pub volumes: bool,
    /// Networks of VMs can be made.
    #[serde(default)]
    pub networks: bool,
    /// Boots in flight at once.
    pub boots_in_flight_max: u32,
}

/// Asks for a join token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinTokenRequest {
    /// Life in milliseconds, one hour by default and at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
}

/// A join token: shown once, good for one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JoinTokenView {
    /// Give it to `perigee-agent join URL --token-file FILE`.
    pub token: String,
    /// The agent link's address.
    pub url: String,
    /// Refused from then on.
    pub expires_at: String,
}
