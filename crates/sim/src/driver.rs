//! A simulated host's driver, with a checker at each effect.
//!
//! Owns: the laws of an effect: a guest never lives twice, nothing is started that the truth does
//! not want here, and no more guests boot at once than the host bears.
//! Refuses: changing what the driver does.

use crate::journal::WatchedJournal;
use crate::scene::Scene;
use async_trait::async_trait;
use perigee_hypervisor::simulated::{Simulated, SimulatedHost};
use perigee_hypervisor::{Channel, Found, GuestEvent, Hypervisor, HypervisorError, Plan, Session};
use perigee_model::{Abilities, GuestId, HostId};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast;

/// VMMs whose guest said hello, by guest and process.
pub type Greeted = Arc<Mutex<BTreeSet<(GuestId, u32)>>>;

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

    async fn check_start(&self, guest: GuestId) {
        let (scene, name) = (&self.scene, self.scene.story.guest(guest));
        let homes = scene.homes(guest);
        scene.checks.that(homes.len() <= 1, "a guest lives once", || format!("{name} lives on {homes:?}"));
        if scene.truth.is_some() {
            let truth = scene.true_guest(guest).await;
            let wanted = truth.as_ref().is_some_and(|g| !g.is_gone() && g.desired.host == Some(self.id));
            scene.checks.that(wanted, "only what is desired here is started", || {
                let why = if truth.is_some_and(|g| g.is_gone()) { "it is gone" } else { "it belongs elsewhere" };
                format!("{name} was started on {} although {why}", self.name)
            });
        }
        let booting = self.booting().await;
        scene.checks.that(booting <= self.boots_max, "no more guests boot at once than the host bears", || {
            format!("{booting} boot on {}, which bears {}", self.name, self.boots_max)
        });
    }

    /// Guests whose VMM lives, whose hello is missing and whose agent waits for it.
    async fn booting(&self) -> usize {
        let mut booting = 0;
        for found in self.host.guests() {
            let Some(pid) = found.pid else { continue };
            let greeted = self.greeted().contains(&(found.guest, pid));
            if !greeted && self.journal.phase(&found.guest.to_string()).await.as_deref() == Some("booting") {
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
        let found = self.inner.inventory().await;
        if found.is_err() {
            self.scene.checks.small_fault("unreadable host");
        }
        found
    }
    async fn start(&self, plan: &Plan) -> Result<Found, HypervisorError> {
        let before = self.starts(plan.guest);
        let done = self.inner.start(plan).await;
        let guest = self.scene.story.guest(plan.guest);
        match &done {
            Ok(_) if self.starts(plan.guest) > before => {
                self.scene.checks.deed("boots");
                self.scene.story.tell(format!("guest {guest} boots on {}", self.name));
                self.check_start(plan.guest).await;
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
