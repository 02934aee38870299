//! A guest's power switch: stop, restart, pause, and what becomes of one that ended by itself.

use super::actor::{Actor, Stoppable, Waited, bounded};
use super::{Fall, Reach};
use crate::nursery::Effect;
use perigee_hypervisor::{Halted, HypervisorError};
use perigee_model::guest::Problem;
use perigee_model::{Code, Phase, Power, RestartPolicy};
use std::time::Duration;
use tracing::warn;

/// What a driver could not do is tried again after this.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// The driver's words on a guest's end are waited for this long.
const WORDS_WITHIN: Duration = Duration::from_millis(100);
/// First wait before a guest that ended by itself is started again; doubles.
const START_AGAIN_FIRST: Duration = Duration::from_secs(1);
/// Longest such wait.
const START_AGAIN_MAX: Duration = Duration::from_secs(300);
/// A guest that ran this long begins those waits anew.
const STEADY_AFTER: Duration = Duration::from_secs(600);

/// What is left of a guest that ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    /// Nothing.
    Nothing,
    /// What it can be started from again, where its driver keeps such.
    Disks,
}

impl Actor {
    /// Takes over what was here before us. A running one goes on as it is.
    pub(super) async fn adopt(&mut self) {
        let (hypervisor, id) = (self.hypervisor.clone(), self.id());
        let memo = self.document.memo().unwrap_or_default();
        let effect = self.effect(async move {
            match hypervisor.adopt() {
                Some(driver) => driver.adopt(id, &memo).await,
                None => Err(HypervisorError::BadPlan("this driver takes over nothing".to_owned())),
            }
        });
        match self.during(effect, Stoppable::No).await {
            Waited::Done(Ok(found)) => {
                (self.alive, self.paused) = (found.alive, found.paused);
                self.document.taken_over = true;
                let phase = match (found.alive, found.paused) {
                    (true, false) => Phase::Running,
                    (true, true) => Phase::Paused,
                    (false, _) => Phase::Stopped,
                };
                self.observe(phase, |_| {}).await;
            }
            // Nothing of it is ours: nothing is cleared up.
            Waited::Done(Err(e)) => {
                let problem = Problem::new(Code::GuestNotRunning, bounded(&format!("it cannot be taken over: {e}")));
                self.observe(Phase::Failed, |o| o.problem = Some(problem)).await;
            }
            Waited::Turned | Waited::Fell => {}
        }
    }

    /// Stops it and keeps what it can be started from.
    pub(super) async fn halt(&mut self) {
        if !self.stop().await {
            return;
        }
        self.document.falls = 0;
        let own = self.document.own_addresses();
        self.observe(Phase::Stopped, |o| {
            o.addresses = own;
            o.forwards.clear();
        })
        .await;
    }

    /// Stops it; [`Step::Boot`](super::step::Step::Boot) follows.
    pub(super) async fn restart(&mut self) {
        self.document.falls = 0;
        self.stop().await;
    }

    /// Asks it to turn itself off, then ends it. `false`: not yet, or it was told something else.
    async fn stop(&mut self) -> bool {
        let order = &self.document.order;
        let (generation, grace) = (order.desired.generation, Duration::from_millis(order.desired.grace_ms));
        if self.document.observed.phase != Phase::Stopping {
            self.observe(Phase::Stopping, |_| {}).await;
        }
        self.let_go();
        if !self.keeps_disks() {
            return self.clear(Leave::Nothing).await;
        }
        let (hypervisor, id) = (self.hypervisor.clone(), self.id());
        let mut effect = self.effect(async move {
            match hypervisor.halt() {
                Some(driver) => driver.halt(id, grace).await,
                None => Ok(Halted::ByItself),
            }
        });
        let handle = self.handle.clone();
        let halted = loop {
            tokio::select! {
                biased;
                answer = effect.wait() => match answer {
                    Some(answer) => break answer,
                    None => std::future::pending().await, // the agent ends
                },
                () = handle.wake.notified() => self.take_mail().await,
            }
            // Told to hurry, or to leave nothing: a guest that takes its time is not waited for.
            let desired = &self.document.order.desired;
            let hurried = desired.grace_ms < u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
            let newer = desired.generation > generation || self.document.acting;
            if newer && (hurried || self.is_absent()) {
                effect.stop().await;
                return false;
            }
        };
        let halted = match halted {
            Ok(_) => self.rest_card().await,
            Err(e) => Err(e),
        };
        match halted {
            Ok(()) => {
                self.ended();
                true
            }
            Err(e) => self.not_done("cannot be stopped", &e).await,
        }
    }

    /// Stops its CPUs.
    pub(super) async fn pause(&mut self) {
        let (hypervisor, id) = (self.hypervisor.clone(), self.id());
        let effect = self.effect(async move {
            match hypervisor.pause() {
                Some(driver) => driver.pause(id).await,
                None => Err(HypervisorError::BadPlan("this driver cannot pause".to_owned())),
            }
        });
        if self.switched(effect, "cannot be paused").await {
            self.paused = true;
            self.observe(Phase::Paused, |_| {}).await;
        }
    }

    /// Lets its CPUs run again.
    pub(super) async fn unpause(&mut self) {
        let (hypervisor, id) = (self.hypervisor.clone(), self.id());
        let effect = self.effect(async move {
            match hypervisor.pause() {
                Some(driver) => driver.resume(id).await,
                None => Err(HypervisorError::BadPlan("this driver cannot pause".to_owned())),
            }
        });
        if self.switched(effect, "cannot be resumed").await {
            self.paused = false;
            self.observe(Phase::Running, |_| {}).await;
        }
    }

    async fn switched(&mut self, effect: Effect<Result<(), HypervisorError>>, failing: &str) -> bool {
        match self.during(effect, Stoppable::No).await {
            Waited::Done(Ok(())) => true,
            Waited::Done(Err(HypervisorError::NotRunning)) => {
                self.verify().await;
                false
            }
            Waited::Done(Err(e)) => self.not_done(failing, &e).await,
            Waited::Turned | Waited::Fell => false,
        }
    }

    /// Somebody else switched it.
    pub(super) async fn notice(&mut self, phase: Phase) {
        let asked = self.document.order.desired.power;
        self.document.let_go = phase == Phase::Running && asked == Power::Paused;
        let note = match phase {
            Phase::Paused if asked != Power::Paused => Some("paused by somebody on the host, and not by Perigee"),
            Phase::Running if self.document.observed.phase != Phase::Paused || asked == Power::Paused => {
                Some("started on the host, and not by Perigee")
            }
            _ => None,
        };
        self.observe(phase, |o| o.note = note.map(str::to_owned)).await;
    }

    /// It ended, and nobody had asked for that.
    pub(super) async fn fell(&mut self) {
        let fall = self.last_words().await;
        let policy = self.document.restart_policy();
        if policy.starts_again(fall.clean) {
            self.start_again(&fall).await;
        } else if fall.clean {
            if self.clear(Leave::Disks).await {
                let own = self.document.own_addresses();
                self.observe(Phase::Stopped, |o| {
                    o.note = Some("it turned itself off".to_owned());
                    o.addresses = own;
                })
                .await;
            }
        } else {
            let text = bounded(&format!("the guest ended by itself: {}", fall.text));
            self.fail(Problem::new(Code::GuestNotRunning, text)).await;
        }
    }

    /// Waits its turn, longer each time, and leaves it to be booted.
    async fn start_again(&mut self, fall: &Fall) {
        if !self.clear(Leave::Disks).await {
            return;
        }
        let observed = &self.document.observed;
        if self.world.clock.now().since(observed.since) >= STEADY_AFTER {
            self.document.falls = 0;
        }
        let falls = self.document.falls;
        self.document.falls = falls.saturating_add(1);
        // The first time at once: a host that was switched off should not wait for nothing.
        let doubled = START_AGAIN_FIRST * 2u32.pow(falls.saturating_sub(1).min(16));
        let wait = if falls == 0 { Duration::ZERO } else { doubled.min(START_AGAIN_MAX) };
        let again = format!("it ended by itself ({}); started again in {} s", fall.text, wait.as_secs());
        let own = self.document.own_addresses();
        self.observe(Phase::Waiting, |o| {
            o.note = Some(bounded(&again));
            o.addresses = own;
        })
        .await;
        let sleep = self.effect(tokio::time::sleep(wait));
        self.during(sleep, Stoppable::Yes).await;
    }

    /// Whether this host's start brings it up again.
    pub(super) fn will_start_again(&self) -> bool {
        let was_up = matches!(self.document.observed.phase, Phase::Running | Phase::Paused);
        let on_its_way = matches!(self.document.observed.phase, Phase::Waiting | Phase::Fetching | Phase::Booting);
        let again = was_up && self.document.restart_policy().starts_again(false);
        !self.alive && self.wants_running() && (again || on_its_way)
    }

    /// One that ended while nobody looked, with its host perhaps, and is started again: what is told of
    /// it first is no longer that it runs.
    pub(super) fn lose(&mut self) {
        let was_up = matches!(self.document.observed.phase, Phase::Running | Phase::Paused);
        if was_up && self.will_start_again() {
            let own = self.document.own_addresses();
            let observed = &mut self.document.observed;
            observed.phase = Phase::Waiting;
            observed.since = self.world.clock.now();
            observed.note =
                Some("its host was switched off, or it ended while nobody looked; started again".to_owned());
            observed.addresses = own;
        }
    }

    /// What the driver says of its end. Its event may be a moment behind what made us look.
    pub(super) async fn last_words(&mut self) -> Fall {
        let handle = self.handle.clone();
        let deadline = self.world.clock.instant().after(WORDS_WITHIN).into_tokio();
        while self.fell.is_none() && tokio::time::timeout_at(deadline, handle.wake.notified()).await.is_ok() {
            self.take_mail().await;
        }
        self.fell.take().unwrap_or_else(|| Fall::unseen("its VMM is not there any more"))
    }

    /// Ends what is left of it but for its disks, then reports the failure.
    pub(super) async fn fail(&mut self, problem: Problem) {
        if self.clear(Leave::Disks).await {
            let own = self.document.own_addresses();
            self.observe(Phase::Failed, |o| {
                o.problem = Some(problem);
                o.addresses = own;
            })
            .await;
        }
    }

    /// Leaves nothing of it.
    pub(super) async fn remove(&mut self) {
        if self.document.observed.phase != Phase::Stopping {
            self.observe(Phase::Stopping, |_| {}).await;
        }
        if !self.clear(Leave::Nothing).await {
            return;
        }
        let expired = !self.is_absent();
        let problem = expired.then(|| Problem::new(Code::GuestExpired, "it reached its time to live"));
        self.observe(Phase::Gone, |o| o.problem = problem).await;
    }

    /// Ends what there is at once. `false` when it must be tried again.
    pub(super) async fn clear(&mut self, leave: Leave) -> bool {
        self.let_go();
        let (hypervisor, id) = (self.hypervisor.clone(), self.id());
        let keep = leave == Leave::Disks && self.keeps_disks();
        let release = leave == Leave::Nothing && self.document.order.desired.release;
        let cards = self.document.order.spec.egress.is_some().then(|| self.world.cards.clone());
        let effect = self.effect(async move {
            match (hypervisor.adopt().filter(|_| release), hypervisor.halt().filter(|_| keep)) {
                (Some(driver), _) => driver.release(id).await,
                (None, Some(driver)) => driver.halt(id, Duration::ZERO).await.map(|_| ()),
                (None, None) => hypervisor.destroy(id).await,
            }?;
            match cards {
                Some(cards) if keep => Ok(cards.rest(id).await?),
                Some(cards) => Ok(cards.unplug(id).await?),
                None => Ok(()),
            }
        });
        match self.during(effect, Stoppable::No).await {
            Waited::Done(Ok(())) => {
                // A VM that is off keeps it.
                self.document.address = self.document.address.filter(|_| keep);
                self.document.address6 = self.document.address6.filter(|_| keep);
                self.document.observed.forwards.clear();
                self.ended();
                true
            }
            Waited::Done(Err(e)) => self.not_done("cannot be removed", &e).await,
            Waited::Turned | Waited::Fell => false,
        }
    }

    /// A sandbox is nothing but its run; a VM has disks where its driver can keep them.
    fn keeps_disks(&self) -> bool {
        self.document.order.spec.vm.is_some() && self.hypervisor.halt().is_some()
    }

    /// Nobody reaches it from here on.
    pub(super) fn let_go(&mut self) {
        self.session = None;
        self.away = None;
        self.handle.reach.send_replace(Reach::Down);
    }

    fn ended(&mut self) {
        self.alive = false;
        self.paused = false;
        self.starved = false;
        self.fell = None;
        self.slot = None;
    }

    /// Says what could not be done, and waits a moment before it is tried again.
    pub(super) async fn not_done(&mut self, failing: &str, error: &HypervisorError) -> bool {
        warn!(guest = %self.id(), error = %crate::chain(error), "{failing}");
        let note = bounded(&format!("{failing}: {error}"));
        if self.document.observed.note.as_ref() != Some(&note) {
            // Not done yet: the newer order stays ahead of what is observed.
            let (generation, acting) = (self.document.observed.generation, self.document.acting);
            self.observe(self.document.observed.phase, |o| {
                o.note = Some(note);
                o.generation = generation;
            })
            .await;
            self.document.acting = acting;
        }
        tokio::time::sleep(TRY_AGAIN).await;
        false
    }
}

impl super::Document {
    /// What becomes of it when it ends by itself: sandboxes stay ended.
    pub(super) fn restart_policy(&self) -> RestartPolicy {
        self.order.spec.vm.as_ref().map_or(RestartPolicy::Never, |vm| vm.restart)
    }
    /// Its turn when its host comes up.
    pub(super) fn start_order(&self) -> u32 {
        self.order.spec.vm.as_ref().map_or(0, |vm| vm.start_order)
    }
}
