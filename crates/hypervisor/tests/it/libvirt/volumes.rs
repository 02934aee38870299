//! What a real QEMU does with volumes and with a file system that is full.

use super::{LibvirtLab, on_a_small_disk};
use crate::cases::open;
use crate::contract::Lab;
use crate::volumes::{MIB, at, volume};
use perigee_hypervisor::libvirt::{Libvirt, LibvirtConfig};
use perigee_hypervisor::{GuestEvent, Hypervisor, HypervisorError, Reserve};
use std::process::Command;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_a_volume_in_use_is_grown_by_who_has_it_and_by_nobody_else() {
    let lab = LibvirtLab::new().await;
    let (driver, plan) = (lab.driver(), lab.plan());
    let volumes = driver.volumes().unwrap();
    volumes.store(volume(1), 4 * MIB, None).await.unwrap();
    driver.start(&plan).await.unwrap();
    let session = open(&lab, &*driver, plan.guest).await;
    assert!(volumes.plug(plan.guest, &[volume(1)]).await.unwrap().are_done());
    at(&*session, volume(1), "echo -n here > /dev/$disk && sync").await;
    // Somebody who does not know whose it is does not touch it.
    let nobody = volumes.store(volume(1), 8 * MIB, None).await;
    assert!(matches!(nobody, Err(HypervisorError::Os { .. })), "{nobody:?}");
    assert_eq!(volumes.store(volume(1), 8 * MIB, Some(plan.guest)).await.unwrap(), 8 * MIB);
    // Another definition may have it, another QEMU not.
    let other = lab.plan();
    driver.start(&other).await.unwrap();
    let plugs = volumes.plug(other.guest, &[volume(1)]).await.unwrap();
    assert_eq!(plugs.refused.len(), 1, "{plugs:?}");
    assert!(driver.inventory().await.unwrap().iter().all(|found| found.alive), "both go on");
    drop(session);
    driver.destroy(other.guest).await.unwrap();
    driver.destroy(plan.guest).await.unwrap();
    let file = lab.config(&lab.own).dir.join(format!("volumes/{}.qcow2", volume(1)));
    let checked = Command::new("qemu-img").args(["check", "-q"]).arg(&file).status().unwrap();
    assert!(checked.success());
    volumes.discard(volume(1)).await.unwrap();
    assert_eq!(lab.traces(), Vec::<String>::new());
}

#[test]
fn real_a_guest_whose_disk_is_full_stands_and_goes_on() {
    on_a_small_disk("32m", async |lab| {
        let (driver, plan) = (lab.driver(), lab.plan());
        let (volumes, room) = (driver.volumes().unwrap(), driver.room().unwrap());
        volumes.store(volume(1), 64 * MIB, None).await.unwrap();
        driver.start(&plan).await.unwrap();
        let session = open(lab, &*driver, plan.guest).await;
        assert!(volumes.plug(plan.guest, &[volume(1)]).await.unwrap().are_done());
        let mut events = driver.events();
        let ballast = lab.root.path().join("ballast");
        let free = room.room(plan.guest, true).await.unwrap().free_bytes;
        let left = 2 * MIB;
        std::fs::write(&ballast, vec![7; usize::try_from(free - left).unwrap()]).unwrap();
        let doing = "dd if=/dev/urandom of=/dev/$disk bs=1M count=8 conv=fsync >/dev/shm/said 2>&1 &";
        at(&*session, volume(1), doing).await;
        drop(session);
        loop {
            let event = tokio::time::timeout(Duration::from_secs(60), events.recv()).await.expect("it stands");
            assert!(matches!(event.unwrap(), GuestEvent::Changed { .. }));
            let found = &driver.inventory().await.unwrap()[0];
            if found.paused && found.starved {
                break;
            }
        }
        // QEMU gives back what it took for a write that failed, and one write may be all that was left.
        let space = room.room(plan.guest, true).await.unwrap();
        assert!(space.free_bytes <= left && space.path.starts_with(lab.root.path()), "{space:?}");
        // What would need room is refused, with what is kept free.
        let careful =
            Libvirt::new(LibvirtConfig { reserve: Reserve::of(Some(2 * left)), ..lab.config(&lab.own) }).unwrap();
        let refused = careful.volumes().unwrap().store(volume(2), MIB, None).await;
        assert!(matches!(refused, Err(HypervisorError::DiskFull(_))), "{refused:?}");
        drop(careful);
        // It goes on in vain, and says so again.
        driver.pause().unwrap().resume(plan.guest).await.unwrap();
        loop {
            let found = &driver.inventory().await.unwrap()[0];
            if found.starved {
                break;
            }
            drop(tokio::time::timeout(Duration::from_secs(60), events.recv()).await.expect("it stands again"));
        }
        // Within the second that QEMU keeps its next word back for: it comes when the guest runs already.
        std::fs::remove_file(&ballast).unwrap();
        driver.pause().unwrap().resume(plan.guest).await.unwrap();
        let session = open(lab, &*driver, plan.guest).await;
        let wrote = async { while !at(&*session, volume(1), "cat /dev/shm/said").await.contains("8+0 records out") {} };
        tokio::time::timeout(Duration::from_secs(60), wrote).await.expect("nothing was lost");
        let found = &driver.inventory().await.unwrap()[0];
        assert!(!found.paused && !found.starved, "{found:?}");
        let heard = || lab.daemon.log().matches("to paused state due to IO error").count();
        let late = async {
            while heard() < 2 {
                let found = &driver.inventory().await.unwrap()[0];
                assert!(!found.paused, "whatever libvirt makes of it: {found:?}");
            }
        };
        tokio::time::timeout(Duration::from_secs(60), late).await.expect("the late word");
        driver.pause().unwrap().pause(plan.guest).await.unwrap();
        assert!(driver.inventory().await.unwrap()[0].paused, "it can be paused again");
        driver.pause().unwrap().resume(plan.guest).await.unwrap();
        drop(session);
        driver.destroy(plan.guest).await.unwrap();
        volumes.discard(volume(1)).await.unwrap();
        assert_eq!(lab.traces(), Vec::<String>::new());
    });
}
