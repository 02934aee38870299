//! Reconcilers: what no message caused. They take no input, may run at any time and change nothing
//! when all is as it should be.

use crate::Control;
use crate::tasks::desired;
use perigee_model::limits::{HISTORY, IDEMPOTENCY_KEPT, RESYNC_EVERY, VIEW_ROWS_MAX};
use perigee_model::task::TaskEvent;
use perigee_model::{Guest, GuestId, Task, TaskId, TaskKind, Timestamp};
use perigee_store::{Batch, Change, Noun, Record};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const LOOK_EVERY: Duration = Duration::from_secs(1);
const PRUNE_EVERY: Duration = Duration::from_secs(600);
/// Records removed in one commit.
const PRUNED_PER_COMMIT: usize = 500;

impl Control {
    pub(crate) async fn run_reconcile(&self, cancel: &CancellationToken) {
        let mut resynced = self.clock().instant();
        let mut pruned = self.clock().instant();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            self.end_overdue().await;
            self.end_expired().await;
            self.begin_due_backups().await;
            if resynced.elapsed() >= RESYNC_EVERY {
                resynced = self.clock().instant();
                self.resync_all();
            }
            if pruned.elapsed() >= PRUNE_EVERY {
                pruned = self.clock().instant();
                self.prune().await;
            }
        }
    }

    fn resync_all(&self) {
        let hosts: Vec<_> = self.view().read().hosts.keys().copied().collect();
        for host in hosts {
            self.resync_host(host);
        }
    }

    /// Tasks past their deadline fail; a create takes its guest along.
    async fn end_overdue(&self) {
        let now = self.clock().now();
        let overdue: Vec<TaskId> = {
            let rows = self.view().read();
            rows.open_tasks().filter(|t| now.since(t.created_at) >= t.deadline()).map(|t| t.id).collect()
        };
        for id in overdue {
            let done = self.decide(|| Ok(self.overdue(id).unwrap_or_default())).await;
            match done {
                Ok(Some((host, guest))) => drop(self.links().send(host, desired(&guest))),
                Ok(None) => {}
                Err(refusal) => tracing::warn!(%refusal, task = %id, "an overdue task could not be ended"),
            }
        }
    }

    fn overdue(&self, id: TaskId) -> Option<(Batch, Option<(perigee_model::HostId, Guest)>)> {
        let task: Arc<Task> = self.view().task(id)?;
        let mut batch = Batch::default();
        let guest = match task.kind {
            TaskKind::GuestCreate { guest, .. } => self.view().guest(guest).filter(|g| !g.is_gone()),
            _ => None,
        };
        let mut next = guest.as_ref().map(|g| self.abandon(g));
        self.step_task(&task, &TaskEvent::Tick, None, &mut batch);
        if batch.is_empty() {
            return None;
        }
        if let TaskKind::GuestExecute { execution, .. } = task.kind {
            self.lose_execution(execution, "not done before its task's deadline", &mut batch);
        }
        self.fail_image(&task, &mut batch);
        self.give_up_operation(&task, &mut batch);
        self.give_up_volume(&task, &mut batch);
        self.give_up_network(&task, &mut batch);
        if let Some(guest) = &next {
            batch.update(Record::Guest(guest.clone()));
        }
        Some((batch, next.take().and_then(|g| g.desired.host.map(|h| (h, g)))))
    }

    /// Guests past their life that no host holds: their host removes the others by itself.
    async fn end_expired(&self) {
        let now = self.clock().now();
        let expired: Vec<GuestId> = {
            let rows = self.view().read();
            let over = |g: &&Arc<Guest>| g.desired.host.is_none() && g.desired.expires_at.is_some_and(|at| at <= now);
            rows.living_guests().filter(over).map(|g| g.id).collect()
        };
        for id in expired {
            let done = self
                .decide(|| {
                    let mut batch = Batch::default();
                    if let Some(guest) = self.view().guest(id).filter(|g| !g.is_gone() && g.desired.host.is_none()) {
                        batch.update(Record::Guest(self.desire_absent(&guest)));
                    }
                    Ok((batch, ()))
                })
                .await;
            if let Err(refusal) = done {
                tracing::warn!(%refusal, guest = %id, "an expired guest could not be ended");
            }
        }
    }

    /// Forgets what is older than `HISTORY`, and the oldest beyond `VIEW_ROWS_MAX`.
    async fn prune(&self) {
        let now = self.clock().now();
        let old = self.old_records(now - HISTORY);
        for changes in old.chunks(PRUNED_PER_COMMIT) {
            let batch = Batch { changes: changes.to_vec(), ..Batch::default() };
            if let Err(error) = self.commit(batch).await {
                tracing::warn!(%error, "old records could not be removed");
                return;
            }
        }
        if let Err(error) = self.store().prune(now - IDEMPOTENCY_KEPT, now - HISTORY).await {
            tracing::warn!(%error, "old keys and events could not be removed");
        }
    }

    fn old_records(&self, before: Timestamp) -> Vec<Change> {
        let rows = self.view().read();
        let mut old = Vec::new();
        let surplus = |len: usize| len.saturating_sub(VIEW_ROWS_MAX);
        let over = surplus(rows.tasks.len());
        for (i, task) in rows.tasks.values().enumerate() {
            if task.completed_at.is_some_and(|at| at < before || i < over) {
                old.push(Change::Delete(Noun::Task, task.id.to_string()));
            }
        }
        let over = surplus(rows.executions.len());
        for (i, execution) in rows.executions.values().enumerate() {
            if execution.ended_at.is_some_and(|at| at < before || i < over) {
                old.push(Change::Delete(Noun::Execution, execution.id.to_string()));
            }
        }
        let over = surplus(rows.guests.len());
        for (i, guest) in rows.guests.values().enumerate() {
            if guest.gone_at.is_some_and(|at| at < before || i < over) {
                old.push(Change::Delete(Noun::Guest, guest.id.to_string()));
            }
        }
        old
    }
}
