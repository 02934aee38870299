//! Looks at all bytes of a backup, and at a VM made from it: what whoever keeps the bytes takes from here,
//! and tells.

use crate::{Cause, Control, refuse_store};
use perigee_model::backup::{Booted, Verified};
use perigee_model::guest::Problem;
use perigee_model::task::TaskEvent;
use perigee_model::{Backup, Code, Priority, Refusal, Task, TaskId, TaskKind, Verb, Who};
use perigee_store::{Batch, Record};
use std::sync::Arc;

/// A look that was taken.
#[derive(Clone, Debug)]
pub struct VerifyOrder {
    /// Its task.
    pub task: TaskId,
    /// At what.
    pub backup: Arc<Backup>,
    /// A VM is made from it, too.
    pub boot: bool,
}

impl Control {
    /// Records the task that looks at all of a backup's bytes; `boot`: and at a VM that is made from it.
    ///
    /// # Errors
    /// `Denied`, `NoSuchBackup`, `BackupInUse` while it is being made, `TooManyTasks`.
    pub async fn verify_backup(
        &self,
        who: &Who,
        text: &str,
        boot: bool,
        cause: &Cause,
    ) -> Result<(Arc<Backup>, Arc<Task>), Refusal> {
        who.authorize(Verb::Operate)?;
        let backup = self.ready_backup(who, text)?;
        self.check_queue(who)?;
        let task = self.new_task(who, TaskKind::BackupVerify { backup: backup.id, boot }, Priority::Low);
        let mut batch = Batch { idempotency: cause.row(task.id), ..Batch::default() };
        let about = ("backup", backup.id.to_string());
        batch.events.push(self.event((&who.tenant, &who.actor), "backup.verify", about, cause, backup.name.as_str()));
        batch.insert(Record::Task(task.clone()));
        self.commit(batch).await.map_err(refuse_store)?;
        self.0.own_work_wake.notify_one();
        Ok((backup, Arc::new(task)))
    }

    /// Takes the look that is due first; waits for one.
    pub async fn next_verification(&self) -> VerifyOrder {
        loop {
            let task = self.next_own(|kind| matches!(kind, TaskKind::BackupVerify { .. })).await;
            let TaskKind::BackupVerify { backup, boot } = task.kind else { continue };
            match self.view().backup(backup) {
                Some(backup) => return VerifyOrder { task: task.id, backup, boot },
                None => self.verification_fell(task.id, Problem::new(Code::NoSuchBackup, "it was deleted first")).await,
            }
        }
    }

    /// What was found: nothing wrong, every byte is as it was stored; and how a VM came up, where that was tried.
    ///
    /// # Errors
    /// What the store says.
    pub async fn verified(&self, order: &VerifyOrder, found: Result<Option<Booted>, String>) -> Result<(), Refusal> {
        let (booted, fault) = match found {
            Ok(booted) => (booted, None),
            Err(fault) => (None, Some(fault)),
        };
        self.decide(|| {
            let mut batch = Batch::default();
            let (Some(task), Some(backup)) = (self.view().task(order.task), self.view().backup(order.backup.id)) else {
                return Ok((batch, ()));
            };
            let mut next = backup.as_ref().clone();
            next.verified = Some(Verified { at: self.clock().now(), fault: fault.clone(), booted });
            next.revision += 1;
            batch.update(Record::Backup(next));
            let event = match &fault {
                None => TaskEvent::Done,
                Some(fault) => {
                    let problem = Problem::new(Code::BackupFailed, format!("the backup is not good: {fault}"));
                    TaskEvent::Fell { problem, again: false }
                }
            };
            self.step_task(&task, &event, None, &mut batch);
            Ok((batch, ()))
        })
        .await
    }

    /// It could not be looked at.
    pub async fn verification_fell(&self, task: TaskId, problem: Problem) {
        if let Err(refusal) = self.step_own(task, TaskEvent::Fell { problem, again: false }).await {
            tracing::warn!(%refusal, %task, "the end of a look at a backup could not be written down");
        }
    }
}
