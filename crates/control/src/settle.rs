//! Settling: what agents report is written down, and tasks that waited for it end.
//!
//! Reports arrive twice, late and out of order: a guest's carry a sequence, an execution's end is
//! final. A report about a guest that is placed elsewhere is ignored: no host speaks for another.

use crate::tasks::desired;
use crate::{Cause, Control};
use perigee_agent_api::{BuildReport, BuildStage, ExecutionEnd, ExecutionReport, FromServer, GuestReport};
use perigee_model::guest::Problem;
use perigee_model::task::{TaskEvent, TaskVerdict};
use perigee_model::{
    Code, Execution, ExecutionId, ExecutionState, Guest, HostId, Image, ImageState, Observed, Outcome, Phase, Power,
    Refusal, Task, TaskKind, TaskState,
};
use perigee_store::{Batch, Record};
use std::sync::Arc;

impl Control {
    /// Takes one guest's report.
    ///
    /// # Errors
    /// What the store says; the agent reports again.
    pub(crate) async fn settle_guest(&self, host: HostId, report: &GuestReport) -> Result<(), Refusal> {
        let nudge = self
            .decide(|| {
                let held = self.view().guest(report.guest).filter(|g| g.desired.host == Some(host));
                let Some(guest) = held else {
                    tracing::warn!(%host, guest = %report.guest, "a host reports a guest it should not have");
                    return Ok((Batch::default(), None));
                };
                let mut next = guest.as_ref().clone();
                if !next.take_report(&report.observed, self.clock().now()) {
                    // A late order brought a gone guest back: its host hears again that it is gone.
                    let back = guest.is_gone() && report.observed.phase != Phase::Gone;
                    return Ok((Batch::default(), back.then(|| desired(&guest))));
                }
                let mut batch = Batch::default();
                self.settle_tasks_of(&mut next, &report.observed, &mut batch);
                self.note_phase(&guest, &next, host, &mut batch);
                self.note_room(&guest, &next, host, &mut batch);
                self.free_volumes(&next, &mut batch);
                let moved = next.desired.generation > guest.desired.generation;
                let nudge = moved.then(|| desired(&next));
                next.revision += 1;
                batch.update(Record::Guest(next));
                Ok((batch, nudge))
            })
            .await?;
        if self.view().guest(report.guest).is_some_and(|guest| guest.desired.host == Some(host)) {
            self.links().told(host, report.guest, report.observed.phase == Phase::Gone);
        }
        if let Some(message) = nudge {
            self.links().send(host, message);
        }
        self.0.queue_wake.notify_one();
        Ok(())
    }

    fn settle_tasks_of(&self, guest: &mut Guest, observed: &Observed, batch: &mut Batch) {
        let tasks: Vec<Arc<Task>> = {
            let rows = self.view().read();
            rows.open_tasks_of(guest.id).cloned().collect()
        };
        // Gone is final: nothing newer will be heard, whatever generation was asked for meanwhile.
        let is_final = observed.phase == Phase::Gone;
        for task in tasks {
            if matches!(task.kind, TaskKind::GuestCreate { .. }) && guest.is_adopted() {
                want_as_found(guest, observed);
            }
            let behind = task.generation.is_some_and(|g| observed.generation < g);
            if self.settle_plug(&task, guest, (observed, behind), batch) {
                continue;
            }
            if task.state != TaskState::Running || (behind && !is_final) {
                continue;
            }
            if let Some(event) = event_of(&task, guest, observed) {
                self.step_task(&task, &event, Some(guest), batch);
            }
            if let (TaskKind::GuestOperate { operation, .. }, true) = (&task.kind, is_final) {
                self.forget_unmade(operation, batch);
            }
        }
        if observed.phase == Phase::Gone {
            let open: Vec<ExecutionId> = {
                let rows = self.view().read();
                rows.open_executions().filter(|e| e.guest == guest.id).map(|e| e.id).collect()
            };
            for execution in open {
                self.lose_execution(execution, "the guest is gone", batch);
            }
        }
    }

    /// Steps a task; a create that ends badly takes its guest with it, in the same write.
    pub(crate) fn step_task(&self, task: &Task, event: &TaskEvent, guest: Option<&mut Guest>, batch: &mut Batch) {
        let TaskVerdict::Go(mut next) = task.step(event, self.clock().now()) else { return };
        next.revision += 1;
        let ended_badly = next.state.is_final() && next.state != TaskState::Succeeded;
        if ended_badly {
            let about = ("task", task.id.to_string());
            let who = (&task.tenant, "perigee");
            let text = next.problem.as_ref().map(|p| p.code.clone()).unwrap_or_default();
            batch.events.push(self.event(who, "task.fail", about, &Cause::default(), text));
        }
        let creates = matches!(task.kind, TaskKind::GuestCreate { .. });
        if ended_badly && creates {
            match guest {
                Some(guest) if !guest.is_gone() && guest.desired.power != Power::Absent => {
                    guest.desired.power = Power::Absent;
                    guest.desired.release = guest.is_adopted();
                    guest.desired.generation += 1;
                }
                Some(_) | None => {}
            }
        }
        batch.update(Record::Task(*next));
    }

    fn note_phase(&self, was: &Guest, is: &Guest, host: HostId, batch: &mut Batch) {
        let phase = is.observed.as_ref().map(|o| o.phase);
        if was.observed.as_ref().map(|o| o.phase) == phase {
            return;
        }
        let verb = match phase {
            Some(Phase::Running) => "guest.running",
            Some(Phase::Failed) => "guest.failed",
            Some(Phase::Gone) => "guest.gone",
            Some(Phase::Paused) => "guest.paused",
            Some(Phase::Stopped) => "guest.stopped",
            Some(Phase::Waiting | Phase::Fetching | Phase::Booting | Phase::Stopping) | None => return,
        };
        let detail = is.observed.as_ref().and_then(|o| o.problem.as_ref()).map(|p| p.code.clone()).unwrap_or_default();
        let actor = format!("host:{host}");
        let about = ("guest", is.id.to_string());
        batch.events.push(self.event((&is.tenant, &actor), verb, about, &Cause::default(), detail));
    }

    /// Its host's disk is full, and it stands; or it goes on.
    fn note_room(&self, was: &Guest, is: &Guest, host: HostId, batch: &mut Batch) {
        if was.is_starved() == is.is_starved() {
            return;
        }
        let verb = if is.is_starved() { "guest.no-space" } else { "guest.space" };
        let problem = is.observed.as_ref().and_then(|o| o.problem.as_ref()).filter(|_| is.is_starved());
        let detail = problem.map_or_else(|| is.name.to_string(), |problem| problem.text.clone());
        let (actor, about) = (format!("host:{host}"), ("guest", is.id.to_string()));
        batch.events.push(self.event((&is.tenant, &actor), verb, about, &Cause::default(), detail));
    }

    /// Takes one execution's report; its end is acknowledged once it is stored.
    ///
    /// # Errors
    /// What the store says; the agent reports again.
    pub(crate) async fn settle_execution(&self, host: HostId, report: ExecutionReport) -> Result<(), Refusal> {
        self.decide(|| {
            let Some(held) = self.view().execution(report.execution) else { return Ok((Batch::default(), ())) };
            let ours = self.view().guest(held.guest).is_some_and(|g| g.desired.host == Some(host));
            // A definite end replaces `lost`, which only ever meant: not known.
            let open = matches!(held.outcome, None | Some(Outcome::Lost));
            if !ours || !open || (report.end.is_none() && held.outcome.is_some()) {
                return Ok((Batch::default(), ()));
            }
            let next = reported(&held, &report);
            if next == *held {
                return Ok((Batch::default(), ()));
            }
            let mut batch = Batch::default();
            self.settle_task_of(&next, &mut batch);
            batch.update(Record::Execution(Execution { revision: held.revision + 1, ..next }));
            Ok((batch, ()))
        })
        .await?;
        if report.end.is_some() {
            self.links().send(host, FromServer::ExecutionTaken { execution: report.execution });
        }
        Ok(())
    }

    fn settle_task_of(&self, execution: &Execution, batch: &mut Batch) {
        let Some(outcome) = &execution.outcome else { return };
        let Some(task) = execution.task.and_then(|id| self.view().task(id)) else { return };
        let event = match outcome {
            _ if task.cancel_asked => TaskEvent::CancelDone,
            Outcome::Lost => {
                let text = "the guest no longer knows the execution; whether it finished is not known";
                TaskEvent::Fell { problem: Problem::new(Code::ExecutionLost, text), again: false }
            }
            Outcome::Exited { .. } | Outcome::Signaled { .. } | Outcome::TimedOut | Outcome::FailedToStart { .. } => {
                TaskEvent::Done
            }
        };
        self.step_task(&task, &event, None, batch);
    }

    /// Takes an image build's report.
    ///
    /// # Errors
    /// What the store says; the agent reports again.
    pub(crate) async fn settle_build(&self, host: HostId, report: BuildReport) -> Result<(), Refusal> {
        self.decide(|| {
            let task = {
                let rows = self.view().read();
                let mut open = rows.open_tasks();
                let about =
                    |t: &&Arc<Task>| matches!(t.kind, TaskKind::ImageBuild { image, .. } if image == report.image);
                open.find(about).filter(|t| t.host == Some(host)).cloned()
            };
            let (Some(task), Some(image)) = (task, self.view().image(report.image)) else {
                return Ok((Batch::default(), ()));
            };
            let mut batch = Batch::default();
            let event = build_event(&report.stage);
            self.step_task(&task, &event, None, &mut batch);
            if let Some(next) = built(&image, &report.stage) {
                batch.update(Record::Image(next));
            }
            Ok((batch, ()))
        })
        .await?;
        if !matches!(report.stage, BuildStage::Running { .. }) {
            self.links().send(host, FromServer::BuildTaken { image: report.image });
        }
        Ok(())
    }

    /// Interactive executions on a host that its agent does not name were never heard of, or their
    /// end is about to be reported: `lost` until then.
    pub(crate) async fn settle_unheard(&self, host: HostId, running: &[ExecutionId]) {
        let unheard: Vec<ExecutionId> = {
            let rows = self.view().read();
            let on_host = |e: &&Arc<Execution>| rows.guests.get(&e.guest).is_some_and(|g| g.desired.host == Some(host));
            let open = rows.open_executions().filter(|e| e.task.is_none());
            open.filter(on_host).map(|e| e.id).filter(|id| !running.contains(id)).collect()
        };
        for execution in unheard {
            let lost = self
                .decide(|| {
                    let mut batch = Batch::default();
                    self.lose_execution(execution, "the agent does not know it", &mut batch);
                    Ok((batch, ()))
                })
                .await;
            if let Err(refusal) = lost {
                tracing::warn!(%execution, %refusal, "a lost execution could not be written down");
            }
        }
    }
}

/// What a guest's report means for a running task about it.
/// One that is taken over goes on as it is, also when that was not known yet as it was asked for.
fn want_as_found(guest: &mut Guest, observed: &Observed) {
    let found = match observed.phase {
        Phase::Running => Power::Running,
        Phase::Paused => Power::Paused,
        Phase::Stopped => Power::Stopped,
        Phase::Waiting | Phase::Fetching | Phase::Booting | Phase::Stopping | Phase::Failed | Phase::Gone => return,
    };
    let desired = &mut guest.desired;
    if desired.power != found && desired.power != Power::Absent {
        desired.power = found;
        desired.generation += 1;
    }
}

fn event_of(task: &Task, guest: &Guest, observed: &Observed) -> Option<TaskEvent> {
    let problem = || observed.problem.clone().unwrap_or_else(|| Problem::new(Code::BootFailed, "no reason was given"));
    let note = |text: &str| TaskEvent::Progressed {
        note: observed.note.clone().unwrap_or_else(|| text.to_owned()),
        percent: None,
    };
    match (&task.kind, observed.phase) {
        (TaskKind::GuestCreate { .. }, Phase::Running | Phase::Paused | Phase::Stopped) if guest.is_caught_up() => {
            Some(TaskEvent::Done)
        }
        (TaskKind::GuestCreate { .. }, Phase::Gone) if task.cancel_asked => Some(TaskEvent::CancelDone),
        (TaskKind::GuestCreate { .. }, Phase::Gone) => Some(TaskEvent::Fell { problem: problem(), again: false }),
        (TaskKind::GuestCreate { .. }, Phase::Failed) => Some(TaskEvent::Fell { problem: problem(), again: true }),
        (TaskKind::GuestCreate { .. }, Phase::Waiting) => Some(note("waiting for a boot slot")),
        (TaskKind::GuestCreate { .. }, Phase::Fetching) => Some(note("fetching the image")),
        (TaskKind::GuestCreate { .. }, Phase::Booting) => Some(note("booting")),
        (TaskKind::GuestDelete { .. }, Phase::Gone) => Some(TaskEvent::Done),
        (TaskKind::GuestPower { .. } | TaskKind::GuestOperate { .. }, Phase::Gone) => {
            Some(TaskEvent::Fell { problem: Problem::new(Code::NoSuchGuest, "the guest was deleted"), again: false })
        }
        (TaskKind::GuestPower { .. }, Phase::Failed) => Some(TaskEvent::Fell { problem: problem(), again: false }),
        // Desired may have moved on: what this task asked for was reached, or does not matter any more.
        (TaskKind::GuestPower { .. }, _) if guest.is_caught_up() => Some(TaskEvent::Done),
        (TaskKind::GuestPower { .. }, phase) => Some(note(on_its_way(phase))),
        (TaskKind::GuestExecute { .. }, Phase::Gone) => {
            let text = "the guest is gone; whether the command finished is not known";
            Some(TaskEvent::Fell { problem: Problem::new(Code::ExecutionLost, text), again: false })
        }
        (
            TaskKind::GuestCreate { .. }
            | TaskKind::GuestDelete { .. }
            | TaskKind::GuestExecute { .. }
            | TaskKind::GuestOperate { .. }
            | TaskKind::ImageBuild { .. }
            | TaskKind::ImageImport { .. }
            | TaskKind::BackupVerify { .. }
            | TaskKind::VolumeCreate { .. }
            | TaskKind::VolumeDelete { .. }
            | TaskKind::VolumeResize { .. }
            | TaskKind::VolumeAttach { .. }
            | TaskKind::VolumeDetach { .. }
            | TaskKind::NetworkCreate { .. }
            | TaskKind::NetworkDelete { .. },
            _,
        ) => None,
    }
}

fn on_its_way(phase: Phase) -> &'static str {
    match phase {
        Phase::Waiting => "waiting for a boot slot",
        Phase::Fetching => "fetching the image",
        Phase::Booting => "booting",
        Phase::Stopping => "waiting for it to turn itself off",
        Phase::Running | Phase::Paused | Phase::Stopped | Phase::Failed | Phase::Gone => "on its way",
    }
}

fn reported(held: &Execution, report: &ExecutionReport) -> Execution {
    let mut next = held.clone();
    if held.outcome.is_none() && report.started_at.is_some() {
        next.state = ExecutionState::Running;
        next.started_at = report.started_at;
    }
    if let Some(end) = &report.end {
        take_end(&mut next, end.clone());
    }
    next
}

fn take_end(execution: &mut Execution, end: ExecutionEnd) {
    execution.state = ExecutionState::Ended;
    execution.outcome = Some(end.outcome);
    execution.ended_at = Some(end.at);
    execution.duration_ms = end.duration_ms;
    execution.stdout = end.stdout.into();
    execution.stderr = end.stderr.into();
    execution.problem = end.problem;
}

fn build_event(stage: &BuildStage) -> TaskEvent {
    match stage {
        BuildStage::Running { note, percent } => TaskEvent::Progressed { note: note.clone(), percent: *percent },
        BuildStage::Built { .. } => TaskEvent::Done,
        BuildStage::Failed(problem) => TaskEvent::Fell { problem: problem.clone(), again: false },
    }
}

fn built(image: &Image, stage: &BuildStage) -> Option<Image> {
    let mut next = image.clone();
    next.revision += 1;
    match stage {
        BuildStage::Running { .. } => return None,
        BuildStage::Built { arch, kernel_release, parts } => {
            next.arch.clone_from(arch);
            next.kernel_release = Some(kernel_release.clone());
            next.parts.clone_from(parts);
            next.state = ImageState::Ready;
        }
        BuildStage::Failed(_) => next.state = ImageState::Failed,
    }
    Some(next)
}
