//! The task of one guest.

use super::addresses::Sought;
use super::step::{Seen, Step};
use super::{Document, Fall, Handle, Reach, SHELF};
use crate::admission::{Slot, Ticket};
use crate::journal::{self, Keep};
use crate::nursery::Effect;
use crate::world::World;
use perigee_clock::Instant;
use perigee_hypervisor::{Found, Hypervisor, HypervisorError, Session};
use perigee_model::limits::{BOOT_TIMEOUT, RECONNECT_FIRST, RECONNECT_MAX, TEXT_BYTES_MAX};
use perigee_model::{GuestId, Observed, Phase, Power, Timestamp};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

/// The wall clock may jump; no sleep towards one of its times is longer than this.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// A session that is away for longer is worth a note.
const AWAY_WORTH_A_NOTE: Duration = Duration::from_secs(5);

/// How waiting for an effect ended.
pub(super) enum Waited<T> {
    /// With its result.
    Done(T),
    /// It should not run any more; the effect was stopped.
    Turned,
    /// Its VMM ended; the effect was stopped.
    Fell,
}

/// May an effect be stopped half-way?
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stoppable {
    /// It only waits or reads.
    Yes,
    /// It changes the host.
    No,
}

/// The task of one guest; see the module.
pub(crate) struct Actor {
    pub(super) world: Arc<World>,
    pub(super) handle: Arc<Handle>,
    pub(super) document: Document,
    pub(super) hypervisor: Arc<dyn Hypervisor>,
    pub(super) alive: bool,
    pub(super) paused: bool,
    /// For want of room on its host's disk.
    pub(super) starved: bool,
    pub(super) fell: Option<Fall>,
    pub(super) slot: Option<Slot>,
    /// Its place before the boot slots, taken before any other guest of this host could run.
    pub(super) ticket: Option<Ticket>,
    pub(super) session: Option<Arc<dyn Session>>,
    /// There is no channel into it: running is all there is.
    pub(super) mute: bool,
    pub(super) away: Option<Away>,
    pub(super) sought: Sought,
    /// Cancelled when nobody wants the operation any more that is under way.
    pub(super) give_up: CancellationToken,
    begun: Begun,
    forget: bool,
    look: bool,
}

/// What was wanted when the step under way began: what comes of it is told of that, not of what was
/// asked for meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Begun {
    generation: u64,
    acted: Option<Uuid>,
}

impl Begun {
    fn of(document: &Document) -> Self {
        Self { generation: document.order.desired.generation, acted: document.acted }
    }
}

pub(super) struct Away {
    since: Instant,
    wait: Duration,
}

impl Actor {
    /// With what is known and what the host's inventory says of it, if anything.
    pub(crate) fn new(world: Arc<World>, handle: Arc<Handle>, document: Document, found: Option<&Found>) -> Self {
        let hypervisor = world.driver(document.order.kind);
        let alive = found.is_some_and(|f| f.alive);
        let boots = alive && document.observed.phase == Phase::Booting;
        let slot = boots.then(|| world.admission.take_over());
        let mute = hypervisor.channel().is_none() || !document.speaks();
        let mut actor = Self {
            paused: found.is_some_and(|f| f.paused),
            starved: found.is_some_and(|f| f.starved),
            sought: Sought::default(),
            give_up: CancellationToken::new(),
            begun: Begun::of(&document),
            ticket: None,
            session: None,
            fell: None,
            away: None,
            forget: false,
            look: false,
            world,
            handle,
            document,
            hypervisor,
            alive,
            slot,
            mute,
        };
        actor.ticket = actor.will_start_again().then(|| actor.world.admission.join(actor.document.start_order()));
        actor
    }

    /// Until the guest is gone and forgotten. `known`: its document is in the journal already.
    pub(crate) async fn run(mut self, known: bool) {
        let keep = if known { Keep::Process } else { Keep::Power };
        self.document.observed.sequence += 1;
        self.lose();
        self.world.images.keep(&self.world, &self.document.order.spec).await;
        while !self.save(keep).await && !self.is_absent() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.world.outbox.guest(self.document.report());
        self.repeat_operation();
        loop {
            self.take_mail().await;
            self.conclude_operation().await;
            if std::mem::take(&mut self.look) {
                self.verify().await;
            }
            self.handle.know(self.alive, self.paused, self.starved);
            // Of whom there are acts to tell is known to the control plane when those are.
            let gone = self.document.observed.phase == Phase::Gone && !self.world.outbox.has_act_on(self.id());
            if std::mem::take(&mut self.forget) && gone && self.erase().await {
                return;
            }
            let step = self.document.next(self.seen());
            if !matches!(step, Step::Boot | Step::Fell) {
                self.ticket = None; // others must not wait for who does not boot
            }
            self.begun = Begun::of(&self.document);
            match step {
                Step::Boot => self.boot().await,
                Step::Resume => self.resume().await,
                Step::Connect => self.connect().await,
                Step::Fell => self.fell().await,
                Step::Remove => self.remove().await,
                Step::Adopt => self.adopt().await,
                Step::Halt => self.halt().await,
                Step::Restart => self.restart().await,
                Step::Pause => self.pause().await,
                Step::Unpause => self.unpause().await,
                Step::Notice(phase) => self.notice(phase).await,
                Step::Card => self.change_card().await,
                Step::Plug => self.plug().await,
                Step::Starve => self.starve().await,
                Step::Fed => self.fed().await,
                Step::Operate => self.operate().await,
                Step::Confirm => self.observe(self.document.observed.phase, |_| {}).await,
                Step::Rest(until) => self.rest(until).await,
            }
        }
    }

    pub(super) fn is_absent(&self) -> bool {
        self.document.order.desired.power == Power::Absent
    }
    pub(super) fn id(&self) -> GuestId {
        self.document.id()
    }
    pub(super) fn wants_running(&self) -> bool {
        self.document.wants_running(self.world.clock.now())
    }
    fn seen(&self) -> Seen {
        let connected = self.session.is_some() || self.mute;
        let starved = self.starved && !self.document.is_adopted();
        Seen { alive: self.alive, paused: self.paused, starved, connected, now: self.world.clock.now() }
    }

    /// Writes the document; `false` when the journal refused.
    pub(super) async fn save(&self, keep: Keep) -> bool {
        let key = self.id().to_string();
        self.handle.show(&self.document);
        let written = journal::write(self.world.journal.as_ref(), SHELF, &key, &self.document, keep).await;
        self.world.health.journal(written.as_ref().err());
        written.inspect_err(|e| warn!(guest = %key, error = %crate::chain(e), "document not written")).is_ok()
    }

    async fn erase(&self) -> bool {
        let key = self.id().to_string();
        if let Err(e) = self.world.journal.remove(SHELF, &key).await {
            warn!(guest = %key, error = %crate::chain(&e), "document not removed");
            return false;
        }
        self.world.outbox.drop_guest(self.id());
        self.drop_operation();
        let generation = self.document.order.desired.generation;
        self.world.guests.erase(self.id(), generation, &self.handle);
        true
    }

    /// Takes what was left in the mailbox; a newer order is written down before anything is done.
    pub(super) async fn take_mail(&mut self) {
        let mail = self.handle.take();
        if self.alive || matches!(self.document.observed.phase, Phase::Booting | Phase::Running | Phase::Paused) {
            self.fell = mail.ended.or(self.fell.take());
        }
        self.look |= mail.look;
        self.forget |= mail.forget;
        for (id, base, act) in mail.acts {
            let before = self.document.clone();
            if self.document.take_act(id, base, &act) && !self.save(Keep::Power).await && !self.is_absent() {
                self.document = before;
                tokio::time::sleep(Duration::from_secs(1)).await;
                self.handle.act(id, base, act);
            }
        }
        self.take_operations(mail.operation, mail.taken).await;
        let Some((epoch, order)) = mail.order else { return };
        // What follows from this host's own acts comes with their receipts; until then an order knows of
        // some of them at most, and would undo the others.
        if self.world.outbox.has_act_on(self.id()) {
            return self.handle.keep(epoch, order);
        }
        if self.document.is_newer(&order, epoch) {
            let before = self.document.clone();
            self.document.take_order(order, epoch, self.world.clock.now());
            // What is only removed needs no room in the journal.
            if !self.save(Keep::Power).await && !self.is_absent() {
                let refused = std::mem::replace(&mut self.document, before);
                tokio::time::sleep(Duration::from_secs(1)).await;
                self.handle.order(refused.order, epoch);
            }
            return;
        }
        let known = (self.document.order.desired.generation, self.document.epoch);
        if (order.desired.generation, epoch) < known {
            info!(guest = %self.id(), generation = order.desired.generation, epoch, "an older order was refused");
        }
        self.document.epoch = self.document.epoch.max(epoch);
        if self.document.observed.phase == Phase::Gone {
            self.world.outbox.repeat_guest(self.id());
        }
    }

    /// Reports a phase, of what was wanted when the step began: writes it down, then leaves it for the link.
    pub(super) async fn observe(&mut self, phase: Phase, change: impl FnOnce(&mut Observed)) {
        let now = self.world.clock.now();
        let observed = &mut self.document.observed;
        if observed.phase != phase {
            observed.since = now;
            observed.phase = phase;
            observed.problem = None;
        }
        observed.sequence += 1;
        observed.generation = self.begun.generation;
        self.document.acting &= self.document.acted != self.begun.acted;
        let observed = &mut self.document.observed;
        observed.note = None;
        change(observed);
        info!(guest = %self.id(), phase = ?phase, sequence = self.document.observed.sequence, "observed");
        self.save(Keep::Process).await;
        self.world.outbox.guest(self.document.report());
    }

    pub(super) fn effect<T: Send + 'static>(&self, effect: impl Future<Output = T> + Send + 'static) -> Effect<T> {
        self.world.nursery.effect(effect)
    }

    /// Waits for an effect while mail comes in. What must not be stopped is waited for to its end.
    pub(super) async fn during<T>(&mut self, mut effect: Effect<T>, stoppable: Stoppable) -> Waited<T> {
        let handle = self.handle.clone();
        loop {
            let running = self.wants_running();
            if !running && stoppable == Stoppable::Yes {
                effect.stop().await;
                return Waited::Turned;
            }
            let until = self.document.order.desired.expires_at.filter(|_| running);
            tokio::select! {
                biased;
                answer = effect.wait() => match answer {
                    Some(answer) => return Waited::Done(answer),
                    None => std::future::pending().await, // the agent ends
                },
                () = handle.wake.notified() => self.take_mail().await,
                () = self.world.sleep_until(until, LOOK_AGAIN) => {}
            }
            if stoppable == Stoppable::Yes && self.fell.is_some() && self.verify().await {
                if !self.alive {
                    effect.stop().await;
                    return Waited::Fell;
                }
                self.fell = None;
            }
        }
    }

    /// Nothing to do: until mail, until its time is over, or until the session closes.
    async fn rest(&mut self, until: Option<Timestamp>) {
        let session = self.session.clone();
        let closed = async {
            match &session {
                Some(session) => session.closed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.handle.wake.notified() => {}
            () = self.world.sleep_until(until, LOOK_AGAIN) => return,
            () = closed => {
                self.session = None;
                self.handle.reach.send_replace(Reach::Broken);
                self.verify().await;
                return;
            }
            () = self.sought.due(&self.world.clock), if self.seeks_addresses() => {
                self.seek_addresses().await;
                return;
            }
        }
        self.take_mail().await;
        // Said to have ended: a host that cannot be read is asked again, the word is kept.
        if self.fell.is_some() && self.alive {
            let known = self.verify().await;
            if known && self.alive {
                self.fell = None;
            }
        }
    }

    /// Until mail, or so long.
    pub(super) async fn wait_a_moment(&mut self, most: Duration) {
        let handle = self.handle.clone();
        tokio::select! {
            biased;
            () = handle.wake.notified() => self.take_mail().await,
            () = tokio::time::sleep(most) => {}
        }
    }

    /// Asks the host how its VMM is; `false` when it cannot say, and nothing is changed.
    pub(super) async fn verify(&mut self) -> bool {
        let hypervisor = self.hypervisor.clone();
        let mut effect = self.effect(async move { hypervisor.inventory().await });
        match effect.wait().await {
            Some(Ok(found)) => {
                let own = found.iter().find(|f| f.guest == self.id());
                self.alive = own.is_some_and(|f| f.alive);
                self.paused = own.is_some_and(|f| f.paused);
                self.starved = own.is_some_and(|f| f.starved);
                true
            }
            Some(Err(e)) => {
                warn!(error = %crate::chain(&e), "the host's guests cannot be read");
                false
            }
            None => false,
        }
    }

    pub(super) fn connected(&mut self, session: Option<Arc<dyn Session>>) {
        self.away = None;
        if let Some(session) = &session {
            self.handle.reach.send_replace(Reach::Up(session.clone()));
        }
        self.session = session;
    }

    /// One attempt to open the session of a guest that lives.
    async fn connect(&mut self) {
        let (hypervisor, id) = (self.hypervisor.clone(), self.id());
        let open = self.effect(async move {
            match hypervisor.channel() {
                Some(channel) => channel.open(id, BOOT_TIMEOUT).await.map(Some),
                None => Ok(None),
            }
        });
        match self.during(open, Stoppable::Yes).await {
            Waited::Done(Ok(session)) => {
                self.connected(session);
                if self.document.observed.note.is_some() {
                    self.observe(Phase::Running, |_| {}).await;
                }
            }
            Waited::Done(Err(HypervisorError::NotRunning)) => {
                self.verify().await;
                if self.alive {
                    self.stay_away("its VMM does not answer").await;
                }
            }
            Waited::Done(Err(e)) => self.stay_away(&e.to_string()).await,
            Waited::Turned | Waited::Fell => {}
        }
    }

    async fn stay_away(&mut self, why: &str) {
        let clock = self.world.clock.clone();
        let away = self.away.get_or_insert_with(|| Away { since: clock.instant(), wait: RECONNECT_FIRST });
        let wait = away.wait;
        away.wait = (wait * 2).min(RECONNECT_MAX);
        if away.since.elapsed() > AWAY_WORTH_A_NOTE && self.document.observed.note.is_none() {
            let note = bounded(&format!("its channel is being opened again: {why}"));
            self.observe(Phase::Running, |o| o.note = Some(note)).await;
        }
        tokio::select! {
            biased;
            () = self.handle.wake.notified() => self.take_mail().await,
            () = tokio::time::sleep(clock.jitter(wait)) => {}
        }
    }
}

/// A text that fits where it is stored.
pub(super) fn bounded(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
