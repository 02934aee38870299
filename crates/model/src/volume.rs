//! Volumes: disks that are nobody's but their owner's. One is on one host, outlives the VMs it is attached
//! to, is attached to one at most, and only grows.
//!
//! ```text
//!   (asked for) ─▶ creating ─▶ detached ─▶ attaching ─▶ attached ─▶ detaching ─▶ detached
//!                     │            └─▶ deleting ─▶ (nothing)     resizing: in either, and back
//!                     └─ failed: nothing
//! ```
//! Which it is follows from what was asked for, what its host says and its open task: it is stored nowhere.

use crate::guest::Problem;
use crate::limits::{VOLUME_BYTES_MAX, VOLUME_BYTES_MIN, VOLUMES_PER_GUEST_MAX};
use crate::{GuestId, GuestKind, GuestSpec, HostId, Labels, Name, TaskKind, Tenant, Timestamp, VolumeId};
use serde::{Deserialize, Serialize};

/// Hexadecimal digits of its id that a guest sees as the disk's serial number: as many as such a number has.
const SERIAL_CHARS: usize = 20;
/// A size is a multiple of this.
const GRAIN_BYTES: u64 = 1 << 20;

/// One volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Volume {
    /// Identity; what its host knows it by.
    pub id: VolumeId,
    /// Unique in the tenant.
    pub name: Name,
    /// Who owns it.
    pub tenant: Tenant,
    /// The user who made it.
    pub owner: String,
    /// For people, and to be found by.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Where it is.
    pub host: HostId,
    /// How large it should be.
    pub bytes: u64,
    /// The VM it is attached to, or on its way to or from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestId>,
    /// Nothing should be left of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub absent: bool,
    /// Counts what was asked of its host; a report on an older one says nothing.
    pub generation: u64,
    /// How large it is on its host, once it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<u64>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Bumped by each write of the row.
    pub revision: u64,
}

/// A volume at a guest, as its host sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Plugged {
    /// Which.
    pub volume: VolumeId,
    /// Why the guest does not have it; none when it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// What a user is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeStatus {
    /// A task makes it.
    Creating,
    /// It is there, and nobody's.
    Detached,
    /// On its way to a VM.
    Attaching,
    /// A VM has it.
    Attached,
    /// On its way out of a VM.
    Detaching,
    /// It grows.
    Resizing,
    /// On its way to nothing.
    Deleting,
}

impl Volume {
    /// What is shown of it; `task`: what is being done with it.
    pub fn status(&self, task: Option<&TaskKind>) -> VolumeStatus {
        match task {
            _ if self.absent => VolumeStatus::Deleting,
            Some(TaskKind::VolumeCreate { .. }) => VolumeStatus::Creating,
            Some(TaskKind::VolumeDelete { .. }) => VolumeStatus::Deleting,
            Some(TaskKind::VolumeResize { .. }) => VolumeStatus::Resizing,
            Some(TaskKind::VolumeAttach { .. }) => VolumeStatus::Attaching,
            Some(TaskKind::VolumeDetach { .. }) => VolumeStatus::Detaching,
            Some(_) | None if self.stored_bytes.is_none() => VolumeStatus::Creating,
            Some(_) | None if self.guest.is_some() => VolumeStatus::Attached,
            Some(_) | None => VolumeStatus::Detached,
        }
    }
    /// The number by which its guest finds it: `/dev/disk/by-id/virtio-SERIAL`.
    pub fn serial(&self) -> String {
        serial(self.id)
    }
}

/// The serial number of a volume's disk in its guest.
pub fn serial(volume: VolumeId) -> String {
    volume.uuid().simple().to_string()[..SERIAL_CHARS].to_owned()
}

/// Says what is wrong with a size, if anything is.
pub fn size_fault(bytes: u64) -> Option<String> {
    let fits = (VOLUME_BYTES_MIN..=VOLUME_BYTES_MAX).contains(&bytes) && bytes.is_multiple_of(GRAIN_BYTES);
    (!fits).then(|| {
        format!("a volume's size is a multiple of 1 MiB between {VOLUME_BYTES_MIN} and {VOLUME_BYTES_MAX} bytes, not {bytes}")
    })
}

/// Says why such a guest can have no volumes, if it cannot.
pub fn volumes_fault(kind: GuestKind, spec: &GuestSpec) -> Option<&'static str> {
    match spec.vm.as_ref().filter(|_| kind == GuestKind::Vm) {
        None => Some("sandboxes have no volumes: make a VM of the same image"),
        Some(vm) if vm.adopted => {
            Some("it was taken over, and its disks are its owner's: attach disks by its hypervisor")
        }
        Some(_) => None,
    }
}

/// Says why a VM that has so many can have no other one, if it cannot.
pub fn room_fault(has: usize) -> Option<String> {
    (has >= VOLUMES_PER_GUEST_MAX)
        .then(|| format!("a VM has at most {VOLUMES_PER_GUEST_MAX} volumes: detach one of them first"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn volume() -> Volume {
        Volume {
            id: VolumeId::new(Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef)),
            name: Name::parse("v").unwrap(),
            tenant: Tenant::first(),
            owner: String::new(),
            labels: Labels::new(),
            host: HostId::new(Uuid::nil()),
            bytes: 1 << 30,
            guest: None,
            absent: false,
            generation: 1,
            stored_bytes: Some(1 << 30),
            created_at: Timestamp::from_micros(0),
            revision: 1,
        }
    }

    #[test]
    fn what_is_shown_follows_from_what_was_asked_for_and_what_is_there() {
        let (id, guest) = (volume().id, GuestId::new(Uuid::nil()));
        let with = |change: fn(&mut Volume), task: Option<TaskKind>| {
            let mut volume = volume();
            change(&mut volume);
            volume.status(task.as_ref())
        };
        assert_eq!(with(|_| {}, None), VolumeStatus::Detached);
        assert_eq!(with(|v| v.stored_bytes = None, None), VolumeStatus::Creating);
        assert_eq!(with(|v| v.guest = Some(GuestId::new(Uuid::nil())), None), VolumeStatus::Attached);
        assert_eq!(with(|_| {}, Some(TaskKind::VolumeAttach { volume: id, guest })), VolumeStatus::Attaching);
        assert_eq!(with(|_| {}, Some(TaskKind::VolumeDetach { volume: id, guest })), VolumeStatus::Detaching);
        assert_eq!(with(|v| v.absent = true, Some(TaskKind::VolumeCreate { volume: id })), VolumeStatus::Deleting);
    }

    #[test]
    fn sizes_are_whole_and_bounded() {
        assert_eq!(size_fault(1 << 20), None);
        assert_eq!(size_fault(VOLUME_BYTES_MAX), None);
        for bad in [0, 1, (1 << 20) + 512, VOLUME_BYTES_MAX + (1 << 20)] {
            assert!(size_fault(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn a_guest_finds_it_by_the_beginning_of_its_id() {
        assert_eq!(volume().serial(), "0123456789abcdef0123");
        assert_eq!(room_fault(VOLUMES_PER_GUEST_MAX - 1), None);
        assert!(room_fault(VOLUMES_PER_GUEST_MAX).is_some());
    }
}
