//! Snapshots: points in a VM's life that its owner can go back to.
//!
//! Owns: what is known of one, which VMs can have any. A snapshot lives in its VM's disk and goes with it.
//!
//! ```text
//!   (asked for) ─▶ creating ─▶ ready ─▶ deleting ─▶ (nothing)
//!                     └─ failed: nothing    └─ failed: ready
//! ```

use crate::limits::SNAPSHOTS_PER_GUEST_MAX;
use crate::{Firmware, GuestKind, GuestSpec, Name, PartRole, Resources, SnapshotId, Timestamp};
use serde::{Deserialize, Serialize};

/// One snapshot of a VM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// Identity; what its host knows it by.
    pub id: SnapshotId,
    /// Unique in its VM.
    pub name: Name,
    /// For people.
    pub description: String,
    /// With what was in the VM's memory: going back to it, the VM goes on where it was.
    pub memory: bool,
    /// Where it is in its life.
    pub state: SnapshotState,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// What its host says of it, once it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken: Option<Taken>,
}

/// What a host says of a snapshot that is there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Taken {
    /// The moment it keeps.
    pub at: Timestamp,
    /// What the memory in it takes up; 0 without memory.
    pub memory_bytes: u64,
    /// What the VM had been started with, when its memory is in it: it has that again when it goes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booted: Option<Resources>,
}

/// Where a snapshot is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotState {
    /// A task makes it.
    Creating,
    /// It can be gone back to.
    Ready,
    /// A task removes it.
    Deleting,
}

/// Says why such a guest can have no snapshots, if it cannot.
pub fn snapshot_fault(kind: GuestKind, spec: &GuestSpec) -> Option<&'static str> {
    let Some(vm) = spec.vm.as_ref().filter(|_| kind == GuestKind::Vm) else {
        return Some("sandboxes have no snapshots yet: make a VM of the same image");
    };
    let has_disk = vm.disk_bytes.is_some() || spec.parts.iter().any(|part| part.role == PartRole::Disk);
    if vm.adopted {
        return Some("it was taken over, and its disks are its owner's: use its hypervisor's own snapshots");
    }
    if !has_disk {
        return Some("it has no disk to keep a snapshot in: make the VM with --disk");
    }
    if vm.firmware == Firmware::Uefi {
        return Some("it boots by UEFI, whose variables are in a file that snapshots do not hold: use a BIOS VM");
    }
    vm.tpm.then_some("it has a TPM, whose state snapshots do not hold: use a VM without one")
}

/// Says why a VM that has so many can have no other one, if it cannot.
pub fn room_fault(has: usize) -> Option<String> {
    (has >= SNAPSHOTS_PER_GUEST_MAX)
        .then(|| format!("a VM has at most {SNAPSHOTS_PER_GUEST_MAX} snapshots: delete one of them first"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ImageId, Mac, RestartPolicy, VmSpec};
    use uuid::Uuid;

    fn fault(kind: GuestKind, change: fn(&mut VmSpec)) -> &'static str {
        let mut vm = VmSpec {
            description: String::new(),
            metadata: Default::default(),
            disk_bytes: Some(1 << 30),
            network: None,
            mac: Mac::from_bits(1),
            ssh_keys: Vec::new(),
            firmware: Firmware::Bios,
            tpm: false,
            restart: RestartPolicy::Always,
            start_order: 0,
            adopted: false,
            origin: None,
            volumes: Vec::new(),
        };
        change(&mut vm);
        let spec = GuestSpec {
            image: ImageId::new(Uuid::nil()),
            image_name: Name::parse("base").unwrap(),
            parts: Vec::new(),
            resources: Resources { cpus: 1, memory_bytes: 1 << 30 },
            env: Default::default(),
            ttl_ms: None,
            host_wanted: None,
            vm: Some(Box::new(vm)),
            egress: None,
            egress6: None,
            forwards: Vec::new(),
        };
        snapshot_fault(kind, &spec).unwrap_or("")
    }

    #[test]
    fn what_cannot_be_kept_is_refused_with_what_to_do() {
        assert_eq!(fault(GuestKind::Vm, |_| {}), "");
        assert!(fault(GuestKind::Sandbox, |_| {}).contains("sandboxes"));
        assert!(fault(GuestKind::Vm, |vm| vm.disk_bytes = None).contains("--disk"));
        assert!(fault(GuestKind::Vm, |vm| vm.firmware = Firmware::Uefi).contains("BIOS"));
        assert!(fault(GuestKind::Vm, |vm| vm.tpm = true).contains("TPM"));
        assert!(fault(GuestKind::Vm, |vm| vm.adopted = true).contains("owner"));
        assert_eq!(room_fault(SNAPSHOTS_PER_GUEST_MAX - 1), None);
        assert!(room_fault(SNAPSHOTS_PER_GUEST_MAX).is_some());
    }
}
