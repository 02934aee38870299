//! Long work on one guest: asked for, claimed, told to its host, settled.
//!
//! ```text
//!   verb ─▶ task + what it will change ─▶ claim (one operation at a time for each guest) ─▶ host
//!   report: it moves · it is done: written down with what came of it · it failed: as if never asked for
//! ```
//! Owns: that road, and the snapshots on it. Refuses: knowing how a host does it.

use crate::queue::Claim;
use crate::tasks::desired;
use crate::view::Rows;
use crate::{Cause, Control};
use perigee_agent_api::{FromServer, Operate, OperationReport, OperationResult, OperationStage};
use perigee_model::guest::Problem;
use perigee_model::snapshot::{room_fault, snapshot_fault};
use perigee_model::task::TaskEvent;
use perigee_model::vm::description_fault;
use perigee_model::{
    Code, Guest, GuestId, GuestStatus, HostId, Name, Operation, Power, Priority, Refusal, Snapshot, SnapshotId,
    SnapshotState, Task, TaskKind, Verb, Who,
};
use perigee_store::{Batch, Record};
use std::sync::Arc;

/// What is wanted of a new snapshot.
#[derive(Clone, Debug)]
pub struct NewSnapshot {
    /// Unique in its VM.
    pub name: Name,
    /// For people.
    pub description: String,
    /// With what is in the VM's memory.
    pub memory: bool,
}

impl Control {
    /// Records a snapshot and the task that makes it.
    ///
    /// # Errors
    /// `Denied`, `NoSuchGuest`, `NoSnapshots` for a guest that can have none, `NameTaken`,
    /// `TooManySnapshots`, `BadField`, `GuestNotRunning` when there is no memory to keep, `TooManyTasks`.
    pub async fn create_snapshot(
        &self,
        who: &Who,
        text: &str,
        wanted: NewSnapshot,
        cause: &Cause,
    ) -> Result<(Arc<Guest>, Arc<Task>), Refusal> {
        who.authorize(Verb::Operate)?;
        if let Some(fault) = description_fault(&wanted.description) {
            return Err(Refusal::field("description", fault));
        }
        let snapshot = Snapshot {
            id: SnapshotId::new(self.clock().uuid()),
            name: wanted.name,
            description: wanted.description,
            memory: wanted.memory,
            state: SnapshotState::Creating,
            created_at: self.clock().now(),
            taken: None,
        };
        self.operate(who, text, cause, |guest| {
            self.check_new_snapshot(guest, &snapshot)?;
            guest.snapshots.push(snapshot.clone());
            let Snapshot { id, ref name, memory, .. } = snapshot;
            Ok(Operation::CreateSnapshot { snapshot: id, name: name.clone(), memory })
        })
        .await
    }

    /// Records the task that puts a VM back to a snapshot.
    ///
    /// # Errors
    /// `Denied`, `NoSuchGuest`, `NoSnapshots`, `NoSuchSnapshot`, `TooManyTasks`.
    pub async fn revert_snapshot(
        &self,
        who: &Who,
        (text, name): (&str, &str),
        cause: &Cause,
    ) -> Result<(Arc<Guest>, Arc<Task>), Refusal> {
        who.authorize(Verb::Operate)?;
        self.operate(who, text, cause, |guest| {
            let Snapshot { id, memory, ref taken, .. } = guest.snapshots[place(guest, name)?];
            let booted = taken.as_ref().and_then(|taken| taken.booted);
            Ok(Operation::RevertSnapshot { snapshot: id, memory, booted })
        })
        .await
    }

    /// Records the task that deletes a snapshot; the VM goes on as it is.
    ///
    /// # Errors
    /// `Denied`, `NoSuchGuest`, `NoSnapshots`, `NoSuchSnapshot`, `TooManyTasks`.
    pub async fn delete_snapshot(
        &self,
        who: &Who,
        (text, name): (&str, &str),
        cause: &Cause,
    ) -> Result<(Arc<Guest>, Arc<Task>), Refusal> {
        who.authorize(Verb::Operate)?;
        self.operate(who, text, cause, |guest| {
            let place = place(guest, name)?;
            let snapshot = &mut guest.snapshots[place];
            snapshot.state = SnapshotState::Deleting;
            Ok(Operation::DeleteSnapshot { snapshot: snapshot.id })
        })
        .await
    }

    /// A VM with its snapshots.
    ///
    /// # Errors
    /// `Denied`, `NoSuchGuest`, `NoSnapshots` for a guest that can have none.
    pub fn guest_with_snapshots(&self, who: &Who, text: &str) -> Result<Arc<Guest>, Refusal> {
        who.authorize(Verb::See)?;
        let guest = self.find_guest(who, text)?;
        if guest.is_gone() {
            return Err(Refusal::new(Code::NoSuchGuest, "the guest is deleted"));
        }
        match snapshot_fault(guest.kind, &guest.spec) {
            Some(fault) => Err(Refusal::new(Code::NoSnapshots, fault)),
            None => Ok(guest),
        }
    }

    fn check_new_snapshot(&self, guest: &Guest, wanted: &Snapshot) -> Result<(), Refusal> {
        if guest.snapshots.iter().any(|snapshot| snapshot.name == wanted.name) {
            let text = format!("the VM has a snapshot {} already: delete it, or take another name", wanted.name);
            return Err(Refusal::new(Code::NameTaken, text));
        }
        if let Some(fault) = room_fault(guest.snapshots.len()) {
            return Err(Refusal::new(Code::TooManySnapshots, fault));
        }
        let status = self.guest_status(guest);
        if wanted.memory && matches!(status, GuestStatus::Stopped | GuestStatus::Failed) {
            let text = "the VM does not run, so it has no memory to keep: start it, or leave the memory out";
            return Err(Refusal::new(Code::GuestNotRunning, text));
        }
        Ok(())
    }

    /// Records an operation and what it changes of its guest at once.
    async fn operate(
        &self,
        who: &Who,
        text: &str,
        cause: &Cause,
        plan: impl Fn(&mut Guest) -> Result<Operation, Refusal>,
    ) -> Result<(Arc<Guest>, Arc<Task>), Refusal> {
        self.guest_with_snapshots(who, text)?;
        self.check_queue(who)?;
        let made = self
            .decide(|| {
                let mut next = self.guest_with_snapshots(who, text)?.as_ref().clone();
                let operation = plan(&mut next)?;
                let detail = format!("{} {}", next.name, called(&next, operation.snapshot()));
                let verb = operation.text().replace("vm:", "guest.");
                let task = self.new_task(who, TaskKind::GuestOperate { guest: next.id, operation }, Priority::High);
                let mut batch = Batch { idempotency: cause.row(task.id), ..Batch::default() };
                let about = ("guest", next.id.to_string());
                batch.events.push(self.event((&who.tenant, &who.actor), &verb, about, cause, detail));
                next.revision += 1;
                batch.update(Record::Guest(next.clone()));
                batch.insert(Record::Task(task.clone()));
                Ok((batch, (Arc::new(next), Arc::new(task))))
            })
            .await?;
        self.0.queue_wake.notify_one();
        Ok(made)
    }

    pub(crate) fn claim_operation(&self, task: &Task, guest: GuestId, operation: &Operation) -> Option<Claim> {
        let held = self.view().guest(guest).filter(|g| !g.is_gone() && g.desired.power != Power::Absent);
        let Some(guest) = held else {
            return self.fall(task, Problem::new(Code::NoSuchGuest, "the guest was deleted first"));
        };
        if let Some(before) = self.operation_before(task, &guest, false) {
            return self.hold(task, format!("waiting for {before}"));
        }
        if !guest.snapshots.iter().any(|snapshot| snapshot.id == operation.snapshot()) {
            let problem = Problem::new(Code::NoSuchSnapshot, "the snapshot was deleted first");
            return self.fall(task, problem);
        }
        let off = match self.guest_status(&guest) {
            GuestStatus::Running | GuestStatus::Suspended => false,
            GuestStatus::Stopped | GuestStatus::Failed => true,
            GuestStatus::Unknown => return self.hold(task, "waiting for the guest's host to connect".to_owned()),
            GuestStatus::Pending
            | GuestStatus::Waiting
            | GuestStatus::Starting
            | GuestStatus::Stopping
            | GuestStatus::Deleting
            | GuestStatus::Deleted => return self.hold(task, "waiting for the guest to be at rest".to_owned()),
        };
        if off && matches!(operation, Operation::CreateSnapshot { memory: true, .. }) {
            let problem = Problem::new(Code::GuestNotRunning, "the VM does not run, so it has no memory to keep");
            return self.fall(task, problem);
        }
        let host = guest.desired.host?;
        let mut claim = self.claimed(task, Some(host), None)?;
        claim.nudge = Some((host, order(task, &guest, operation)));
        Some(claim)
    }

    /// Takes one report on an operation; its end is acknowledged once it is stored.
    ///
    /// # Errors
    /// What the store says; the agent reports again.
    pub(crate) async fn settle_operation(&self, host: HostId, report: &OperationReport) -> Result<(), Refusal> {
        let nudge = self
            .decide(|| {
                let mut batch = Batch::default();
                let task = self.view().task(report.task).filter(|t| t.host == Some(host) && !t.state.is_final());
                let Some(task) = task else { return Ok((batch, None)) };
                let event = match &report.stage {
                    OperationStage::Running { note, percent } => {
                        TaskEvent::Progressed { note: note.clone(), percent: *percent }
                    }
                    OperationStage::Done(_) => TaskEvent::Done,
                    OperationStage::Failed(problem) => TaskEvent::Fell { problem: problem.clone(), again: false },
                };
                self.step_task(&task, &event, None, &mut batch);
                let (TaskKind::GuestOperate { guest, operation }, true) = (&task.kind, report.stage.is_end()) else {
                    return Ok((batch, None));
                };
                let Some(guest) = self.view().guest(*guest).filter(|g| !g.is_gone()) else {
                    return Ok((batch, None));
                };
                let result = match &report.stage {
                    OperationStage::Done(result) => Some(result),
                    OperationStage::Failed(_) | OperationStage::Running { .. } => None,
                };
                let mut next = guest.as_ref().clone();
                ended(&mut next, operation, result);
                let moved = next.desired.generation > guest.desired.generation;
                let nudge = moved.then(|| desired(&next));
                next.revision += 1;
                batch.update(Record::Guest(next));
                Ok((batch, nudge))
            })
            .await?;
        if let Some(message) = nudge {
            self.links().send(host, message);
        }
        if report.stage.is_end() {
            self.links().send(host, FromServer::OperationTaken { guest: report.guest, task: report.task });
            self.0.queue_wake.notify_one();
        }
        Ok(())
    }

    /// An operation that ends without its host's word: its guest is as if it had never been asked for, and
    /// what its host has done all the same is cleared up by the next one.
    pub(crate) fn give_up_operation(&self, task: &Task, batch: &mut Batch) {
        let TaskKind::GuestOperate { guest, operation } = &task.kind else { return };
        let Some(guest) = self.view().guest(*guest).filter(|g| !g.is_gone()) else { return };
        let mut next = guest.as_ref().clone();
        ended(&mut next, operation, None);
        if next != *guest {
            next.revision += 1;
            batch.update(Record::Guest(next));
        }
    }

    /// What its host is to do, for a resync.
    pub(crate) fn order_of_operation(rows: &Rows, task: &Task) -> Option<FromServer> {
        let TaskKind::GuestOperate { guest, operation } = &task.kind else { return None };
        rows.guests.get(guest).map(|guest| order(task, guest, operation))
    }
}

fn order(task: &Task, guest: &Guest, operation: &Operation) -> FromServer {
    let snapshots = guest.snapshots.iter().map(|snapshot| snapshot.id).collect();
    FromServer::Operate(Box::new(Operate { task: task.id, guest: guest.id, operation: operation.clone(), snapshots }))
}

/// What an operation's end makes of its guest; without a result it failed.
fn ended(guest: &mut Guest, operation: &Operation, result: Option<&OperationResult>) {
    let id = operation.snapshot();
    let place = guest.snapshots.iter().position(|snapshot| snapshot.id == id);
    match (operation, result, place) {
        (Operation::CreateSnapshot { .. }, Some(OperationResult::Kept(taken)), Some(place)) => {
            guest.snapshots[place].state = SnapshotState::Ready;
            guest.snapshots[place].taken = Some(taken.clone());
        }
        (Operation::CreateSnapshot { .. }, _, Some(place))
        | (Operation::DeleteSnapshot { .. }, Some(_), Some(place)) => {
            drop(guest.snapshots.remove(place));
        }
        (Operation::DeleteSnapshot { .. }, None, Some(place)) => guest.snapshots[place].state = SnapshotState::Ready,
        // It runs now, whatever its switch was.
        (Operation::RevertSnapshot { memory: true, .. }, Some(_), _) if guest.desired.power != Power::Absent => {
            if guest.desired.power != Power::Running {
                guest.desired.power = Power::Running;
                guest.desired.generation += 1;
            }
        }
        (Operation::RevertSnapshot { .. }, _, _) | (_, _, None) => {}
    }
}

/// Where one of this name or id is, when it can be gone back to.
fn place(guest: &Guest, text: &str) -> Result<usize, Refusal> {
    let id = text.parse::<SnapshotId>().ok();
    let named = |snapshot: &Snapshot| Some(snapshot.id) == id || snapshot.name.as_str() == text;
    let place = guest.snapshots.iter().position(named).ok_or_else(|| {
        Refusal::new(Code::NoSuchSnapshot, "the VM has no snapshot of this name or id: list its snapshots")
    })?;
    match guest.snapshots[place].state {
        SnapshotState::Ready => Ok(place),
        SnapshotState::Creating => {
            Err(Refusal::new(Code::NoSuchSnapshot, "the snapshot is still being made: wait for its task"))
        }
        SnapshotState::Deleting => Err(Refusal::new(Code::NoSuchSnapshot, "the snapshot is being deleted")),
    }
}

fn called(guest: &Guest, id: SnapshotId) -> &str {
    guest.snapshots.iter().find(|snapshot| snapshot.id == id).map_or("", |snapshot| snapshot.name.as_str())
}
