//! Verbs on guests: create, list, get, label, delete.

use crate::vms::NewVm;
use crate::{Cause, Control, Span, refuse_store};
use perigee_agent_api::DesiredGuest;
use perigee_model::execution::env_fault;
use perigee_model::limits::{ENV_MAX, SANDBOX_TTL_MAX, SANDBOX_TTL_MIN, TASK_ATTEMPTS_MAX, TASKS_PENDING_MAX};
use perigee_model::name::labels_fault;
use perigee_model::placement::{Candidate, Placement, Wanted, place};
use perigee_model::{
    Code, Desired, Egress, Egress6, Guest, GuestId, GuestKind, GuestSpec, GuestStatus, HostId, Image, ImageState,
    Labels, Name, PartRole, Priority, Refusal, Resources, Task, TaskId, TaskKind, TaskState, Verb, Who,
};
use perigee_store::{Batch, Record};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What a caller wants.
#[derive(Clone, Debug)]
pub struct NewGuest {
    /// Made up when absent.
    pub name: Option<Name>,
    /// VM or sandbox.
    pub kind: GuestKind,
    /// Name or id of the image.
    pub image: String,
    /// CPUs and memory.
    pub resources: Resources,
    /// `None` lives until deleted.
    pub ttl: Option<Duration>,
    /// Environment of its commands.
    pub env: BTreeMap<String, String>,
    /// Marks.
    pub labels: Labels,
    /// Name or id of the only host that will do.
    pub host: Option<String>,
    /// In the queue.
    pub priority: Priority,
    /// What only a full VM has.
    pub vm: Option<NewVm>,
    /// A card on its host's own network, and what may be reached by it; `None`: it has none there.
    pub egress: Option<Egress>,
    /// The same by IPv6; `None`: it has no IPv6.
    pub egress6: Option<Egress6>,
}

impl Control {
    /// Records a guest and the task that brings it up.
    ///
    /// # Errors
    /// `Denied`, `BadField`, `NoSuchImage`, `ImageNotReady`, `NoSuchHost`, `NoRoom` when no host
    /// could ever take it, `NameTaken`, `TooManyTasks`.
    pub async fn create_guest(
        &self,
        who: &Who,
        wanted: NewGuest,
        cause: &Cause,
    ) -> Result<(Arc<Guest>, Arc<Task>), Refusal> {
        who.authorize(Verb::Operate)?;
        let (image, room) = self.check_new(who, &wanted)?;
        self.check_queue(who)?;
        let priority = wanted.priority;
        let guest = self.new_guest(who, wanted, &image, room.host)?;
        let task = self.new_task(who, TaskKind::GuestCreate { guest: guest.id, restores: false }, priority);
        let mut batch = Batch { idempotency: cause.row(task.id), ..Batch::default() };
        let about = ("guest", guest.id.to_string());
        let detail = format!("{} from {}", guest.name, guest.spec.image_name);
        batch.events.push(self.event((&who.tenant, &who.actor), "guest.create", about, cause, detail));
        batch.insert(Record::Guest(guest.clone()));
        batch.insert(Record::Task(task.clone()));
        self.commit(batch).await.map_err(refuse_store)?;
        self.0.queue_wake.notify_one();
        Ok((Arc::new(guest), Arc::new(task)))
    }

    /// What a create would make, and where it would be placed now. Nothing is written.
    ///
    /// # Errors
    /// As of `create_guest`.
    pub fn preview_guest(&self, who: &Who, wanted: NewGuest) -> Result<(Guest, Placement), Refusal> {
        who.authorize(Verb::Operate)?;
        let (image, room) = self.check_new(who, &wanted)?;
        if let Some(name) = &wanted.name
            && self.view().read().guest_named(&who.tenant, name.as_str()).is_some()
        {
            return Err(Refusal::new(Code::NameTaken, format!("the name {name} is taken")));
        }
        let placement = place(&self.candidates(wanted.kind), &room);
        Ok((self.new_guest(who, wanted, &image, room.host)?, placement))
    }

    /// What a new guest is made from, and what it needs; refused when that is wrong in itself.
    fn check_new(&self, who: &Who, wanted: &NewGuest) -> Result<(Arc<Image>, Wanted), Refusal> {
        check(wanted)?;
        let image = self.find_image(who, &wanted.image)?;
        check_ready(&image)?;
        check_fits(wanted, &image)?;
        let host = wanted.host.as_deref().map(|h| self.find_host(who, h)).transpose()?.map(|h| h.id);
        let network = wanted.vm.as_ref().and_then(|vm| vm.spec.network.as_ref());
        let host = self.host_of_network(who, network, host)?;
        let room = Wanted { resources: wanted.resources, arch: image.arch.clone(), host };
        self.check_room(wanted.kind, &room)?;
        Ok((image, room))
    }

    /// Living guests of the caller's tenant, oldest first.
    ///
    /// # Errors
    /// `Denied`.
    pub fn list_guests(
        &self,
        who: &Who,
        span: Span<GuestId>,
        fits: impl Fn(&Guest) -> bool,
    ) -> Result<Vec<Arc<Guest>>, Refusal> {
        who.authorize(Verb::See)?;
        Ok(span.oldest(&self.view().read().guests, |g| !g.is_gone() && g.tenant == who.tenant && fits(g)))
    }

    /// One guest by id or name. Another tenant's does not exist. A gone one is found by id only.
    ///
    /// # Errors
    /// `NoSuchGuest`.
    pub fn find_guest(&self, who: &Who, text: &str) -> Result<Arc<Guest>, Refusal> {
        who.authorize(Verb::See)?;
        let rows = self.view().read();
        let by_id = text.parse::<GuestId>().ok().and_then(|id| rows.guests.get(&id));
        let found = by_id.or_else(|| rows.guest_named(&who.tenant, text));
        let found = found.filter(|g| g.tenant == who.tenant);
        found.cloned().ok_or_else(|| Refusal::new(Code::NoSuchGuest, "no guest of yours has this name or id"))
    }

    /// What is shown of it. What its host said before its present link counts only when it says so again.
    pub fn guest_status(&self, guest: &Guest) -> GuestStatus {
        let is_told = |host| match guest.observed {
            Some(_) => self.links().has_told(host, guest.id),
            None => self.links().is_connected(host),
        };
        guest.status(guest.desired.host.is_some_and(is_told))
    }

    /// Records the task that leaves nothing of a guest. A second delete gives the first's task.
    ///
    /// # Errors
    /// `Denied`, `NoSuchGuest`, `PreconditionFailed`.
    pub async fn delete_guest(
        &self,
        who: &Who,
        text: &str,
        revision: Option<u64>,
        cause: &Cause,
    ) -> Result<Arc<Task>, Refusal> {
        who.authorize(Verb::Operate)?;
        let guest = self.find_guest(who, text)?;
        if guest.is_gone() {
            return Err(Refusal::new(Code::NoSuchGuest, "the guest is already deleted"));
        }
        check_revision(revision, guest.revision)?;
        if guest.is_adopted() && !guest.desired.release {
            let text = "it was taken over, not made here: release it, and remove it where it was made";
            return Err(Refusal::field("id", text));
        }
        let under_way = {
            let rows = self.view().read();
            rows.open_tasks_of(guest.id).find(|t| matches!(t.kind, TaskKind::GuestDelete { .. })).cloned()
        };
        if let Some(task) = under_way {
            return Ok(task);
        }
        let task = self.new_task(who, TaskKind::GuestDelete { guest: guest.id }, Priority::Critical);
        let mut batch = Batch { idempotency: cause.row(task.id), ..Batch::default() };
        let about = ("guest", guest.id.to_string());
        let detail = guest.name.to_string();
        let verb = if guest.desired.release { "guest.release" } else { "guest.delete" };
        batch.events.push(self.event((&who.tenant, &who.actor), verb, about, cause, detail));
        batch.insert(Record::Task(task.clone()));
        self.commit(batch).await.map_err(refuse_store)?;
        self.0.queue_wake.notify_one();
        Ok(Arc::new(task))
    }

    /// A task as it begins.
    pub(crate) fn new_task(&self, who: &Who, kind: TaskKind, priority: Priority) -> Task {
        let now = self.clock().now();
        Task {
            id: TaskId::new(self.clock().uuid()),
            tenant: who.tenant.clone(),
            owner: who.actor.clone(),
            kind,
            priority,
            state: TaskState::Pending,
            attempts: 0,
            attempts_max: TASK_ATTEMPTS_MAX,
            worker: None,
            epoch: self.epoch(),
            host: None,
            generation: None,
            cancel_asked: false,
            note: None,
            progress_percent: None,
            problem: None,
            created_at: now,
            scheduled_at: now,
            started_at: None,
            completed_at: None,
            revision: 1,
        }
    }

    /// Refuses when the tenant's queue is full.
    pub(crate) fn check_queue(&self, who: &Who) -> Result<(), Refusal> {
        let rows = self.view().read();
        let waiting = rows.open_tasks().filter(|t| t.tenant == who.tenant).count();
        if waiting < TASKS_PENDING_MAX {
            return Ok(());
        }
        let mut refusal = Refusal::new(Code::TooManyTasks, format!("{TASKS_PENDING_MAX} tasks are open already"));
        refusal.retry_after_s = Some(10);
        Err(refusal)
    }

    /// Refuses what no host could ever take.
    pub(crate) fn check_room(&self, kind: GuestKind, wanted: &Wanted) -> Result<(), Refusal> {
        let placement = place(&self.candidates(kind), wanted);
        if placement.is_for_good(&wanted.resources) {
            return Err(Refusal::new(Code::NoRoom, format!("no host could ever take it: {}", placement.text())));
        }
        Ok(())
    }

    fn new_guest(
        &self,
        who: &Who,
        wanted: NewGuest,
        image: &Image,
        host_wanted: Option<HostId>,
    ) -> Result<Guest, Refusal> {
        let id = GuestId::new(self.clock().uuid());
        let now = self.clock().now();
        let word = match wanted.kind {
            GuestKind::Sandbox => "sandbox",
            GuestKind::Vm => "vm",
        };
        let made_up = || Name::parse(&format!("{word}-{}", &id.short()[4..])).ok();
        let mut parts = image.parts.clone();
        parts.extend(wanted.vm.as_ref().and_then(|vm| vm.user_data.clone()));
        let vm = wanted.vm.map(|vm| self.vm_spec(vm)).transpose()?.map(Box::new);
        let name = wanted.name.or_else(made_up).unwrap_or_else(|| image.name.clone());
        let spec = GuestSpec {
            image: image.id,
            image_name: image.name.clone(),
            parts,
            resources: wanted.resources,
            env: wanted.env,
            ttl_ms: wanted.ttl.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
            host_wanted,
            vm,
            egress: wanted.egress,
            egress6: wanted.egress6,
            forwards: Vec::new(),
        };
        Ok(Guest {
            tenant: who.tenant.clone(),
            owner: who.actor.clone(),
            labels: wanted.labels,
            desired: Desired { expires_at: wanted.ttl.map(|t| now + t), ..Desired::running(0, None) },
            ..Guest::new(id, name, wanted.kind, spec, now)
        })
    }

    /// Hosts as placement sees them, for a guest of this kind.
    pub(crate) fn candidates(&self, kind: GuestKind) -> Vec<Candidate> {
        let rows = self.view().read();
        let mut taken: BTreeMap<HostId, (u64, u32)> = BTreeMap::new();
        for guest in rows.living_guests() {
            if let Some(host) = guest.desired.host {
                let entry = taken.entry(host).or_default();
                entry.0 += guest.spec.resources.memory_bytes;
                entry.1 += 1;
            }
        }
        let hosts = rows.hosts.values().filter(|h| !h.revoked);
        hosts
            .filter_map(|host| {
                let inventory = host.inventory.as_ref()?;
                let (memory_taken_bytes, guests) = taken.get(&host.id).copied().unwrap_or_default();
                Some(Candidate {
                    id: host.id,
                    name: host.name.clone(),
                    labels: host.labels.clone(),
                    connected: self.links().is_connected(host.id),
                    drained: host.drained,
                    arch: inventory.arch.clone(),
                    can_run: inventory.drivers.iter().any(|d| d.channel && d.kinds.contains(&kind)),
                    cpus: inventory.cpus,
                    memory_bytes: inventory.memory_bytes.saturating_sub(perigee_model::limits::HOST_RESERVE_BYTES),
                    memory_taken_bytes,
                    guests,
                })
            })
            .collect()
    }
}

/// What a guest's host must have.
pub(crate) fn desired_of(guest: &Guest) -> DesiredGuest {
    DesiredGuest {
        id: guest.id,
        name: guest.name.clone(),
        labels: guest.labels.clone(),
        kind: guest.kind,
        spec: guest.spec.clone(),
        desired: guest.desired.clone(),
    }
}

pub(crate) fn check_revision(wanted: Option<u64>, is: u64) -> Result<(), Refusal> {
    if wanted.is_none_or(|w| w == is) { Ok(()) } else { Err(changed()) }
}

pub(crate) fn changed() -> Refusal {
    Refusal::new(Code::PreconditionFailed, "the object has changed since you read it; read it again")
}

/// Why it cannot have IPv6, when it asks for it.
fn six_fault(wanted: &NewGuest) -> Option<&'static str> {
    wanted.egress6.as_ref()?;
    match (wanted.kind, &wanted.egress) {
        (GuestKind::Vm, _) => Some("only sandboxes have IPv6 now: leave egress6 out for a VM"),
        (GuestKind::Sandbox, None) => Some("it has no card: give egress, too, none at least"),
        (GuestKind::Sandbox, Some(_)) => None,
    }
}

fn check(wanted: &NewGuest) -> Result<(), Refusal> {
    let fits = match wanted.kind {
        GuestKind::Vm => wanted.vm.is_some() && wanted.ttl.is_none() && wanted.env.is_empty(),
        GuestKind::Sandbox => wanted.vm.is_none(),
    };
    if !fits {
        let text = "env and ttl_ms are of sandboxes; disks, networks, keys and policies are of VMs";
        return Err(Refusal::field("kind", text));
    }
    if wanted.egress.is_some() && wanted.vm.as_ref().is_some_and(|vm| vm.spec.network.is_some()) {
        let text = "its one card is on its host's own network (egress) or on one of its libvirt, not on both";
        return Err(Refusal::field("network", text));
    }
    if let Some(text) = six_fault(wanted) {
        return Err(Refusal::field("egress6", text));
    }
    if let Some((field, text)) = wanted.resources.fault() {
        return Err(Refusal::field(field, text));
    }
    if wanted.ttl.is_some_and(|t| t < SANDBOX_TTL_MIN || t > SANDBOX_TTL_MAX) {
        let text = format!(
            "ttl_ms is 0 (until deleted) or {} to {}",
            SANDBOX_TTL_MIN.as_millis(),
            SANDBOX_TTL_MAX.as_millis()
        );
        return Err(Refusal::field("ttl_ms", text));
    }
    if wanted.env.len() > ENV_MAX {
        return Err(Refusal::field("env", format!("env has at most {ENV_MAX} variables")));
    }
    if let Some(fault) = env_fault(&wanted.env) {
        return Err(Refusal::field("env", fault));
    }
    if let Some(fault) = labels_fault(&wanted.labels) {
        return Err(Refusal::field("labels", fault));
    }
    Ok(())
}

/// Whether such a guest can be made of this image.
fn check_fits(wanted: &NewGuest, image: &Image) -> Result<(), Refusal> {
    let brings_kernel = image.parts.iter().any(|part| part.role == PartRole::Kernel);
    if wanted.kind == GuestKind::Sandbox && !brings_kernel {
        return Err(Refusal::field("image", "the image has no kernel of its own: it starts VMs, not sandboxes"));
    }
    let has_disk = image.parts.iter().any(|part| part.role == PartRole::Disk);
    if wanted.kind == GuestKind::Vm && brings_kernel && has_disk {
        let text = format!("{} is the root of sandboxes: build one for VMs (image build debian)", image.name);
        return Err(Refusal::field("image", text));
    }
    if brings_kernel && wanted.vm.as_ref().is_some_and(|vm| vm.spec.wants_firmware()) {
        let text = format!("{} brings its own kernel, which no firmware boots: leave out uefi and tpm", image.name);
        return Err(Refusal::field("firmware", text));
    }
    Ok(())
}

fn check_ready(image: &Image) -> Result<(), Refusal> {
    match image.state {
        ImageState::Ready => Ok(()),
        ImageState::Building => Err(Refusal::new(Code::ImageNotReady, "the image is still being built")),
        ImageState::Failed => {
            Err(Refusal::new(Code::ImageNotReady, "the image could not be built; delete it and build it again"))
        }
    }
}
