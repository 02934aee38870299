//! Long work on a guest: done once, told to its end, through faults and crashes.

use crate::simulated::Machine;
use crate::vms::{living, machine, switched, vm};
use crate::*;
use perigee_hypervisor::simulated::Fault;
use std::time::Duration;

pub fn task(n: u128) -> TaskId {
    TaskId::new(Uuid::from_u128(n))
}

pub fn snapshot(n: u128) -> SnapshotId {
    SnapshotId::new(Uuid::from_u128(n))
}

pub fn create(memory: bool) -> Operation {
    Operation::CreateSnapshot { snapshot: snapshot(1), name: Name::parse("before").unwrap(), memory }
}

fn revert(memory: bool) -> Operation {
    Operation::RevertSnapshot { snapshot: snapshot(1), memory, booted: None }
}

pub fn operate(n: u128, guest: GuestId, operation: Operation) -> FromServer {
    let snapshots = match operation {
        Operation::DeleteSnapshot { .. } => vec![],
        _ => vec![snapshot(1)],
    };
    FromServer::Operate(Box::new(Operate { task: task(n), guest, operation, snapshots, cancelled: false }))
}

/// Nobody wants it any more.
pub fn cancel(n: u128, guest: GuestId, operation: Operation) -> FromServer {
    let snapshots = Vec::new();
    FromServer::Operate(Box::new(Operate { task: task(n), guest, operation, snapshots, cancelled: true }))
}

impl Rig {
    pub async fn operated(&self, n: u128) -> OperationStage {
        let end = |s: &plane::State| s.operations.get(&task(n))?.iter().find(|stage| stage.is_end()).cloned();
        self.plane.until("an end of the operation", |s| end(s).is_some()).await;
        self.plane.with(|s| end(s)).unwrap()
    }
    pub async fn done(&self, n: u128, guest: GuestId, operation: Operation) -> OperationResult {
        self.plane.send(operate(n, guest, operation));
        match self.operated(n).await {
            OperationStage::Done(result) => result,
            other => panic!("{other:?}"),
        }
    }
}

async fn kept(machine: &Machine, rig: &Rig, guest: GuestId) -> usize {
    machine.driver(&rig.clock).snapshots().unwrap().kept(guest).await.unwrap().len()
}

pub async fn running() -> (Machine, Rig, Running, DesiredGuest) {
    let (machine, rig) = machine();
    let agent = rig.start();
    let order = vm(1, |_| {});
    rig.plane.until("a link", |s| !s.hellos.is_empty()).await;
    rig.plane.want(order.clone());
    rig.plane.until_phase(order.id, Phase::Running).await;
    (machine, rig, agent, order)
}

#[tokio::test(start_paused = true)]
async fn a_guest_is_kept_put_back_and_let_go_of() {
    let (machine, rig, _agent, order) = running().await;
    let id = order.id;
    let made = rig.done(1, id, create(true)).await;
    assert!(matches!(&made, OperationResult::Kept(taken) if taken.memory_bytes > 0 && taken.booted.is_some()));
    assert_eq!(rig.done(2, id, revert(true)).await, OperationResult::WentBack);
    assert_eq!((machine.host.vmm_starts()[&id], living(&machine, id)), (2, true), "it goes on in a new VMM");

    // From where it is off: it runs, and is not stopped again.
    let stopped = switched(&order, Switch::Stop { grace_ms: 0 });
    rig.plane.want(stopped);
    rig.plane.until_phase(id, Phase::Stopped).await;
    assert_eq!(rig.done(3, id, revert(true)).await, OperationResult::WentBack);
    rig.plane.until_phase(id, Phase::Running).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(living(&machine, id));

    assert_eq!(rig.done(4, id, Operation::DeleteSnapshot { snapshot: snapshot(1) }).await, OperationResult::Forgotten);
    assert_eq!(kept(&machine, &rig, id).await, 0);
    rig.plane.send(operate(5, id, revert(true)));
    let OperationStage::Failed(problem) = rig.operated(5).await else { panic!("there is none") };
    assert_eq!(problem.code, Code::NoSuchSnapshot.number());
}

#[tokio::test(start_paused = true)]
async fn one_that_went_back_to_its_disk_is_done_when_it_is_up_again() {
    let (machine, rig, _agent, order) = running().await;
    rig.done(1, order.id, create(false)).await;
    let before = rig.plane.with(|s| s.story.len());
    assert_eq!(rig.done(2, order.id, revert(false)).await, OperationResult::WentBack);
    let story: Vec<Phase> = rig.plane.with(|s| s.story[before..].iter().map(|(_, phase)| *phase).collect());
    assert_eq!(story.last(), Some(&Phase::Running), "{story:?}");
    assert_eq!(machine.host.vmm_starts()[&order.id], 2);
    let stopped = switched(&order, Switch::Stop { grace_ms: 0 });
    rig.plane.want(stopped);
    rig.plane.until_phase(order.id, Phase::Stopped).await;
    assert_eq!(rig.done(3, order.id, revert(false)).await, OperationResult::WentBack);
    assert!(!living(&machine, order.id), "one that is off stays off");
}

#[tokio::test(start_paused = true)]
async fn what_is_told_twice_is_done_once_and_strangers_are_swept() {
    let (machine, rig, _agent, order) = running().await;
    let id = order.id;
    rig.done(1, id, create(false)).await;
    // Of an operation that the control plane gave up.
    let wish =
        perigee_hypervisor::Keep { snapshot: snapshot(9), title: Name::parse("lost").unwrap(), memory_bytes: None };
    let driver = machine.driver(&rig.clock);
    driver.snapshots().unwrap().keep(id, &wish, &watch::Sender::new(None)).await.unwrap();
    rig.done(2, id, revert(true)).await;
    let starts = machine.host.vmm_starts()[&id];
    rig.plane.send(operate(2, id, revert(true)));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(machine.host.vmm_starts()[&id], starts, "a late order for what was done and taken");
    assert_eq!(kept(&machine, &rig, id).await, 2);
    rig.done(3, id, create(false)).await;
    assert_eq!(kept(&machine, &rig, id).await, 1, "nobody knows of the other");
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_does_not_answer_is_asked_again() {
    let (machine, rig, _agent, order) = running().await;
    machine.knobs.set(Fault::SnapshotFails, 100);
    rig.plane.send(operate(1, order.id, create(true)));
    let told = |s: &plane::State| {
        let again = |stage: &OperationStage| matches!(stage, OperationStage::Running { note, .. } if note.contains("once more"));
        s.operations.get(&task(1)).is_some_and(|stages| stages.iter().any(again))
    };
    rig.plane.until("word of the fault", told).await;
    machine.knobs.set(Fault::SnapshotFails, 50);
    assert!(matches!(rig.operated(1).await, OperationStage::Done(_)));
    machine.knobs.set(Fault::SnapshotFails, 100);
    rig.plane.send(operate(2, order.id, revert(true)));
    // It asks for minutes, of the played clock.
    tokio::time::sleep(Duration::from_secs(300)).await;
    let OperationStage::Failed(problem) = rig.operated(2).await else { panic!("it never answers") };
    assert_eq!(problem.code, Code::SnapshotFailed.number());
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_moment_leaves_it_whole() {
    for ms in (0..120).step_by(3) {
        for operation in
            [create(true), revert(true), revert(false), Operation::DeleteSnapshot { snapshot: snapshot(1) }]
        {
            let (machine, rig, agent, order) = running().await;
            if !matches!(operation, Operation::CreateSnapshot { .. }) {
                let memory = !matches!(operation, Operation::RevertSnapshot { memory: false, .. });
                rig.done(1, order.id, create(memory)).await;
            }
            rig.plane.send(operate(2, order.id, operation.clone()));
            tokio::time::sleep(Duration::from_millis(ms)).await;
            rig.crash(agent).await;
            let _agent = rig.start();
            rig.plane.until("another link", |s| s.hellos.len() == 2).await;
            // The control plane says it again until it has heard the end.
            rig.plane.send(operate(2, order.id, operation.clone()));
            let context = format!("{operation:?} crashed after {ms} ms");
            assert!(matches!(rig.operated(2).await, OperationStage::Done(_)), "{context}");
            let wanted = usize::from(!matches!(operation, Operation::DeleteSnapshot { .. }));
            assert_eq!(kept(&machine, &rig, order.id).await, wanted, "{context}");
            rig.plane.until_phase(order.id, Phase::Running).await;
            assert!(living(&machine, order.id), "{context}");
        }
    }
}
