//! Virtual machines.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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
