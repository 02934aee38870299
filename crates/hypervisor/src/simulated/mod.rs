//! A hypervisor without machines, for simulations: one seed, one story.
//!
//! ```text
//! agent ── Simulated ──┐
//! agent ── Simulated ──┴─▶ SimulatedHost: guests, executions, files, counters
//!  (dies with its agent)     (outlives them: the next agent adopts)
//! ```
//! Owns: the seam's behaviour in virtual time (`tokio::time`, which a simulation pauses), the
//! faults that [`Knobs`] ask for, the counters that checkers read.
//! Refuses: threads, tasks, I/O, and time or randomness that are not its clock's.

mod backups;
mod console;
mod host;
mod knobs;
mod networks;
mod program;
mod screen;
mod session;
mod snapshots;
mod volumes;

use crate::{
    Backups, Channel, Console, Found, GuestEvent, GuestUsage, Halt, Halted, Hypervisor, HypervisorError, Measure,
    Networks, Pace, Pause, Plan, Room, Session, Snapshots, Volumes,
};
use async_trait::async_trait;
pub use host::SimulatedHost;
use host::{Key, Vmm, found};
pub use knobs::{Fault, Knobs};
use perigee_clock::Clock;
use perigee_guest::protocol::GuestHello;
use perigee_model::{Abilities, Acceleration, GuestId, GuestKind, InstanceId, PartRole};
use session::SimulatedSession;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast;

/// Between the guest's directory and its VMM; an agent that dies here leaves a leftover.
const START: Duration = Duration::from_millis(20);
/// From asking for an end to nothing left.
const DESTROY: Duration = Duration::from_millis(10);

/// How a simulated host behaves.
#[derive(Clone, Debug)]
pub struct SimulatedConfig {
    /// Whose guests.
    pub instance: InstanceId,
    /// Time and the seed.
    pub clock: Clock,
    /// From start to hello; twice that under `Pace::Steady`.
    pub boot: RangeInclusive<Duration>,
    /// What goes wrong.
    pub knobs: Arc<Knobs>,
    /// Boots that may be in flight at once.
    pub boots_in_flight_max: u32,
}

/// The driver, as one agent has it.
pub struct Simulated {
    config: SimulatedConfig,
    host: SimulatedHost,
}

impl Simulated {
    /// An agent's handle on its machine.
    pub fn new(config: SimulatedConfig, host: SimulatedHost) -> Self {
        Self { config, host }
    }

    fn key(&self, guest: GuestId) -> Key {
        (self.config.instance.bits(), guest)
    }

    fn strikes(&self, fault: Fault) -> bool {
        self.config.knobs.strikes(fault, &self.config.clock)
    }

    fn boot_time(&self, pace: Pace) -> Option<Duration> {
        if pace == Pace::Ordinary && self.strikes(Fault::BootSilent) {
            return None;
        }
        let (least, most) = (*self.config.boot.start(), *self.config.boot.end());
        let time = least + self.config.clock.jitter(most.saturating_sub(least));
        Some(if pace == Pace::Steady { time * 2 } else { time })
    }

    fn alive(&self, guest: GuestId) -> Option<Found> {
        let key = self.key(guest);
        self.host.look(|world| world.guests.get(&key)?.as_ref().map(|vmm| found(guest, Some(vmm))))
    }

    fn with_vmm<T>(&self, guest: GuestId, act: impl FnOnce(&mut Vmm) -> T) -> Result<T, HypervisorError> {
        let key = self.key(guest);
        self.host.change(|world| world.vmm(&key).map(act)).ok_or(HypervisorError::NotRunning)
    }

    fn session(&self, guest: GuestId, vmm: &Vmm) -> SimulatedSession {
        SimulatedSession {
            host: self.host.clone(),
            clock: self.config.clock.clone(),
            knobs: self.config.knobs.clone(),
            key: self.key(guest),
            pid: vmm.pid,
            number: vmm.sessions,
            hello: GuestHello {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                boot_id: format!("{}-{}", vmm.pid, guest),
                clone_id: "original".to_owned(),
                kernel_release: "6.1.0-simulated".to_owned(),
                uptime_ms: u64::try_from(vmm.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            },
        }
    }
}

fn check(plan: &Plan) -> Result<(), HypervisorError> {
    if let Some((_, text)) = plan.resources.fault() {
        return Err(HypervisorError::BadPlan(text));
    }
    if plan.parts.iter().filter(|(role, _)| *role == PartRole::Kernel).count() != 1 {
        return Err(HypervisorError::BadPlan("it takes one kernel".to_owned()));
    }
    Ok(())
}

fn struck(doing: &str) -> HypervisorError {
    HypervisorError::Os { doing: doing.to_owned(), source: std::io::Error::other("simulated") }
}

#[async_trait]
impl Hypervisor for Simulated {
    fn abilities(&self) -> Abilities {
        Abilities {
            driver: "simulated".to_owned(),
            kinds: vec![GuestKind::Sandbox, GuestKind::Vm],
            version: env!("CARGO_PKG_VERSION").to_owned(),
            acceleration: Acceleration::Simulated,
            channel: true,
            pause: true,
            halt: true,
            console: true,
            snapshots: true,
            volumes: true,
            networks: true,
            adopt: true,
            boots_in_flight_max: self.config.boots_in_flight_max,
        }
    }

    async fn inventory(&self) -> Result<Vec<Found>, HypervisorError> {
        if self.strikes(Fault::InventoryFails) {
            return Err(struck("reading the simulated host"));
        }
        let own = self.config.instance.bits();
        Ok(self.host.look(|world| {
            let guests = world.guests.iter().filter(|((instance, _), _)| *instance == own);
            guests.map(|((_, guest), vmm)| found(*guest, vmm.as_ref())).collect()
        }))
    }

    async fn start(&self, plan: &Plan) -> Result<Found, HypervisorError> {
        check(plan)?;
        if let Some(found) = self.alive(plan.guest) {
            return Ok(found);
        }
        let key = self.key(plan.guest);
        self.host.change(|world| world.guests.entry(key).or_insert(None).is_none());
        tokio::time::sleep(START).await;
        if self.strikes(Fault::StartFails) {
            self.host.change(|world| world.guests.remove(&key));
            return Err(HypervisorError::DidNotStart("simulated".to_owned()));
        }
        let boot = self.boot_time(plan.pace);
        let now = self.config.clock.instant();
        let volumes = plan.vm.as_ref().map(|vm| vm.volumes.clone()).unwrap_or_default();
        let network = plan.vm.as_ref().and_then(|vm| vm.network.clone());
        let image = plan.parts.iter().find(|(role, _)| *role == PartRole::Disk);
        let image = image.map(|(_, path)| path.clone());
        self.host.change(|world| {
            let bits = key.0;
            if let Some(none) = volumes.iter().find(|volume| !world.volumes.contains_key(&(bits, **volume))) {
                world.guests.remove(&key);
                return Err(HypervisorError::BadPlan(format!("its volume {none} is not on this host: detach it")));
            }
            world.plugged.insert(key, volumes);
            world.cards.extend(network.map(|network| (key, network)));
            world.below.extend(image.map(|image| (key, image)));
            Ok(match world.vmm(&key) {
                Some(vmm) => found(plan.guest, Some(vmm)),
                None => world.start_vmm(key, now, boot.map(|time| now.after(time))),
            })
        })
    }

    async fn destroy(&self, guest: GuestId) -> Result<(), HypervisorError> {
        tokio::time::sleep(DESTROY).await;
        if self.strikes(Fault::DestroyFails) {
            return Err(struck("removing a simulated guest"));
        }
        let key = self.key(guest);
        self.host.change(|world| {
            world.snapshots.remove(&key);
            world.disks.remove(&key);
            world.remembered.remove(&key);
            world.plugged.remove(&key);
            world.cards.remove(&key);
            world.below.remove(&key);
            world.guests.remove(&key)
        });
        Ok(())
    }

    fn events(&self) -> broadcast::Receiver<GuestEvent> {
        self.host.events(&self.config.instance)
    }
    fn channel(&self) -> Option<&dyn Channel> {
        Some(self)
    }
    fn pause(&self) -> Option<&dyn Pause> {
        Some(self)
    }
    fn console(&self) -> Option<&dyn Console> {
        Some(self)
    }
    fn halt(&self) -> Option<&dyn Halt> {
        Some(self)
    }
    fn measure(&self) -> Option<&dyn Measure> {
        Some(self)
    }
    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }
    fn backups(&self) -> Option<&dyn Backups> {
        Some(self)
    }
    fn volumes(&self) -> Option<&dyn Volumes> {
        Some(self)
    }
    fn networks(&self) -> Option<&dyn Networks> {
        Some(self)
    }
    fn room(&self) -> Option<&dyn Room> {
        Some(self)
    }
}

#[async_trait]
impl Measure for Simulated {
    async fn usages(&self) -> Result<Vec<GuestUsage>, HypervisorError> {
        if self.strikes(Fault::InventoryFails) {
            return Err(struck("measuring the simulated host"));
        }
        let own = self.config.instance.bits();
        Ok(self.host.look(|world| {
            let guests = world.guests.iter().filter(|((instance, _), _)| *instance == own);
            guests.filter_map(|((_, guest), vmm)| Some(vmm.as_ref()?.usage(*guest))).collect()
        }))
    }
}

#[async_trait]
impl Channel for Simulated {
    async fn open(&self, guest: GuestId, within: Duration) -> Result<Arc<dyn Session>, HypervisorError> {
        let deadline = self.config.clock.instant().after(within);
        let key = self.key(guest);
        loop {
            let mut changes = self.host.changes();
            let now = self.config.clock.instant();
            let ready = self.host.look(|world| {
                let vmm = world.guests.get(&key).and_then(Option::as_ref).ok_or(HypervisorError::NotRunning)?;
                let answers = !vmm.paused && vmm.ready.is_some_and(|ready| ready <= now);
                Ok(if answers { Ok(self.session(guest, vmm)) } else { Err(vmm.ready) })
            })?;
            let ready = match ready {
                Ok(session) => return Ok(Arc::new(session)),
                Err(ready) => ready.filter(|ready| *ready > now),
            };
            if now >= deadline {
                return Err(HypervisorError::Silent(within));
            }
            let until = ready.map_or(deadline, |ready| ready.min(deadline));
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep_until(until.into_tokio()) => {}
            }
        }
    }
}

#[async_trait]
impl Halt for Simulated {
    async fn halt(&self, guest: GuestId, grace: Duration) -> Result<Halted, HypervisorError> {
        tokio::time::sleep(DESTROY).await;
        if self.strikes(Fault::DestroyFails) {
            return Err(struck("stopping a simulated guest"));
        }
        let key = self.key(guest);
        // What is kept of it is that it was here.
        let ran = self.host.change(|world| world.guests.get_mut(&key).is_some_and(|vmm| vmm.take().is_some()));
        Ok(if ran && grace.is_zero() { Halted::ByForce } else { Halted::ByItself })
    }
}

#[async_trait]
impl Pause for Simulated {
    async fn pause(&self, guest: GuestId) -> Result<(), HypervisorError> {
        self.with_vmm(guest, |vmm| vmm.paused = true)
    }
    async fn resume(&self, guest: GuestId) -> Result<(), HypervisorError> {
        let full = self.host.look(|world| world.free_bytes == Some(0));
        // A write that found no room finds none again.
        self.with_vmm(guest, |vmm| vmm.paused = vmm.starved && full)?;
        self.with_vmm(guest, |vmm| vmm.starved = vmm.paused)
    }
}
