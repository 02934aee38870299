//! Hosts: machines with an agent.

use crate::{GuestKind, HostId, Labels, Name, RunId, Timestamp};
use serde::{Deserialize, Serialize};

/// How guests are executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Acceleration {
    /// Hardware virtualisation.
    Kvm,
    /// QEMU's translator: works everywhere, an order of magnitude slower.
    Tcg,
    /// No guest at all: a simulated host.
    Simulated,
}

/// What a driver can do. Differences between drivers are this data, never a branch on a name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Abilities {
    /// `qemu-microvm`, `libvirt`, `simulated`.
    pub driver: String,
    /// The guests it runs.
    #[serde(default = "sandboxes")]
    pub kinds: Vec<GuestKind>,
    /// The VMM's own version text.
    pub version: String,
    /// How guests are executed.
    pub acceleration: Acceleration,
    /// Commands and files through a channel into the guest.
    pub channel: bool,
    /// Pause and resume.
    pub pause: bool,
    /// Stops a guest and keeps its disks.
    #[serde(default)]
    pub halt: bool,
    /// Serial console and screen.
    #[serde(default)]
    pub console: bool,
    /// Memory snapshots.
    pub snapshots: bool,
    /// Disks that outlive guests can be attached to them.
    #[serde(default)]
    pub volumes: bool,
    /// Networks of VMs can be made.
    #[serde(default)]
    pub networks: bool,
    /// Guests survive the agent and are adopted again.
    pub adopt: bool,
    /// Boots that may be in flight at once.
    pub boots_in_flight_max: u32,
}

/// What agents of the first release meant.
fn sandboxes() -> Vec<GuestKind> {
    vec![GuestKind::Sandbox]
}

/// What a host is and has. Sent at each link start and when it changes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Inventory {
    /// The machine's own name.
    pub hostname: String,
    /// `x86_64`, `aarch64`.
    pub arch: String,
    /// `uname -r`.
    pub kernel_release: String,
    /// Distribution, as in os-release's PRETTY_NAME.
    pub os: String,
    /// Logical CPUs.
    pub cpus: u32,
    /// The CPU's model name.
    pub cpu_model: String,
    /// Installed memory.
    pub memory_bytes: u64,
    /// Size of the file system that holds the agent's data.
    pub disk_bytes: u64,
    /// Free on it when the inventory was read, rounded down to 1 GiB (so that it seldom changes).
    pub disk_free_bytes: u64,
    /// Version of the agent.
    pub agent_version: String,
    /// `root` or `reduced: …` with what is missing.
    pub privileges: String,
    /// What its drivers can do.
    pub drivers: Vec<Abilities>,
}

/// A host as the control plane keeps it. `inventory`, `run`, `seen_at` come from the agent alone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Host {
    /// Identity, in the agent's certificate.
    pub id: HostId,
    /// Unique; the host name at enrolment, with a number if taken.
    pub name: Name,
    /// Marks for placement.
    pub labels: Labels,
    /// When it joined.
    pub created_at: Timestamp,
    /// A revoked host is refused at once, whatever its certificate says.
    pub revoked: bool,
    /// No new guests are placed here.
    pub drained: bool,
    /// What it is and has; none before its first link.
    pub inventory: Option<Inventory>,
    /// The agent process that spoke last.
    pub run: Option<RunId>,
    /// When the inventory was last written.
    pub seen_at: Option<Timestamp>,
    /// What it may report over HTTP, and what it said of itself there.
    #[serde(default)]
    pub reporting: Reporting,
    /// Bumped by each write.
    pub revision: u64,
}

/// A host's side of HTTP ingest: for agents that are not ours.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Reporting {
    /// Ingest tokens of another generation are refused.
    pub generation: u64,
    /// Ed25519 public key: when there is one, reports are signed with it.
    pub key: Option<[u8; 32]>,
    /// What the agent says of the host: `primary_interface_speed_mbps`, …
    pub tags: Labels,
}
