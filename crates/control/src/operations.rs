//! Long work on one guest: recorded, claimed, told to its host, settled.
//!
//! ```text
//!   verb ─▶ task + what it will change ─▶ claim (one operation at a time for each guest) ─▶ host
//!   report: it moves · it is done: written down with what came of it · it failed: as if never asked for
//! ```
//! Owns: that road. Refuses: knowing how a host does it; what comes of it is
//! [`snapshots`](crate::snapshots)' and [`backups`](crate::backups)' to say.

use crate::queue::Claim;
use crate::tasks::desired;
use crate::view::Rows;
use crate::{Cause, Control, backups, snapshots};
use perigee_agent_api::{FromServer, Operate, OperationReport, OperationStage};
use perigee_model::guest::Problem;
use perigee_model::task::TaskEvent;
use perigee_model::{
    Code, Guest, GuestId, GuestStatus, HostId, Operation, Power, Priority, Refusal, Task, TaskKind, Who,
};
use perigee_store::{Batch, Change, Record};
use std::sync::Arc;

/// The guest and the task that works on it.
pub type Operated = Result<(Arc<Guest>, Arc<Task>), Refusal>;

/// An operation, and what it changes at once.
pub(crate) struct Planned {
    /// Its guest as it is from then on, but for its revision.
    pub guest: Guest,
    pub operation: Operation,
    /// For the audit.
    pub detail: String,
    /// What else is written with it.
    pub also: Vec<Change>,
}

impl Control {
    /// Records an operation, and what it changes at once.
    pub(crate) async fn operate(
        &self,
        who: &Who,
        cause: &Cause,
        plan: impl Fn() -> Result<Planned, Refusal>,
    ) -> Operated {
        plan()?;
        self.check_queue(who)?;
        let made = self
            .decide(|| {
                let Planned { guest: mut next, operation, detail, also } = plan()?;
                if let Some(fault) = snapshots::volumes_fault(&next, &operation) {
                    return Err(Refusal::new(Code::NoSnapshots, fault));
                }
                let verb = operation.text().replace("vm:", "guest.");
                let task = self.new_task(who, TaskKind::GuestOperate { guest: next.id, operation }, Priority::High);
                let mut batch = Batch { idempotency: cause.row(task.id), changes: also, ..Batch::default() };
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
        if let Some(problem) = self.missing(&guest, operation) {
            return self.fall(task, problem);
        }
        let off = match self.guest_status(&guest) {
            GuestStatus::Running | GuestStatus::Suspended => false,
            GuestStatus::Stopped | GuestStatus::Failed => true,
            GuestStatus::Unknown => return self.hold(task, "waiting for the guest's host to say how it is".to_owned()),
            GuestStatus::Pending
            | GuestStatus::Waiting
            | GuestStatus::Starting
            | GuestStatus::Stopping
            | GuestStatus::Deleting
            | GuestStatus::Deleted => return self.hold(task, "waiting for the guest to be at rest".to_owned()),
        };
        if let Some(fault) = snapshots::volumes_fault(&guest, operation) {
            return self.fall(task, Problem::new(Code::NoSnapshots, fault));
        }
        if off && matches!(operation, Operation::CreateSnapshot { memory: true, .. }) {
            let problem = Problem::new(Code::GuestNotRunning, "the VM does not run, so it has no memory to keep");
            return self.fall(task, problem);
        }
        let host = guest.desired.host?;
        let mut claim = self.claimed(task, Some(host), None)?;
        claim.nudge = Some((host, order(&self.view().read(), task, &guest, operation)));
        Some(claim)
    }

    /// What an operation is about was deleted before it began.
    fn missing(&self, guest: &Guest, operation: &Operation) -> Option<Problem> {
        if let Some(wanted) = operation.snapshot() {
            let gone = !guest.snapshots.iter().any(|snapshot| snapshot.id == wanted);
            return gone.then(|| Problem::new(Code::NoSuchSnapshot, "the snapshot was deleted first"));
        }
        let gone = operation.backup().is_some_and(|backup| self.view().backup(backup).is_none());
        gone.then(|| Problem::new(Code::NoSuchBackup, "the backup was deleted first"))
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
                    self.backup_ended(&task, operation, &report.stage, &mut batch);
                    return Ok((batch, None));
                };
                let result = match &report.stage {
                    OperationStage::Done(result) => Some(result),
                    OperationStage::Failed(_) | OperationStage::Running { .. } => None,
                };
                let mut next = guest.as_ref().clone();
                snapshots::ended(&mut next, operation, result);
                self.backup_ended(&task, operation, &report.stage, &mut batch);
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
        self.forget_unmade(operation, batch);
        let Some(guest) = self.view().guest(*guest).filter(|g| !g.is_gone()) else { return };
        let mut next = guest.as_ref().clone();
        snapshots::ended(&mut next, operation, None);
        if next != *guest {
            next.revision += 1;
            batch.update(Record::Guest(next));
        }
    }

    /// What its host is to do, for a resync.
    pub(crate) fn order_of_operation(rows: &Rows, task: &Task) -> Option<FromServer> {
        let TaskKind::GuestOperate { guest, operation } = &task.kind else { return None };
        rows.guests.get(guest).map(|guest| order(rows, task, guest, operation))
    }
}

fn order(rows: &Rows, task: &Task, guest: &Guest, operation: &Operation) -> FromServer {
    let mut operation = operation.clone();
    if let Operation::CreateBackup { sealed, bases, .. } = &mut operation {
        *bases = backups::bases(rows, guest, *sealed);
    }
    let snapshots = guest.snapshots.iter().map(|snapshot| snapshot.id).collect();
    FromServer::Operate(Box::new(Operate {
        task: task.id,
        guest: guest.id,
        operation,
        snapshots,
        cancelled: task.cancel_asked,
    }))
}
