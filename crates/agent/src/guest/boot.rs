//! Bringing a guest up: parts, slot, VMM, hello.

use super::actor::{Actor, Stoppable, Waited, bounded};
use super::power::Leave;
use super::volumes::plugged;
use super::{Reach, card};
use crate::parts::PartsError;
use crate::world::World;
use perigee_hypervisor::{Hypervisor, HypervisorError, Pace, Plan, Session};
use perigee_model::guest::Problem;
use perigee_model::limits::{BOOT_RETRY_TIMEOUT, BOOT_TIMEOUT, RECONNECT_FIRST, RECONNECT_MAX};
use perigee_model::{Code, GuestId, PartRole, Phase};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tracing::warn;

type Opened = Result<Option<Arc<dyn Session>>, HypervisorError>;
type Files = Vec<(PartRole, PathBuf)>;

/// Notes are renewed no more often than this.
const NOTE_EVERY: Duration = Duration::from_secs(1);
/// A channel that breaks while the guest boots is tried again after this.
const OPEN_AGAIN: Duration = Duration::from_millis(200);

/// How one attempt ended.
enum Attempt {
    Up,
    Silent,
    Failed(Problem),
    Turned,
}

impl Actor {
    /// From nothing to running, or to failed.
    pub(super) async fn boot(&mut self) {
        self.handle.reach.send_replace(Reach::Soon);
        if matches!(self.document.observed.phase, Phase::Failed | Phase::Stopped) {
            self.observe(Phase::Waiting, |_| {}).await; // asked for again
        }
        let Some(files) = self.fetch().await else { return };
        if !self.restore().await || !self.queue().await {
            return;
        }
        self.attempts(files, Pace::Ordinary).await;
    }

    /// One that boots already: only its hello is missing.
    pub(super) async fn resume(&mut self) {
        self.handle.reach.send_replace(Reach::Soon);
        let steady = self.document.steady;
        let within = if steady { BOOT_RETRY_TIMEOUT } else { BOOT_TIMEOUT };
        let attempt = self.hello(within, None).await;
        if matches!(attempt, Attempt::Silent) && !steady {
            if self.clear(Leave::Disks).await
                && let Some(files) = self.fetch().await
                && self.queue().await
            {
                self.attempts(files, Pace::Steady).await;
            }
            return;
        }
        self.conclude(attempt).await;
    }

    async fn attempts(&mut self, files: Files, first: Pace) {
        let mut pace = first;
        loop {
            let attempt = self.attempt(&files, pace).await;
            if !matches!(attempt, Attempt::Silent) || pace == Pace::Steady {
                return self.conclude(attempt).await;
            }
            warn!(guest = %self.id(), "no hello; once more with a slower clock");
            // It boots again at once, or lives on because it could not be removed: its slot stays.
            let slot = self.slot.take();
            let cleared = self.clear(Leave::Disks).await;
            self.slot = slot;
            if !cleared {
                return;
            }
            self.handle.reach.send_replace(Reach::Soon);
            pace = Pace::Steady;
        }
    }

    async fn conclude(&mut self, attempt: Attempt) {
        match attempt {
            Attempt::Up => self.slot = None,
            Attempt::Silent => {
                let text = "the guest did not say hello, neither with its own clock nor with a slower one";
                self.fail(Problem::new(Code::BootFailed, text)).await;
            }
            Attempt::Failed(problem) => self.fail(problem).await,
            Attempt::Turned => {} // its slot is kept until it is destroyed
        }
    }

    /// The image's parts, on this host.
    async fn fetch(&mut self) -> Option<Files> {
        let mut wait = RECONNECT_FIRST;
        loop {
            let (tell, told) = watch::channel(None);
            let (source, wanted) = (self.world.parts.clone(), self.document.order.spec.parts.clone());
            let effect = self.effect(async move { source.ensure(&wanted, tell).await });
            let why = match self.during_with_notes(effect, told, ToString::to_string).await {
                Waited::Done(Ok(files)) => return Some(files),
                Waited::Done(Err(PartsError::Away(why))) => why,
                Waited::Done(Err(e)) => {
                    let code = match e {
                        PartsError::NoSpace(_) => Code::DiskFull,
                        PartsError::Away(_) | PartsError::Bad(_) => Code::BootFailed,
                    };
                    self.fail(Problem::new(code, bounded(&e.to_string()))).await;
                    return None;
                }
                Waited::Turned | Waited::Fell => return None,
            };
            self.ticket = None; // nor for who waits for its image
            let note = bounded(&format!("its image cannot be fetched now: {why}"));
            if self.document.observed.note.as_ref() != Some(&note) {
                self.observe(Phase::Fetching, |o| o.note = Some(note)).await;
            }
            let pause = self.world.clock.jitter(wait);
            wait = (wait * 2).min(RECONNECT_MAX);
            let sleep = self.effect(tokio::time::sleep(pause));
            if !matches!(self.during(sleep, Stoppable::Yes).await, Waited::Done(())) {
                return None;
            }
        }
    }

    /// Waits for what its start needs and tells how far it is. What is here costs no report.
    pub(super) async fn during_with_notes<T: Send + 'static, N: Clone>(
        &mut self,
        mut effect: crate::nursery::Effect<T>,
        mut told: watch::Receiver<Option<N>>,
        note: impl Fn(&N) -> String,
    ) -> Waited<T> {
        let handle = self.handle.clone();
        loop {
            if !self.wants_running() {
                effect.stop().await;
                return Waited::Turned;
            }
            tokio::select! {
                biased;
                answer = effect.wait() => match answer {
                    Some(answer) => return Waited::Done(answer),
                    None => std::future::pending().await,
                },
                () = handle.wake.notified() => self.take_mail().await,
                () = tokio::time::sleep(NOTE_EVERY) => {
                    let progress = told.borrow_and_update().clone();
                    if let Some(progress) = progress {
                        let note = bounded(&note(&progress));
                        if self.document.observed.note.as_ref() != Some(&note) {
                            self.observe(Phase::Fetching, |o| o.note = Some(note)).await;
                        }
                    }
                }
            }
        }
    }

    /// Waits for a boot slot and says how many are before it. `false`: it should not run any more.
    async fn queue(&mut self) -> bool {
        if self.slot.is_some() {
            return true;
        }
        let mut ticket = self.ticket.take().unwrap_or_else(|| self.world.admission.join(0));
        let mut told = None;
        let mut next_note = self.world.clock.instant();
        let handle = self.handle.clone();
        loop {
            if !self.wants_running() {
                return false;
            }
            if let Some(slot) = ticket.try_take() {
                self.slot = Some(slot);
                return true;
            }
            let before = ticket.before();
            let now = self.world.clock.instant();
            if told != Some(before) && now >= next_note {
                let note = format!("waiting for a boot slot, {before} before it");
                self.observe(Phase::Waiting, |o| o.note = Some(note)).await;
                told = Some(before);
                next_note = self.world.clock.instant().after(NOTE_EVERY);
                continue; // the queue may have moved meanwhile
            }
            let expires = self.document.order.desired.expires_at;
            tokio::select! {
                biased;
                () = handle.wake.notified() => self.take_mail().await,
                () = ticket.changed() => {}
                () = tokio::time::sleep_until(next_note.into_tokio()), if told != Some(before) => {}
                () = self.world.sleep_until(expires, Duration::from_secs(30)) => {}
            }
        }
    }

    async fn attempt(&mut self, files: &Files, pace: Pace) -> Attempt {
        let nic = match self.plug_card().await {
            Ok(nic) => nic,
            Err(problem) => return Attempt::Failed(problem),
        };
        self.document.steady = pace == Pace::Steady;
        self.document.let_go = false;
        let note = self.document.steady.then(|| "once more, with a slower clock".to_owned());
        let (restarts, resources) = (self.document.order.desired.restarts, self.document.order.spec.resources);
        let own = self.document.own_addresses();
        self.observe(Phase::Booting, |o| {
            o.note = note;
            o.restarts = restarts;
            o.booted = Some(resources);
            o.addresses = own;
        })
        .await;
        let plan = Plan {
            guest: self.id(),
            name: self.document.order.name.clone(),
            resources: self.document.order.spec.resources,
            parts: files.clone(),
            pace,
            vm: self.document.order.spec.vm.as_deref().cloned(),
            nic,
            memo: self.document.memo(),
        };
        let volumes = plugged(self.document.volumes());
        self.fell = None;
        let began = self.world.clock.instant();
        let hypervisor = self.hypervisor.clone();
        let start = self.effect(async move { hypervisor.start(&plan).await });
        match self.during(start, Stoppable::No).await {
            Waited::Done(Ok(found)) => {
                (self.alive, self.paused, self.starved) = (true, found.paused, found.starved);
                self.document.observed.volumes = volumes;
            }
            Waited::Done(Err(e)) => {
                let code = match &e {
                    HypervisorError::NoRoom(_) => Code::NoRoom,
                    HypervisorError::DiskFull(_) => Code::DiskFull,
                    _ => Code::BootFailed,
                };
                return Attempt::Failed(Problem::new(code, bounded(&crate::chain(&e))));
            }
            Waited::Turned | Waited::Fell => return Attempt::Turned,
        }
        if !self.wants_running() {
            return Attempt::Turned;
        }
        let within = if pace == Pace::Steady { BOOT_RETRY_TIMEOUT } else { BOOT_TIMEOUT };
        self.hello(within, Some(began)).await
    }

    /// Waits for the guest's hello and reports that it runs.
    async fn hello(&mut self, within: Duration, began: Option<perigee_clock::Instant>) -> Attempt {
        let (world, driver, id) = (self.world.clone(), self.hypervisor.clone(), self.id());
        let mute = self.mute;
        let open =
            self.effect(async move { if mute { Ok(None) } else { open_within(&world, &*driver, id, within).await } });
        let session = match self.during(open, Stoppable::Yes).await {
            Waited::Done(Ok(session)) => session,
            Waited::Done(Err(HypervisorError::Silent(_))) => return Attempt::Silent,
            Waited::Done(Err(HypervisorError::NotRunning)) | Waited::Fell => {
                let text = bounded(&format!("the guest ended while it booted: {}", self.last_words().await.text));
                return Attempt::Failed(Problem::new(Code::BootFailed, text));
            }
            Waited::Done(Err(e)) => {
                return Attempt::Failed(Problem::new(Code::BootFailed, bounded(&crate::chain(&e))));
            }
            Waited::Turned => return Attempt::Turned,
        };
        // It has its address: from here on it is on the network.
        let forwards = self.document.order.spec.forwards.clone();
        let led = match self.raise_card().await {
            Ok(led) => led,
            Err(e) => return Attempt::Failed(Problem::new(Code::BootFailed, bounded(&crate::chain(&e)))),
        };
        let taken = card::taken(&forwards, &led);
        let own = self.document.own_addresses();
        let kernel = session.as_ref().map(|s| bounded_word(&s.hello().kernel_release));
        let boot_ms = began.map(|b| u64::try_from(b.elapsed().as_millis()).unwrap_or(u64::MAX));
        self.connected(session);
        self.observe(Phase::Running, |o| {
            o.kernel_release = kernel;
            o.boot_ms = boot_ms;
            o.addresses = own;
            o.forwards = led;
            o.problem = taken;
        })
        .await;
        Attempt::Up
    }
}

/// A word of the guest's, bounded and plain: it comes from outside.
fn bounded_word(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic()).take(128).collect()
}

/// Opens the channel, again when it breaks, until the time is over.
async fn open_within(world: &World, driver: &dyn Hypervisor, id: GuestId, within: Duration) -> Opened {
    let Some(channel) = driver.channel() else { return Ok(None) };
    let deadline = world.clock.instant().after(within).into_tokio();
    loop {
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        match tokio::time::timeout_at(deadline, channel.open(id, left)).await {
            Ok(Err(HypervisorError::Channel(_))) if !left.is_zero() => tokio::time::sleep(OPEN_AGAIN).await,
            Ok(Err(HypervisorError::Channel(_))) => return Err(HypervisorError::Silent(within)),
            Ok(answer) => return answer.map(Some),
            Err(_) => return Err(HypervisorError::Silent(within)),
        }
    }
}
