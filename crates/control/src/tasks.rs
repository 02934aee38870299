//! Verbs on tasks: list, get, wait, cancel.

use crate::{Cause, Control, Span};
use perigee_agent_api::FromServer;
use perigee_model::task::{TaskEvent, TaskVerdict};
use perigee_model::{Code, Guest, Operation, Power, Refusal, Task, TaskId, TaskKind, TaskState, Verb, Who};
use perigee_store::{Batch, Record};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Whoever waits for a task to change.
#[derive(Default)]
pub(crate) struct Waiters(Mutex<HashMap<TaskId, watch::Sender<()>>>);

impl Waiters {
    /// Tells those who wait; forgets the task when nothing more can happen.
    pub(crate) fn changed(&self, id: TaskId, is_final: bool) {
        let mut waiters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if is_final {
            // Dropping the sender wakes every receiver too.
            waiters.remove(&id);
        } else if let Some(sender) = waiters.get(&id) {
            sender.send_replace(());
        }
    }

    fn watch(&self, id: TaskId) -> watch::Receiver<()> {
        let mut waiters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiters.retain(|_, sender| sender.receiver_count() > 0);
        waiters.entry(id).or_insert_with(|| watch::Sender::new(())).subscribe()
    }
}

impl Control {
    /// Tasks of the caller's tenant, newest first.
    ///
    /// # Errors
    /// `Denied`.
    pub fn list_tasks(
        &self,
        who: &Who,
        span: Span<TaskId>,
        fits: impl Fn(&Task) -> bool,
    ) -> Result<Vec<Arc<Task>>, Refusal> {
        who.authorize(Verb::See)?;
        Ok(span.newest(&self.view().read().tasks, |t| t.tenant == who.tenant && fits(t)))
    }

    /// One task by id.
    ///
    /// # Errors
    /// `NoSuchTask`.
    pub fn find_task(&self, who: &Who, text: &str) -> Result<Arc<Task>, Refusal> {
        who.authorize(Verb::See)?;
        let found = text.parse().ok().and_then(|id| self.view().task(id));
        let found = found.filter(|t| t.tenant == who.tenant);
        found.ok_or_else(|| Refusal::new(Code::NoSuchTask, "no task of yours has this id"))
    }

    /// The task once it is final, or as it is when the time is over.
    ///
    /// # Errors
    /// `NoSuchTask` when it was removed meanwhile.
    pub async fn wait_task(&self, id: TaskId, within: Duration) -> Result<Arc<Task>, Refusal> {
        let deadline = self.clock().instant().after(within);
        loop {
            let mut changes = self.0.tasks_done.watch(id);
            let gone = || Refusal::new(Code::NoSuchTask, "no task of yours has this id");
            let task = self.view().task(id).ok_or_else(gone)?;
            if task.state.is_final() {
                return Ok(task);
            }
            if tokio::time::timeout_at(deadline.into_tokio(), changes.changed()).await.is_err() {
                return self.view().task(id).ok_or_else(gone);
            }
        }
    }

    /// Asks a task to end. A pending one ends at once; a running one when what it holds is let go.
    ///
    /// # Errors
    /// `NoSuchTask`, `TaskFinished`; a delete that has begun goes on (`TaskFinished` too).
    pub async fn cancel_task(&self, who: &Who, text: &str, cause: &Cause) -> Result<Arc<Task>, Refusal> {
        who.authorize(Verb::Operate)?;
        let (task, nudge) = self
            .decide(|| {
                let task = self.find_task(who, text)?;
                let now = self.clock().now();
                let mut next = match task.step(&TaskEvent::CancelAsked, now) {
                    TaskVerdict::Go(next) => *next,
                    TaskVerdict::Stay => return Ok((Batch::default(), (task, None))),
                    TaskVerdict::Refuse(code) => return Err(Refusal::new(code, "the task has ended")),
                };
                let mut batch = Batch { idempotency: cause.row(""), ..Batch::default() };
                let nudge = self.let_go(&mut next, &mut batch)?;
                let about = ("task", task.id.to_string());
                let event = self.event((&who.tenant, &who.actor), "task.cancel", about, cause, task.kind.text());
                batch.events.push(event);
                next.revision += 1;
                batch.update(Record::Task(next.clone()));
                Ok((batch, (Arc::new(next), nudge)))
            })
            .await?;
        if let Some((host, message)) = nudge {
            self.links().send(host, message);
        }
        self.0.queue_wake.notify_one();
        Ok(task)
    }

    /// What a cancelled task held is given up, in the same write.
    fn let_go(
        &self,
        task: &mut Task,
        batch: &mut Batch,
    ) -> Result<Option<(perigee_model::HostId, FromServer)>, Refusal> {
        match task.kind {
            TaskKind::GuestCreate { guest, .. } => {
                let Some(guest) = self.view().guest(guest).filter(|g| !g.is_gone()) else { return Ok(None) };
                let next = self.abandon(&guest);
                let nudge = next.desired.host.map(|h| (h, desired(&next)));
                batch.update(Record::Guest(next));
                Ok(nudge)
            }
            // What it asked for stays desired; the host may have done it already.
            TaskKind::GuestPower { .. } => {
                if let TaskVerdict::Go(next) = task.step(&TaskEvent::CancelDone, self.clock().now()) {
                    *task = *next;
                }
                Ok(None)
            }
            TaskKind::GuestDelete { .. } if task.state == TaskState::Cancelled => Ok(None),
            TaskKind::GuestDelete { .. } => {
                Err(Refusal::new(Code::TaskFinished, "the delete has begun and cannot be taken back"))
            }
            TaskKind::GuestExecute { execution, .. } => {
                if task.state == TaskState::Cancelled {
                    self.lose_execution(execution, "cancelled before it started", batch);
                    return Ok(None);
                }
                Ok(task.host.map(|h| (h, FromServer::CancelExecution { execution })))
            }
            TaskKind::GuestOperate { .. } if task.state == TaskState::Cancelled => {
                self.give_up_operation(task, batch);
                Ok(None)
            }
            TaskKind::GuestOperate { operation: Operation::CreateBackup { .. }, .. } => Ok(self.cancelled_backup(task)),
            TaskKind::GuestOperate { .. } => {
                Err(Refusal::new(Code::TaskFinished, "its host has begun with it, and brings it to its end"))
            }
            TaskKind::VolumeDelete { .. } | TaskKind::NetworkDelete { .. } if task.state != TaskState::Cancelled => {
                Err(Refusal::new(Code::TaskFinished, "the delete has begun and cannot be taken back"))
            }
            TaskKind::VolumeCreate { .. }
            | TaskKind::VolumeDelete { .. }
            | TaskKind::VolumeResize { .. }
            | TaskKind::VolumeAttach { .. }
            | TaskKind::VolumeDetach { .. } => {
                let nudge = self.give_up_volume(task, batch);
                if let TaskVerdict::Go(next) = task.step(&TaskEvent::CancelDone, self.clock().now()) {
                    *task = *next;
                }
                Ok(nudge)
            }
            TaskKind::NetworkCreate { .. } | TaskKind::NetworkDelete { .. } => {
                let nudge = self.give_up_network(task, batch);
                if let TaskVerdict::Go(next) = task.step(&TaskEvent::CancelDone, self.clock().now()) {
                    *task = *next;
                }
                Ok(nudge)
            }
            TaskKind::ImageBuild { .. } | TaskKind::ImageImport { .. } | TaskKind::BackupVerify { .. } => {
                self.fail_image(task, batch);
                if let TaskVerdict::Go(next) = task.step(&TaskEvent::CancelDone, self.clock().now()) {
                    *task = *next;
                }
                Ok(None)
            }
        }
    }

    /// What its host is told of a backup that nobody wants any more. What of it is kept already goes with the next
    /// sweep.
    fn cancelled_backup(&self, task: &Task) -> Option<(perigee_model::HostId, FromServer)> {
        task.host.zip(Self::order_of_operation(&self.view().read(), task))
    }

    /// A guest that could not be made: nothing of it is left. One that was to be taken over stays as
    /// it was.
    pub(crate) fn abandon(&self, guest: &Guest) -> Guest {
        let mut next = self.desire_absent(guest);
        next.desired.release = next.is_adopted();
        next
    }

    /// The guest with nothing desired any more; gone at once when it was never placed.
    pub(crate) fn desire_absent(&self, guest: &Guest) -> Guest {
        let mut next = guest.clone();
        next.desired.power = Power::Absent;
        next.desired.generation += 1;
        next.revision += 1;
        if next.desired.host.is_none() {
            next.gone_at = Some(self.clock().now());
        }
        next
    }
}

pub(crate) fn desired(guest: &Guest) -> FromServer {
    FromServer::Desired(Box::new(crate::guests::desired_of(guest)))
}
