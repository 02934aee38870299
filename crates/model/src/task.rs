//! Tasks: units of the queue. A claim is counted; a host effect is not (reconcilers repeat those).
//!
//! ```text
//!   pending ──claimed──▶ running ──done──▶ succeeded
//!      │  ▲                │ ├──fell, may be tried again──▶ pending   (attempts < maximum)
//!      │  └────────────────┘ ├──fell, for good────────────▶ failed
//!      │                     └──fell, attempts used up────▶ dead
//!      └──cancelled / deadline──▶ cancelled / failed
//! ```

use crate::guest::{Desired, Power, Problem};
use crate::limits::{BACKUP_DEADLINE, TASK_AGEING, TASK_DEADLINE};
use crate::{
    BackupId, Code, ExecutionId, GuestId, HostId, ImageId, Import, NetworkId, Operation, Recipe, TaskId, Tenant,
    Timestamp, VolumeId,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What a task does, and to what.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum TaskKind {
    /// Place a guest and bring it up.
    #[serde(rename = "vm:create")]
    GuestCreate {
        /// Which.
        guest: GuestId,
        /// Its disk comes out of a backup.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        restores: bool,
    },
    /// Leave nothing of a guest.
    #[serde(rename = "vm:delete")]
    GuestDelete {
        /// Which.
        guest: GuestId,
    },
    /// Run a command in a guest.
    #[serde(rename = "vm:execute")]
    GuestExecute {
        /// In which.
        guest: GuestId,
        /// Its record.
        execution: ExecutionId,
    },
    /// Move a guest's power switch.
    #[serde(rename = "vm:power")]
    GuestPower {
        /// Which.
        guest: GuestId,
        /// Where to.
        switch: Switch,
    },
    /// Do something long to a guest.
    #[serde(rename = "vm:operate")]
    GuestOperate {
        /// To which.
        guest: GuestId,
        /// What.
        operation: Operation,
    },
    /// Make an image on a host that can.
    #[serde(rename = "image:build")]
    ImageBuild {
        /// Which.
        image: ImageId,
        /// How.
        #[serde(default)]
        recipe: Recipe,
    },
    /// Take in a disk that was made elsewhere. The control plane does it itself.
    #[serde(rename = "image:import")]
    ImageImport {
        /// Which.
        image: ImageId,
        /// From where, and what it must be.
        import: Import,
    },
    /// Look at all bytes of a backup. The control plane does it itself.
    #[serde(rename = "backup:verify")]
    BackupVerify {
        /// Which.
        backup: BackupId,
        /// A VM is made from it, too, and has to come up.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        boot: bool,
    },
    /// Make a volume on its host.
    #[serde(rename = "volume:create")]
    VolumeCreate {
        /// Which.
        volume: VolumeId,
    },
    /// Leave nothing of a volume.
    #[serde(rename = "volume:delete")]
    VolumeDelete {
        /// Which.
        volume: VolumeId,
    },
    /// Let a volume grow.
    #[serde(rename = "volume:resize")]
    VolumeResize {
        /// Which.
        volume: VolumeId,
        /// What it was before.
        before_bytes: u64,
    },
    /// Put a volume into a VM.
    #[serde(rename = "volume:attach")]
    VolumeAttach {
        /// Which.
        volume: VolumeId,
        /// Into which.
        guest: GuestId,
    },
    /// Take a volume out of a VM.
    #[serde(rename = "volume:detach")]
    VolumeDetach {
        /// Which.
        volume: VolumeId,
        /// Out of which.
        guest: GuestId,
    },
    /// Make a network on its host.
    #[serde(rename = "network:create")]
    NetworkCreate {
        /// Which.
        network: NetworkId,
    },
    /// Leave nothing of a network.
    #[serde(rename = "network:delete")]
    NetworkDelete {
        /// Which.
        network: NetworkId,
    },
}

impl TaskKind {
    /// `vm:create`, …
    pub fn text(&self) -> &'static str {
        match self {
            Self::GuestCreate { .. } => "vm:create",
            Self::GuestDelete { .. } => "vm:delete",
            Self::GuestExecute { .. } => "vm:execute",
            Self::GuestPower { switch, .. } => switch.text(),
            Self::GuestOperate { operation, .. } => operation.text(),
            Self::ImageBuild { .. } => "image:build",
            Self::ImageImport { .. } => "image:import",
            Self::BackupVerify { .. } => "backup:verify",
            Self::VolumeCreate { .. } => "volume:create",
            Self::VolumeDelete { .. } => "volume:delete",
            Self::VolumeResize { .. } => "volume:resize",
            Self::VolumeAttach { .. } => "volume:attach",
            Self::VolumeDetach { .. } => "volume:detach",
            Self::NetworkCreate { .. } => "network:create",
            Self::NetworkDelete { .. } => "network:delete",
        }
    }
    /// The guest it is about.
    pub fn guest(&self) -> Option<GuestId> {
        match self {
            Self::GuestCreate { guest, .. }
            | Self::GuestDelete { guest }
            | Self::GuestExecute { guest, .. }
            | Self::GuestPower { guest, .. }
            | Self::GuestOperate { guest, .. }
            | Self::VolumeAttach { guest, .. }
            | Self::VolumeDetach { guest, .. } => Some(*guest),
            Self::ImageBuild { .. }
            | Self::ImageImport { .. }
            | Self::BackupVerify { .. }
            | Self::VolumeCreate { .. }
            | Self::VolumeDelete { .. }
            | Self::VolumeResize { .. }
            | Self::NetworkCreate { .. }
            | Self::NetworkDelete { .. } => None,
        }
    }
    /// It makes a backup.
    pub fn makes_backup(&self) -> bool {
        matches!(self, Self::GuestOperate { operation: Operation::CreateBackup { .. }, .. })
    }
    /// The backup that it makes or looks at.
    pub fn backup(&self) -> Option<BackupId> {
        match self {
            Self::GuestOperate { operation, .. } => operation.backup(),
            Self::BackupVerify { backup, .. } => Some(*backup),
            Self::GuestCreate { .. }
            | Self::GuestDelete { .. }
            | Self::GuestExecute { .. }
            | Self::GuestPower { .. }
            | Self::ImageBuild { .. }
            | Self::ImageImport { .. }
            | Self::VolumeCreate { .. }
            | Self::VolumeDelete { .. }
            | Self::VolumeResize { .. }
            | Self::VolumeAttach { .. }
            | Self::VolumeDetach { .. }
            | Self::NetworkCreate { .. }
            | Self::NetworkDelete { .. } => None,
        }
    }
    /// The execution that it is.
    pub fn execution(&self) -> Option<ExecutionId> {
        match self {
            Self::GuestExecute { execution, .. } => Some(*execution),
            Self::GuestCreate { .. }
            | Self::GuestDelete { .. }
            | Self::GuestPower { .. }
            | Self::GuestOperate { .. }
            | Self::ImageBuild { .. }
            | Self::ImageImport { .. }
            | Self::BackupVerify { .. }
            | Self::VolumeCreate { .. }
            | Self::VolumeDelete { .. }
            | Self::VolumeResize { .. }
            | Self::VolumeAttach { .. }
            | Self::VolumeDetach { .. }
            | Self::NetworkCreate { .. }
            | Self::NetworkDelete { .. } => None,
        }
    }
    /// The image it makes.
    pub fn image(&self) -> Option<ImageId> {
        match self {
            Self::ImageBuild { image, .. } | Self::ImageImport { image, .. } => Some(*image),
            Self::GuestCreate { .. }
            | Self::GuestDelete { .. }
            | Self::GuestExecute { .. }
            | Self::GuestPower { .. }
            | Self::GuestOperate { .. }
            | Self::BackupVerify { .. }
            | Self::VolumeCreate { .. }
            | Self::VolumeDelete { .. }
            | Self::VolumeResize { .. }
            | Self::VolumeAttach { .. }
            | Self::VolumeDetach { .. }
            | Self::NetworkCreate { .. }
            | Self::NetworkDelete { .. } => None,
        }
    }
    /// The network it is about.
    pub fn network(&self) -> Option<NetworkId> {
        match self {
            Self::NetworkCreate { network } | Self::NetworkDelete { network } => Some(*network),
            Self::GuestCreate { .. }
            | Self::GuestDelete { .. }
            | Self::GuestExecute { .. }
            | Self::GuestPower { .. }
            | Self::GuestOperate { .. }
            | Self::ImageBuild { .. }
            | Self::ImageImport { .. }
            | Self::BackupVerify { .. }
            | Self::VolumeCreate { .. }
            | Self::VolumeDelete { .. }
            | Self::VolumeResize { .. }
            | Self::VolumeAttach { .. }
            | Self::VolumeDetach { .. } => None,
        }
    }
    /// The volume it is about.
    pub fn volume(&self) -> Option<VolumeId> {
        match self {
            Self::VolumeCreate { volume }
            | Self::VolumeDelete { volume }
            | Self::VolumeResize { volume, .. }
            | Self::VolumeAttach { volume, .. }
            | Self::VolumeDetach { volume, .. } => Some(*volume),
            Self::GuestCreate { .. }
            | Self::GuestDelete { .. }
            | Self::GuestExecute { .. }
            | Self::GuestPower { .. }
            | Self::GuestOperate { .. }
            | Self::ImageBuild { .. }
            | Self::ImageImport { .. }
            | Self::BackupVerify { .. }
            | Self::NetworkCreate { .. }
            | Self::NetworkDelete { .. } => None,
        }
    }
}

/// Where a guest's power switch is moved to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Switch {
    /// Boot it; let it go on when it is paused.
    Start,
    /// Let it turn itself off, then end it.
    Stop {
        /// So long it may take by itself; 0 ends it at once.
        grace_ms: u64,
    },
    /// Stop it, then boot it; boot it when it is off.
    Restart {
        /// As for a stop.
        grace_ms: u64,
    },
    /// Stop its CPUs.
    Pause,
    /// Let them run again.
    Resume,
}

impl Switch {
    /// `vm:start`, …
    pub fn text(self) -> &'static str {
        match self {
            Self::Start => "vm:start",
            Self::Stop { .. } => "vm:stop",
            Self::Restart { .. } => "vm:restart",
            Self::Pause => "vm:pause",
            Self::Resume => "vm:resume",
        }
    }
    /// What is desired after it.
    pub fn apply(self, desired: &mut Desired) {
        desired.generation += 1;
        match self {
            Self::Start | Self::Resume => desired.power = Power::Running,
            Self::Pause => desired.power = Power::Paused,
            Self::Stop { grace_ms } => {
                desired.power = Power::Stopped;
                desired.grace_ms = grace_ms;
            }
            Self::Restart { grace_ms } => {
                desired.power = Power::Running;
                desired.restarts += 1;
                desired.grace_ms = grace_ms;
            }
        }
    }
}

/// Four priorities, the first served first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Deletes and what people wait for with an alarm open.
    Critical,
    /// Before the ordinary.
    High,
    /// The ordinary.
    Default,
    /// When nothing else waits, or after ageing.
    Low,
}

/// Where a task is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Waits for a worker, or for its time.
    Pending,
    /// Claimed; ends when the observation catches up.
    Running,
    /// Done.
    Succeeded,
    /// Cannot be done.
    Failed,
    /// Ended by its owner.
    Cancelled,
    /// Attempts used up: a dead letter.
    Dead,
}

impl TaskState {
    /// Nothing more happens.
    pub fn is_final(self) -> bool {
        match self {
            Self::Pending | Self::Running => false,
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::Dead => true,
        }
    }
}

/// One unit in the queue.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Task {
    /// Identity.
    pub id: TaskId,
    /// Who owns it.
    pub tenant: Tenant,
    /// The user who asked.
    pub owner: String,
    /// What, and to what.
    #[serde(flatten)]
    pub kind: TaskKind,
    /// Served in this order, with ageing.
    pub priority: Priority,
    /// Where it is.
    pub state: TaskState,
    /// Claims so far.
    pub attempts: u32,
    /// Claims at most.
    pub attempts_max: u32,
    /// The worker that holds or held it.
    pub worker: Option<String>,
    /// The worker's reign; a write under an older one is refused.
    pub epoch: u64,
    /// The host that works on it, once one was chosen.
    pub host: Option<HostId>,
    /// The generation of desired its claim wrote; done when observed reaches it.
    pub generation: Option<u64>,
    /// Asked to end.
    pub cancel_asked: bool,
    /// For people: `waiting for room`, `downloading kernel`.
    pub note: Option<String>,
    /// 0 to 100.
    pub progress_percent: Option<u8>,
    /// Why it failed.
    pub problem: Option<Problem>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Not before this time.
    pub scheduled_at: Timestamp,
    /// When it was claimed last.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// Bumped by each write.
    pub revision: u64,
}

/// What can happen to a task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TaskEvent {
    /// A worker takes it; its claim wrote this generation of desired, if any.
    Claimed {
        /// Who.
        worker: String,
        /// In which reign.
        epoch: u64,
        /// Where it will be done.
        host: Option<HostId>,
        /// What was written.
        generation: Option<u64>,
    },
    /// Cannot be claimed now: the reason, and when to look again.
    Held {
        /// For people.
        note: String,
        /// Not before.
        until: Timestamp,
    },
    /// A step was made.
    Progressed {
        /// For people.
        note: String,
        /// 0 to 100.
        percent: Option<u8>,
    },
    /// The observation caught up.
    Done,
    /// It could not be done.
    Fell {
        /// Why.
        problem: Problem,
        /// Whether another attempt can help.
        again: bool,
    },
    /// Its owner wants it to end.
    CancelAsked,
    /// What it held was let go after a cancel.
    CancelDone,
    /// Time passed.
    Tick,
}

/// What to do about an event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TaskVerdict {
    /// Write this down.
    Go(Box<Task>),
    /// Nothing changes.
    Stay,
    /// Not possible in this state.
    Refuse(Code),
}

impl Task {
    /// The only place a task's next state is decided. No clock, no I/O.
    pub fn step(&self, event: &TaskEvent, now: Timestamp) -> TaskVerdict {
        match self.state {
            TaskState::Pending => self.step_pending(event, now),
            TaskState::Running => self.step_running(event, now),
            TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled | TaskState::Dead => match event {
                TaskEvent::CancelAsked => TaskVerdict::Refuse(Code::TaskFinished),
                TaskEvent::Claimed { .. }
                | TaskEvent::Held { .. }
                | TaskEvent::Progressed { .. }
                | TaskEvent::Done
                | TaskEvent::Fell { .. }
                | TaskEvent::CancelDone
                | TaskEvent::Tick => TaskVerdict::Stay,
            },
        }
    }

    /// Whether a worker may look at it now.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.state == TaskState::Pending && self.scheduled_at <= now
    }

    /// Smaller is served first: priority, one step better for each `TASK_AGEING` waited, then age.
    pub fn rank(&self, now: Timestamp) -> (i64, Timestamp, TaskId) {
        let waited = now.since(self.created_at).as_micros() / TASK_AGEING.as_micros();
        let aged = i64::from(self.priority as u8) - i64::try_from(waited).unwrap_or(i64::MAX);
        (aged.max(0), self.created_at, self.id)
    }

    fn step_pending(&self, event: &TaskEvent, now: Timestamp) -> TaskVerdict {
        match event {
            TaskEvent::Claimed { worker, epoch, host, generation } => self.go(|t| {
                t.host = *host;
                t.state = TaskState::Running;
                t.attempts += 1;
                t.worker = Some(worker.clone());
                t.epoch = *epoch;
                t.generation = *generation;
                t.started_at = Some(now);
                t.note = None;
            }),
            TaskEvent::Held { note, until } => self.go(|t| {
                t.note = Some(note.clone());
                t.scheduled_at = *until;
            }),
            TaskEvent::CancelAsked | TaskEvent::CancelDone => self.end(TaskState::Cancelled, now, |t| {
                t.cancel_asked = true;
                t.problem = Some(Problem::new(Code::TaskCancelled, "cancelled before it started"));
            }),
            TaskEvent::Fell { problem, .. } => self.end(TaskState::Failed, now, |t| t.problem = Some(problem.clone())),
            TaskEvent::Tick => self.past_deadline(now),
            TaskEvent::Progressed { .. } | TaskEvent::Done => TaskVerdict::Stay,
        }
    }

    fn step_running(&self, event: &TaskEvent, now: Timestamp) -> TaskVerdict {
        match event {
            TaskEvent::Done => self.end(TaskState::Succeeded, now, |t| {
                t.progress_percent = Some(100);
                t.note = None;
            }),
            TaskEvent::Fell { .. } if self.cancel_asked => self.step_running(&TaskEvent::CancelDone, now),
            TaskEvent::Fell { problem, again } => {
                let last = self.attempts >= self.attempts_max;
                if *again && !last {
                    return self.go(|t| {
                        t.state = TaskState::Pending;
                        t.scheduled_at = now + backoff(t.attempts);
                        t.note = Some(format!("attempt {} failed: {}", t.attempts, problem.text));
                    });
                }
                let state = if *again { TaskState::Dead } else { TaskState::Failed };
                self.end(state, now, |t| t.problem = Some(problem.clone()))
            }
            TaskEvent::CancelAsked if self.cancel_asked => TaskVerdict::Stay,
            TaskEvent::CancelAsked => self.go(|t| {
                t.cancel_asked = true;
                t.note = Some("being cancelled".to_owned());
            }),
            TaskEvent::CancelDone => self.end(TaskState::Cancelled, now, |t| {
                t.problem = Some(Problem::new(Code::TaskCancelled, "cancelled while it ran"));
            }),
            TaskEvent::Progressed { note, percent } => {
                if self.note.as_deref() == Some(note) && self.progress_percent == *percent {
                    return TaskVerdict::Stay;
                }
                self.go(|t| {
                    t.note = Some(note.clone());
                    t.progress_percent = *percent;
                })
            }
            TaskEvent::Tick => self.past_deadline(now),
            TaskEvent::Claimed { .. } | TaskEvent::Held { .. } => TaskVerdict::Refuse(Code::WriteConflict),
        }
    }

    /// It fails when it is not done so long after it was asked for.
    pub fn deadline(&self) -> Duration {
        let moves_a_disk =
            matches!(self.kind, TaskKind::BackupVerify { .. } | TaskKind::GuestCreate { restores: true, .. });
        if self.kind.makes_backup() || moves_a_disk { BACKUP_DEADLINE } else { TASK_DEADLINE }
    }

    fn past_deadline(&self, now: Timestamp) -> TaskVerdict {
        if now.since(self.created_at) < self.deadline() {
            return TaskVerdict::Stay;
        }
        let text = format!("not done within {} s", self.deadline().as_secs());
        self.end(TaskState::Failed, now, |t| t.problem = Some(Problem::new(Code::TaskDeadline, text)))
    }

    fn end(&self, state: TaskState, now: Timestamp, change: impl FnOnce(&mut Self)) -> TaskVerdict {
        self.go(|t| {
            t.state = state;
            t.completed_at = Some(now);
            change(t);
        })
    }

    fn go(&self, change: impl FnOnce(&mut Self)) -> TaskVerdict {
        let mut next = self.clone();
        change(&mut next);
        TaskVerdict::Go(Box::new(next))
    }
}

/// 1, 2, 4 … seconds, at most a minute. Jitter is the caller's.
fn backoff(attempts: u32) -> Duration {
    Duration::from_secs(1 << attempts.saturating_sub(1).min(6)).min(Duration::from_secs(60))
}

#[cfg(test)]
mod tests;
