//! Verbs on volumes: create, list, get, attach, detach, resize, delete; and what their hosts say of them.
//!
//! ```text
//!   create, resize, delete: volume and task ─▶ claim ─▶ its host ─▶ report ─▶ settled
//!   attach, detach:         volume and task ─▶ claim: the VM's own wish ─▶ its host ─▶ the VM's report ─▶ settled
//! ```
//! Owns: that one thing at a time is done with a volume, and that one VM at most has it. A volume is a VM's
//! from the moment it is asked for until its host has said that it is out.

mod settling;

pub(crate) use settling::{leftovers, order_of};

use crate::guests::check_revision;
use crate::{Cause, Control, Span, refuse_store};
use perigee_model::limits::VOLUMES_PER_HOST_MAX;
use perigee_model::name::labels_fault;
use perigee_model::volume::{room_fault, size_fault, volumes_fault};
use perigee_model::{
    Code, Guest, Host, HostId, Labels, Name, Power, Priority, Refusal, Task, TaskKind, Verb, Volume, VolumeId,
    VolumeStatus, Who,
};
use perigee_store::{Batch, Record};
use std::sync::Arc;

/// What is wanted of a new volume.
#[derive(Clone, Debug)]
pub struct NewVolume {
    /// Unique in the tenant.
    pub name: Name,
    /// Its size.
    pub bytes: u64,
    /// Name or id of its host; the one with the most room when none is given.
    pub host: Option<String>,
    /// Marks.
    pub labels: Labels,
}

impl Control {
    /// Records a volume and the task that makes it.
    ///
    /// # Errors
    /// `Denied`, `BadField`, `NoSuchHost`, `NoRoom` when no host can have it, `NameTaken`, `TooManyVolumes`,
    /// `TooManyTasks`.
    pub async fn create_volume(
        &self,
        who: &Who,
        wanted: NewVolume,
        cause: &Cause,
    ) -> Result<(Arc<Volume>, Arc<Task>), Refusal> {
        let volume = self.preview_volume(who, wanted)?;
        self.check_queue(who)?;
        let task = self.new_task(who, TaskKind::VolumeCreate { volume: volume.id }, Priority::High);
        let mut batch = Batch { idempotency: cause.row(task.id), ..Batch::default() };
        let about = ("volume", volume.id.to_string());
        batch.events.push(self.event((&who.tenant, &who.actor), "volume.create", about, cause, volume.name.as_str()));
        batch.insert(Record::Volume(volume.clone()));
        batch.insert(Record::Task(task.clone()));
        self.commit(batch).await.map_err(refuse_store)?;
        self.0.queue_wake.notify_one();
        Ok((Arc::new(volume), Arc::new(task)))
    }

    /// What a create would make, and where. Nothing is written.
    ///
    /// # Errors
    /// As of `create_volume`.
    pub fn preview_volume(&self, who: &Who, wanted: NewVolume) -> Result<Volume, Refusal> {
        who.authorize(Verb::Operate)?;
        if let Some(fault) = size_fault(wanted.bytes) {
            return Err(Refusal::field("bytes", fault));
        }
        if let Some(fault) = labels_fault(&wanted.labels) {
            return Err(Refusal::field("labels", fault));
        }
        let host = self.host_for(who, wanted.host.as_deref())?;
        let rows = self.view().read();
        if rows.volumes.values().any(|v| v.tenant == who.tenant && v.name == wanted.name) {
            return Err(Refusal::new(Code::NameTaken, format!("the name {} is taken", wanted.name)));
        }
        if rows.volumes.values().filter(|v| v.host == host.id).count() >= VOLUMES_PER_HOST_MAX {
            let text = format!("{} has {VOLUMES_PER_HOST_MAX} volumes already: delete one of them first", host.name);
            return Err(Refusal::new(Code::TooManyVolumes, text));
        }
        Ok(Volume {
            id: VolumeId::new(self.clock().uuid()),
            name: wanted.name,
            tenant: who.tenant.clone(),
            owner: who.actor.clone(),
            labels: wanted.labels,
            host: host.id,
            bytes: wanted.bytes,
            guest: None,
            absent: false,
            generation: 1,
            stored_bytes: None,
            created_at: self.clock().now(),
            revision: 1,
        })
    }

    /// The host that was named, or of those that are there the one with the most room.
    fn host_for(&self, who: &Who, named: Option<&str>) -> Result<Arc<Host>, Refusal> {
        let can = |host: &Host| host.inventory.as_ref().is_some_and(|i| i.drivers.iter().any(|d| d.volumes));
        if let Some(named) = named {
            let host = self.find_host(who, named)?;
            let none = || Refusal::field("host", format!("{} has no libvirt, which volumes need", host.name));
            return if can(&host) { Ok(host) } else { Err(none()) };
        }
        let rows = self.view().read();
        let there = |host: &&Arc<Host>| !host.revoked && !host.drained && self.links().is_connected(host.id);
        let able = rows.hosts.values().filter(there).filter(|host| can(host));
        let free = |host: &Arc<Host>| host.inventory.as_ref().map_or(0, |i| i.disk_free_bytes);
        let most = able.max_by_key(|host| (free(host), std::cmp::Reverse(host.id))).cloned();
        most.ok_or_else(|| Refusal::new(Code::NoRoom, "no host that is connected can have volumes: they need libvirt"))
    }

    /// Volumes of the caller's tenant, oldest first.
    ///
    /// # Errors
    /// `Denied`.
    pub fn list_volumes(
        &self,
        who: &Who,
        span: Span<VolumeId>,
        fits: impl Fn(&Volume) -> bool,
    ) -> Result<Vec<Arc<Volume>>, Refusal> {
        who.authorize(Verb::See)?;
        Ok(span.oldest(&self.view().read().volumes, |v| v.tenant == who.tenant && fits(v)))
    }

    /// One volume by id or name.
    ///
    /// # Errors
    /// `NoSuchVolume`.
    pub fn find_volume(&self, who: &Who, text: &str) -> Result<Arc<Volume>, Refusal> {
        who.authorize(Verb::See)?;
        let id = text.parse::<VolumeId>().ok();
        let rows = self.view().read();
        let mut mine = rows.volumes.values().filter(|v| v.tenant == who.tenant);
        let found = mine.find(|v| Some(v.id) == id || v.name.as_str() == text).cloned();
        found.ok_or_else(|| Refusal::new(Code::NoSuchVolume, "no volume of yours has this name or id"))
    }

    /// What is shown of it.
    pub fn volume_status(&self, volume: &Volume) -> VolumeStatus {
        let rows = self.view().read();
        volume.status(rows.open_task_of_volume(volume.id).map(|task| &task.kind))
    }

    /// Records the task that gives a volume to a VM.
    ///
    /// # Errors
    /// `Denied`, `NoSuchVolume`, `NoSuchGuest`, `VolumeBusy`, `VolumeAttached`, `VolumeElsewhere` for a VM of
    /// another host or one that can have none, `TooManyVolumes`, `TooManyTasks`.
    pub async fn attach_volume(
        &self,
        who: &Who,
        (text, vm): (&str, &str),
        cause: &Cause,
    ) -> Result<(Arc<Volume>, Arc<Task>), Refusal> {
        self.volume_verb(who, text, cause, "volume.attach", |volume| {
            let guest = self.check_pair(who, volume, vm)?;
            volume.guest = Some(guest.id);
            let detail = format!("{} to {}", volume.name, guest.name);
            Ok((TaskKind::VolumeAttach { volume: volume.id, guest: guest.id }, detail))
        })
        .await
    }

    /// The VM, when it can have that volume.
    fn check_pair(&self, who: &Who, volume: &Volume, vm: &str) -> Result<Arc<Guest>, Refusal> {
        self.check_detached(volume)?;
        let guest = self.find_guest(who, vm)?;
        if guest.is_gone() || guest.desired.power == Power::Absent {
            return Err(Refusal::new(Code::NoSuchGuest, "the VM is deleted"));
        }
        let elsewhere = |text: String| Err(Refusal::new(Code::VolumeElsewhere, text));
        if let Some(fault) = volumes_fault(guest.kind, &guest.spec) {
            return elsewhere(fault.to_owned());
        }
        if guest.desired.host != Some(volume.host) {
            let called = |host: HostId| self.view().host(host).map_or_else(|| host.to_string(), |h| h.name.to_string());
            let at = guest.desired.host.map_or_else(|| "no host yet".to_owned(), called);
            let here = called(volume.host);
            return elsewhere(format!("the volume is on {here} and the VM on {at}: a volume does not leave its host"));
        }
        let rows = self.view().read();
        let has = rows.volumes.values().filter(|v| v.guest == Some(guest.id)).count();
        match room_fault(has) {
            Some(fault) => Err(Refusal::new(Code::TooManyVolumes, fault)),
            None => Ok(guest),
        }
    }

    fn check_detached(&self, volume: &Volume) -> Result<(), Refusal> {
        let Some(guest) = volume.guest else { return Ok(()) };
        let name = self.view().guest(guest).map_or_else(|| guest.to_string(), |g| g.name.to_string());
        Err(Refusal::new(Code::VolumeAttached, format!("{} is attached to {name}: detach it first", volume.name)))
    }

    /// Records the task that takes a volume out of its VM.
    ///
    /// # Errors
    /// `Denied`, `NoSuchVolume`, `VolumeBusy`, `VolumeNotAttached`, `TooManyTasks`.
    pub async fn detach_volume(
        &self,
        who: &Who,
        text: &str,
        cause: &Cause,
    ) -> Result<(Arc<Volume>, Arc<Task>), Refusal> {
        self.volume_verb(who, text, cause, "volume.detach", |volume| {
            let none = || Refusal::new(Code::VolumeNotAttached, format!("{} is attached to no VM", volume.name));
            let guest = volume.guest.ok_or_else(none)?;
            Ok((TaskKind::VolumeDetach { volume: volume.id, guest }, volume.name.to_string()))
        })
        .await
    }

    /// Records the task that makes a volume larger.
    ///
    /// # Errors
    /// `Denied`, `NoSuchVolume`, `VolumeBusy`, `BadField` for a size that is no larger, `TooManyTasks`.
    pub async fn resize_volume(
        &self,
        who: &Who,
        (text, bytes): (&str, u64),
        cause: &Cause,
    ) -> Result<(Arc<Volume>, Arc<Task>), Refusal> {
        if let Some(fault) = size_fault(bytes) {
            return Err(Refusal::field("bytes", fault));
        }
        self.volume_verb(who, text, cause, "volume.resize", |volume| {
            let before_bytes = volume.bytes;
            if bytes <= before_bytes {
                let text = format!("{} has {before_bytes} bytes, and a volume only grows: ask for more", volume.name);
                return Err(Refusal::field("bytes", text));
            }
            volume.bytes = bytes;
            volume.generation += 1;
            let detail = format!("{} from {before_bytes} to {bytes} bytes", volume.name);
            Ok((TaskKind::VolumeResize { volume: volume.id, before_bytes }, detail))
        })
        .await
    }

    /// Records the task that leaves nothing of a volume. A second delete gives the first's task.
    ///
    /// # Errors
    /// `Denied`, `NoSuchVolume`, `PreconditionFailed`, `VolumeBusy`, `VolumeAttached`, `TooManyTasks`.
    pub async fn delete_volume(
        &self,
        who: &Who,
        text: &str,
        revision: Option<u64>,
        cause: &Cause,
    ) -> Result<Arc<Task>, Refusal> {
        who.authorize(Verb::Operate)?;
        let volume = self.find_volume(who, text)?;
        check_revision(revision, volume.revision)?;
        let under_way = self.view().read().open_task_of_volume(volume.id).cloned();
        if let Some(task) = under_way.filter(|t| matches!(t.kind, TaskKind::VolumeDelete { .. })) {
            return Ok(task);
        }
        let made = self.volume_verb(who, text, cause, "volume.delete", |volume| {
            self.check_detached(volume)?;
            Ok((TaskKind::VolumeDelete { volume: volume.id }, volume.name.to_string()))
        });
        Ok(made.await?.1)
    }

    /// Records a task on a volume that nothing else is done with, and what it changes of it at once.
    async fn volume_verb(
        &self,
        who: &Who,
        text: &str,
        cause: &Cause,
        verb: &str,
        plan: impl Fn(&mut Volume) -> Result<(TaskKind, String), Refusal>,
    ) -> Result<(Arc<Volume>, Arc<Task>), Refusal> {
        who.authorize(Verb::Operate)?;
        self.find_volume(who, text)?;
        self.check_queue(who)?;
        let made = self
            .decide(|| {
                let mut next = self.find_volume(who, text)?.as_ref().clone();
                self.check_idle(&next)?;
                let (kind, detail) = plan(&mut next)?;
                let task = self.new_task(who, kind, Priority::High);
                let mut batch = Batch { idempotency: cause.row(task.id), ..Batch::default() };
                let about = ("volume", next.id.to_string());
                batch.events.push(self.event((&who.tenant, &who.actor), verb, about, cause, detail));
                // Written also when nothing changes of it: of two verbs at once one is second.
                next.revision += 1;
                batch.update(Record::Volume(next.clone()));
                batch.insert(Record::Task(task.clone()));
                Ok((batch, (Arc::new(next), Arc::new(task))))
            })
            .await?;
        self.0.queue_wake.notify_one();
        Ok(made)
    }

    fn check_idle(&self, volume: &Volume) -> Result<(), Refusal> {
        let rows = self.view().read();
        let doing = rows
            .open_task_of_volume(volume.id)
            .map(|task| format!("{} is under way: wait for task {}", task.kind.text(), task.id));
        let doing = doing.or_else(|| volume.absent.then(|| "it is being deleted".to_owned()));
        doing.map_or(Ok(()), |text| Err(Refusal::new(Code::VolumeBusy, text)))
    }
}
