//! The queue: which task is claimed next, and what its claim writes.
//!
//! A claim is a commit guarded by the task's revision, so two workers can never hold one task. In
//! the same transaction it places the guest and writes desired. Order: priority with ageing, then
//! owners in turn (nobody's hundred tasks stand before another's one), then age.

use crate::executions::order;
use crate::tasks::desired;
use crate::volumes::order_of;
use crate::{Cause, Control};
use perigee_agent_api::FromServer;
use perigee_model::guest::Problem;
use perigee_model::placement::{Candidate, Wanted, place};
use perigee_model::task::{TaskEvent, TaskVerdict};
use perigee_model::{
    Code, Execution, ExecutionId, Guest, GuestId, GuestKind, GuestStatus, HostId, ImageId, Power, Recipe, Switch, Task,
    TaskKind, TaskState, Timestamp,
};
use perigee_store::{Batch, Record, StoreError};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Claims written in one commit.
const CLAIMS_PER_COMMIT: usize = 64;
/// The queue looks again after this long even when nothing woke it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What one task's claim writes, and whom to nudge then.
#[derive(Default)]
pub(crate) struct Claim {
    pub batch: Batch,
    pub nudge: Option<(HostId, FromServer)>,
}

impl Control {
    pub(crate) async fn run_queue(&self, cancel: &CancellationToken) {
        loop {
            // Armed before looking, so that a wake between look and wait is not lost.
            let woken = self.0.queue_wake.notified();
            let more = self.claim_due().await;
            if more {
                continue;
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = woken => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Claims what is due. `true` when there may be more right now.
    async fn claim_due(&self) -> bool {
        let due = self.due_tasks();
        let mut room = Room::default();
        let claims: Vec<(Arc<Task>, Claim)> = due
            .into_iter()
            .filter_map(|task| self.claim(&task, &mut room).map(|claim| (task, claim)))
            .take(CLAIMS_PER_COMMIT)
            .collect();
        if claims.is_empty() {
            return false;
        }
        let full = claims.len() == CLAIMS_PER_COMMIT;
        let mut whole = Batch::default();
        for (_, claim) in &claims {
            whole.changes.extend(claim.batch.changes.iter().cloned());
            whole.events.extend(claim.batch.events.iter().cloned());
        }
        match self.commit(whole).await {
            Ok(()) => self.nudge(claims.into_iter().filter_map(|(_, c)| c.nudge)),
            Err(StoreError::Stale { .. }) => return self.claim_singly(claims).await || full,
            Err(error) => {
                tracing::warn!(%error, "claims could not be written; they are tried again");
                return false;
            }
        }
        full
    }

    /// One of the claims met another writer: each on its own, computed afresh.
    async fn claim_singly(&self, claims: Vec<(Arc<Task>, Claim)>) -> bool {
        let mut again = false;
        let shown = self.0.shown.notified();
        for (task, _) in claims {
            let Some(task) = self.view().task(task.id).filter(|t| t.state == TaskState::Pending) else { continue };
            let Some(claim) = self.claim(&task, &mut Room::default()) else { continue };
            match self.commit(claim.batch).await {
                Ok(()) => self.nudge(claim.nudge),
                Err(StoreError::Stale { .. }) => again = true,
                Err(error) => tracing::warn!(%error, task = %task.id, "a claim could not be written"),
            }
        }
        if again {
            self.let_show(shown).await;
        }
        again
    }

    fn nudge(&self, nudges: impl IntoIterator<Item = (HostId, FromServer)>) {
        for (host, message) in nudges {
            self.links().send(host, message);
        }
    }

    fn due_tasks(&self) -> Vec<Arc<Task>> {
        let now = self.clock().now();
        let mut due: Vec<Arc<Task>> = {
            let rows = self.view().read();
            rows.open_tasks().filter(|t| t.is_due(now)).cloned().collect()
        };
        due.sort_by_key(|t| t.rank(now));
        in_turn(&due, now)
    }

    /// What a task's claim writes; `None` when it has to wait without anything new to say.
    fn claim(&self, task: &Task, room: &mut Room) -> Option<Claim> {
        match task.kind {
            TaskKind::GuestCreate { guest, .. } => self.claim_create(task, guest, room),
            TaskKind::GuestDelete { guest } => self.claim_delete(task, guest),
            TaskKind::GuestExecute { guest, execution } => self.claim_execute(task, guest, execution),
            TaskKind::GuestPower { guest, switch } => self.claim_power(task, guest, switch),
            TaskKind::GuestOperate { guest, ref operation } => self.claim_operation(task, guest, operation),
            TaskKind::ImageBuild { image, ref recipe } => self.claim_build(task, image, recipe),
            // Whoever in this process can do it takes it.
            TaskKind::ImageImport { .. } | TaskKind::BackupVerify { .. } => None,
            TaskKind::VolumeCreate { volume }
            | TaskKind::VolumeDelete { volume }
            | TaskKind::VolumeResize { volume, .. } => self.claim_volume(task, volume),
            TaskKind::VolumeAttach { volume, guest } | TaskKind::VolumeDetach { volume, guest } => {
                self.claim_plug(task, volume, guest)
            }
            TaskKind::NetworkCreate { network } | TaskKind::NetworkDelete { network } => {
                self.claim_network(task, network)
            }
        }
    }

    fn claim_create(&self, task: &Task, guest: GuestId, room: &mut Room) -> Option<Claim> {
        let held = self.view().guest(guest).filter(|g| !g.is_gone() && g.desired.power != Power::Absent);
        let Some(guest) = held else {
            return self.fall(task, Problem::new(Code::NoSuchGuest, "the guest was deleted first"));
        };
        let host = match guest.desired.host {
            // A second attempt stays where the first may have left something.
            Some(host) => host,
            None => match self.place(task, &guest, room) {
                Ok(host) => host,
                Err(instead) => return instead.map(|claim| *claim),
            },
        };
        let mut next = guest.as_ref().clone();
        next.desired.host = Some(host);
        next.desired.generation += 1;
        next.revision += 1;
        let mut claim = self.claimed(task, Some(host), Some(next.desired.generation))?;
        claim.nudge = Some((host, desired(&next)));
        claim.batch.update(Record::Guest(next));
        Some(claim)
    }

    fn place(&self, task: &Task, guest: &Guest, room: &mut Room) -> Result<HostId, Option<Box<Claim>>> {
        let (resources, arch) = (guest.spec.resources, self.arch_of(guest));
        let wanted = Wanted { resources, arch, host: guest.spec.host_wanted };
        let candidates = room.candidates(self, guest.kind);
        let placement = place(candidates, &wanted);
        let Some(host) = placement.host else {
            if placement.is_for_good(&wanted.resources) {
                return Err(self.fall(task, Problem::new(Code::NoRoom, placement.text())).map(Box::new));
            }
            return Err(self.hold(task, format!("waiting for room: {}", placement.text())).map(Box::new));
        };
        room.take(host, guest.spec.resources.memory_bytes);
        Ok(host)
    }

    /// One operation at a time: the switch of a guest that is on its way somewhere waits.
    fn claim_power(&self, task: &Task, guest: GuestId, switch: Switch) -> Option<Claim> {
        let held = self.view().guest(guest).filter(|g| !g.is_gone() && g.desired.power != Power::Absent);
        let Some(guest) = held else {
            return self.fall(task, Problem::new(Code::NoSuchGuest, "the guest was deleted first"));
        };
        let hurried = switch == Switch::Stop { grace_ms: 0 };
        if let Some(before) = self.operation_before(task, &guest, hurried) {
            return self.hold(task, format!("waiting for {before}"));
        }
        let Some(host) = guest.desired.host else {
            return self.hold(task, "waiting for the guest to be placed".to_owned());
        };
        let mut next = guest.as_ref().clone();
        switch.apply(&mut next.desired);
        next.revision += 1;
        let mut claim = self.claimed(task, Some(host), Some(next.desired.generation))?;
        claim.nudge = Some((host, desired(&next)));
        claim.batch.update(Record::Guest(next));
        self.overtake(task, guest.id, &mut claim.batch);
        Some(claim)
    }

    /// What has to end before this may begin. A stop without grace, hurried, waits for no other switch.
    pub(crate) fn operation_before(&self, task: &Task, guest: &Guest, hurried: bool) -> Option<&'static str> {
        let rows = self.view().read();
        let mut running = rows.open_tasks_of(guest.id).filter(|t| t.id != task.id && t.state == TaskState::Running);
        let holds_up = |kind: &TaskKind| match kind {
            TaskKind::GuestCreate { .. } | TaskKind::GuestDelete { .. } | TaskKind::GuestOperate { .. } => true,
            kind => !hurried && matches!(kind, TaskKind::GuestPower { .. }),
        };
        running.find(|other| holds_up(&other.kind)).map(|other| other.kind.text())
    }

    /// Switches that a stop did not wait for, and those that were asked for before it and still wait, are
    /// ended by it; other stops are done when it is.
    fn overtake(&self, task: &Task, guest: GuestId, batch: &mut Batch) {
        let rows = self.view().read();
        let before = |t: &&Arc<Task>| t.state == TaskState::Running || t.id < task.id;
        let others = rows.open_tasks_of(guest).filter(|t| t.id != task.id).filter(before);
        let is_stop = |switch: Switch| matches!(switch, Switch::Stop { .. });
        let switched = others.filter(|t| matches!(t.kind, TaskKind::GuestPower { switch, .. } if !is_stop(switch)));
        for other in switched {
            if let TaskVerdict::Go(mut next) = other.step(&TaskEvent::CancelDone, self.clock().now()) {
                next.revision += 1;
                batch.update(Record::Task(*next));
            }
        }
    }

    fn claim_delete(&self, task: &Task, guest: GuestId) -> Option<Claim> {
        let Some(guest) = self.view().guest(guest).filter(|g| !g.is_gone()) else {
            let mut claim = self.claimed(task, None, None)?;
            finish(&mut claim.batch, task, self.clock().now());
            return Some(claim);
        };
        let next = self.desire_absent(&guest);
        let mut claim = self.claimed(task, next.desired.host, Some(next.desired.generation))?;
        self.cancel_others(task, &next, &mut claim.batch);
        match next.desired.host {
            Some(host) => claim.nudge = Some((host, desired(&next))),
            // Never placed: gone with this very write.
            None => finish(&mut claim.batch, task, self.clock().now()),
        }
        claim.batch.update(Record::Guest(next));
        Some(claim)
    }

    /// A delete ends the guest's other tasks.
    fn cancel_others(&self, delete: &Task, guest: &Guest, batch: &mut Batch) {
        let others: Vec<Arc<Task>> = {
            let rows = self.view().read();
            rows.open_tasks_of(guest.id).filter(|t| t.id != delete.id).cloned().collect()
        };
        let now = self.clock().now();
        for other in others {
            if let TaskKind::GuestExecute { execution, .. } = other.kind {
                self.lose_execution(execution, "the guest was deleted", batch);
            }
            if let TaskKind::GuestOperate { operation, .. } = &other.kind {
                self.forget_unmade(operation, batch);
            }
            if let TaskVerdict::Go(mut next) = other.step(&TaskEvent::CancelDone, now) {
                next.revision += 1;
                batch.update(Record::Task(*next));
            }
        }
    }

    fn claim_execute(&self, task: &Task, guest: GuestId, execution: ExecutionId) -> Option<Claim> {
        let guest = self.view().guest(guest)?;
        let execution = self.view().execution(execution)?;
        match self.guest_status(&guest) {
            GuestStatus::Running => {
                let host = guest.desired.host?;
                let mut claim = self.claimed(task, Some(host), None)?;
                claim.nudge = Some((host, FromServer::Execute(Box::new(order(&execution, &guest, false)))));
                Some(claim)
            }
            GuestStatus::Pending | GuestStatus::Waiting | GuestStatus::Starting => {
                self.hold(task, "waiting for the guest to run".to_owned())
            }
            GuestStatus::Unknown => self.hold(task, "waiting for the guest's host to say how it is".to_owned()),
            status @ (GuestStatus::Suspended
            | GuestStatus::Stopping
            | GuestStatus::Stopped
            | GuestStatus::Failed
            | GuestStatus::Deleting
            | GuestStatus::Deleted) => {
                let text = format!("the guest is {status:?}").to_lowercase();
                let mut claim = self.fall(task, Problem::new(Code::GuestNotRunning, text.clone()))?;
                self.lose_execution(execution.id, &text, &mut claim.batch);
                Some(claim)
            }
        }
    }

    fn claim_build(&self, task: &Task, image: ImageId, recipe: &Recipe) -> Option<Claim> {
        let candidates = self.candidates(GuestKind::Sandbox);
        let able = candidates.iter().filter(|c| c.connected && c.can_run).min_by_key(|c| (c.guests, c.id));
        let Some(host) = able.map(|c| c.id) else {
            return self.hold(task, "waiting for a host that can build images".to_owned());
        };
        let mut claim = self.claimed(task, Some(host), None)?;
        claim.nudge = Some((host, FromServer::Build { image, recipe: recipe.clone() }));
        Some(claim)
    }

    pub(crate) fn claimed(&self, task: &Task, host: Option<HostId>, generation: Option<u64>) -> Option<Claim> {
        let worker = self.0.worker.clone();
        self.step(task, &TaskEvent::Claimed { worker, epoch: self.epoch(), host, generation })
    }

    /// Says why it waits, if that is news.
    pub(crate) fn hold(&self, task: &Task, note: String) -> Option<Claim> {
        if task.note.as_deref() == Some(&note) {
            return None;
        }
        self.step(task, &TaskEvent::Held { note, until: task.scheduled_at })
    }

    pub(crate) fn fall(&self, task: &Task, problem: Problem) -> Option<Claim> {
        let mut claim = self.step(task, &TaskEvent::Fell { problem, again: false })?;
        if let TaskKind::GuestCreate { guest, .. } = task.kind
            && let Some(guest) = self.view().guest(guest).filter(|g| !g.is_gone())
        {
            let next = self.abandon(&guest);
            claim.nudge = next.desired.host.map(|h| (h, desired(&next)));
            claim.batch.update(Record::Guest(next));
        }
        self.give_up_operation(task, &mut claim.batch);
        claim.nudge = self.give_up_volume(task, &mut claim.batch).or(claim.nudge);
        claim.nudge = self.give_up_network(task, &mut claim.batch).or(claim.nudge);
        let about = ("task", task.id.to_string());
        let who = (&task.tenant, "perigee");
        claim.batch.events.push(self.event(who, "task.fail", about, &Cause::default(), task.kind.text()));
        Some(claim)
    }

    fn step(&self, task: &Task, event: &TaskEvent) -> Option<Claim> {
        let TaskVerdict::Go(mut next) = task.step(event, self.clock().now()) else { return None };
        next.revision += 1;
        let mut claim = Claim::default();
        claim.batch.update(Record::Task(*next));
        Some(claim)
    }

    /// What a running task's host is to do, for a resync.
    pub(crate) fn orders_of(&self, rows: &crate::view::Rows, task: &Task) -> Vec<FromServer> {
        match task.kind {
            TaskKind::GuestCreate { .. }
            | TaskKind::GuestDelete { .. }
            | TaskKind::GuestPower { .. }
            | TaskKind::ImageImport { .. }
            | TaskKind::BackupVerify { .. } => Vec::new(),
            TaskKind::GuestExecute { guest, execution } => {
                let found = rows.guests.get(&guest).zip(rows.executions.get(&execution));
                let cancel = task.cancel_asked.then_some(FromServer::CancelExecution { execution });
                // A host that never heard of the execution cannot tell of its end: it hears of both.
                let unheard = |e: &&Arc<Execution>| !task.cancel_asked || e.started_at.is_none();
                let start = found.filter(|(_, e)| unheard(e));
                let start = start.map(|(g, e)| FromServer::Execute(Box::new(order(e, g, false))));
                start.into_iter().chain(cancel).collect()
            }
            TaskKind::GuestOperate { .. } => Self::order_of_operation(rows, task).into_iter().collect(),
            TaskKind::VolumeCreate { volume }
            | TaskKind::VolumeDelete { volume }
            | TaskKind::VolumeResize { volume, .. } => {
                rows.volumes.get(&volume).map(|v| order_of(v)).into_iter().collect()
            }
            TaskKind::NetworkCreate { network } | TaskKind::NetworkDelete { network } => {
                rows.networks.get(&network).map(|n| crate::networks::order_of(n)).into_iter().collect()
            }
            // The guest's own order names its volumes.
            TaskKind::VolumeAttach { .. } | TaskKind::VolumeDetach { .. } => Vec::new(),
            TaskKind::ImageBuild { image, ref recipe } => vec![FromServer::Build { image, recipe: recipe.clone() }],
        }
    }
}

/// Free room as this round of claims sees it: read once, then taken from.
#[derive(Default)]
struct Room(HashMap<GuestKind, Vec<Candidate>>);

impl Room {
    fn candidates(&mut self, control: &Control, kind: GuestKind) -> &mut Vec<Candidate> {
        self.0.entry(kind).or_insert_with(|| control.candidates(kind))
    }
}

impl Room {
    /// What one kind of guest takes is gone for all.
    fn take(&mut self, host: HostId, memory_bytes: u64) {
        for chosen in self.0.values_mut().flatten().filter(|c| c.id == host) {
            chosen.memory_taken_bytes += memory_bytes;
            chosen.guests += 1;
        }
    }
}

/// Owners take turns within one aged priority.
fn in_turn(ranked: &[Arc<Task>], now: Timestamp) -> Vec<Arc<Task>> {
    let mut seen: HashMap<(i64, &str), usize> = HashMap::new();
    let mut keyed: Vec<(i64, usize, usize)> = Vec::with_capacity(ranked.len());
    for (index, task) in ranked.iter().enumerate() {
        let level = task.rank(now).0;
        let turn = seen.entry((level, task.owner.as_str())).or_default();
        keyed.push((level, *turn, index));
        *turn += 1;
    }
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, _, index)| ranked[index].clone()).collect()
}

/// The claim of this task ends it in the same write.
fn finish(batch: &mut Batch, task: &Task, now: Timestamp) {
    for change in &mut batch.changes {
        if let perigee_store::Change::Put(Record::Task(written), _) = change
            && written.id == task.id
            && let TaskVerdict::Go(mut next) = written.step(&TaskEvent::Done, now)
        {
            next.revision = written.revision;
            *written = *next;
        }
    }
}
