//! The task of one guest.

use super::step::{Seen, Step};
use super::{Document, Handle, Reach, SHELF};
use crate::admission::Slot;
use crate::journal::{self, Keep};
use crate::nursery::Effect;
use crate::world::World;
use perigee_clock::Instant;
use perigee_hypervisor::{HypervisorError, Session};
use perigee_model::guest::Problem;
use perigee_model::limits::{BOOT_TIMEOUT, RECONNECT_FIRST, RECONNECT_MAX, TEXT_BYTES_MAX};
use perigee_model::{Code, GuestId, Observed, Phase, Power, Timestamp};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};

/// The wall clock may jump; no sleep towards one of its times is longer than this.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// A session that is away for longer is worth a note.
const AWAY_WORTH_A_NOTE: Duration = Duration::from_secs(5);
/// The driver's words on a guest's end are waited for this long.
const WORDS_WITHIN: Duration = Duration::from_millis(100);

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
    pub(super) alive: bool,
    pub(super) fell: Option<String>,
    pub(super) slot: Option<Slot>,
    session: Option<Arc<dyn Session>>,
    /// The driver has no channel: running is all there is.
    pub(super) mute: bool,
    away: Option<Away>,
    forget: bool,
}

struct Away {
    since: Instant,
    wait: Duration,
}

impl Actor {
    /// With what is known; `alive` is what the host's inventory says.
    pub(crate) fn new(world: Arc<World>, handle: Arc<Handle>, document: Document, alive: bool) -> Self {
        let boots = alive && document.observed.phase == Phase::Booting;
        let slot = boots.then(|| world.admission.take_over());
        let mute = world.hypervisor.channel().is_none();
        let fell = None;
        Self { world, handle, document, alive, fell, slot, session: None, mute, away: None, forget: false }
    }

    /// Until the guest is gone and forgotten. `known`: its document is in the journal already.
    pub(crate) async fn run(mut self, known: bool) {
        let keep = if known { Keep::Process } else { Keep::Power };
        self.document.observed.sequence += 1;
        while !self.save(keep).await && !self.is_absent() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.world.outbox.guest(self.document.report());
        loop {
            self.take_mail().await;
            let gone = self.document.observed.phase == Phase::Gone;
            if std::mem::take(&mut self.forget) && gone && self.erase().await {
                return;
            }
            match self.document.next(self.seen()) {
                Step::Boot => self.boot().await,
                Step::Resume => self.resume().await,
                Step::Connect => self.connect().await,
                Step::Fell => self.fell().await,
                Step::Remove(phase) => self.remove(phase).await,
                Step::Confirm => self.observe(self.document.observed.phase, |_| {}).await,
                Step::Rest(until) => self.rest(until).await,
            }
        }
    }

    fn is_absent(&self) -> bool {
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
        Seen { alive: self.alive, connected, now: self.world.clock.now() }
    }

    /// Writes the document; `false` when the journal refused.
    pub(super) async fn save(&self, keep: Keep) -> bool {
        let key = self.id().to_string();
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
        let generation = self.document.order.desired.generation;
        self.world.guests.erase(self.id(), generation, &self.handle);
        true
    }

    /// Takes what was left in the mailbox; a newer order is written down before anything is done.
    pub(super) async fn take_mail(&mut self) {
        let mail = self.handle.take();
        if self.alive || matches!(self.document.observed.phase, Phase::Booting | Phase::Running) {
            self.fell = mail.ended.or(self.fell.take());
        }
        self.forget |= mail.forget;
        let Some((epoch, order)) = mail.order else { return };
        if self.document.is_newer(&order, epoch) {
            let before = self.document.clone();
            self.document.order = order;
            self.document.epoch = epoch;
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

    /// Reports a phase: writes it down, then leaves it for the link.
    pub(super) async fn observe(&mut self, phase: Phase, change: impl FnOnce(&mut Observed)) {
        let now = self.world.clock.now();
        let observed = &mut self.document.observed;
        if observed.phase != phase {
            observed.since = now;
            observed.phase = phase;
            observed.problem = None;
        }
        observed.sequence += 1;
        observed.generation = self.document.order.desired.generation;
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

    /// Asks the host whether the VMM lives; `false` when it cannot say, and nothing is changed.
    pub(super) async fn verify(&mut self) -> bool {
        let hypervisor = self.world.hypervisor.clone();
        let mut effect = self.effect(async move { hypervisor.inventory().await });
        match effect.wait().await {
            Some(Ok(found)) => {
                self.alive = found.iter().any(|f| f.guest == self.id() && f.alive);
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
        let (hypervisor, id) = (self.world.hypervisor.clone(), self.id());
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

    async fn fell(&mut self) {
        let text = self.last_words().await;
        let problem = Problem::new(Code::GuestNotRunning, bounded(&format!("the guest ended by itself: {text}")));
        self.fail(problem).await;
    }

    /// What the driver says of its end. Its event may be a moment behind what made us look.
    pub(super) async fn last_words(&mut self) -> String {
        let handle = self.handle.clone();
        let deadline = self.world.clock.instant().after(WORDS_WITHIN).into_tokio();
        while self.fell.is_none() && tokio::time::timeout_at(deadline, handle.wake.notified()).await.is_ok() {
            self.take_mail().await;
        }
        self.fell.take().unwrap_or_else(|| "its VMM is not there any more".to_owned())
    }

    /// Leaves nothing of it, then reports the failure.
    pub(super) async fn fail(&mut self, problem: Problem) {
        if self.clear().await {
            self.observe(Phase::Failed, |o| o.problem = Some(problem)).await;
        }
    }

    async fn remove(&mut self, phase: Phase) {
        if self.document.observed.phase != Phase::Stopping {
            self.observe(Phase::Stopping, |_| {}).await;
        }
        if !self.clear().await {
            return;
        }
        let expired = phase == Phase::Gone && !self.is_absent();
        let problem = expired.then(|| Problem::new(Code::GuestExpired, "it reached its time to live"));
        self.observe(phase, |o| o.problem = problem).await;
    }

    /// Destroys what there is. `false` when it must be tried again.
    pub(super) async fn clear(&mut self) -> bool {
        self.session = None;
        self.away = None;
        self.handle.reach.send_replace(Reach::Down);
        let (hypervisor, id) = (self.world.hypervisor.clone(), self.id());
        let effect = self.effect(async move { hypervisor.destroy(id).await });
        match self.during(effect, Stoppable::No).await {
            Waited::Done(Ok(())) => {
                self.alive = false;
                self.fell = None;
                self.slot = None;
                true
            }
            Waited::Done(Err(e)) => {
                warn!(guest = %id, error = %crate::chain(&e), "not destroyed");
                let note = bounded(&format!("cannot be removed: {e}"));
                if self.document.observed.note.as_ref() != Some(&note) {
                    self.observe(self.document.observed.phase, |o| o.note = Some(note)).await;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
                false
            }
            Waited::Turned | Waited::Fell => false,
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
