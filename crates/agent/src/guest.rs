//! Guests: one task each.
//!
//! Owns: what the agent knows about a guest (its document), the order of its effects, its session,
//! and what is reported about it.
//! Refuses: orders of an older generation or reign, two effects on one guest at once, and a restart
//! that neither its owner nor its policy asked for.
//!
//! ```text
//!  desired ──mailbox──▶ actor ──journal──▶ effect on the hypervisor ──journal──▶ report ──▶ outbox
//!                         ▲ ended · session closed · time to live · link repeats
//! ```

mod actor;
mod addresses;
mod backups;
mod boot;
mod card;
mod memo;
mod operations;
mod power;
mod starved;
mod step;
mod volumes;

pub(crate) use actor::Actor;

use crate::world::World;
use operations::Operations;
use perigee_agent_api::{Act, DesiredGuest, GuestReport, Operate};
use perigee_hypervisor::{Found, Session};
use perigee_model::{GuestId, GuestKind, Observed, PartRole, Phase, Power, TaskId, Timestamp};
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

/// The journal's shelf of guests.
pub(crate) const SHELF: &str = "guests";
/// A new life of the agent goes on this far behind the last sequence it finds, so that reports
/// that were sent but not written down stay older than its own.
const SEQUENCE_GAP: u64 = 1000;

/// What the agent knows about a guest. Written before each effect.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Document {
    /// The reign of the newest order.
    pub epoch: u64,
    /// The newest order.
    pub order: DesiredGuest,
    /// The last report.
    pub observed: Observed,
    /// The boot in flight uses the slow clock.
    pub steady: bool,
    /// Times in a row that it ended by itself and was started again.
    #[serde(default)]
    pub falls: u32,
    /// Its driver was told that it is ours now; of guests that were here before us.
    #[serde(default)]
    pub taken_over: bool,
    /// The newest act of this host's on it.
    #[serde(default)]
    pub acted: Option<Uuid>,
    /// That act is still to be brought about: what is observed is behind it.
    #[serde(default)]
    pub acting: bool,
    /// It should be paused, and somebody else let it go on: that holds until the next order or act.
    #[serde(default)]
    pub let_go: bool,
    /// Of its card: while it has one, and of a VM while it is off, too.
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
    /// The same of IPv6.
    #[serde(default)]
    pub address6: Option<Ipv6Addr>,
    /// Long work on it: the newest there was until its end is taken, and what was before that.
    #[serde(default)]
    pub operations: Operations,
    /// Its disk came out of the backup that it is made from.
    #[serde(default)]
    pub restored: bool,
}

impl Document {
    /// It ended, and no newer order wants it back.
    pub(crate) fn is_over(&self) -> bool {
        let ended = matches!(self.observed.phase, Phase::Stopped | Phase::Failed | Phase::Gone);
        ended && self.observed.generation >= self.order.desired.generation
    }

    /// Of a guest nobody has heard of. Sequences begin at the time in milliseconds: should the
    /// journal be lost under a living guest, its next reports are still the newest.
    pub(crate) fn new(order: DesiredGuest, epoch: u64, now: Timestamp) -> Self {
        let observed = Observed {
            generation: order.desired.generation,
            sequence: u64::try_from(now.micros() / 1000).unwrap_or(0),
            phase: Phase::Waiting,
            since: now,
            note: None,
            problem: None,
            kernel_release: None,
            boot_ms: None,
            restarts: 0,
            booted: None,
            addresses: Vec::new(),
            forwards: Vec::new(),
            volumes: Vec::new(),
        };
        Self {
            epoch,
            order,
            observed,
            steady: false,
            falls: 0,
            taken_over: false,
            acted: None,
            acting: false,
            let_go: false,
            address: None,
            address6: None,
            operations: Operations::default(),
            restored: false,
        }
    }
    /// As found by a new life of the agent.
    pub(crate) fn inherited(mut self) -> Self {
        self.observed.sequence += SEQUENCE_GAP;
        self
    }
    /// Whether `perigee-guest` is in it: sandboxes have it always, VMs by an image that boots our
    /// own initial RAM file system.
    pub(crate) fn speaks(&self) -> bool {
        let ours = |part: &perigee_model::Part| part.role == PartRole::Initrd;
        self.order.kind == GuestKind::Sandbox || self.order.spec.parts.iter().any(ours)
    }
    pub(crate) fn id(&self) -> GuestId {
        self.order.id
    }
    pub(crate) fn report(&self) -> GuestReport {
        GuestReport { guest: self.order.id, observed: self.observed.clone() }
    }
    /// Takes a newer order. One that was let go and is taken over again begins anew, under the same id: its
    /// hypervisor's.
    fn take_order(&mut self, order: DesiredGuest, epoch: u64, now: Timestamp) {
        let adopts = order.spec.vm.as_ref().is_some_and(|vm| vm.adopted) && order.desired.power != Power::Absent;
        if adopts && self.observed.phase == Phase::Gone {
            let sequence = self.observed.sequence;
            *self = Self::new(order, epoch, now);
            self.observed.sequence = self.observed.sequence.max(sequence);
            return;
        }
        // What could not be put in is tried again for whoever asks again.
        self.observed.volumes.retain(|plugged| plugged.problem.is_none());
        self.order = order;
        self.epoch = epoch;
        self.acting = false;
        self.let_go = false;
    }
    /// Takes an act of this host's own into what is wanted. `false`: it was taken before, knew of another
    /// generation, or comes after the guest's end was asked for.
    fn take_act(&mut self, id: Uuid, base: u64, act: &Act) -> bool {
        if self.acted.is_some_and(|newest| id <= newest) || base != self.order.desired.generation {
            return false;
        }
        // Nothing brings back what is on its way out.
        if self.order.desired.power == Power::Absent && *act != Act::Delete {
            return false;
        }
        match act {
            Act::Switch(switch) => {
                switch.apply(&mut self.order.desired);
                // Generations are the control plane's to count.
                self.order.desired.generation = base;
            }
            Act::Delete => self.order.desired.power = Power::Absent,
            Act::Update(change) => {
                let mut next = self.order.clone();
                if change.apply(&mut next.name, &mut next.labels, &mut next.spec).is_err() {
                    return false;
                }
                self.order = next;
            }
            Act::Create { .. } => return false,
        }
        self.acted = Some(id);
        self.acting = true;
        self.let_go = false;
        true
    }
    /// Whether an order is newer than what is known. One of an older reign never is.
    pub(crate) fn is_newer(&self, order: &DesiredGuest, epoch: u64) -> bool {
        epoch >= self.epoch && order.desired.generation > self.order.desired.generation
    }
}

/// How a guest can be reached for commands and files.
#[derive(Clone)]
pub(crate) enum Reach {
    /// It is on its way up.
    Soon,
    /// Here.
    Up(Arc<dyn Session>),
    /// It lives; its session is being opened again.
    Broken,
    /// It does not live here.
    Down,
}

/// How a guest's VMM ended.
#[derive(Clone, Debug)]
pub(crate) struct Fall {
    /// For the log and the user.
    pub text: String,
    /// The guest turned itself off.
    pub clean: bool,
}

impl Fall {
    /// Nobody saw how.
    pub(crate) fn unseen(text: &str) -> Self {
        Self { text: text.to_owned(), clean: false }
    }
}

#[derive(Default)]
struct Mail {
    order: Option<(u64, DesiredGuest)>,
    ended: Option<Fall>,
    acts: Vec<(Uuid, u64, Act)>,
    operation: Option<Operate>,
    taken: Option<TaskId>,
    look: bool,
    forget: bool,
}

/// What others hold of a guest: its mailbox and its session.
pub(crate) struct Handle {
    mail: Mutex<Mail>,
    known: Mutex<(bool, bool, bool)>,
    document: Mutex<Option<Document>>,
    /// Place of its driver among the host's.
    pub(crate) driver: usize,
    wake: Notify,
    reach: watch::Sender<Reach>,
}

impl Handle {
    pub(crate) fn new(driver: usize) -> Arc<Self> {
        let reach = watch::Sender::new(Reach::Soon);
        Arc::new(Self {
            mail: Mutex::default(),
            known: Mutex::default(),
            document: Mutex::default(),
            driver,
            wake: Notify::new(),
            reach,
        })
    }

    fn put(&self, change: impl FnOnce(&mut Mail)) {
        change(&mut self.mail.lock().unwrap_or_else(PoisonError::into_inner));
        self.wake.notify_one();
    }
    fn take(&self) -> Mail {
        std::mem::take(&mut *self.mail.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Leaves an order; of several the newest is kept.
    pub(crate) fn order(&self, order: DesiredGuest, epoch: u64) {
        self.put(|mail| {
            let older = |(e, o): &(u64, DesiredGuest)| (order.desired.generation, epoch) > (o.desired.generation, *e);
            if mail.order.as_ref().is_none_or(older) {
                mail.order = Some((epoch, order));
            }
        });
    }
    /// The VMM may have ended.
    pub(crate) fn ended(&self, fall: Fall) {
        self.put(|mail| mail.ended = Some(fall));
    }
    /// Leaves an act of this host's own, which knew of this generation.
    pub(crate) fn act(&self, id: Uuid, base: u64, act: Act) {
        self.put(|mail| mail.acts.push((id, base, act)));
    }
    /// Leaves an operation; there is one at a time.
    pub(crate) fn operate(&self, order: Operate) {
        self.put(|mail| mail.operation = Some(order));
    }
    /// The end of that operation is stored elsewhere.
    pub(crate) fn operation_taken(&self, task: TaskId) {
        self.put(|mail| mail.taken = Some(task));
    }
    /// What is known of it, as it was written down last.
    pub(crate) fn document(&self) -> Option<Document> {
        self.document.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    fn show(&self, document: &Document) {
        *self.document.lock().unwrap_or_else(PoisonError::into_inner) = Some(document.clone());
    }
    /// What its actor goes by: its VMM lives, its CPUs are stopped, for want of room.
    fn know(&self, alive: bool, paused: bool, starved: bool) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = (alive, paused, starved);
    }
    /// Whether that is what was found.
    pub(crate) fn is_as_found(&self, found: &Found) -> bool {
        let known = *self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known == (found.alive, found.paused, found.starved)
    }
    /// Leaves an order for later, unless a newer one came.
    fn keep(&self, epoch: u64, order: DesiredGuest) {
        let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        mail.order.get_or_insert((epoch, order));
    }
    /// What kept an order back may be over.
    pub(crate) fn go_on(&self) {
        self.wake.notify_one();
    }
    /// Something about it may not be as it was.
    pub(crate) fn look(&self) {
        self.put(|mail| mail.look = true);
    }
    /// The control plane knows nothing of it; when it is gone its document may go.
    pub(crate) fn forget(&self) {
        self.put(|mail| mail.forget = true);
    }
    /// How it can be reached, now and later.
    pub(crate) fn reach(&self) -> watch::Receiver<Reach> {
        self.reach.subscribe()
    }
}

/// Makes the actor of a guest, which does nothing yet.
pub(crate) fn make(world: &Arc<World>, document: Document, found: Option<&Found>) -> Actor {
    let handle = Handle::new(world.driver_place(document.order.kind));
    // Nobody would ever open the channel of a guest that ended in an earlier life of the agent.
    if !found.is_some_and(|f| f.alive) && document.is_over() {
        handle.reach.send_replace(Reach::Down);
    }
    world.guests.insert(document.id(), handle.clone());
    Actor::new(world.clone(), handle, document, found)
}

/// Starts the actor of a guest nobody has heard of here.
pub(crate) fn spawn(world: &Arc<World>, document: Document, found: Option<&Found>) {
    let actor = make(world, document, found);
    world.nursery.spawn(actor.run(false));
}
