//! Tasks that the control plane does itself: whoever in this process can takes them from here.
//!
//! ```text
//!   task pending ──taken──▶ running ──▶ done · fell
//!      ▲                       │
//!      └── a new reign begins ◀┴── cancelled, overdue: nobody waits for it any more
//! ```

use crate::Control;
use perigee_model::guest::Problem;
use perigee_model::task::TaskEvent;
use perigee_model::{Code, Refusal, Task, TaskId, TaskKind, TaskState};
use perigee_store::{Batch, Change, Record};
use std::sync::Arc;
use std::time::Duration;

/// It is looked again after this long even when nothing woke it: a retry's time came, for example.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Control {
    /// Tasks of an earlier reign begin again: whoever worked on them is gone.
    ///
    /// # Errors
    /// What the store says.
    pub async fn resume_own_work(&self) -> Result<(), Refusal> {
        let held: Vec<Arc<Task>> = {
            let rows = self.view().read();
            let left = |t: &&Arc<Task>| t.state == TaskState::Running && t.epoch < self.epoch();
            rows.open_tasks().filter(|t| is_ours(&t.kind)).filter(left).cloned().collect()
        };
        for task in held {
            let problem = Problem::new(Code::ShuttingDown, "the control plane was started again");
            self.step_own(task.id, TaskEvent::Fell { problem, again: true }).await?;
        }
        Ok(())
    }

    /// Takes the task of this kind that is due first; waits for one.
    pub(crate) async fn next_own(&self, fits: impl Fn(&TaskKind) -> bool) -> Arc<Task> {
        loop {
            let woken = self.0.own_work_wake.notified();
            if let Some(task) = self.claim_own(&fits).await {
                return task;
            }
            tokio::select! {
                () = woken => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn claim_own(&self, fits: impl Fn(&TaskKind) -> bool) -> Option<Arc<Task>> {
        let now = self.clock().now();
        let due = {
            let rows = self.view().read();
            let due = rows.open_tasks().filter(|t| fits(&t.kind) && t.is_due(now));
            due.min_by_key(|t| t.rank(now)).cloned()
        }?;
        let event =
            TaskEvent::Claimed { worker: self.0.worker.clone(), epoch: self.epoch(), host: None, generation: None };
        let mut batch = Batch::default();
        self.step_task(&due, &event, None, &mut batch);
        match self.commit(batch).await {
            Ok(()) => Some(due),
            Err(error) => {
                tracing::info!(%error, task = %due.id, "a task could not be taken; it is tried again");
                None
            }
        }
    }

    /// Whether its end is still waited for.
    pub fn is_wanted(&self, task: TaskId) -> bool {
        self.view().task(task).is_some_and(|t| t.state == TaskState::Running && !t.cancel_asked)
    }

    /// How far it is.
    pub async fn progressed(&self, task: TaskId, note: String, percent: Option<u8>) {
        if let Err(refusal) = self.step_own(task, TaskEvent::Progressed { note, percent }).await {
            tracing::info!(%refusal, %task, "a task's progress could not be written down");
        }
    }

    /// Steps the task; an image whose task ended is no longer being made.
    pub(crate) async fn step_own(&self, task: TaskId, event: TaskEvent) -> Result<(), Refusal> {
        self.decide(|| {
            let mut batch = Batch::default();
            if let Some(task) = self.view().task(task).filter(|t| !t.state.is_final()) {
                self.step_task(&task, &event, None, &mut batch);
                let ends = |change: &Change| matches!(change, Change::Put(Record::Task(t), _) if t.state.is_final());
                if batch.changes.iter().any(ends) {
                    self.fail_image(&task, &mut batch);
                }
            }
            Ok((batch, ()))
        })
        .await
    }
}

fn is_ours(kind: &TaskKind) -> bool {
    matches!(kind, TaskKind::ImageImport { .. } | TaskKind::BackupVerify { .. })
}
