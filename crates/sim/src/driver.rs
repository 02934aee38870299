//! A simulated host's driver, with a checker at each effect.
//!
//! Owns: the laws of an effect: a guest never lives twice, nothing is started that the truth does
//! not want here, and no more guests boot at once than the host bears; a VM is started by its switch or
//! its policy.
//! Refuses: changing what the driver does, unless it is sabotaged.

use crate::journal::{WatchedJournal, Written};
use crate::scene::{Sabotage, Scene};
use async_trait::async_trait;
use perigee_hypervisor::simulated::{Simulated, SimulatedHost};
use perigee_hypervisor::{Channel, Found, GuestEvent, Halt, Halted, Hypervisor, HypervisorError, Pause, Plan, Session};
use perigee_model::{Abilities, GuestId, HostId, Phase, Power, RestartPolicy};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast;

/// VMMs whose guest said hello, by guest and process.
pub type Greeted = Arc<Mutex<BTreeSet<(GuestId, u32)>>>;

/// What was written down about guests when their VMM crashed last.
pub type Falls = Arc<Mutex<BTreeMap<GuestId, Written>>>;

/// The driver as one agent has it.
pub struct WatchedDriver {
    /// The world.
    pub scene: Arc<Scene>,
    /// Whose.
    pub id: HostId,
    /// Its name.
    pub name: String,
    /// The machine.
    pub host: SimulatedHost,
    /// What does the work.
    pub inner: Simulated,
    /// Where phases are read.
    pub journal: Arc<WatchedJournal>,
    /// Outlives the agent.
    pub greeted: Greeted,
    /// As they were when their VMM crashed. Outlives the agent.
    pub falls: Falls,
    /// Boots in flight that the machine bears.
    pub boots_max: usize,
}

impl WatchedDriver {
    fn starts(&self, guest: GuestId) -> u64 {
        self.host.vmm_starts().get(&guest).copied().unwrap_or(0)
    }

    fn lives(&self, guest: GuestId) -> Option<Found> {
        self.host.guests().into_iter().find(|found| found.guest == guest)
    }

    async fn check_start(&self, guest: GuestId, told: Option<Written>) {
        let (scene, name) = (&self.scene, self.scene.story.guest(guest));
        let homes = scene.homes(guest);
        scene.checks.that(homes.len() <= 1, "a guest lives once", || format!("{name} lives on {homes:?}"));
        if scene.truth.is_some() {
            let truth = scene.true_guest(guest).await;
            let here = truth.as_ref().is_some_and(|g| !g.is_gone() && g.desired.host == Some(self.id));
            // Made here while nobody could be asked.
            let wanted = here || (truth.is_none() && self.journal.act_on(guest).await.is_some());
            scene.checks.that(wanted, "only what is desired here is started", || {
                let why = if truth.is_some_and(|g| g.is_gone()) { "it is gone" } else { "it belongs elsewhere" };
                format!("{name} was started on {} although {why}", self.name)
            });
        }
        if let Some(told) = told {
            self.check_power(guest, &name, &told);
        }
        let booting = self.booting().await;
        scene.checks.that(booting <= self.boots_max, "no more guests boot at once than the host bears", || {
            format!("{booting} boot on {}, which bears {}", self.name, self.boots_max)
        });
    }

    /// Of VMs: the agent starts what it was last told to, and one that fell only when its policy says so.
    fn check_power(&self, guest: GuestId, name: &str, is: &Written) {
        let wanted = matches!(is.desired.power, Power::Running | Power::Paused);
        self.scene.checks.that(wanted, "what was stopped stays stopped", || {
            format!("{name} was started on {}, which was told {:?}", self.name, is.desired.power)
        });
        let fell = self.falls.lock().unwrap_or_else(PoisonError::into_inner).get(&guest).cloned();
        let Some(then) = fell.filter(|then| then.is_settled && then.restart == Some(RestartPolicy::Never)) else {
            return;
        };
        let up = matches!(then.phase, Phase::Running | Phase::Paused);
        let asked = then.desired.generation < is.desired.generation || then.acted != is.acted;
        self.scene.checks.that(!up || asked, "nobody starts what is never to start again", || {
            format!("{name} fell on {} and was started again, and nobody had asked for it", self.name)
        });
    }

    /// Guests whose VMM lives, whose hello is missing and whose agent waits for it.
    async fn booting(&self) -> usize {
        let mut booting = 0;
        for found in self.host.guests() {
            let Some(pid) = found.pid else { continue };
            let greeted = self.greeted().contains(&(found.guest, pid));
            if !greeted && self.journal.guest(found.guest).await.is_some_and(|is| is.phase == Phase::Booting) {
                booting += 1;
            }
        }
        booting
    }

    fn greeted(&self) -> std::sync::MutexGuard<'_, BTreeSet<(GuestId, u32)>> {
        self.greeted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Hypervisor for WatchedDriver {
    fn abilities(&self) -> Abilities {
        self.inner.abilities()
    }
    async fn inventory(&self) -> Result<Vec<Found>, HypervisorError> {
        let mut found = self.inner.inventory().await;
        if found.is_err() {
            self.scene.checks.small_fault("unreadable host");
        }
        if self.scene.settings.sabotage == Sabotage::HidesPauses {
            found.iter_mut().flatten().for_each(|found| found.paused = false);
        }
        found
    }
    async fn start(&self, plan: &Plan) -> Result<Found, HypervisorError> {
        let before = self.starts(plan.guest);
        // An order may come while it starts.
        let told = self.journal.guest(plan.guest).await;
        let done = self.inner.start(plan).await;
        let guest = self.scene.story.guest(plan.guest);
        match &done {
            Ok(_) if self.starts(plan.guest) > before => {
                self.scene.checks.deed("boots");
                self.scene.story.tell(format!("guest {guest} boots on {}", self.name));
                self.check_start(plan.guest, told).await;
            }
            Ok(_) => {}
            Err(error) => self.scene.checks.fault("failed start", format!("guest {guest} on {}: {error}", self.name)),
        }
        done
    }
    async fn destroy(&self, guest: GuestId) -> Result<(), HypervisorError> {
        let was = self.lives(guest).is_some();
        let done = self.inner.destroy(guest).await;
        let name = self.scene.story.guest(guest);
        match &done {
            Ok(()) if was => self.scene.story.tell(format!("guest {name} is removed from {}", self.name)),
            Ok(()) => {}
            Err(error) => self.scene.checks.fault("failed removal", format!("guest {name} on {}: {error}", self.name)),
        }
        done
    }
    fn events(&self) -> broadcast::Receiver<GuestEvent> {
        self.inner.events()
    }
    fn channel(&self) -> Option<&dyn Channel> {
        Some(self)
    }
    fn halt(&self) -> Option<&dyn Halt> {
        Some(self)
    }
    fn pause(&self) -> Option<&dyn Pause> {
        Hypervisor::pause(&self.inner)
    }
}

#[async_trait]
impl Halt for WatchedDriver {
    async fn halt(&self, guest: GuestId, grace: Duration) -> Result<Halted, HypervisorError> {
        let was = self.lives(guest).is_some_and(|found| found.alive);
        let driver = Hypervisor::halt(&self.inner).ok_or(HypervisorError::NotRunning)?;
        let done = driver.halt(guest, grace).await;
        let name = self.scene.story.guest(guest);
        match &done {
            Ok(_) if was => self.scene.story.tell(format!("guest {name} is stopped on {}", self.name)),
            Ok(_) => {}
            Err(error) => self.scene.checks.fault("failed stop", format!("guest {name} on {}: {error}", self.name)),
        }
        done
    }
}

#[async_trait]
impl Channel for WatchedDriver {
    async fn open(&self, guest: GuestId, within: Duration) -> Result<Arc<dyn Session>, HypervisorError> {
        let channel = self.inner.channel().ok_or(HypervisorError::NotRunning)?;
        let session = channel.open(guest, within).await;
        match &session {
            Ok(_) => {
                let pid = self.lives(guest).and_then(|found| found.pid);
                if pid.is_some_and(|pid| self.greeted().insert((guest, pid))) {
                    self.scene.story.tell(format!("guest {} runs on {}", self.scene.story.guest(guest), self.name));
                }
            }
            Err(HypervisorError::Silent(_)) => {
                let guest = self.scene.story.guest(guest);
                self.scene.checks.fault("silent boot", format!("guest {guest} says no hello on {}", self.name));
            }
            Err(_) => {}
        }
        session
    }
}
