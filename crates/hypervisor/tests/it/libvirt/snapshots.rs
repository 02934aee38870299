//! Snapshots whose two sides, the disk's and libvirt's, came apart; and a full disk.

use super::{LibvirtLab, on_a_small_disk};
use crate::cases::{open, run};
use crate::contract::Lab;
use crate::snapshots::{keep, names, wish};
use perigee_hypervisor::{Halted, HypervisorError};
use std::process::Command;
use std::time::Duration;
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_a_snapshot_of_which_half_is_left_is_none_and_can_be_made_again() {
    let lab = LibvirtLab::new().await;
    let (driver, plan) = (lab.driver(), lab.plan());
    let (snapshots, halt) = (driver.snapshots().unwrap(), driver.halt().unwrap());
    driver.start(&plan).await.unwrap();
    let domain = lab.daemon.virsh(&["list", "--name"]);
    let wish = wish(7, None);
    let name = wish.snapshot.to_string();
    let disk = lab.config(&lab.own).dir.join(plan.guest.to_string()).join("disk.qcow2");
    let inside = || {
        let said = Command::new("qemu-img").args(["snapshot", "-U", "-l"]).arg(&disk).output().unwrap();
        String::from_utf8(said.stdout).unwrap().matches(&name).count()
    };
    for running in [true, false] {
        if !running {
            assert_eq!(halt.halt(plan.guest, Duration::ZERO).await.unwrap(), Halted::ByForce);
        }
        // The disk has it and libvirt does not.
        keep(snapshots, &plan, &wish).await.unwrap();
        lab.daemon.virsh(&["snapshot-delete", &domain, &name, "--metadata"]);
        assert_eq!((names(snapshots, &plan).await, inside()), (vec![], 1));
        keep(snapshots, &plan, &wish).await.unwrap();
        assert_eq!((names(snapshots, &plan).await, inside()), (vec![7], 1), "made again, once");
        lab.daemon.virsh(&["snapshot-delete", &domain, &name, "--metadata"]);
        snapshots.forget(plan.guest, wish.snapshot).await.unwrap();
        assert_eq!((names(snapshots, &plan).await, inside()), (vec![], 0));
    }
    // libvirt has it and the disk does not.
    keep(snapshots, &plan, &wish).await.unwrap();
    assert!(Command::new("qemu-img").args(["snapshot", "-d", &name]).arg(&disk).status().unwrap().success());
    assert_eq!(names(snapshots, &plan).await, []);
    let gone = snapshots.go_back(plan.guest, wish.snapshot).await;
    assert!(matches!(gone, Err(HypervisorError::NoSnapshot)), "{gone:?}");
    snapshots.forget(plan.guest, wish.snapshot).await.unwrap();
    assert_eq!(lab.daemon.virsh(&["snapshot-list", &domain, "--name"]), "");
    driver.destroy(plan.guest).await.unwrap();
    assert_eq!(lab.traces(), Vec::<String>::new());
}

#[test]
fn real_a_full_disk_ends_a_snapshot_and_not_its_guest() {
    on_a_small_disk("16m", async |lab| {
        let (driver, plan) = (lab.driver(), lab.plan());
        let snapshots = driver.snapshots().unwrap();
        driver.start(&plan).await.unwrap();
        let session = open(lab, &*driver, plan.guest).await;
        // Seen beforehand; and, where less is said to be needed than is, in the middle.
        for bytes in [256 << 20, 1] {
            let full = keep(snapshots, &plan, &wish(7, Some(bytes))).await;
            assert!(matches!(full, Err(HypervisorError::NoRoom(_))), "{bytes}: {full:?}");
            assert_eq!(names(snapshots, &plan).await, []);
            let found = driver.inventory().await.unwrap();
            assert!(found[0].alive && !found[0].paused, "{found:?}");
        }
        assert_eq!(run(&*session, Uuid::from_u128(1), &["echo", "still"]).await.0, "still\n");
        drop(session);
        driver.destroy(plan.guest).await.unwrap();
        assert_eq!(lab.traces(), Vec::<String>::new());
    });
}
