//! Backups of VMs: verbs, what comes of them, schedules.
//!
//! ```text
//!   verb or schedule ─▶ backup (creating) + operation ─▶ ready, with its index
//!   ready ─▶ looked at whole (whoever keeps the bytes does it) · a VM made from it · deleted
//! ```
//! Owns: the records, and which backup may go. Refuses: bytes, which whoever keeps them has by the
//! digests that an index names.

use crate::guests::check_revision;
use crate::operations::{Operated, Planned};
use crate::view::Rows;
use crate::{Cause, Control, Span};
use perigee_agent_api::{OperationResult, OperationStage};
use perigee_model::backup::{backup_fault, made_up_name, room_fault, surplus};
use perigee_model::operation::Base;
use perigee_model::vm::description_fault;
use perigee_model::{
    Backup, BackupId, BackupSchedule, BackupState, Code, Digest, Guest, Name, Operation, Refusal, Role, Task, TaskKind,
    TaskState, Verb, Who,
};
use perigee_store::{Batch, Change, Expect, Noun, Record};
use std::sync::Arc;

/// Backups that one may be made after, at most: the newest.
const BASES_MAX: usize = 16;

/// What is wanted of a new backup.
#[derive(Clone, Debug, Default)]
pub struct NewBackup {
    /// Made up when absent.
    pub name: Option<Name>,
    /// For people.
    pub description: String,
    /// Encrypted where it is kept.
    pub sealed: bool,
}

impl Control {
    /// Records a backup and the task that makes it.
    ///
    /// # Errors
    /// `Denied`, `NoSuchGuest`, `NoBackups` for a guest that can have none, `NameTaken`, `TooManyBackups`,
    /// `BadField`, `TooManyTasks`.
    pub async fn create_backup(
        &self,
        who: &Who,
        text: &str,
        wanted: NewBackup,
        cause: &Cause,
    ) -> Result<(Arc<Backup>, Arc<Task>), Refusal> {
        who.authorize(Verb::Operate)?;
        let id = BackupId::new(self.clock().uuid());
        let (_, task) = self.begin_backup(who, text, &wanted, cause, (id, false)).await?;
        let gone = || Refusal::new(Code::NoSuchBackup, "the backup was deleted at once");
        Ok((self.view().backup(id).ok_or_else(gone)?, task))
    }

    async fn begin_backup(
        &self,
        who: &Who,
        text: &str,
        wanted: &NewBackup,
        cause: &Cause,
        (id, scheduled): (BackupId, bool),
    ) -> Operated {
        if let Some(fault) = description_fault(&wanted.description) {
            return Err(Refusal::field("description", fault));
        }
        self.operate(who, cause, || {
            let mut guest = self.guest_with_disk(who, text)?.as_ref().clone();
            let backup = self.new_backup(who, &guest, wanted, (id, scheduled))?;
            if let Some(schedule) = guest.backups.as_mut().filter(|_| scheduled) {
                schedule.last = self.clock().now();
            }
            // Its host is told of those that are there when it begins.
            let operation = Operation::CreateBackup { backup: id, sealed: wanted.sealed, bases: Vec::new() };
            let detail = format!("{} as {}", guest.name, backup.name);
            Ok(Planned { guest, operation, detail, also: vec![Change::Put(Record::Backup(backup), Expect::New)] })
        })
        .await
    }

    fn new_backup(
        &self,
        who: &Who,
        guest: &Guest,
        wanted: &NewBackup,
        (id, scheduled): (BackupId, bool),
    ) -> Result<Backup, Refusal> {
        let now = self.clock().now();
        let arch = self.arch_of(guest);
        let rows = self.view().read();
        let is_taken = |name: &Name| rows.backups.values().any(|one| one.tenant == who.tenant && one.name == *name);
        let made_up = || made_up_name(&guest.name, now, is_taken);
        let name = wanted.name.clone().or_else(made_up).ok_or_else(|| Refusal::field("name", "give it a name"))?;
        if is_taken(&name) {
            let text = format!("there is a backup {name} already: delete it, or take another name");
            return Err(Refusal::new(Code::NameTaken, text));
        }
        let has = rows.backups.values().filter(|backup| backup.guest == guest.id).count();
        if let Some(fault) = room_fault(has) {
            return Err(Refusal::new(Code::TooManyBackups, fault));
        }
        Ok(Backup {
            id,
            name,
            tenant: guest.tenant.clone(),
            owner: who.actor.clone(),
            description: wanted.description.clone(),
            guest: guest.id,
            guest_name: guest.name.clone(),
            labels: guest.labels.clone(),
            spec: guest.spec.clone(),
            arch,
            sealed: wanted.sealed,
            scheduled,
            state: BackupState::Creating,
            created_at: now,
            stored: None,
            verified: None,
            revision: 1,
        })
    }

    /// What its host must be; nothing when nobody knows.
    pub(crate) fn arch_of(&self, guest: &Guest) -> String {
        let origin = guest.spec.vm.as_ref().and_then(|vm| vm.origin.as_ref()).map(|origin| origin.arch.clone());
        let image = || self.view().image(guest.spec.image).map(|image| image.arch.clone());
        let host = || Some(self.view().host(guest.desired.host?)?.inventory.as_ref()?.arch.clone());
        origin.or_else(image).or_else(host).unwrap_or_default()
    }

    /// A living VM that can be backed up.
    ///
    /// # Errors
    /// `Denied`, `NoSuchGuest`, `NoBackups`.
    pub fn guest_with_disk(&self, who: &Who, text: &str) -> Result<Arc<Guest>, Refusal> {
        who.authorize(Verb::See)?;
        let guest = self.find_guest(who, text)?;
        if guest.is_gone() {
            return Err(Refusal::new(Code::NoSuchGuest, "the guest is deleted"));
        }
        match backup_fault(guest.kind, &guest.spec) {
            Some(fault) => Err(Refusal::new(Code::NoBackups, fault)),
            None => Ok(guest),
        }
    }

    /// Backups of the caller's tenant, oldest first.
    ///
    /// # Errors
    /// `Denied`.
    pub fn list_backups(
        &self,
        who: &Who,
        span: Span<BackupId>,
        fits: impl Fn(&Backup) -> bool,
    ) -> Result<Vec<Arc<Backup>>, Refusal> {
        who.authorize(Verb::See)?;
        Ok(span.oldest(&self.view().read().backups, |backup| backup.tenant == who.tenant && fits(backup)))
    }

    /// One backup by name or id.
    ///
    /// # Errors
    /// `Denied`, `NoSuchBackup`.
    pub fn find_backup(&self, who: &Who, text: &str) -> Result<Arc<Backup>, Refusal> {
        who.authorize(Verb::See)?;
        let rows = self.view().read();
        let by_id = text.parse::<BackupId>().ok().and_then(|id| rows.backups.get(&id));
        let named = || rows.backups.values().find(|b| b.tenant == who.tenant && b.name.as_str() == text);
        let found = by_id.or_else(named).filter(|backup| backup.tenant == who.tenant);
        found.cloned().ok_or_else(|| Refusal::new(Code::NoSuchBackup, "no backup of yours has this name or id"))
    }

    /// A backup that is there, whole as far as is known.
    ///
    /// # Errors
    /// `NoSuchBackup`, `BackupInUse` while it is being made.
    pub(crate) fn ready_backup(&self, who: &Who, text: &str) -> Result<Arc<Backup>, Refusal> {
        let backup = self.find_backup(who, text)?;
        match backup.state {
            BackupState::Ready => Ok(backup),
            BackupState::Creating => {
                Err(Refusal::new(Code::BackupInUse, "the backup is still being made: wait for its task"))
            }
        }
    }

    /// Forgets a backup. Its bytes go when nothing else needs them.
    ///
    /// # Errors
    /// `Denied`, `NoSuchBackup`, `PreconditionFailed`, `BackupInUse` while it is being made, looked at, or
    /// a VM is being made from it.
    pub async fn delete_backup(
        &self,
        who: &Who,
        text: &str,
        revision: Option<u64>,
        cause: &Cause,
    ) -> Result<(), Refusal> {
        who.authorize(Verb::Operate)?;
        self.decide(|| {
            let backup = self.ready_backup(who, text)?;
            check_revision(revision, backup.revision)?;
            if let Some(task) = self.uses(backup.id) {
                let text = format!("the task {} ({}) needs it: wait for it, or cancel it", task.id, task.kind.text());
                return Err(Refusal::new(Code::BackupInUse, text));
            }
            let mut batch = Batch { idempotency: cause.row(""), ..Batch::default() };
            let about = ("backup", backup.id.to_string());
            let detail = backup.name.as_str();
            batch.events.push(self.event((&who.tenant, &who.actor), "backup.delete", about, cause, detail));
            batch.changes.push(Change::Delete(Noun::Backup, backup.id.to_string()));
            Ok((batch, ()))
        })
        .await
    }

    /// The open task that needs a backup's bytes.
    fn uses(&self, backup: BackupId) -> Option<Arc<Task>> {
        let rows = self.view().read();
        let needs = |task: &&Arc<Task>| match &task.kind {
            TaskKind::BackupVerify { backup: other, .. } => *other == backup,
            TaskKind::GuestCreate { guest, restores: true } => rows
                .guests
                .get(guest)
                .and_then(|guest| guest.spec.vm.as_ref()?.origin.as_ref())
                .is_some_and(|origin| origin.backup == backup),
            _ => false,
        };
        rows.open_tasks().find(needs).cloned()
    }

    /// Says when a VM is backed up by itself; `None`: no more.
    ///
    /// # Errors
    /// `Denied`, `NoSuchGuest`, `NoBackups`, `BadField`.
    pub async fn schedule_backups(
        &self,
        who: &Who,
        text: &str,
        wanted: Option<BackupSchedule>,
        cause: &Cause,
    ) -> Result<Arc<Guest>, Refusal> {
        who.authorize(Verb::Operate)?;
        if let Some((field, fault)) = wanted.as_ref().and_then(BackupSchedule::fault) {
            return Err(Refusal::field(field, fault));
        }
        self.decide(|| {
            let mut next = self.guest_with_disk(who, text)?.as_ref().clone();
            next.backups.clone_from(&wanted);
            if let Some(schedule) = &mut next.backups {
                schedule.last = self.clock().now();
                schedule.owner.clone_from(&who.actor);
            }
            next.revision += 1;
            let mut batch = Batch { idempotency: cause.row(""), ..Batch::default() };
            let about = ("guest", next.id.to_string());
            let event =
                self.event((&who.tenant, &who.actor), "guest.backup-schedule", about, cause, next.name.as_str());
            batch.events.push(event);
            batch.update(Record::Guest(next.clone()));
            Ok((batch, Arc::new(next)))
        })
        .await
    }

    /// Begins backups that are due.
    pub(crate) async fn begin_due_backups(&self) {
        let now = self.clock().now();
        let due: Vec<(Arc<Guest>, BackupSchedule)> = {
            let rows = self.view().read();
            let of = |guest: &Arc<Guest>| guest.backups.clone().filter(|s| s.next() <= now).map(|s| (guest.clone(), s));
            rows.living_guests().filter_map(of).collect()
        };
        for (guest, schedule) in due {
            let who = Who { tenant: guest.tenant.clone(), actor: schedule.owner.clone(), role: Role::Operator };
            let wanted = NewBackup { sealed: schedule.sealed, ..NewBackup::default() };
            let id = BackupId::new(self.clock().uuid());
            let cause = Cause::default();
            let begun = self.begin_backup(&who, &guest.id.to_string(), &wanted, &cause, (id, true)).await;
            if let Err(refusal) = begun {
                tracing::warn!(guest = %guest.id, %refusal, "a scheduled backup could not begin");
                self.skip_backup(&who, &guest, &refusal).await;
            }
        }
    }

    /// Its time has passed: it is said, and the next time is waited for.
    async fn skip_backup(&self, who: &Who, guest: &Guest, refusal: &Refusal) {
        let skipped = self.decide(|| {
            let mut batch = Batch::default();
            let Some(guest) = self.view().guest(guest.id).filter(|guest| !guest.is_gone()) else {
                return Ok((batch, ()));
            };
            let mut next = guest.as_ref().clone();
            let Some(schedule) = next.backups.as_mut() else { return Ok((batch, ())) };
            schedule.last = self.clock().now();
            next.revision += 1;
            let about = ("guest", next.id.to_string());
            let detail = refusal.to_string();
            batch.events.push(self.event(
                (&who.tenant, &who.actor),
                "guest.backup-failed",
                about,
                &Cause::default(),
                detail,
            ));
            batch.update(Record::Guest(next));
            Ok((batch, ()))
        });
        if let Err(refusal) = skipped.await {
            tracing::warn!(guest = %guest.id, %refusal, "that a backup was skipped could not be written down");
        }
    }

    /// What the end of an operation makes of its backup.
    pub(crate) fn backup_ended(&self, task: &Task, operation: &Operation, stage: &OperationStage, batch: &mut Batch) {
        let Some(id) = operation.backup() else { return };
        let Some(backup) = self.view().backup(id).filter(|backup| backup.state == BackupState::Creating) else {
            return;
        };
        let OperationStage::Done(OperationResult::Stored(stored)) = stage else {
            let about = ("guest", backup.guest.to_string());
            let why = match stage {
                OperationStage::Failed(problem) => problem.text.clone(),
                OperationStage::Done(_) | OperationStage::Running { .. } => String::new(),
            };
            let who = (&task.tenant, task.owner.as_str());
            batch.events.push(self.event(who, "guest.backup-failed", about, &Cause::default(), why));
            return self.forget_unmade(operation, batch);
        };
        let mut next = backup.as_ref().clone();
        next.state = BackupState::Ready;
        next.stored = Some(stored.clone());
        next.revision += 1;
        if next.scheduled
            && let Some(schedule) = self.view().guest(next.guest).and_then(|guest| guest.backups.clone())
        {
            self.let_surplus_go(&next, schedule.keep, batch);
        }
        batch.update(Record::Backup(next));
    }

    /// Those that a schedule lets go of because this one is there. One that is needed goes next time.
    fn let_surplus_go(&self, newest: &Backup, keep: u32, batch: &mut Batch) {
        let mut all: Vec<Backup> = {
            let rows = self.view().read();
            let others = rows.backups.values().filter(|b| b.guest == newest.guest && b.id != newest.id);
            others.map(|backup| backup.as_ref().clone()).collect()
        };
        all.push(newest.clone());
        for id in surplus(&all, keep) {
            if self.uses(id).is_none() {
                batch.changes.push(Change::Delete(Noun::Backup, id.to_string()));
            }
        }
    }

    /// Nothing is kept of a backup that was not made.
    pub(crate) fn forget_unmade(&self, operation: &Operation, batch: &mut Batch) {
        let unmade = operation.backup().and_then(|id| self.view().backup(id));
        if let Some(backup) = unmade.filter(|backup| backup.state == BackupState::Creating) {
            batch.changes.push(Change::Delete(Noun::Backup, backup.id.to_string()));
        }
    }

    /// The indexes of all backups that are there: (encrypted, index).
    pub fn needed_indexes(&self) -> Vec<(bool, Digest)> {
        let rows = self.view().read();
        let all = rows.backups.values().filter_map(|b| Some((b.sealed, b.stored.as_ref()?.index.clone())));
        all.collect()
    }

    /// A disk is on its way to where backups are kept: chunks of it may be there that no index names yet.
    pub fn is_backing_up(&self) -> bool {
        let rows = self.view().read();
        rows.open_tasks().any(|task| task.kind.makes_backup() && task.state == TaskState::Running)
    }
}

/// Backups of a guest that are there, whole as far as is known, and kept in the same way; newest first.
pub(crate) fn bases(rows: &Rows, guest: &Guest, sealed: bool) -> Vec<Base> {
    let good = |backup: &&Arc<Backup>| {
        let is_whole = backup.verified.as_ref().is_none_or(|verified| verified.fault.is_none());
        backup.guest == guest.id && backup.sealed == sealed && is_whole
    };
    let all = rows.backups.values().rev().filter(good);
    let bases = all.filter_map(|backup| {
        let stored = backup.stored.as_ref()?;
        Some(Base { backup: backup.id, index: stored.index.clone() })
    });
    bases.take(BASES_MAX).collect()
}
