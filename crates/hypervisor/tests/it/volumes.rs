//! The cases of the contract for drivers that attach disks which outlive guests.

use crate::cases::{exited, open, run};
use crate::contract::Lab;
use perigee_hypervisor::{Hypervisor, HypervisorError, Plan, Session, Volumes};
use perigee_model::volume::serial;
use perigee_model::{GuestId, PartRole, VolumeId};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use uuid::Uuid;

pub const MIB: u64 = 1 << 20;

pub fn volume(number: u128) -> VolumeId {
    VolumeId::new(Uuid::from_u128(number << 64 | number))
}

/// Whether guests are full machines, which see their disks.
fn have_disks(plan: &Plan) -> bool {
    plan.vm.as_ref().is_some_and(|vm| vm.disk_bytes.is_some())
}

fn with(plan: &Plan, guest: GuestId, volumes: Vec<VolumeId>) -> Plan {
    let mut plan = Plan { guest, ..plan.clone() };
    plan.vm.iter_mut().for_each(|vm| vm.volumes.clone_from(&volumes));
    plan
}

/// Finds the volume's disk: `$disk`.
fn find(volume: VolumeId) -> String {
    let serial = serial(volume);
    format!("for at in /sys/block/vd*; do [ \"$(cat $at/serial)\" = {serial} ] && disk=${{at##*/}}; done")
}

/// What its shell says with the volume's disk as `$disk`; a guest takes a moment to see one that was put in.
pub async fn at(session: &dyn Session, volume: VolumeId, doing: &str) -> String {
    let find = find(volume);
    let looks = format!("for look in $(seq 100); do {find}; [ -n \"$disk\" ] && break; sleep 0.2; done");
    said(session, &format!("{looks}; {doing}")).await
}

/// Nothing in it is the volume's disk.
pub async fn has_not(session: &dyn Session, volume: VolumeId) -> bool {
    said(session, &format!("{}; echo none$disk", find(volume))).await == "none"
}

async fn said(session: &dyn Session, doing: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let id = Uuid::from_u64_pair(1, NEXT.fetch_add(1, Ordering::Relaxed));
    let (said, end) = run(session, id, &["sh", "-c", doing]).await;
    assert_eq!(end, exited(0), "{said}");
    said.trim().to_owned()
}

async fn bytes(session: &dyn Session, volume: VolumeId) -> u64 {
    at(session, volume, "cat /sys/block/$disk/size").await.parse::<u64>().unwrap() * 512
}

fn volumes_of(driver: &dyn Hypervisor) -> Option<&dyn Volumes> {
    assert_eq!(driver.abilities().volumes, driver.volumes().is_some());
    driver.volumes()
}

pub async fn a_volume_comes_grows_and_goes(lab: &dyn Lab) {
    let before = lab.traces();
    let driver = lab.driver();
    let Some(volumes) = volumes_of(&*driver) else { return };
    assert_eq!(volumes.store(volume(1), 4 * MIB, None).await.unwrap(), 4 * MIB);
    assert_eq!(volumes.store(volume(1), 4 * MIB, None).await.unwrap(), 4 * MIB, "twice is once");
    assert_eq!(volumes.store(volume(1), 6 * MIB, None).await.unwrap(), 6 * MIB);
    assert_eq!(volumes.store(volume(1), MIB, None).await.unwrap(), 6 * MIB, "it never shrinks");
    assert_eq!(lab.driver().volumes().unwrap().store(volume(1), MIB, None).await.unwrap(), 6 * MIB);
    // A guest that is not there has it: nobody does.
    let nobody = lab.plan().guest;
    assert_eq!(volumes.store(volume(1), 8 * MIB, Some(nobody)).await.unwrap(), 8 * MIB);
    assert!(volumes.plug(nobody, &[volume(1)]).await.unwrap().are_done(), "its start names them");
    volumes.discard(volume(1)).await.unwrap();
    volumes.discard(volume(1)).await.expect("twice is fine");
    assert_eq!(lab.traces(), before);
}

pub async fn a_volume_goes_from_guest_to_guest(lab: &dyn Lab) {
    let before = lab.traces();
    let (driver, plan) = (lab.driver(), lab.plan());
    let (Some(volumes), Some(halt)) = (volumes_of(&*driver), driver.halt()) else { return };
    volumes.store(volume(1), 4 * MIB, None).await.unwrap();
    volumes.store(volume(2), 4 * MIB, None).await.unwrap();
    driver.start(&plan).await.unwrap();
    let session = open(lab, &*driver, plan.guest).await;
    for _ in 0..2 {
        assert!(volumes.plug(plan.guest, &[volume(1), volume(2)]).await.unwrap().are_done(), "twice is once");
    }
    assert_eq!(volumes.store(volume(1), 8 * MIB, Some(plan.guest)).await.unwrap(), 8 * MIB);
    if have_disks(&plan) {
        at(&*session, volume(1), "echo -n here > /dev/$disk && sync").await;
        assert_eq!((bytes(&*session, volume(1)).await, bytes(&*session, volume(2)).await), (8 * MIB, 4 * MIB));
    }
    let mut plugs = volumes.plug(plan.guest, &[volume(2)]).await.unwrap();
    for _ in 0..20 {
        if !plugs.are_done() {
            plugs = volumes.plug(plan.guest, &[volume(2)]).await.unwrap();
        }
    }
    assert!(plugs.are_done(), "{plugs:?}");
    if have_disks(&plan) {
        assert!(has_not(&*session, volume(1)).await, "it is out");
    }
    drop(session);

    // Off, one is put in and one is taken out; its definition follows.
    halt.halt(plan.guest, Duration::ZERO).await.unwrap();
    assert!(volumes.plug(plan.guest, &[volume(1)]).await.unwrap().are_done());
    let larger = volumes.store(volume(1), 16 * MIB, Some(plan.guest)).await.unwrap();
    assert_eq!(larger, 16 * MIB);
    driver.destroy(plan.guest).await.unwrap();
    let other = with(&plan, lab.plan().guest, vec![volume(2), volume(1)]);
    driver.start(&other).await.unwrap();
    let session = open(lab, &*driver, other.guest).await;
    if have_disks(&plan) {
        assert_eq!(at(&*session, volume(1), "head -c 4 /dev/$disk").await, "here");
        assert_eq!(bytes(&*session, volume(1)).await, 16 * MIB);
    }
    assert!(volumes.plug(other.guest, &[volume(2), volume(1)]).await.unwrap().are_done(), "it has them already");
    driver.destroy(other.guest).await.unwrap();
    assert_eq!(volumes.store(volume(1), MIB, None).await.unwrap(), 16 * MIB, "it outlives its guest");
    for number in [1, 2] {
        volumes.discard(volume(number)).await.unwrap();
    }
    assert_eq!(lab.traces(), before);
}

pub async fn what_cannot_be_plugged_is_told(lab: &dyn Lab) {
    let before = lab.traces();
    let (driver, plan) = (lab.driver(), lab.plan());
    let Some(volumes) = volumes_of(&*driver) else { return };
    if plan.vm.is_some() {
        let none = driver.start(&with(&plan, plan.guest, vec![volume(9)])).await;
        assert!(matches!(none, Err(HypervisorError::BadPlan(_))), "{none:?}");
        assert_eq!(lab.traces(), before);
    }
    volumes.store(volume(1), MIB, None).await.unwrap();
    driver.start(&plan).await.unwrap();
    let plugs = volumes.plug(plan.guest, &[volume(9), volume(1)]).await.unwrap();
    let refused: Vec<_> = plugs.refused.iter().map(|(volume, _)| *volume).collect();
    assert_eq!((refused, plugs.held), (vec![volume(9)], vec![]));
    assert!(driver.inventory().await.unwrap()[0].alive, "it goes on");
    driver.destroy(plan.guest).await.unwrap();
    volumes.discard(volume(1)).await.unwrap();
    assert_eq!(lab.traces(), before);
}

pub async fn the_image_below_a_disk_is_told_while_the_guest_is_there(lab: &dyn Lab) {
    let before = lab.traces();
    let (driver, mut plan) = (lab.driver(), lab.plan());
    let Some(room) = driver.room() else { return };
    assert_eq!(room.below().await.unwrap(), Vec::<std::path::PathBuf>::new());
    let image = lab.image();
    plan.parts.push((PartRole::Disk, image.clone()));
    driver.start(&plan).await.unwrap();
    assert_eq!(room.below().await.unwrap(), [image.as_path()]);
    assert_eq!(lab.foreign_driver().room().unwrap().below().await.unwrap().len(), 0, "each instance has its own");
    if let Some(halt) = driver.halt() {
        halt.halt(plan.guest, Duration::ZERO).await.unwrap();
        assert_eq!(lab.driver().room().unwrap().below().await.unwrap(), [image], "off, and after a restart of ours");
    }
    driver.destroy(plan.guest).await.unwrap();
    assert_eq!(room.below().await.unwrap(), Vec::<std::path::PathBuf>::new());
    assert_eq!(lab.traces(), before);
}
