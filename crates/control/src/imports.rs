//! Imports: what whoever brings the bytes takes from here, and tells.
//!
//! ```text
//!   verb ──▶ task pending ──next_import──▶ running ──found──▶ its part is written down ──bytes kept──▶ ready
//!              ▲                              │
//!              └── a new reign begins ◀───────┴── cancelled, overdue, fell ──▶ failed, nothing needed
//! ```
//! The part is written down before its bytes get their name: a blob that no record needs may be swept
//! away at any time.

use crate::Control;
use perigee_model::guest::Problem;
use perigee_model::task::TaskEvent;
use perigee_model::{Code, ImageId, ImageState, Import, Part, Refusal, Task, TaskId, TaskKind, TaskState};
use perigee_store::{Batch, Record};
use std::sync::Arc;
use std::time::Duration;

/// It is looked again after this long even when nothing woke it: a retry's time came, for example.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// An import that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportOrder {
    /// Its task.
    pub task: TaskId,
    /// The image that it makes.
    pub image: ImageId,
    /// From where, and what it must be.
    pub import: Import,
}

impl Control {
    /// Imports of an earlier reign begin again: whoever worked on them is gone.
    ///
    /// # Errors
    /// What the store says.
    pub async fn resume_imports(&self) -> Result<(), Refusal> {
        let held: Vec<Arc<Task>> = {
            let rows = self.view().read();
            let ours = |t: &&Arc<Task>| matches!(t.kind, TaskKind::ImageImport { .. });
            rows.open_tasks()
                .filter(ours)
                .filter(|t| t.state == TaskState::Running && t.epoch < self.epoch())
                .cloned()
                .collect()
        };
        for task in held {
            let problem = Problem::new(Code::ShuttingDown, "the control plane was started again");
            self.step_import(task.id, TaskEvent::Fell { problem, again: true }).await?;
        }
        Ok(())
    }

    /// Takes the import that is due first; waits for one.
    pub async fn next_import(&self) -> ImportOrder {
        loop {
            let woken = self.0.import_wake.notified();
            if let Some(order) = self.claim_import().await {
                return order;
            }
            tokio::select! {
                () = woken => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn claim_import(&self) -> Option<ImportOrder> {
        let now = self.clock().now();
        let due = {
            let rows = self.view().read();
            let ours = |t: &&Arc<Task>| matches!(t.kind, TaskKind::ImageImport { .. }) && t.is_due(now);
            rows.open_tasks().filter(ours).min_by_key(|t| t.rank(now)).cloned()
        }?;
        let TaskKind::ImageImport { image, import } = due.kind.clone() else { return None };
        let event =
            TaskEvent::Claimed { worker: self.0.worker.clone(), epoch: self.epoch(), host: None, generation: None };
        let mut batch = Batch::default();
        self.step_task(&due, &event, None, &mut batch);
        match self.commit(batch).await {
            Ok(()) => Some(ImportOrder { task: due.id, image, import }),
            Err(error) => {
                tracing::info!(%error, task = %due.id, "an import could not be taken; it is tried again");
                None
            }
        }
    }

    /// Whether its end is still waited for.
    pub fn is_import_wanted(&self, order: &ImportOrder) -> bool {
        self.view().task(order.task).is_some_and(|t| t.state == TaskState::Running && !t.cancel_asked)
    }

    /// How far it is.
    pub async fn import_progressed(&self, order: &ImportOrder, note: String, percent: Option<u8>) {
        let event = TaskEvent::Progressed { note, percent };
        if let Err(refusal) = self.step_import(order.task, event).await {
            tracing::info!(%refusal, task = %order.task, "an import's progress could not be written down");
        }
    }

    /// Its bytes are right: they are needed from now on, and get their name next.
    ///
    /// # Errors
    /// `TaskFinished` when nobody waits for it any more; what the store says.
    pub async fn import_found(&self, order: &ImportOrder, part: &Part) -> Result<(), Refusal> {
        self.decide(|| {
            let image = self.view().image(order.image).filter(|i| i.state == ImageState::Building);
            let Some(image) = image.filter(|_| self.is_import_wanted(order)) else {
                return Err(Refusal::new(Code::TaskFinished, "nobody waits for the import any more"));
            };
            let mut next = image.as_ref().clone();
            next.parts = vec![part.clone()];
            next.revision += 1;
            let mut batch = Batch::default();
            batch.update(Record::Image(next));
            Ok((batch, ()))
        })
        .await
    }

    /// Its bytes have their name: guests can start from it.
    ///
    /// # Errors
    /// What the store says.
    pub async fn import_kept(&self, order: &ImportOrder) -> Result<(), Refusal> {
        self.decide(|| {
            let mut batch = Batch::default();
            let image = self.view().image(order.image).filter(|i| i.state == ImageState::Building);
            if let (Some(task), Some(image)) = (self.view().task(order.task), image) {
                let mut next = image.as_ref().clone();
                next.state = ImageState::Ready;
                next.revision += 1;
                batch.update(Record::Image(next));
                self.step_task(&task, &TaskEvent::Done, None, &mut batch);
            }
            Ok((batch, ()))
        })
        .await
    }

    /// It cannot be done, now (`again`) or ever.
    ///
    /// # Errors
    /// What the store says.
    pub async fn import_fell(&self, order: &ImportOrder, problem: Problem, again: bool) -> Result<(), Refusal> {
        self.step_import(order.task, TaskEvent::Fell { problem, again }).await
    }

    /// Steps the task; an image whose task ended is no longer being made.
    async fn step_import(&self, task: TaskId, event: TaskEvent) -> Result<(), Refusal> {
        self.decide(|| {
            let mut batch = Batch::default();
            if let Some(task) = self.view().task(task).filter(|t| !t.state.is_final()) {
                self.step_task(&task, &event, None, &mut batch);
                let ended = batch.changes.iter().any(|change| {
                    matches!(change, perigee_store::Change::Put(Record::Task(next), _) if next.state.is_final())
                });
                if ended {
                    self.fail_image(&task, &mut batch);
                }
            }
            Ok((batch, ()))
        })
        .await
    }
}
