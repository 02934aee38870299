//! What the agent's own API does: each verb an act that is written down, done and waited for.

use super::http::read;
use crate::guest::{Document, Handle};
use crate::intents::{self, KnownImage};
use crate::usage::Used;
use crate::world::World;
use perigee_agent_api::{Act, Intent};
use perigee_api::{Page, SandboxView, StopRequest, VmPatch, VmRequest, VmView};
use perigee_model::limits::{VM_STOP_GRACE, VM_STOP_GRACE_MAX};
use perigee_model::name::labels_fault;
use perigee_model::{Code, Guest, GuestId, GuestKind, GuestSpec, Mac, Name, Phase, Power, Refusal, Switch};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// A guest that is brought somewhere is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// And waited for this long, beyond the time that it was given.
const SETTLED_WITHIN: Duration = Duration::from_secs(300);
/// The guests of an answer: more than any host runs.
const LISTED_MAX: usize = 1000;

/// One request.
pub(super) struct Call {
    pub world: Arc<World>,
    /// The user of this host who asks.
    pub uid: Option<u32>,
}

/// The switch that a route names.
///
/// # Errors
/// `NoSuchRoute`, or what is wrong with the body.
pub(super) fn switch(verb: &str, body: &[u8]) -> Result<Switch, Refusal> {
    let grace = || -> Result<u64, Refusal> {
        let request: StopRequest = read(body)?;
        let (usual, most) = (millis(VM_STOP_GRACE), millis(VM_STOP_GRACE_MAX));
        let grace_ms = request.grace_ms.unwrap_or(usual);
        if grace_ms > most {
            return Err(Refusal::field("grace_ms", format!("grace_ms is 0 (at once) to {most}, not {grace_ms}")));
        }
        Ok(grace_ms)
    };
    match verb {
        "start" => Ok(Switch::Start),
        "stop" => Ok(Switch::Stop { grace_ms: grace()? }),
        "restart" => Ok(Switch::Restart { grace_ms: grace()? }),
        "pause" => Ok(Switch::Pause),
        "resume" => Ok(Switch::Resume),
        _ => Err(Refusal::new(Code::NoSuchRoute, "a VM has start, stop, restart, pause and resume here")),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Call {
    /// The VMs of this host, oldest first; `name=`, `status=` and `label=` ask for some of them.
    ///
    /// # Errors
    /// `UnknownField` for what an agent does not know of its guests.
    pub(super) fn list(&self, query: &str) -> Result<Page<VmView>, Refusal> {
        let (mut name, mut status, mut label) = (None, None, None);
        for (field, wanted) in form_urlencoded::parse(query.as_bytes()) {
            match field.as_ref() {
                "name" => name = Some(wanted),
                "status" => status = Some(wanted),
                "label" => label = Some(wanted),
                "kind" | "limit" => {}
                _ => return Err(Refusal::new(Code::UnknownField, "an agent lists by name, status and label")),
            }
        }
        let label = label.as_deref().map(|label| {
            label.split_once('=').ok_or_else(|| Refusal::field("label", "a label to list by is KEY=VALUE"))
        });
        let label = label.transpose()?;
        let documents = intents::documents(&self.world).into_iter().map(|(_, document)| document);
        let shown = documents.filter(is_shown).map(|document| self.view(&document));
        let fits = |view: &VmView| {
            let marked = |(key, value): (&str, &str)| view.guest.labels.get(key).is_some_and(|is| is == value);
            name.as_ref().is_none_or(|name| view.guest.name == *name)
                && status.as_ref().is_none_or(|status| view.guest.status == *status)
                && label.is_none_or(marked)
        };
        Ok(Page { items: shown.filter(fits).take(LISTED_MAX).collect(), next_page_token: None })
    }

    /// One of them, by id or name.
    pub(super) fn get(&self, text: &str) -> Result<VmView, Refusal> {
        Ok(self.view(&self.find(text)?.1))
    }

    /// Makes one from an image that guests here were made of.
    pub(super) async fn create(&self, request: VmRequest) -> Result<VmView, Refusal> {
        let id = GuestId::new(self.world.clock.uuid());
        let made_up = || Name::parse(&format!("vm-{}", &id.short()[4..])).ok();
        let name = request.name()?.or_else(made_up);
        let name = name.ok_or_else(|| Refusal::field("name", "a name is needed"))?;
        if self.find(name.as_str()).is_ok() {
            return Err(Refusal::new(Code::NameTaken, format!("the name {name} is taken on this host")));
        }
        if let Some(fault) = labels_fault(&request.labels) {
            return Err(Refusal::field("labels", fault));
        }
        let spec = self.spec(&request).await?;
        let act = Act::Create { name, labels: request.labels, spec: Box::new(spec) };
        self.act(id, 1, act).await?;
        let handle = self.world.guests.get(id).ok_or_else(|| Refusal::new(Code::Bug, "the guest was not taken up"))?;
        let document = self.settled(&handle, None, Duration::ZERO, |phase| phase == Phase::Running).await?;
        Ok(self.view(&document))
    }

    /// Moves one's switch, and waits until it is there.
    pub(super) async fn switch(&self, text: &str, to: Switch) -> Result<VmView, Refusal> {
        let (handle, document) = self.find(text)?;
        if document.order.desired.power == Power::Absent {
            return Err(Refusal::new(Code::NoSuchGuest, "the VM is being deleted"));
        }
        let off = matches!(document.observed.phase, Phase::Stopped | Phase::Failed);
        if off && matches!(to, Switch::Pause | Switch::Resume) {
            return Err(Refusal::new(Code::GuestNotRunning, "the VM does not run: start it instead"));
        }
        let act = self.act(document.id(), document.order.desired.generation, Act::Switch(to)).await?;
        let (grace, there) = match to {
            Switch::Start | Switch::Resume => (0, Phase::Running),
            Switch::Restart { grace_ms } => (grace_ms, Phase::Running),
            Switch::Stop { grace_ms } => (grace_ms, Phase::Stopped),
            Switch::Pause => (0, Phase::Paused),
        };
        let grace = Duration::from_millis(grace);
        let document = self.settled(&handle, Some(act), grace, |phase| phase == there).await?;
        Ok(self.view(&document))
    }

    /// Changes what may be changed of one; sizes hold from its next start on.
    pub(super) async fn update(&self, text: &str, patch: VmPatch) -> Result<VmView, Refusal> {
        let (handle, document) = self.find(text)?;
        if document.order.desired.power == Power::Absent {
            return Err(Refusal::new(Code::NoSuchGuest, "the VM is being deleted"));
        }
        let change = patch.change()?;
        let mut next = document.order.clone();
        change.apply(&mut next.name, &mut next.labels, &mut next.spec)?;
        if next.name != document.order.name && self.find(next.name.as_str()).is_ok() {
            return Err(Refusal::new(Code::NameTaken, format!("the name {} is taken on this host", next.name)));
        }
        let base = document.order.desired.generation;
        let act = self.act(document.id(), base, Act::Update(Box::new(change))).await?;
        let document = self.waited(Duration::ZERO, || handle.document().filter(|d| d.acted >= Some(act))).await?;
        Ok(self.view(&document))
    }

    /// Deletes one, and waits until nothing of it is left.
    pub(super) async fn delete(&self, text: &str) -> Result<(), Refusal> {
        let (handle, document) = self.find(text)?;
        if document.order.spec.vm.as_ref().is_some_and(|vm| vm.adopted) {
            let text = "it was taken over, not made here: the control plane releases it";
            return Err(Refusal::field("id", text));
        }
        let act = self.act(document.id(), document.order.desired.generation, Act::Delete).await?;
        self.settled(&handle, Some(act), Duration::ZERO, |phase| phase == Phase::Gone).await.map(drop)
    }

    async fn act(&self, guest: GuestId, base_generation: u64, act: Act) -> Result<Uuid, Refusal> {
        let (id, at): (Uuid, _) = (self.world.clock.uuid(), self.world.clock.now());
        let intent = Intent { id, uid: self.uid, at, guest, base_generation, act };
        // To its end, though nobody may wait for it any more: what is written down is done, and told.
        let of = self.world.clone();
        let mut done = self.world.nursery.effect(async move { intents::act(&of, intent).await });
        match done.wait().await {
            Some(Ok(())) => Ok(id),
            Some(Err(error)) => {
                let text = "it cannot be written down on this host, so it was not done";
                Err(Refusal::new(Code::DiskFull, text).because(error))
            }
            None => {
                Err(Refusal::new(Code::ShuttingDown, "the agent ends; whether it was done is told by its next life"))
            }
        }
    }

    /// The document once its guest is there and this act has nothing left to bring about.
    async fn settled(
        &self,
        handle: &Handle,
        act: Option<Uuid>,
        grace: Duration,
        there: impl Fn(Phase) -> bool,
    ) -> Result<Document, Refusal> {
        let looked = self.waited(grace, || {
            let document = handle.document()?;
            let observed = &document.observed;
            // Its actor may not have read its mail yet.
            if act.is_some() && document.acted < act {
                return None;
            }
            let restarted = observed.restarts >= document.order.desired.restarts;
            if !document.acting && there(observed.phase) && restarted {
                return Some(Ok(document));
            }
            let failed = !document.acting && observed.phase == Phase::Failed;
            let problem = observed.problem.as_ref().filter(|_| failed)?;
            let code = Code::parse(&problem.code).unwrap_or(Code::BootFailed);
            Some(Err(Refusal::new(code, problem.text.clone())))
        });
        looked.await?
    }

    /// What there is to be seen, as soon as it is.
    async fn waited<T>(&self, grace: Duration, mut seen: impl FnMut() -> Option<T>) -> Result<T, Refusal> {
        let deadline = self.world.clock.instant().after(SETTLED_WITHIN + grace).into_tokio();
        let looked = async {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                if let Some(seen) = seen() {
                    return seen;
                }
            }
        };
        let late =
            || Refusal::new(Code::WaitTimedOut, "it is under way, but was not done within the time it was waited for");
        tokio::time::timeout_at(deadline, looked).await.map_err(|_| late())
    }

    async fn spec(&self, request: &VmRequest) -> Result<GuestSpec, Refusal> {
        let resources = request.resources();
        if let Some((field, text)) = resources.fault() {
            return Err(Refusal::field(field, text));
        }
        if request.user_data.is_some() {
            return Err(Refusal::field(
                "user_data",
                "user-data is kept by the control plane, which the agent may not reach",
            ));
        }
        let bits = u32::from_le_bytes(self.world.clock.random());
        let vm = request.spec(request.mac()?.unwrap_or(Mac::from_bits(bits)))?;
        let name = request.image.as_deref().unwrap_or("base");
        let known = intents::image_named(&self.world, name).await;
        let KnownImage { id, name, parts } = known.ok_or_else(|| {
            let text = "no guest of this host was made of such an image; the control plane knows the others";
            Refusal::new(Code::NoSuchImage, text)
        })?;
        Ok(GuestSpec {
            image: id,
            image_name: name,
            parts,
            resources,
            env: Default::default(),
            ttl_ms: None,
            host_wanted: Some(self.world.host),
            vm: Some(Box::new(vm)),
            egress: request.egress()?,
            egress6: None,
            forwards: Vec::new(),
        })
    }

    fn find(&self, text: &str) -> Result<(Arc<Handle>, Document), Refusal> {
        let all = intents::documents(&self.world).into_iter().filter(|(_, document)| is_shown(document));
        let mut all = all.filter(|(_, d)| d.order.name.as_str() == text || d.id().to_string() == text);
        all.next().ok_or_else(|| Refusal::new(Code::NoSuchGuest, "no VM of this host has this name or id"))
    }

    fn view(&self, document: &Document) -> VmView {
        let guest = self.guest(document);
        let host = (self.world.describe)().hostname;
        let Used { cpu_cores, resident_bytes } = Used::on(&self.world.measured.lock(), guest.id.uuid());
        let view = VmView::of(&guest, SandboxView::of(&guest, guest.status(true), Some(host)));
        VmView { cpu_cores, resident_bytes, ..view }
    }

    /// The guest as far as its host knows it.
    fn guest(&self, document: &Document) -> Guest {
        let order = &document.order;
        let mut desired = order.desired.clone();
        desired.host = Some(self.world.host);
        let revision = order.desired.generation;
        let new = Guest::new(order.id, order.name.clone(), order.kind, order.spec.clone(), document.observed.since);
        Guest { labels: order.labels.clone(), desired, observed: Some(document.observed.clone()), revision, ..new }
    }
}

/// A VM that is still here.
fn is_shown(document: &Document) -> bool {
    let gone = document.observed.phase == Phase::Gone && document.order.desired.power == Power::Absent;
    document.order.kind == GuestKind::Vm && !gone
}
