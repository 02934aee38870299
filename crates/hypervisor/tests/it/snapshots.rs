//! The cases of the contract for drivers that can keep points in a guest's life.

use crate::cases::{exited, open, run, source};
use crate::contract::Lab;
use bytes::Bytes;
use perigee_hypervisor::{Found, HypervisorError, Keep, Kept, Plan, Progress, Session, Snapshots};
use perigee_model::{Name, SnapshotId};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use uuid::Uuid;

pub fn wish(number: u128, memory_bytes: Option<u64>) -> Keep {
    let snapshot = SnapshotId::new(Uuid::from_u128(number));
    Keep { snapshot, title: Name::parse("before").unwrap(), memory_bytes }
}

pub async fn keep(driver: &dyn Snapshots, plan: &Plan, wish: &Keep) -> Result<Kept, HypervisorError> {
    driver.keep(plan.guest, wish, &watch::Sender::<Progress>::new(None)).await
}

pub async fn names(driver: &dyn Snapshots, plan: &Plan) -> Vec<u128> {
    let kept = driver.kept(plan.guest).await.unwrap();
    kept.iter().map(|kept| kept.snapshot.uuid().as_u128()).collect()
}

/// Whether guests are full machines with a disk of their own.
fn have_disks(plan: &Plan) -> bool {
    plan.vm.as_ref().is_some_and(|vm| vm.disk_bytes.is_some())
}

async fn write(session: &dyn Session, plan: &Plan, text: &str, number: u128) {
    if have_disks(plan) {
        let write = format!("echo {text} | dd of=/dev/vda conv=fsync 2>&1");
        assert_eq!(run(session, Uuid::from_u128(number), &["sh", "-c", &write]).await.1, exited(0));
    }
}

async fn read(session: &dyn Session, plan: &Plan, text: &str, number: u128) {
    if have_disks(plan) {
        let read = format!("dd if=/dev/vda bs={} count=1 2>/dev/null", text.len());
        assert_eq!(run(session, Uuid::from_u128(number), &["sh", "-c", &read]).await.0, text);
    }
}

pub async fn a_stopped_guest_goes_back_to_its_disk(lab: &dyn Lab) {
    let before = lab.traces();
    let (driver, plan) = (lab.driver(), lab.plan());
    let (Some(snapshots), Some(halt)) = (driver.snapshots(), driver.halt()) else {
        assert!(!driver.abilities().snapshots);
        return;
    };
    assert!(driver.abilities().snapshots);
    driver.start(&plan).await.unwrap();
    write(&*open(lab, &*driver, plan.guest).await, &plan, "first", 1).await;
    halt.halt(plan.guest, Duration::from_secs(60)).await.unwrap();
    let kept = keep(snapshots, &plan, &wish(7, None)).await.unwrap();
    assert_eq!((kept.snapshot.uuid().as_u128(), kept.memory_bytes), (7, 0));
    assert_eq!(keep(snapshots, &plan, &wish(7, None)).await.unwrap(), kept, "twice is once");
    assert_eq!(lab.driver().snapshots().unwrap().kept(plan.guest).await.unwrap(), [kept], "the next agent's driver");

    driver.start(&plan).await.unwrap();
    write(&*open(lab, &*driver, plan.guest).await, &plan, "other", 2).await;
    let mut events = driver.events();
    let back = snapshots.go_back(plan.guest, wish(7, None).snapshot).await.unwrap();
    assert_eq!((back.alive, back.memo), (false, plan.memo.clone()), "it is off");
    assert!(events.try_recv().is_err(), "an end that was asked for is no news");
    let found = driver.inventory().await.unwrap();
    assert_eq!(found, [Found { memo: plan.memo.clone(), ..Found::dead(plan.guest) }]);
    driver.start(&plan).await.unwrap();
    read(&*open(lab, &*driver, plan.guest).await, &plan, "first", 3).await;
    driver.destroy(plan.guest).await.unwrap();
    assert_eq!(names(snapshots, &plan).await, [], "it goes with its guest");
    assert_eq!(lab.traces(), before);
}

pub async fn a_running_guest_keeps_its_disk_and_goes_on(lab: &dyn Lab) {
    let before = lab.traces();
    let (driver, plan) = (lab.driver(), lab.plan());
    let Some(snapshots) = driver.snapshots() else { return };
    let started = driver.start(&plan).await.unwrap();
    let session = open(lab, &*driver, plan.guest).await;
    write(&*session, &plan, "first", 1).await;
    let now = SystemTime::now();
    let first = keep(snapshots, &plan, &wish(7, None)).await.unwrap();
    assert_eq!(driver.inventory().await.unwrap(), std::slice::from_ref(&started), "it goes on");
    if have_disks(&plan) {
        assert!(first.at.duration_since(now).unwrap_or_default() < Duration::from_secs(60));
    }
    write(&*session, &plan, "other", 2).await;
    keep(snapshots, &plan, &wish(8, None)).await.unwrap();
    assert_eq!(names(snapshots, &plan).await, [7, 8]);
    snapshots.forget(plan.guest, wish(8, None).snapshot).await.unwrap();
    snapshots.forget(plan.guest, wish(8, None).snapshot).await.expect("twice is fine");
    assert_eq!(names(snapshots, &plan).await, [7]);
    assert_eq!(run(&*session, Uuid::from_u128(3), &["echo", "still"]).await.0, "still\n");

    assert!(!snapshots.go_back(plan.guest, first.snapshot).await.unwrap().alive);
    session.closed().await;
    let other = Plan { memo: Some("newer".to_owned()), ..plan.clone() };
    driver.start(&other).await.unwrap();
    read(&*open(lab, &*driver, plan.guest).await, &plan, "first", 4).await;
    snapshots.forget(plan.guest, first.snapshot).await.unwrap();
    assert_eq!(names(snapshots, &plan).await, []);
    driver.destroy(plan.guest).await.unwrap();
    assert_eq!(lab.traces(), before);
}

pub async fn a_guest_goes_on_where_its_memory_was_kept(lab: &dyn Lab) {
    let before = lab.traces();
    let (driver, plan) = (lab.driver(), lab.plan());
    let Some(snapshots) = driver.snapshots() else { return };
    driver.start(&plan).await.unwrap();
    let session = open(lab, &*driver, plan.guest).await;
    write(&*session, &plan, "first", 1).await;
    session.put_file("/tmp/file", 0o600, source(vec![Bytes::from_static(b"in memory")])).await.unwrap();
    let wish = wish(7, Some(plan.resources.memory_bytes));
    let kept = keep(snapshots, &plan, &wish).await.unwrap();
    assert!(kept.memory_bytes > 0);
    // The session that is in that memory goes on, too.
    write(&*session, &plan, "other", 2).await;
    session.put_file("/tmp/file", 0o600, source(vec![Bytes::from_static(b"changed")])).await.unwrap();
    drop(session);

    // From where it runs, and from where it is off.
    for round in 0..2 {
        let newer = Plan { memo: Some(format!("round {round}")), ..plan.clone() };
        let memo = driver.start(&newer).await.unwrap().memo;
        let back = snapshots.go_back(plan.guest, wish.snapshot).await.unwrap();
        assert_eq!((back.alive, back.paused, back.memo), (true, false, memo), "it runs, with the newest memo");
        let session = open(lab, &*driver, plan.guest).await;
        let mut file = session.get_file("/tmp/file").await.unwrap();
        assert_eq!(file.recv().await.unwrap().unwrap(), "in memory");
        read(&*session, &plan, "first", 10 + round).await;
        drop((file, session));
        if let Some(halt) = driver.halt() {
            halt.halt(plan.guest, Duration::ZERO).await.unwrap();
            snapshots.go_back(plan.guest, wish.snapshot).await.unwrap();
        }
    }
    snapshots.forget(plan.guest, wish.snapshot).await.unwrap();
    assert_eq!(names(snapshots, &plan).await, []);
    driver.destroy(plan.guest).await.unwrap();
    assert_eq!(lab.traces(), before);
}

pub async fn what_cannot_be_kept_is_refused_and_leaves_nothing(lab: &dyn Lab) {
    let (driver, plan) = (lab.driver(), lab.plan());
    let (Some(snapshots), Some(halt)) = (driver.snapshots(), driver.halt()) else { return };
    assert!(matches!(keep(snapshots, &plan, &wish(7, None)).await, Err(HypervisorError::NotRunning)));
    assert_eq!(names(snapshots, &plan).await, []);
    snapshots.forget(plan.guest, wish(7, None).snapshot).await.expect("nothing to forget is fine");
    driver.start(&plan).await.unwrap();
    let none = snapshots.go_back(plan.guest, wish(7, None).snapshot).await;
    assert!(matches!(none, Err(HypervisorError::NoSnapshot)), "{none:?}");
    assert!(driver.inventory().await.unwrap()[0].alive, "it goes on");
    halt.halt(plan.guest, Duration::ZERO).await.unwrap();
    let off = keep(snapshots, &plan, &wish(8, Some(1 << 20))).await;
    assert!(matches!(off, Err(HypervisorError::NotRunning)), "no memory to keep: {off:?}");
    assert_eq!(names(snapshots, &plan).await, []);
    driver.destroy(plan.guest).await.unwrap();
}
