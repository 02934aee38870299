//! A guest's disk carried away and brought back: whole, after another one, through faults and crashes.

use crate::operations::{cancel, operate, running, task};
use crate::simulated::Machine;
use crate::vms::vm;
use crate::*;
use bytes::Bytes;
use perigee_hypervisor::BackupWish;
use perigee_hypervisor::simulated::Fault;
use perigee_model::operation::Base;
use std::time::Duration;

fn backup(n: u128) -> BackupId {
    BackupId::new(Uuid::from_u128(n))
}

fn create(n: u128, bases: &[(u128, &Stored)]) -> Operation {
    let base = |(n, stored): &(u128, &Stored)| Base { backup: backup(*n), index: stored.index.clone() };
    Operation::CreateBackup { backup: backup(n), sealed: false, bases: bases.iter().map(base).collect() }
}

impl Rig {
    async fn backed_up(&self, n: u128, guest: GuestId, operation: Operation) -> Stored {
        match self.done(n, guest, operation).await {
            OperationResult::Stored(stored) => stored,
            other => panic!("{other:?}"),
        }
    }
}

/// All bytes of a guest's disk as its driver shows them, and as a backup's index names them.
async fn disk(machine: &Machine, rig: &Rig, guest: GuestId) -> Bytes {
    let driver = machine.driver(&rig.clock);
    let wish = BackupWish { backup: backup(99), bases: vec![] };
    let mut open = driver.backups().unwrap().open_disk(guest, &wish).await.unwrap();
    let bytes = open.bytes_of.read(0, u32::try_from(open.bytes).unwrap()).await.unwrap();
    driver.backups().unwrap().close_disk(guest, backup(99), false).await.unwrap();
    bytes
}

async fn put(machine: &Machine, rig: &Rig, guest: GuestId, path: &str, bytes: &[u8]) {
    let driver = machine.driver(&rig.clock);
    let session = driver.channel().unwrap().open(guest, Duration::from_secs(5)).await.unwrap();
    let (tx, source) = tokio::sync::mpsc::channel(1);
    tx.send(Ok(Bytes::copy_from_slice(bytes))).await.unwrap();
    drop(tx);
    session.put_file(path, 0o644, source).await.unwrap();
}

fn restored(n: u128, from: GuestId, stored: &Stored) -> DesiredGuest {
    let origin = Origin {
        backup: backup(1),
        index: stored.index.clone(),
        sealed: false,
        disk_bytes: stored.disk_bytes,
        identity: from,
        arch: "x86_64".into(),
        image_disk: false,
    };
    vm(n, |vm| (vm.disk_bytes, vm.origin) = (Some(stored.disk_bytes.next_multiple_of(1 << 20)), Some(origin)))
}

#[tokio::test(start_paused = true)]
async fn a_disk_goes_away_in_parts_and_comes_back_whole() {
    let (machine, rig, _agent, order) = running().await;
    put(&machine, &rig, order.id, "/data", &[7; 100_000]).await;
    let first = rig.backed_up(1, order.id, create(1, &[])).await;
    assert!(first.since.is_none() && first.new_bytes == first.disk_bytes && first.read_bytes == first.disk_bytes);
    let again = rig.backed_up(2, order.id, create(2, &[(1, &first)])).await;
    assert_eq!((again.since, again.new_bytes, &again.index), (Some(backup(1)), 0, &first.index), "nothing was written");
    put(&machine, &rig, order.id, "/more", &[8; 10]).await;
    // One that nobody kept is no base; the next best is.
    let third = rig.backed_up(3, order.id, create(3, &[(77, &first), (2, &again), (1, &first)])).await;
    assert_eq!((third.since, third.new_bytes), (Some(backup(2)), third.disk_bytes));
    let whole = disk(&machine, &rig, order.id).await;

    let back = restored(2, order.id, &third);
    rig.plane.want(back.clone());
    rig.plane.until_phase(back.id, Phase::Running).await;
    let came = disk(&machine, &rig, back.id).await;
    assert_eq!(came[..whole.len()], whole[..], "every byte");

    let older = restored(3, order.id, &first);
    rig.plane.with(|s| s.chunks.retain(|(_, digest), _| *digest == first.index));
    rig.plane.want(older.clone());
    rig.plane.until_phase(older.id, Phase::Failed).await;
    let problem = rig.plane.with(|s| s.observed[&older.id].problem.clone().unwrap());
    assert_eq!(problem.code, Code::BackupFailed.number(), "a chunk is missing: {}", problem.text);
    assert!(!machine.host.guests().iter().any(|found| found.guest == older.id && found.alive));
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_is_another_one_never_becomes_a_disk() {
    let (machine, rig, _agent, order) = running().await;
    let stored = rig.backed_up(1, order.id, create(1, &[])).await;
    rig.plane.with(|s| {
        for ((_, digest), bytes) in &mut s.chunks {
            if *digest != stored.index {
                *bytes = Bytes::from(vec![1; bytes.len()]);
            }
        }
    });
    let back = restored(2, order.id, &stored);
    rig.plane.want(back.clone());
    rig.plane.until_phase(back.id, Phase::Failed).await;
    let problem = rig.plane.with(|s| s.observed[&back.id].problem.clone().unwrap());
    assert!(problem.text.contains("another one"), "{}", problem.text);
    assert_eq!(machine.host.vmm_starts().get(&back.id), None, "it never started");
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_told_and_what_may_pass_is_waited_for() {
    let (machine, rig, _agent, order) = running().await;
    rig.plane.with(|s| s.chunks_full = true);
    rig.plane.send(operate(1, order.id, create(1, &[])));
    let OperationStage::Failed(problem) = rig.operated(1).await else { panic!("there is no room") };
    assert_eq!(problem.code, Code::DiskFull.number());
    rig.plane.with(|s| s.chunks_full = false);
    let after = rig.backed_up(2, order.id, create(2, &[])).await;
    assert_eq!(after.since, None, "what was cut short is remembered by nobody");

    machine.knobs.set(Fault::BackupFails, 100);
    rig.plane.send(operate(3, order.id, create(3, &[])));
    let again =
        |stage: &OperationStage| matches!(stage, OperationStage::Running { note, .. } if note.contains("once more"));
    rig.plane.until("word of the fault", |s| s.operations.get(&task(3)).is_some_and(|all| all.iter().any(again))).await;
    machine.knobs.calm();
    let OperationStage::Done(OperationResult::Stored(third)) = rig.operated(3).await else { panic!("it passes") };

    // An index that is gone: it is read whole the next time, not this time.
    rig.plane.with(|s| s.chunks.clear());
    rig.plane.send(operate(4, order.id, create(4, &[(3, &third)])));
    let OperationStage::Failed(problem) = rig.operated(4).await else { panic!("its base has no index") };
    assert_eq!(problem.code, Code::BackupFailed.number());
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_moment_leaves_a_whole_backup() {
    for ms in (0..120).step_by(6) {
        let (machine, rig, agent, order) = running().await;
        put(&machine, &rig, order.id, "/data", b"kept").await;
        rig.plane.send(operate(1, order.id, create(1, &[])));
        tokio::time::sleep(Duration::from_millis(ms)).await;
        rig.crash(agent).await;
        let agent = rig.start();
        rig.plane.until("another link", |s| s.hellos.len() == 2).await;
        rig.plane.send(operate(1, order.id, create(1, &[])));
        let OperationStage::Done(OperationResult::Stored(stored)) = rig.operated(1).await else {
            panic!("crashed after {ms} ms")
        };
        let back = restored(2, order.id, &stored);
        rig.plane.want(back.clone());
        tokio::time::sleep(Duration::from_millis(ms)).await;
        rig.crash(agent).await;
        let _agent = rig.start();
        rig.plane.until("a third link", |s| s.hellos.len() == 3).await;
        rig.plane.want(back.clone());
        rig.plane.until_phase(back.id, Phase::Running).await;
        let (was, is) = (disk(&machine, &rig, order.id).await, disk(&machine, &rig, back.id).await);
        assert_eq!(is[..was.len()], was[..], "crashed after {ms} ms, twice");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_nobody_wants_any_more_ends_and_leaves_nothing() {
    let mut cancelled = 0;
    for ms in (0..120).step_by(12) {
        let (machine, rig, agent, order) = running().await;
        put(&machine, &rig, order.id, "/data", b"kept").await;
        let first = rig.backed_up(1, order.id, create(1, &[])).await;
        rig.plane.send(operate(2, order.id, create(2, &[(1, &first)])));
        tokio::time::sleep(Duration::from_millis(ms)).await;
        rig.plane.send(cancel(2, order.id, create(2, &[(1, &first)])));
        if ms % 24 == 0 {
            rig.crash(agent).await;
            let _agent = rig.start();
            rig.plane.until("another link", |s| s.hellos.len() == 2).await;
            // As a resync tells it.
            rig.plane.send(cancel(2, order.id, create(2, &[(1, &first)])));
            cancelled += u32::from(is_cancelled(&rig, ms).await);
            continue;
        }
        cancelled += u32::from(is_cancelled(&rig, ms).await);
        let next = rig.backed_up(3, order.id, create(3, &[(1, &first)])).await;
        assert_eq!(next.index, first.index, "after {ms} ms: the same disk");
    }
    assert!(cancelled > 0, "all had been done");
    // One that was never heard of does not begin.
    let (_machine, rig, _agent, order) = running().await;
    rig.plane.send(cancel(7, order.id, create(7, &[])));
    let OperationStage::Failed(problem) = rig.operated(7).await else { panic!("it began") };
    assert_eq!(problem.code, Code::TaskCancelled.number());
}

/// Or had been done before that was heard.
async fn is_cancelled(rig: &Rig, ms: u64) -> bool {
    match rig.operated(2).await {
        OperationStage::Failed(problem) => {
            assert_eq!(problem.code, Code::TaskCancelled.number(), "{ms} ms");
            true
        }
        OperationStage::Done(_) => false,
        OperationStage::Running { .. } => unreachable!("an end"),
    }
}
