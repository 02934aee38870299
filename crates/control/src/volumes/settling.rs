//! What becomes of the tasks on volumes: claimed, told to their hosts, settled by reports, given up.

use crate::Control;
use crate::queue::Claim;
use crate::tasks::desired;
use crate::view::Rows;
use perigee_agent_api::{DesiredVolume, FromServer, VolumeReport, VolumeStage};
use perigee_model::guest::Problem;
use perigee_model::task::TaskEvent;
use perigee_model::{
    Code, Guest, GuestId, HostId, Observed, Phase, Power, Refusal, Task, TaskKind, TaskState, Volume, VolumeId,
};
use perigee_store::{Batch, Change, Noun, Record};
use std::sync::Arc;

/// An order that its host is sent at once.
type Nudge = Option<(HostId, FromServer)>;

impl Control {
    /// The claim of a task that its host does alone.
    pub(crate) fn claim_volume(&self, task: &Task, volume: VolumeId) -> Option<Claim> {
        let Some(volume) = self.view().volume(volume) else { return self.fall(task, no_volume()) };
        if !self.links().is_connected(volume.host) {
            return self.hold(task, "waiting for its host to connect".to_owned());
        }
        let mut next = volume.as_ref().clone();
        if matches!(task.kind, TaskKind::VolumeDelete { .. }) {
            next.absent = true;
            next.generation += 1;
        }
        let mut claim = self.claimed(task, Some(next.host), Some(next.generation))?;
        claim.nudge = Some((next.host, order_of(&next)));
        if next != *volume {
            next.revision += 1;
            claim.batch.update(Record::Volume(next));
        }
        Some(claim)
    }

    /// The claim of an attach or a detach: from here on it is the VM's own wish.
    pub(crate) fn claim_plug(&self, task: &Task, volume: VolumeId, guest: GuestId) -> Option<Claim> {
        let held = self.view().guest(guest).filter(|g| !g.is_gone() && g.desired.power != Power::Absent);
        let Some(guest) = held else {
            return self.fall(task, Problem::new(Code::NoSuchGuest, "the VM was deleted first"));
        };
        if self.view().volume(volume).is_none() {
            return self.fall(task, no_volume());
        }
        // Its switch may move meanwhile: a VM that is stopped lets go of everything.
        if let Some(before) = self.operation_before(task, &guest, true) {
            return self.hold(task, format!("waiting for {before}"));
        }
        let mut next = guest.as_ref().clone();
        wish(&mut next, volume, matches!(task.kind, TaskKind::VolumeAttach { .. }));
        let mut claim = self.claimed(task, next.desired.host, Some(next.desired.generation))?;
        claim.nudge = next.desired.host.map(|host| (host, desired(&next)));
        if next != *guest {
            next.revision += 1;
            claim.batch.update(Record::Guest(next));
        }
        Some(claim)
    }

    /// What a VM's report says of an attach or a detach. `false`: the task is another one.
    pub(crate) fn settle_plug(
        &self,
        task: &Task,
        guest: &mut Guest,
        (observed, behind): (&Observed, bool),
        batch: &mut Batch,
    ) -> bool {
        let (volume, attach) = match task.kind {
            TaskKind::VolumeAttach { volume, .. } => (volume, true),
            TaskKind::VolumeDetach { volume, .. } => (volume, false),
            _ => return false,
        };
        let is_gone = observed.phase == Phase::Gone;
        if task.state != TaskState::Running || (behind && !is_gone) {
            return true;
        }
        let plugged = observed.volumes.iter().find(|one| one.volume == volume);
        let problem = plugged.and_then(|one| one.problem.clone());
        let event = match (attach, plugged.is_some(), problem) {
            (true, _, _) if is_gone => {
                TaskEvent::Fell { problem: Problem::new(Code::NoSuchGuest, "the VM was deleted"), again: false }
            }
            (false, _, _) if is_gone => TaskEvent::Done,
            (true, true, None) | (false, false, _) => TaskEvent::Done,
            (true, _, Some(problem)) => TaskEvent::Fell { problem, again: false },
            (true, false, None) | (false, true, _) => {
                let note = observed.note.clone().unwrap_or_else(|| "on its way".to_owned());
                TaskEvent::Progressed { note, percent: None }
            }
        };
        let is_out = !is_gone && matches!((&event, attach), (TaskEvent::Done, false) | (TaskEvent::Fell { .. }, true));
        if is_out {
            wish(guest, volume, false);
            self.free(volume, batch);
        }
        self.step_task(task, &event, None, batch);
        true
    }

    /// Volumes that a VM does not have any more, and that nobody works on, are nobody's.
    pub(crate) fn free_volumes(&self, guest: &Guest, batch: &mut Batch) {
        let Some(observed) = &guest.observed else { return };
        let caught_up = observed.generation >= guest.desired.generation;
        let has = |volume: VolumeId| {
            guest.volumes().contains(&volume) || observed.volumes.iter().any(|one| one.volume == volume)
        };
        let out: Vec<VolumeId> = {
            let rows = self.view().read();
            let mine = rows.volumes.values().filter(|v| v.guest == Some(guest.id));
            let is_out = |v: &&Arc<Volume>| {
                guest.is_gone() || caught_up && !has(v.id) && rows.open_task_of_volume(v.id).is_none()
            };
            mine.filter(is_out).map(|v| v.id).collect()
        };
        out.into_iter().for_each(|volume| self.free(volume, batch));
    }

    fn free(&self, volume: VolumeId, batch: &mut Batch) {
        if let Some(volume) = self.view().volume(volume).filter(|v| v.guest.is_some()) {
            let next = Volume { guest: None, revision: volume.revision + 1, ..volume.as_ref().clone() };
            batch.update(Record::Volume(next));
        }
    }

    /// Takes one report on a volume.
    ///
    /// # Errors
    /// What the store says; it is asked for again.
    pub(crate) async fn settle_volume(&self, host: HostId, report: &VolumeReport) -> Result<(), Refusal> {
        self.decide(|| {
            let mut batch = Batch::default();
            let held = self.view().volume(report.volume);
            let Some(volume) = held.filter(|v| v.host == host && v.generation <= report.generation) else {
                return Ok((batch, ()));
            };
            let task = self.view().read().open_task_of_volume(volume.id).cloned();
            let task = task.filter(|t| t.host == Some(host) && t.state == TaskState::Running);
            if let Some(task) = &task {
                self.step_task(task, &event_of(&report.stage), None, &mut batch);
            }
            match reported(&volume, task.as_deref(), &report.stage) {
                Some(next) if next != *volume => {
                    batch.update(Record::Volume(Volume { revision: volume.revision + 1, ..next }));
                }
                Some(_) => {}
                None => batch.changes.push(Change::Delete(Noun::Volume, volume.id.to_string())),
            }
            Ok((batch, ()))
        })
        .await?;
        self.0.queue_wake.notify_one();
        Ok(())
    }

    /// A task on a volume that ends without its host's word: what it asked for is taken back.
    pub(crate) fn give_up_volume(&self, task: &Task, batch: &mut Batch) -> Nudge {
        let volume = self.view().volume(task.kind.volume()?)?;
        let began = task.started_at.is_some();
        let mut next = volume.as_ref().clone();
        match task.kind {
            TaskKind::VolumeCreate { .. } if !began => {
                batch.changes.push(Change::Delete(Noun::Volume, volume.id.to_string()));
                return None;
            }
            TaskKind::VolumeCreate { .. } => next.absent = true,
            TaskKind::VolumeResize { before_bytes, .. } => next.bytes = before_bytes,
            TaskKind::VolumeAttach { guest, .. } if began => return self.unwish(volume.id, guest, false, batch),
            TaskKind::VolumeAttach { .. } => {
                self.free(volume.id, batch);
                return None;
            }
            TaskKind::VolumeDetach { guest, .. } if began => return self.unwish(volume.id, guest, true, batch),
            // One that its host has begun with ends without a task; one that it has not begun with has changed nothing.
            _ => return None,
        }
        next.generation += 1;
        next.revision += 1;
        let nudge = (next.host, order_of(&next));
        batch.update(Record::Volume(next));
        Some(nudge)
    }

    /// The VM's wish as it was; the volume stays its until its host has said that it is out.
    fn unwish(&self, volume: VolumeId, guest: GuestId, has: bool, batch: &mut Batch) -> Nudge {
        let guest = self.view().guest(guest).filter(|g| !g.is_gone())?;
        let mut next = guest.as_ref().clone();
        wish(&mut next, volume, has);
        if next == *guest {
            return None;
        }
        next.revision += 1;
        let nudge = next.desired.host.map(|host| (host, desired(&next)));
        batch.update(Record::Guest(next));
        nudge
    }
}

/// Makes a VM want a volume, or not.
fn wish(guest: &mut Guest, volume: VolumeId, has: bool) {
    let Some(vm) = guest.spec.vm.as_mut() else { return };
    if vm.volumes.contains(&volume) == has {
        return;
    }
    match has {
        true => vm.volumes.push(volume),
        false => vm.volumes.retain(|one| *one != volume),
    }
    guest.desired.generation += 1;
}

/// What its host is told of it.
pub(crate) fn order_of(volume: &Volume) -> FromServer {
    let Volume { id, generation, bytes, guest, absent, .. } = *volume;
    FromServer::Volume(DesiredVolume { volume: id, generation, bytes, guest, absent })
}

/// Volumes of which nothing should be left, and that no task asks for: for a resync.
pub(crate) fn leftovers(rows: &Rows, host: HostId) -> Vec<FromServer> {
    let left = rows.volumes.values().filter(|v| v.host == host && v.absent);
    left.filter(|v| rows.open_task_of_volume(v.id).is_none()).map(|v| order_of(v)).collect()
}

fn no_volume() -> Problem {
    Problem::new(Code::NoSuchVolume, "the volume was deleted first")
}

fn event_of(stage: &VolumeStage) -> TaskEvent {
    match stage {
        VolumeStage::Trying { note } => TaskEvent::Progressed { note: note.clone(), percent: None },
        VolumeStage::Stored { .. } | VolumeStage::Gone => TaskEvent::Done,
        VolumeStage::Failed(problem) => TaskEvent::Fell { problem: problem.clone(), again: false },
    }
}

/// The volume after its host's word; `None`: nothing is left of it.
fn reported(volume: &Volume, task: Option<&Task>, stage: &VolumeStage) -> Option<Volume> {
    let mut next = volume.clone();
    match (stage, task.map(|task| &task.kind)) {
        (VolumeStage::Trying { .. }, _) => {}
        (VolumeStage::Stored { bytes }, _) => {
            next.stored_bytes = Some(*bytes);
            // It never shrinks: what was asked for and taken back may have been done.
            next.bytes = next.bytes.max(*bytes);
        }
        (VolumeStage::Gone, _) => return None,
        // Nothing of it was made.
        (VolumeStage::Failed(_), Some(TaskKind::VolumeCreate { .. })) => return None,
        (VolumeStage::Failed(_), Some(TaskKind::VolumeResize { before_bytes, .. })) => {
            next.bytes = *before_bytes;
            next.generation += 1;
        }
        (VolumeStage::Failed(_), Some(TaskKind::VolumeDelete { .. })) => {
            next.absent = false;
            next.generation += 1;
        }
        (VolumeStage::Failed(_), Some(_) | None) => {}
    }
    Some(next)
}
