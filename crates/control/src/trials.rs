//! Trials: a VM is made from a backup, has to show a sign of life, and is removed again.
//!
//! ```text
//!   begin ─▶ (its host makes it) ─▶ runs ─▶ sign of life ─▶ removed: the backup boots
//!              └─ not made: nothing is known    └─ none in time: the backup does not
//! ```
//! Owns: that VM, which has no network, so that it disturbs nobody who has its name and addresses; what counts
//! as a sign of life. Whoever dies in the middle finds it again by its name; should nobody come back, its host
//! removes it when its time is over.

mod signs;

use crate::restores::NewRestore;
use crate::verifications::VerifyOrder;
use crate::{Cause, Control, Tunnel, refuse_store};
use perigee_agent_api::TunnelFrame;
use perigee_model::backup::{Booted, LifeSign};
use perigee_model::guest::Problem;
use perigee_model::limits::{TRIAL_LIFE, TRIAL_TIMEOUT};
use perigee_model::placement::Wanted;
use perigee_model::{
    Code, Guest, GuestId, GuestKind, GuestStatus, Name, Power, Priority, Refusal, RestartPolicy, Role, Seat, TaskId,
    TaskKind, Who,
};
use perigee_store::{Batch, Record};
use signs::Heard;
use std::time::Duration;

/// The VM is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A prompt that scrolled away is asked for again, by the Enter key, this often.
const KNOCK_EVERY: Duration = Duration::from_secs(10);
/// The VM's removal is waited for this long; it goes on without us.
const REMOVED_WITHIN: Duration = Duration::from_secs(60);

/// How a trial went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Tried {
    /// It came up.
    Booted(Booted),
    /// It ran, and did not come up: why, for people.
    Silent(String),
    /// No VM could be made: of the backup nothing is known.
    Untried(Problem),
    /// Nobody waits for it any more.
    Unwanted,
}

/// What is known of a trial's VM while it is watched.
#[derive(Default)]
struct Watch {
    heard: Heard,
    port: Option<Tunnel>,
    ran: bool,
}

impl Control {
    /// Makes a VM from the backup, waits for its sign of life and removes it.
    pub async fn try_backup(&self, order: &VerifyOrder) -> Tried {
        let backup = &order.backup;
        let who = Who { tenant: backup.tenant.clone(), actor: backup.owner.clone(), role: Role::Operator };
        let guest = match self.begin_trial(&who, order).await {
            Ok(guest) => guest,
            Err(refusal) => return Tried::Untried(Problem::new(refusal.code, refusal.shown)),
        };
        let tried = self.watch_trial(order.task, guest).await;
        self.end_trial(&who, guest).await;
        tried
    }

    /// The VM of this trial: an earlier life's, or a new one.
    async fn begin_trial(&self, who: &Who, order: &VerifyOrder) -> Result<GuestId, Refusal> {
        let name = trial_name(order.task)?;
        if let Ok(guest) = self.find_guest(who, name.as_str())
            && !guest.is_gone()
        {
            return Ok(guest.id);
        }
        let backup = &order.backup;
        let none = || Refusal::new(Code::NoSuchBackup, "the backup is not there");
        let stored = backup.stored.as_ref().ok_or_else(none)?;
        let wanted = NewRestore { name: Some(name), host: None };
        let mut guest = self.restored(who, backup, stored, wanted)?;
        guest.labels = Default::default();
        (guest.spec.egress, guest.spec.forwards) = (None, Vec::new());
        guest.desired.expires_at = Some(self.clock().now() + TRIAL_LIFE);
        if let Some(vm) = guest.spec.vm.as_mut() {
            vm.description = format!("Perigee looks whether the backup {} boots", backup.name);
            vm.network = None;
            vm.restart = RestartPolicy::Never;
        }
        let room = Wanted { resources: guest.spec.resources, arch: backup.arch.clone(), host: None };
        self.check_room(GuestKind::Vm, &room)?;
        let task = self.new_task(who, TaskKind::GuestCreate { guest: guest.id, restores: true }, Priority::Low);
        let mut batch = Batch::default();
        let about = ("guest", guest.id.to_string());
        let detail = format!("{} from {}", guest.name, backup.name);
        batch.events.push(self.event((&who.tenant, &who.actor), "guest.trial", about, &Cause::default(), detail));
        let id = guest.id;
        batch.insert(Record::Guest(guest));
        batch.insert(Record::Task(task));
        self.commit(batch).await.map_err(refuse_store)?;
        self.0.queue_wake.notify_one();
        Ok(id)
    }

    async fn watch_trial(&self, task: TaskId, guest: GuestId) -> Tried {
        let (began, mut watch) = (self.clock().instant(), Watch::default());
        let (mut knocked, mut told) = (began, String::new());
        while began.elapsed() < TRIAL_TIMEOUT {
            if !self.is_wanted(task) {
                return Tried::Unwanted;
            }
            let Some(row) = self.view().guest(guest) else { return removed() };
            if let Some(tried) = self.judge(&row, &mut watch) {
                return tried;
            }
            let note = match watch.ran {
                true => {
                    format!("{} runs; waiting for its sign of life, {} s", row.name, began.elapsed().as_secs() / 5 * 5)
                }
                false => format!("{} is made from it", row.name),
            };
            if note != told {
                self.progressed(task, note.clone(), None).await;
                told = note;
            }
            if knocked.elapsed() >= KNOCK_EVERY {
                knocked = self.clock().instant();
                watch.knock();
            }
            self.listen(&row, &mut watch).await;
        }
        match watch.ran {
            true => Tried::Silent(watch.silence()),
            false => {
                let text = format!("its VM did not get to run within {} s", TRIAL_TIMEOUT.as_secs());
                Tried::Untried(Problem::new(Code::BackupFailed, text))
            }
        }
    }

    /// How it ended; `None`: it is not over yet.
    fn judge(&self, row: &Guest, watch: &mut Watch) -> Option<Tried> {
        let observed = row.observed.as_ref();
        let booted = |sign, after_ms| Some(Tried::Booted(Booted { sign, after_ms }));
        match self.guest_status(row) {
            GuestStatus::Running => {
                watch.ran = true;
                let observed = observed?;
                if observed.kernel_release.is_some() {
                    return booted(LifeSign::GuestAgent, observed.boot_ms.unwrap_or_default());
                }
                let up = self.clock().now().since(observed.since);
                let up_ms = u64::try_from(up.as_millis()).unwrap_or(u64::MAX);
                watch.heard.asks_login().then(|| booted(LifeSign::LoginPrompt, up_ms)).flatten()
            }
            GuestStatus::Stopped => Some(Tried::Silent(watch.ended("it turned itself off"))),
            GuestStatus::Failed if watch.ran => {
                let why = observed.and_then(|o| o.problem.as_ref()).map_or("it failed", |problem| &problem.text);
                Some(Tried::Silent(watch.ended(why)))
            }
            GuestStatus::Failed | GuestStatus::Deleting | GuestStatus::Deleted => self.unmade(row),
            GuestStatus::Pending
            | GuestStatus::Waiting
            | GuestStatus::Starting
            | GuestStatus::Suspended
            | GuestStatus::Stopping
            | GuestStatus::Unknown => None,
        }
    }

    /// It is given up: by the task that makes it, whose reason is told, or by somebody. `None`: that task tries again.
    fn unmade(&self, row: &Guest) -> Option<Tried> {
        let rows = self.view().read();
        let makes = |kind: &TaskKind| matches!(kind, TaskKind::GuestCreate { guest, .. } if *guest == row.id);
        let Some(task) = rows.tasks.values().find(|task| makes(&task.kind)) else { return Some(removed()) };
        match (&task.problem, task.state.is_final()) {
            (_, false) => None,
            // The guest itself: it was switched on, and ended.
            (Some(problem), true) if Code::parse(&problem.code) == Some(Code::BootFailed) => {
                Some(Tried::Silent(problem.text.clone()))
            }
            (Some(problem), true) => Some(Tried::Untried(problem.clone())),
            (None, true) => Some(removed()),
        }
    }

    /// Hears what its serial port says, for a moment.
    async fn listen(&self, row: &Guest, watch: &mut Watch) {
        if watch.ran && watch.port.is_none() {
            watch.port = self.seat_at(row, Seat::Serial).await.ok();
        }
        let Some(port) = watch.port.as_mut() else { return tokio::time::sleep(LOOK_EVERY).await };
        match tokio::time::timeout(LOOK_EVERY, port.rx.recv()).await {
            Ok(Some(TunnelFrame::Data(bytes))) => watch.heard.hear(&bytes),
            Ok(None | Some(TunnelFrame::End | TunnelFrame::Failed(_))) => {
                watch.port = None;
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Ok(Some(_)) | Err(_) => {}
        }
    }

    async fn end_trial(&self, who: &Who, guest: GuestId) {
        if self.view().guest(guest).is_none_or(|row| row.is_gone() || row.desired.power == Power::Absent) {
            return;
        }
        let removed = match self.delete_guest(who, &guest.to_string(), None, &Cause::default()).await {
            Ok(task) => self.wait_task(task.id, REMOVED_WITHIN).await.map(drop),
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = removed {
            tracing::warn!(%refusal, %guest, "the VM of a trial could not be removed; it ends by itself");
        }
    }
}

impl Watch {
    /// Presses Enter.
    fn knock(&self) {
        if let Some(port) = &self.port {
            // Whoever does not read is not pressed further.
            let _ = port.tx.try_send(TunnelFrame::Data(b"\r".to_vec()));
        }
    }

    fn silence(&self) -> String {
        self.ended(&format!("it gave no sign of life within {} s", TRIAL_TIMEOUT.as_secs()))
    }

    fn ended(&self, how: &str) -> String {
        match self.heard.last_words() {
            words if words.is_empty() => format!("it does not boot: {how}; its serial port said nothing"),
            words => format!("it does not boot: {how}; its serial port said last: {words}"),
        }
    }
}

fn removed() -> Tried {
    Tried::Untried(Problem::new(Code::BackupFailed, "somebody removed the VM that was made from it"))
}

/// Of one trial only; it takes the same way twice when its control plane was started again.
fn trial_name(task: TaskId) -> Result<Name, Refusal> {
    let id = task.to_string();
    let end = id.rsplit('-').next().unwrap_or_default();
    Name::parse(&format!("verify-{end}")).map_err(|fault| Refusal::field("name", fault.to_string()))
}
