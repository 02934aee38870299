//! VMs made from backups.

use crate::{Cause, Control, refuse_store};
use perigee_model::backup::Origin;
use perigee_model::placement::Wanted;
use perigee_model::{
    Backup, Code, Forward, Guest, GuestId, GuestKind, GuestSpec, Name, PartRole, Priority, Refusal, Stored, Task,
    TaskKind, Verb, VmSpec, Who,
};
use perigee_store::{Batch, Record};
use std::sync::Arc;

/// Sizes of disks are told in these.
const MIB: u64 = 1 << 20;

/// What is wanted of a VM that is made from a backup.
#[derive(Clone, Debug, Default)]
pub struct NewRestore {
    /// The name of the VM that was backed up, when absent.
    pub name: Option<Name>,
    /// Name or id of the only host that will do; any will when absent.
    pub host: Option<String>,
}

impl Control {
    /// Records a VM as it was when a backup of it was made, and the task that brings it up.
    ///
    /// # Errors
    /// `Denied`, `NoSuchBackup`, `BackupInUse` while it is being made, `NameTaken` while the VM itself, or
    /// another one of its name, is there, `NoSuchHost`, `NoRoom`, `TooManyTasks`.
    pub async fn restore_backup(
        &self,
        who: &Who,
        text: &str,
        wanted: NewRestore,
        cause: &Cause,
    ) -> Result<(Arc<Guest>, Arc<Task>), Refusal> {
        who.authorize(Verb::Operate)?;
        let backup = self.ready_backup(who, text)?;
        let stored =
            backup.stored.clone().ok_or_else(|| Refusal::new(Code::NoSuchBackup, "the backup is not there"))?;
        self.check_queue(who)?;
        let guest = self.restored(who, &backup, &stored, wanted)?;
        let host = guest.spec.host_wanted;
        self.check_room(GuestKind::Vm, &Wanted { resources: guest.spec.resources, arch: backup.arch.clone(), host })?;
        let task = self.new_task(who, TaskKind::GuestCreate { guest: guest.id, restores: true }, Priority::Default);
        let mut batch = Batch { idempotency: cause.row(task.id), ..Batch::default() };
        let about = ("guest", guest.id.to_string());
        let detail = format!("{} from {}", guest.name, backup.name);
        batch.events.push(self.event((&who.tenant, &who.actor), "guest.restore", about, cause, detail));
        batch.insert(Record::Guest(guest.clone()));
        batch.insert(Record::Task(task.clone()));
        self.commit(batch).await.map_err(|error| match error {
            perigee_store::StoreError::NameTaken { name } => {
                let text = format!("there is a guest {name} already: give the restored one another --name");
                Refusal::new(Code::NameTaken, text)
            }
            error => refuse_store(error),
        })?;
        self.0.queue_wake.notify_one();
        Ok((Arc::new(guest), Arc::new(task)))
    }

    pub(crate) fn restored(
        &self,
        who: &Who,
        backup: &Backup,
        stored: &Stored,
        wanted: NewRestore,
    ) -> Result<Guest, Refusal> {
        let host_wanted = wanted.host.as_deref().map(|host| self.find_host(who, host)).transpose()?.map(|host| host.id);
        let was = backup.spec.vm.as_deref().ok_or_else(|| Refusal::new(Code::NoBackups, "it is of no VM"))?;
        let before = was.origin.as_ref();
        let is_disk = |role: PartRole| role == PartRole::Disk;
        let origin = Origin {
            backup: backup.id,
            index: stored.index.clone(),
            sealed: backup.sealed,
            disk_bytes: stored.disk_bytes,
            arch: backup.arch.clone(),
            identity: before.map_or(backup.guest, |origin| origin.identity),
            image_disk: before.map_or(backup.spec.parts.iter().any(|part| is_disk(part.role)), |o| o.image_disk),
        };
        // Where its network is, unless somebody knows better.
        let host_wanted = match host_wanted {
            Some(host) => Some(host),
            None => self.host_of_network(who, was.network.as_ref(), None)?,
        };
        let vm = VmSpec {
            disk_bytes: Some(stored.disk_bytes.next_multiple_of(MIB)),
            mac: self.free_mac(Some(was.mac)).or_else(|_| self.free_mac(None))?,
            origin: Some(origin),
            volumes: Vec::new(),
            ..was.clone()
        };
        let spec = GuestSpec {
            forwards: self.free_forwards(&backup.spec.forwards),
            parts: backup.spec.parts.iter().filter(|part| !is_disk(part.role)).cloned().collect(),
            host_wanted,
            vm: Some(Box::new(vm)),
            ..backup.spec.clone()
        };
        let name = wanted.name.unwrap_or_else(|| backup.guest_name.clone());
        Ok(Guest {
            tenant: who.tenant.clone(),
            owner: who.actor.clone(),
            labels: backup.labels.clone(),
            ..Guest::new(GuestId::new(self.clock().uuid()), name, GuestKind::Vm, spec, self.clock().now())
        })
    }
    /// Those that lead to nobody else: whose backup it is may live on.
    fn free_forwards(&self, forwards: &[Forward]) -> Vec<Forward> {
        let rows = self.view().read();
        let led = |forward: &Forward| {
            rows.living_guests().any(|other| other.spec.forwards.iter().any(|one| one.clashes(*forward)))
        };
        forwards.iter().filter(|forward| !led(forward)).copied().collect()
    }
}
