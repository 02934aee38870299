//! Long work on a guest: snapshots and backups.
//!
//! ```text
//!   told ─▶ due ─▶ (booting, when it went back to its disk) ─▶ ended ─▶ taken
//!            └─ the driver does not answer: once more, so many times
//! ```
//! Owns: one operation at a time, written down before it is begun and until its end is taken; begun again
//! by the next life of the agent. Refuses: a second one meanwhile (it is told again), and one whose end
//! was taken.

use super::Reach;
use super::actor::{Actor, bounded};
use crate::journal::Keep as Last;
use crate::nursery::Effect;
use perigee_agent_api::{Operate, OperationReport, OperationResult, OperationStage};
use perigee_hypervisor::{Hypervisor, HypervisorError, Keep, Kept, Progress, Snapshots};
use perigee_model::guest::Problem;
use perigee_model::{
    Code, GuestId, Observed, Operation, Phase, Power, Resources, SnapshotId, Taken, TaskId, Timestamp,
};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tracing::{info, warn};

/// Ends that were taken are remembered, the newest: a late order for one of them is not done again.
const TAKEN_KEPT: usize = 8;
/// A driver that does not answer is asked so often.
const TRIES_MAX: u32 = 300;
/// With this between two times.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// Reports of how far it is come no more often than this.
const REPORT_EVERY: Duration = Duration::from_millis(500);

/// What there is to do, and what was done.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Operations {
    newest: Option<Known>,
    taken: VecDeque<TaskId>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Known {
    order: Operate,
    stage: Stage,
    tries: u32,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
enum Stage {
    Due,
    /// It is back at its disk and was up: it is done when it is up again.
    Booting,
    Ended(OperationStage),
}

impl Operations {
    /// There is one to be done.
    pub(super) fn is_due(&self) -> bool {
        self.due().is_some()
    }

    fn due(&self) -> Option<&Operate> {
        self.newest.as_ref().filter(|known| known.stage == Stage::Due).map(|known| &known.order)
    }

    /// Its end, when it has one.
    fn ended(&self) -> Option<OperationReport> {
        let known = self.newest.as_ref()?;
        let Stage::Ended(stage) = &known.stage else { return None };
        Some(OperationReport { task: known.order.task, guest: known.order.guest, stage: stage.clone() })
    }

    fn is_known(&self, task: TaskId) -> bool {
        self.taken.contains(&task) || self.newest.as_ref().is_some_and(|known| known.order.task == task)
    }

    /// The one that is to be done, and that nobody wants any more.
    pub(super) fn gives_up(&self, task: TaskId) -> bool {
        self.due().is_some_and(|order| order.task == task && order.cancelled && order.operation.backup().is_some())
    }

    /// Takes a new one, or that one is cancelled. `false`: it is known, or another is not done yet.
    fn take(&mut self, order: Operate) -> bool {
        if let Some(known) = self.newest.as_mut().filter(|known| known.order.task == order.task) {
            let news = order.cancelled && !known.order.cancelled && known.stage == Stage::Due;
            known.order.cancelled |= news;
            return news;
        }
        if self.is_known(order.task) || self.newest.is_some() && self.ended().is_none() {
            return false;
        }
        if let Some(before) = self.newest.replace(Known { order, stage: Stage::Due, tries: 0 }) {
            self.remember(before.order.task);
        }
        true
    }

    fn forget(&mut self, task: TaskId) -> bool {
        let known = self.ended().is_some_and(|ended| ended.task == task);
        if known {
            self.newest = None;
            self.remember(task);
        }
        known
    }

    fn remember(&mut self, task: TaskId) {
        self.taken.push_back(task);
        if self.taken.len() > TAKEN_KEPT {
            self.taken.pop_front();
        }
    }
}

impl Actor {
    /// What was left in the mailbox: an operation, or the receipt of one's end.
    pub(super) async fn take_operations(&mut self, order: Option<Operate>, taken: Option<TaskId>) {
        if let Some(task) = taken {
            if self.document.operations.forget(task) {
                self.save(Last::Process).await;
            }
            self.world.outbox.drop_operation(task);
        }
        let Some(order) = order else { return };
        let before = self.document.operations.clone();
        if !self.document.operations.take(order) {
            return self.repeat_operation();
        }
        if let Some(ended) = before.ended() {
            self.world.outbox.drop_operation(ended.task);
        }
        if !self.save(Last::Power).await {
            self.document.operations = before; // it is told again
        } else if self.document.operations.due().is_some_and(|due| self.document.operations.gives_up(due.task)) {
            self.give_up.cancel();
        }
    }

    /// Says its end again, if it has one.
    pub(super) fn repeat_operation(&self) {
        if let Some(ended) = self.document.operations.ended() {
            self.world.outbox.operation(ended);
        }
    }

    /// Nothing of the guest is known any more.
    pub(super) fn drop_operation(&self) {
        if let Some(known) = &self.document.operations.newest {
            self.world.outbox.drop_operation(known.order.task);
        }
    }

    /// Does what is due.
    pub(super) async fn operate(&mut self) {
        let Some(order) = self.document.operations.due().cloned() else { return };
        if self.document.observed.phase == Phase::Gone {
            return self.failed(Problem::new(Code::NoSuchGuest, "the guest was deleted")).await;
        }
        info!(guest = %self.id(), task = %order.task, operation = order.operation.text(), "begun");
        let done = match &order.operation {
            Operation::CreateSnapshot { snapshot, name, memory } => {
                let memory_bytes = memory.then(|| self.memory_bytes());
                let wish = Keep { snapshot: *snapshot, title: name.clone(), memory_bytes };
                self.keep(&order, wish).await
            }
            Operation::RevertSnapshot { snapshot, booted, .. } => self.go_back(&order, *snapshot, *booted).await,
            Operation::CreateBackup { backup, sealed, bases } => {
                self.back_up(&order, (*backup, *sealed), bases.clone()).await
            }
            Operation::DeleteSnapshot { snapshot } => {
                let (mine, wanted) = (*snapshot, order.snapshots.clone());
                let (hypervisor, id) = (self.hypervisor.clone(), self.id());
                let work = self.effect(async move {
                    let driver = snapshots_of(&*hypervisor)?;
                    driver.forget(id, mine).await?;
                    sweep(driver, id, &wanted).await
                });
                self.worked(&order, "deleting it", (work, watch::channel(None).1))
                    .await
                    .map(|()| Some(OperationResult::Forgotten))
            }
        };
        match done {
            Ok(Some(result)) => {
                let freed = result == OperationResult::Forgotten && self.document.is_starved();
                self.end(OperationStage::Done(result)).await;
                if freed {
                    // In its own disk, which the host's file system does not show.
                    self.feed().await;
                }
            }
            Ok(None) => {}
            Err(error) => self.put_off(&order, &error).await,
        }
    }

    /// One that had to boot is done when it has.
    pub(super) async fn conclude_operation(&mut self) {
        if self.document.operations.newest.as_ref().is_none_or(|known| known.stage != Stage::Booting) {
            return;
        }
        match self.document.observed.phase {
            Phase::Running | Phase::Paused | Phase::Stopped | Phase::Gone => {
                self.end(OperationStage::Done(OperationResult::WentBack)).await;
            }
            Phase::Failed => {
                let problem = self.document.observed.problem.clone();
                let none = || Problem::new(Code::BootFailed, "it is back at its disk, and did not boot");
                self.failed(problem.unwrap_or_else(none)).await;
            }
            Phase::Waiting | Phase::Fetching | Phase::Booting | Phase::Stopping => {}
        }
    }

    async fn keep(&mut self, order: &Operate, wish: Keep) -> Result<Option<OperationResult>, HypervisorError> {
        let with_memory = wish.memory_bytes.is_some();
        let wanted = order.snapshots.clone();
        let (hypervisor, id) = (self.hypervisor.clone(), self.id());
        let (tell, told) = watch::channel(None);
        let work = self.effect(async move {
            let driver = snapshots_of(&*hypervisor)?;
            sweep(driver, id, &wanted).await?;
            driver.keep(id, &wish, &tell).await
        });
        let doing = if with_memory { "writing its memory" } else { "keeping its disk" };
        let kept = self.worked(order, doing, (work, told)).await;
        if with_memory {
            self.verify().await;
        }
        let kept: Kept = kept?;
        let booted = self.document.observed.booted.filter(|_| with_memory);
        Ok(Some(OperationResult::Kept(Taken { at: time(kept.at), memory_bytes: kept.memory_bytes, booted })))
    }

    async fn go_back(
        &mut self,
        order: &Operate,
        snapshot: SnapshotId,
        booted: Option<Resources>,
    ) -> Result<Option<OperationResult>, HypervisorError> {
        let was_up = self.alive;
        self.let_go();
        // One that goes on in its memory has its card from then on.
        if !was_up && let Err(problem) = self.plug_card().await {
            return Err(HypervisorError::Refused(problem.text));
        }
        let (hypervisor, id) = (self.hypervisor.clone(), self.id());
        let work = self.effect(async move { snapshots_of(&*hypervisor)?.go_back(id, snapshot).await });
        let found = match self.worked(order, "putting it back", (work, watch::channel(None).1)).await {
            Ok(found) => found,
            Err(error) => {
                self.verify().await;
                self.reconnects();
                if !self.alive {
                    self.rest_card().await?;
                }
                return Err(error);
            }
        };
        (self.alive, self.paused, self.starved, self.fell) = (found.alive, found.paused, found.starved, None);
        self.reconnects();
        if found.alive {
            // Whatever its switch was: it goes on where it was. The control plane follows.
            self.document.order.desired.power = Power::Running;
            let (led, own) = (self.raise_card().await?, self.document.own_addresses());
            self.observe(Phase::Running, |o: &mut Observed| {
                o.booted = booted.or(o.booted);
                o.forwards = led;
                if !own.is_empty() {
                    o.addresses = own;
                }
            })
            .await;
            return Ok(Some(OperationResult::WentBack));
        }
        self.rest_card().await?;
        if !was_up || !self.wants_running() {
            return Ok(Some(OperationResult::WentBack));
        }
        self.document.falls = 0;
        if let Some(known) = self.document.operations.newest.as_mut() {
            known.stage = Stage::Booting;
        }
        self.observe(Phase::Waiting, |o: &mut Observed| {
            o.note = Some("it is back at its snapshot's disk, and boots".to_owned());
            o.addresses.clear();
        })
        .await;
        Ok(None)
    }

    /// Whoever wants to reach one that lives waits for its next session.
    fn reconnects(&self) {
        if self.alive {
            self.handle.reach.send_replace(Reach::Broken);
        }
    }

    /// Memory that may have to be written.
    fn memory_bytes(&self) -> u64 {
        let booted = self.document.observed.booted;
        booted.unwrap_or(self.document.order.spec.resources).memory_bytes
    }

    /// Waits for work and tells how far it is. It changes the host: it is waited for to its end.
    pub(super) async fn worked<T>(
        &mut self,
        order: &Operate,
        doing: &str,
        (mut effect, mut told): (Effect<Result<T, HypervisorError>>, watch::Receiver<Progress>),
    ) -> Result<T, HypervisorError> {
        self.tell_progress(order, doing, None);
        let handle = self.handle.clone();
        loop {
            tokio::select! {
                biased;
                answer = effect.wait() => match answer {
                    Some(answer) => return answer,
                    None => std::future::pending().await, // the agent ends
                },
                () = handle.wake.notified() => self.take_mail().await,
                () = tokio::time::sleep(REPORT_EVERY) => {
                    let progress = told.borrow_and_update().clone();
                    if let Some((note, percent)) = progress {
                        self.tell_progress(order, &note, percent);
                    }
                }
            }
        }
    }

    fn tell_progress(&self, order: &Operate, note: &str, percent: Option<u8>) {
        let stage = OperationStage::Running { note: bounded(note), percent };
        self.world.outbox.operation(OperationReport { task: order.task, guest: order.guest, stage });
    }

    /// What the driver refuses is refused; when it only does not answer, it is asked again.
    async fn put_off(&mut self, order: &Operate, error: &HypervisorError) {
        warn!(guest = %self.id(), task = %order.task, error = %crate::chain(error), "the operation was not done");
        if self.document.operations.gives_up(order.task) {
            return self.failed(Problem::new(Code::TaskCancelled, "cancelled while it ran")).await;
        }
        let is_backup = order.operation.backup().is_some();
        let none = if is_backup { Code::NoBackups } else { Code::NoSnapshots };
        let fell = if is_backup { Code::BackupFailed } else { Code::SnapshotFailed };
        let code = match error {
            HypervisorError::NoSnapshot => Code::NoSuchSnapshot,
            HypervisorError::NoRoom(_) | HypervisorError::DiskFull(_) => Code::DiskFull,
            HypervisorError::NotRunning => Code::GuestNotRunning,
            HypervisorError::BadPlan(_) => none,
            HypervisorError::DidNotStart(_)
            | HypervisorError::Locked(_)
            | HypervisorError::Refused(_)
            | HypervisorError::InUse(_)
            | HypervisorError::Tampered(_)
            | HypervisorError::Silent(_)
            | HypervisorError::UnknownExecution
            | HypervisorError::GuestRefused { .. } => fell,
            HypervisorError::Channel(_) | HypervisorError::Os { .. } => {
                let tries = self.document.operations.newest.as_mut().map_or(TRIES_MAX, |known| {
                    known.tries += 1;
                    known.tries
                });
                if tries < TRIES_MAX {
                    self.tell_progress(order, &format!("once more: {}", crate::chain(error)), None);
                    tokio::time::sleep(TRY_AGAIN).await;
                    return;
                }
                fell
            }
        };
        self.failed(Problem::new(code, bounded(&crate::chain(error)))).await;
    }

    async fn failed(&mut self, problem: Problem) {
        self.end(OperationStage::Failed(problem)).await;
    }

    async fn end(&mut self, stage: OperationStage) {
        info!(guest = %self.id(), stage = ?stage, "the operation ended");
        if let Some(known) = self.document.operations.newest.as_mut() {
            known.stage = Stage::Ended(stage);
        }
        self.save(Last::Power).await;
        self.repeat_operation();
    }
}

fn snapshots_of(hypervisor: &dyn Hypervisor) -> Result<&dyn Snapshots, HypervisorError> {
    let none = || HypervisorError::BadPlan("its driver keeps no snapshots".to_owned());
    hypervisor.snapshots().ok_or_else(none)
}

/// Removes snapshots of ours that nobody knows of.
async fn sweep(driver: &dyn Snapshots, guest: GuestId, wanted: &[SnapshotId]) -> Result<(), HypervisorError> {
    for kept in driver.kept(guest).await? {
        if !wanted.contains(&kept.snapshot) {
            warn!(%guest, snapshot = %kept.snapshot, "a snapshot that nobody knows of is removed");
            driver.forget(guest, kept.snapshot).await?;
        }
    }
    Ok(())
}

/// To the microsecond, as everything is told.
pub(super) fn time(at: SystemTime) -> Timestamp {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
