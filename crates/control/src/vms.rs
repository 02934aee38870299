//! Verbs on full VMs: their switch, their size, and taking over what was there before.

use crate::cards::bounded;
use crate::guests::{check_revision, desired_of};
use crate::watch::ForeignVm;
use crate::{Cause, Control, refuse_store};
use perigee_agent_api::FromServer;
use perigee_model::limits::{NAME_CHARS_MAX, VM_MEMORY_BYTES_DEFAULT, VM_STOP_GRACE_MAX};
use perigee_model::placement::Wanted;
use perigee_model::{
    Code, Desired, Firmware, Guest, GuestId, GuestKind, GuestSpec, GuestStatus, ImageId, Mac, Name, Observed, Part,
    Phase, Power, Priority, Refusal, Resources, RestartPolicy, Switch, Task, TaskKind, Verb, VmChange, VmSpec, Who,
};
use perigee_store::{Batch, Record};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Tries to find a hardware address that no living guest has.
const MAC_TRIES_MAX: u32 = 64;

/// What a caller wants of a new VM.
#[derive(Clone, Debug)]
pub struct NewVm {
    /// All of it but its hardware address.
    pub spec: VmSpec,
    /// That address; made up when absent.
    pub mac: Option<Mac>,
    /// For cloud-init, already in the blobs.
    pub user_data: Option<Part>,
}

impl Control {
    /// Records the task that moves a VM's switch.
    ///
    /// # Errors
    /// `Denied`, `NoSuchGuest`, `BadField` for a sandbox or an endless grace, `GuestNotRunning` when
    /// there is nothing to pause.
    pub async fn switch_vm(&self, who: &Who, text: &str, switch: Switch, cause: &Cause) -> Result<Arc<Task>, Refusal> {
        who.authorize(Verb::Operate)?;
        let guest = self.find_vm(who, text)?;
        check_switch(switch, self.guest_status(&guest))?;
        self.check_queue(who)?;
        let task = self.new_task(who, TaskKind::GuestPower { guest: guest.id, switch }, Priority::High);
        let mut batch = Batch { idempotency: cause.row(task.id), ..Batch::default() };
        let about = ("guest", guest.id.to_string());
        let verb = switch.text().replace("vm:", "guest.");
        batch.events.push(self.event((&who.tenant, &who.actor), &verb, about, cause, guest.name.as_str()));
        batch.insert(Record::Task(task.clone()));
        self.commit(batch).await.map_err(refuse_store)?;
        self.0.queue_wake.notify_one();
        Ok(Arc::new(task))
    }

    /// Changes what may be changed of a VM, if it still has this revision. Sizes hold from its next
    /// start on, what it may reach at once.
    ///
    /// # Errors
    /// `Denied`, `NoSuchGuest`, `PreconditionFailed`, `BadField`, `NameTaken`, `NoRoom` when its host
    /// could never take it.
    pub async fn update_vm(
        &self,
        who: &Who,
        text: &str,
        change: &VmChange,
        revision: Option<u64>,
        cause: &Cause,
    ) -> Result<Arc<Guest>, Refusal> {
        who.authorize(Verb::Operate)?;
        let next = self
            .decide(|| {
                let guest = self.find_vm(who, text)?;
                check_revision(revision, guest.revision)?;
                let mut next = changed_by(&guest, change)?;
                if next.spec.resources != guest.spec.resources {
                    self.check_resize(&guest, next.spec.resources)?;
                }
                next.revision += 1;
                let mut batch = Batch { idempotency: cause.row(""), ..Batch::default() };
                let about = ("guest", guest.id.to_string());
                let policy = next.spec.egress.as_ref().filter(|_| next.spec.egress != guest.spec.egress);
                let (verb, words) = match policy {
                    Some(egress) => ("guest.egress", bounded(&egress.words().join(" "))),
                    None => ("guest.update", String::new()),
                };
                batch.events.push(self.event((&who.tenant, &who.actor), verb, about, cause, words));
                batch.update(Record::Guest(next.clone()));
                Ok((batch, next))
            })
            .await?;
        if let Some(host) = next.desired.host {
            self.links().send(host, FromServer::Desired(Box::new(desired_of(&next))));
        }
        Ok(Arc::new(next))
    }

    /// Takes over a VM that was there before us: from now on it is a guest like others, but for its
    /// definition, which stays its owner's.
    ///
    /// # Errors
    /// `Denied`, `NameTaken`, `BadField` for a name that is none, `HostAway`.
    pub async fn adopt_vm(
        &self,
        who: &Who,
        foreign: &ForeignVm,
        name: Option<Name>,
        cause: &Cause,
    ) -> Result<(Arc<Guest>, Arc<Task>), Refusal> {
        who.authorize(Verb::Operate)?;
        if !self.links().is_connected(foreign.host) {
            return Err(Refusal::new(Code::HostAway, "its host is not connected; what is so there is not known"));
        }
        let id = GuestId::new(foreign.id);
        if self.view().guest(id).is_some_and(|known| !known.is_gone()) {
            return Err(Refusal::new(Code::NameTaken, "it is taken over already"));
        }
        let name = match name {
            Some(name) => name,
            None => as_name(&foreign.name)?,
        };
        let mut guest = self.adopted(who, foreign, name)?;
        // Its host may not have forgotten that it was let go: what it hears and says now is newer.
        if let Some(gone) = self.view().guest(id) {
            guest.desired.generation = gone.desired.generation;
            let waiting = |observed: Observed| Observed { phase: Phase::Waiting, problem: None, ..observed };
            guest.observed = gone.observed.clone().map(waiting);
        }
        let task = self.new_task(who, TaskKind::GuestCreate { guest: guest.id, restores: false }, Priority::Default);
        let mut batch = Batch { idempotency: cause.row(task.id), ..Batch::default() };
        let about = ("guest", guest.id.to_string());
        batch.events.push(self.event((&who.tenant, &who.actor), "guest.adopt", about, cause, guest.name.as_str()));
        batch.changes.extend(
            self.view().guest(id).map(|_| perigee_store::Change::Delete(perigee_store::Noun::Guest, id.to_string())),
        );
        batch.insert(Record::Guest(guest.clone()));
        batch.insert(Record::Task(task.clone()));
        self.commit(batch).await.map_err(refuse_store)?;
        self.0.queue_wake.notify_one();
        Ok((Arc::new(guest), Arc::new(task)))
    }

    /// Records the task that lets an adopted VM go: it stays on its host as it is.
    ///
    /// # Errors
    /// `Denied`, `NoSuchGuest`, `BadField` for one that was made here.
    pub async fn release_vm(&self, who: &Who, text: &str, cause: &Cause) -> Result<Arc<Task>, Refusal> {
        who.authorize(Verb::Operate)?;
        let guest = self.find_vm(who, text)?;
        if !guest.spec.vm.as_ref().is_some_and(|vm| vm.adopted) {
            let text = "it was made by Perigee, not taken over: delete it instead";
            return Err(Refusal::field("id", text));
        }
        self.decide(|| {
            let mut next = self.find_vm(who, text)?.as_ref().clone();
            next.desired.release = true;
            next.revision += 1;
            let mut batch = Batch::default();
            batch.update(Record::Guest(next));
            Ok((batch, ()))
        })
        .await?;
        self.delete_guest(who, text, None, cause).await
    }

    /// One living VM by id or name.
    ///
    /// # Errors
    /// `NoSuchGuest`, `BadField` for a sandbox.
    pub fn find_vm(&self, who: &Who, text: &str) -> Result<Arc<Guest>, Refusal> {
        let guest = self.find_guest(who, text)?;
        if guest.is_gone() {
            return Err(Refusal::new(Code::NoSuchGuest, "the guest is deleted"));
        }
        if guest.kind != GuestKind::Vm {
            return Err(Refusal::field("id", "a sandbox has no switch: it runs until it is deleted"));
        }
        Ok(guest)
    }

    /// The wishes of a new VM, checked, with a hardware address that nobody has.
    pub(crate) fn vm_spec(&self, wanted: NewVm) -> Result<VmSpec, Refusal> {
        let spec = VmSpec { mac: self.free_mac(wanted.mac)?, adopted: false, ..wanted.spec };
        match spec.fault() {
            None => Ok(spec),
            Some((field, text)) => Err(Refusal::field(field, text)),
        }
    }

    /// This address, or one that nobody has; refused when somebody has it.
    pub(crate) fn free_mac(&self, wanted: Option<Mac>) -> Result<Mac, Refusal> {
        let rows = self.view().read();
        let taken = |mac: Mac| rows.living_guests().any(|g| g.spec.vm.as_ref().is_some_and(|vm| vm.mac == mac));
        if let Some(mac) = wanted {
            let clash = || Refusal::field("mac", format!("{mac} is another guest's hardware address"));
            return if taken(mac) { Err(clash()) } else { Ok(mac) };
        }
        let mut tries = (0..MAC_TRIES_MAX).map(|_| Mac::from_bits(u32::from_le_bytes(self.clock().random())));
        tries.find(|mac| !taken(*mac)).ok_or_else(|| Refusal::new(Code::NoRoom, "no hardware address is free"))
    }

    fn check_resize(&self, guest: &Guest, wanted: Resources) -> Result<(), Refusal> {
        let arch = self.arch_of(guest);
        let host = guest.desired.host.or(guest.spec.host_wanted);
        // What it has now it gives back.
        let more =
            Resources { memory_bytes: wanted.memory_bytes.saturating_sub(guest.spec.resources.memory_bytes), ..wanted };
        self.check_room(GuestKind::Vm, &Wanted { resources: more, arch, host })
    }

    fn adopted(&self, who: &Who, foreign: &ForeignVm, name: Name) -> Result<Guest, Refusal> {
        let resources = Resources {
            cpus: foreign.cpus.unwrap_or(1),
            memory_bytes: foreign.memory_bytes.unwrap_or(VM_MEMORY_BYTES_DEFAULT) >> 20 << 20,
        };
        let vm = VmSpec {
            description: String::new(),
            metadata: BTreeMap::new(),
            disk_bytes: None,
            network: None,
            mac: self.free_mac(None)?,
            ssh_keys: Vec::new(),
            firmware: Firmware::Bios,
            tpm: false,
            restart: RestartPolicy::Never,
            start_order: 0,
            adopted: true,
            origin: None,
            volumes: Vec::new(),
        };
        let power = match foreign.state {
            Some(3) => Power::Paused,
            Some(5 | 6) => Power::Stopped,
            _ => Power::Running,
        };
        let spec = GuestSpec {
            image: ImageId::new(uuid::Uuid::nil()),
            image_name: name.clone(),
            parts: Vec::new(),
            resources,
            env: BTreeMap::new(),
            ttl_ms: None,
            host_wanted: Some(foreign.host),
            vm: Some(Box::new(vm)),
            egress: None,
            egress6: None,
            forwards: Vec::new(),
        };
        Ok(Guest {
            tenant: who.tenant.clone(),
            owner: who.actor.clone(),
            desired: Desired { power, ..Desired::running(0, Some(foreign.host)) },
            ..Guest::new(GuestId::new(foreign.id), name, GuestKind::Vm, spec, self.clock().now())
        })
    }
}

fn check_switch(switch: Switch, status: GuestStatus) -> Result<(), Refusal> {
    match switch {
        Switch::Stop { grace_ms } | Switch::Restart { grace_ms } => {
            let most = u64::try_from(VM_STOP_GRACE_MAX.as_millis()).unwrap_or(u64::MAX);
            if grace_ms > most {
                return Err(Refusal::field("grace_ms", format!("grace_ms is 0 (at once) to {most}, not {grace_ms}")));
            }
        }
        Switch::Pause | Switch::Resume => {
            let off = [GuestStatus::Stopped, GuestStatus::Failed, GuestStatus::Stopping];
            if off.contains(&status) {
                let text = "the VM does not run: start it instead";
                return Err(Refusal::new(Code::GuestNotRunning, text));
            }
        }
        Switch::Start => {}
    }
    Ok(())
}

/// The guest as the change makes it.
pub(crate) fn changed_by(guest: &Guest, change: &VmChange) -> Result<Guest, Refusal> {
    let mut next = guest.clone();
    change.apply(&mut next.name, &mut next.labels, &mut next.spec)?;
    let seen_there = |guest: &Guest| (guest.spec.clone(), guest.name.clone(), guest.labels.clone());
    if seen_there(&next) != seen_there(guest) {
        next.desired.generation += 1;
    }
    Ok(next)
}

/// A foreign name as one of ours: what a name cannot have becomes a hyphen.
fn as_name(foreign: &str) -> Result<Name, Refusal> {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let text: String = foreign.chars().map(plain).take(NAME_CHARS_MAX).collect();
    Name::parse(text.trim_matches('-'))
        .map_err(|fault| Refusal::field("name", format!("its own name cannot be taken over ({fault}); give one")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_names_become_ours() {
        let of = |text: &str| as_name(text).map(|n| n.to_string()).ok();
        assert_eq!(of("Win_10 (Büro)").as_deref(), Some("win-10--b-ro"));
        assert_eq!(of("db").as_deref(), Some("db"));
        assert_eq!(of("../.."), None);
        assert_eq!(of(&"x".repeat(300)).map(|n| n.len()), Some(63));
    }

    #[test]
    fn what_does_not_run_is_not_paused() {
        assert!(check_switch(Switch::Pause, GuestStatus::Running).is_ok());
        assert!(check_switch(Switch::Pause, GuestStatus::Stopped).is_err());
        assert!(check_switch(Switch::Resume, GuestStatus::Failed).is_err());
        assert!(check_switch(Switch::Start, GuestStatus::Stopped).is_ok());
        assert!(check_switch(Switch::Stop { grace_ms: u64::MAX }, GuestStatus::Running).is_err());
        assert!(check_switch(Switch::Stop { grace_ms: 0 }, GuestStatus::Running).is_ok());
    }
}
