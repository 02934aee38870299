//! Virtual machines.

use crate::{BackupScheduleView, SandboxView, word};
use perigee_model::limits::VM_MEMORY_BYTES_DEFAULT;
use perigee_model::{Egress, Firmware, Guest, Mac, Name, Phase, Refusal, Resources, RestartPolicy, VmChange, VmSpec};
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
    /// What your own programs keep with it: at most 64 entries, 16 KiB together. Kept and shown;
    /// labels are what lists are filtered by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Size of its disk, a multiple of 1 MiB: an overlay of the image's disk, or an empty one where
    /// the image has none. The image's own size, or no disk, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// A card on its host's own network of guests, and what may be reached by it: `none`, `all` (the public
    /// internet), or places, like `example.com:443`, `*.debian.org`, `10.1.0.0/16:5432`. Not with `network` or `mac`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<String>>,
    /// Network of its host's libvirt that its card is on; no card when that and `egress` are absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Hardware address of a card on `network`; made up when absent.
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

/// A merge patch (RFC 7396) of a VM: what is absent stays; labels and metadata
/// given as `null` are removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VmPatch {
    /// Another name. Its host name inside stays what it was at its first start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Labels to set or remove.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, Option<String>>,
    /// Metadata to set or remove.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, Option<String>>,
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
    /// Of one with a card on its host's own network: what may be reached by it, at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<String>>,
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmView {
    /// What every guest has.
    #[serde(flatten)]
    pub guest: SandboxView,
    /// What only a full VM has.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmPart>,
    /// What its host keeps in memory for it, measured within the last half minute. The entity tag
    /// does not change with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resident_bytes: Option<u64>,
    /// CPUs' worth of time it uses, measured within the last half minute. The entity tag does not
    /// change with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_cores: Option<f64>,
}

/// What only a full VM has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmPart {
    /// For people.
    pub description: String,
    /// What its owner's own programs keep with it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Size of its disk, where one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// Network of its host's libvirt that its card is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Hardware address of its card. Absent: its host has not given it an address yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
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
    /// When it is backed up by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backups: Option<BackupScheduleView>,
    /// Id of the backup that it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_from: Option<String>,
    /// Ids of the volumes that it should have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
}

/// What a create would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmPlanView {
    /// The guest as it would be made. Its id is of this answer alone.
    pub vm: VmView,
    /// The host it would be placed on now; absent when it would wait for room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Why, host by host.
    pub placement: Vec<HostReason>,
    /// The rules that its host would have for its card, as nft reads them, those for others left out. Absent: it has
    /// no card on its host's own network, or no host says so now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<String>,
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

impl VmView {
    /// What is shown of a guest: what every guest has, and its VM part. Nothing of its use.
    pub fn of(guest: &Guest, shown: SandboxView) -> Self {
        let vm = guest.spec.vm.as_ref().map(|vm| VmPart::of(guest, vm));
        Self { guest: shown, vm, resident_bytes: None, cpu_cores: None }
    }
}

impl VmPart {
    fn of(guest: &Guest, vm: &VmSpec) -> Self {
        let observed = guest.observed.as_ref();
        let booted = observed.filter(|o| o.phase == Phase::Running).and_then(|o| o.booted);
        Self {
            description: vm.description.clone(),
            metadata: vm.metadata.clone(),
            disk_bytes: vm.disk_bytes,
            network: vm.network.as_ref().map(ToString::to_string),
            mac: match guest.spec.egress {
                Some(_) => guest.address().map(|address| Mac::of_address(address).to_string()),
                None => Some(vm.mac.to_string()),
            },
            addresses: observed.map(|o| o.addresses.iter().map(ToString::to_string).collect()).unwrap_or_default(),
            firmware: word(&vm.firmware),
            tpm: vm.tpm,
            restart: word(&vm.restart),
            start_order: vm.start_order,
            restart_needed: booted.is_some_and(|booted| booted != guest.spec.resources),
            adopted: vm.adopted,
            backups: guest.backups.as_ref().map(BackupScheduleView::from),
            restored_from: vm.origin.as_ref().map(|origin| origin.backup.to_string()),
            volumes: vm.volumes.iter().map(ToString::to_string).collect(),
        }
    }
}

/// A restart policy by its published word.
///
/// # Errors
/// `BadField`.
pub fn restart_policy(text: &str) -> Result<RestartPolicy, Refusal> {
    match text {
        "always" => Ok(RestartPolicy::Always),
        "on_failure" => Ok(RestartPolicy::OnFailure),
        "never" => Ok(RestartPolicy::Never),
        _ => Err(Refusal::field("restart", "restart is always, on_failure or never")),
    }
}

fn firmware(text: &str) -> Result<Firmware, Refusal> {
    match text {
        "bios" => Ok(Firmware::Bios),
        "uefi" => Ok(Firmware::Uefi),
        _ => Err(Refusal::field("firmware", "firmware is bios or uefi")),
    }
}

fn name(field: &str, text: &str) -> Result<Name, Refusal> {
    Name::parse(text).map_err(|fault| Refusal::field(field, fault.to_string()))
}

impl VmPatch {
    /// The change that it is.
    ///
    /// # Errors
    /// `BadField`.
    pub fn change(self) -> Result<VmChange, Refusal> {
        Ok(VmChange {
            name: self.name.as_deref().map(|text| name("name", text)).transpose()?,
            description: self.description,
            labels: self.labels,
            metadata: self.metadata,
            cpus: self.cpus,
            memory_bytes: self.memory_bytes,
            restart: self.restart.as_deref().map(restart_policy).transpose()?,
            start_order: self.start_order,
            egress: self.egress.as_deref().map(Egress::parse).transpose()?,
        })
    }
}

impl VmRequest {
    /// Its name, when it has one.
    ///
    /// # Errors
    /// `BadField`.
    pub fn name(&self) -> Result<Option<Name>, Refusal> {
        self.name.as_deref().map(|text| name("name", text)).transpose()
    }

    /// Its size, with what is usual where it says nothing.
    pub fn resources(&self) -> Resources {
        let memory_bytes = self.memory_bytes.unwrap_or(VM_MEMORY_BYTES_DEFAULT);
        Resources { cpus: self.cpus.unwrap_or(1), memory_bytes }
    }

    /// Its hardware address, when it asks for one.
    ///
    /// # Errors
    /// `BadField`.
    pub fn mac(&self) -> Result<Option<Mac>, Refusal> {
        self.mac.clone().map(Mac::try_from).transpose().map_err(|fault| Refusal::field("mac", fault))
    }

    /// What it may reach by a card on its host's own network, when it asks for one.
    ///
    /// # Errors
    /// `BadField`, also when it asks for a card elsewhere, too.
    pub fn egress(&self) -> Result<Option<Egress>, Refusal> {
        let elsewhere = [("network", self.network.is_some()), ("mac", self.mac.is_some())];
        match (&self.egress, elsewhere.into_iter().find(|(_, asked)| *asked)) {
            (Some(_), Some((field, _))) => {
                let text = "a VM has one card: on its host's own network (egress), which gives its hardware address, \
                            or on a network of its libvirt (network, mac)";
                Err(Refusal::field(field, text))
            }
            (egress, _) => egress.as_deref().map(Egress::parse).transpose(),
        }
    }

    /// What it wants of a full VM, with this hardware address.
    ///
    /// # Errors
    /// `BadField`.
    pub fn spec(&self, mac: Mac) -> Result<VmSpec, Refusal> {
        if self.ttl_ms.is_some() || !self.env.is_empty() {
            return Err(Refusal::field("kind", "ttl_ms and env are of sandboxes; leave them out"));
        }
        let spec = VmSpec {
            description: self.description.clone().unwrap_or_default(),
            metadata: self.metadata.clone(),
            disk_bytes: self.disk_bytes,
            network: self.network.as_deref().map(|text| name("network", text)).transpose()?,
            mac,
            ssh_keys: self.ssh_keys.clone(),
            firmware: self.firmware.as_deref().map(firmware).transpose()?.unwrap_or_default(),
            tpm: self.tpm.unwrap_or(false),
            restart: self.restart.as_deref().map(restart_policy).transpose()?.unwrap_or_default(),
            start_order: self.start_order.unwrap_or(0),
            adopted: false,
            origin: None,
            volumes: Vec::new(),
        };
        match spec.fault() {
            None => Ok(spec),
            Some((field, text)) => Err(Refusal::field(field, text)),
        }
    }
}
