//! All of one instance's guests on this host: the work behind the driver.
//!
//! Owns: starting, undoing, destroying, adopting and watching, one thing at a time for each guest.
//! Refuses: to leave a thing half done because nobody waits for it any more.

use super::arguments::Machine;
use super::cgroups::Cgroups;
use super::place::Places;
use super::qmp::{Qmp, QmpError};
use super::vmm::Vmm;
use super::{StartTimes, launch, processes};
use crate::work::{Gates, off_thread, os};
use crate::{Found, GuestEvent, HypervisorError, Plan, Reserve};
use perigee_clock::{Clock, Instant};
use perigee_model::{Abilities, GuestId};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast;

/// For QEMU to make the machine, on a busy host.
const GREETING_WITHIN: Duration = Duration::from_secs(15);
/// For a killed process to be gone; longer only while its disk does not answer.
const DEATH_WITHIN: Duration = Duration::from_secs(10);
/// For one QMP command.
const QMP_WITHIN: Duration = Duration::from_secs(5);
/// Hints kept for a slow receiver.
const EVENTS_KEPT: usize = 1024;

/// All there is about one instance on this host.
pub struct Host {
    pub qemu: PathBuf,
    pub reserve: Reserve,
    pub clock: Clock,
    pub machine: Machine,
    pub abilities: Abilities,
    pub cgroups: Cgroups,
    pub places: Places,
    pub last_start: Mutex<Option<StartTimes>>,
    pub alive: Mutex<BTreeMap<GuestId, Arc<Vmm>>>,
    pub gates: Gates,
    pub events: broadcast::Sender<GuestEvent>,
}

impl Host {
    /// One without any guest in hand yet.
    pub fn new(
        (qemu, reserve): (PathBuf, Reserve),
        clock: Clock,
        (abilities, machine): (Abilities, Machine),
        cgroups: Cgroups,
        places: Places,
    ) -> Self {
        Self {
            qemu,
            reserve,
            clock,
            machine,
            abilities,
            cgroups,
            places,
            last_start: Mutex::default(),
            alive: Mutex::default(),
            gates: Gates::default(),
            events: broadcast::Sender::new(EVENTS_KEPT),
        }
    }

    pub async fn start(self: &Arc<Self>, plan: Plan) -> Result<Found, HypervisorError> {
        let began = self.clock.instant();
        let (host, guest) = (self.clone(), plan.guest);
        if let Some(vmm) = self.living_vmm(guest) {
            return Ok(living(&vmm));
        }
        let made = off_thread(move || {
            launch::check(&plan)?;
            Ok((host.places.make(guest)?, plan))
        });
        let (new, plan) = made.await?;
        if !new {
            if let Ok(vmm) = self.running(guest).await {
                return Ok(living(&vmm));
            }
            self.destroy(guest).await?;
            let host = self.clone();
            off_thread(move || host.places.make(guest)).await?;
        }
        let started = self.launch(plan, began).await;
        if let Err(error) = &started {
            tracing::info!(%guest, %error, "a start is undone");
            self.destroy(guest).await?;
        }
        let (vmm, ours) = started?;
        let times = StartTimes { ours, vmm: began.elapsed().saturating_sub(ours) };
        tracing::info!(%guest, pid = vmm.pid, ?times, "VMM started");
        *self.last_start.lock().unwrap_or_else(PoisonError::into_inner) = Some(times);
        Ok(living(&vmm))
    }

    /// Returns the VMM and the time from `began` to its process.
    async fn launch(self: &Arc<Self>, plan: Plan, began: Instant) -> Result<(Arc<Vmm>, Duration), HypervisorError> {
        let (host, guest) = (self.clone(), plan.guest);
        let vmm = Arc::new(off_thread(move || launch::launch(&host, &plan)).await?);
        let ours = began.elapsed();
        let (host, pid) = (self.clone(), vmm.pid);
        let join = off_thread(move || host.cgroups.join(guest, pid).map_err(os("joining a control group")));
        // While QEMU makes the machine. Not reaped before, so that the pid stays its own.
        let limited = async {
            let joined = join.await;
            self.watch(vmm.clone());
            joined
        };
        let (limited, greeted) = tokio::join!(limited, self.greeting(&vmm));
        limited.and(greeted)?;
        vmm.expect_end(false);
        if vmm.has_ended() {
            return Err(did_not_start(vmm.ended().await));
        }
        Ok((vmm, ours))
    }

    /// Waits until the VMM has made its machine, or is dead.
    async fn greeting(&self, vmm: &Vmm) -> Result<(), HypervisorError> {
        let socket = self.places.qmp(vmm.guest);
        let deadline = self.clock.instant().after(GREETING_WITHIN).into_tokio();
        tokio::select! {
            greeted = Qmp::connect(&socket, deadline) => match greeted {
                Ok(_) => Ok(()),
                // A dead VMM closes its sockets: how it died says more.
                Err(QmpError::Io(_)) => Err(did_not_start(vmm.ended().await)),
                Err(error) => Err(HypervisorError::DidNotStart(error.to_string())),
            },
            text = vmm.ended() => Err(did_not_start(text)),
        }
    }

    pub async fn destroy(self: &Arc<Self>, guest: GuestId) -> Result<(), HypervisorError> {
        let vmm = match self.running(guest).await {
            Ok(vmm) => Some(vmm),
            Err(HypervisorError::NotRunning) => None,
            Err(error) => return Err(error),
        };
        if let Some(vmm) = vmm {
            vmm.expect_end(true);
            vmm.kill().map_err(os("killing the VMM"))?;
            let dead = tokio::time::timeout(DEATH_WITHIN, vmm.ended()).await;
            dead.map_err(|_| os("waiting for the VMM to end")(std::io::ErrorKind::TimedOut.into()))?;
        }
        let host = self.clone();
        off_thread(move || {
            host.cgroups.remove(guest).map_err(os("removing a control group"))?;
            host.places.remove(guest)
        })
        .await
    }

    pub async fn tell(self: &Arc<Self>, guest: GuestId, command: &str) -> Result<(), HypervisorError> {
        let vmm = self.running(guest).await?;
        let deadline = self.clock.instant().after(QMP_WITHIN).into_tokio();
        let socket = self.places.qmp(guest);
        let telling = async { Qmp::connect(&socket, deadline).await?.execute(command, None).await };
        tokio::select! {
            told = telling => match told {
                Ok(_) => Ok(()),
                Err(error) => Err(HypervisorError::Channel(error.to_string())),
            },
            _ = vmm.ended() => Err(HypervisorError::NotRunning),
        }
    }

    /// The guest's VMM, adopted if need be.
    pub async fn running(self: &Arc<Self>, guest: GuestId) -> Result<Arc<Vmm>, HypervisorError> {
        if let Some(vmm) = self.living_vmm(guest) {
            return Ok(vmm);
        }
        let host = self.clone();
        off_thread(move || host.adopt_all()).await?;
        self.living_vmm(guest).ok_or(HypervisorError::NotRunning)
    }

    fn living_vmm(&self, guest: GuestId) -> Option<Arc<Vmm>> {
        self.alive().get(&guest).filter(|vmm| !vmm.has_ended()).cloned()
    }

    /// Takes every VMM of this instance that is not held yet.
    pub fn adopt_all(self: &Arc<Self>) -> Result<(), HypervisorError> {
        let instance = &self.machine.instance;
        let uids = self.places.uids();
        for process in processes::all(instance, &uids).map_err(os("reading /proc"))? {
            let guest = process.guest;
            if self.living_vmm(guest).is_some() {
                continue;
            }
            let Some(pidfd) = process.pidfd(instance).map_err(os("holding on to a VMM"))? else { continue };
            self.places.keep_uid(guest, process.uid);
            // Its agent may have died before it came to that.
            if let Err(error) = self.cgroups.join(guest, process.pid) {
                tracing::warn!(%guest, %error, "an adopted VMM has no limits");
            }
            tracing::info!(%guest, pid = process.pid, "VMM adopted");
            self.watch(Arc::new(Vmm::adopted(guest, process.pid, pidfd)));
        }
        Ok(())
    }

    /// Holds on to the VMM until it ends, and tells when it ends unasked.
    fn watch(self: &Arc<Self>, vmm: Arc<Vmm>) {
        let guest = vmm.guest;
        self.alive().insert(guest, vmm.clone());
        let host = self.clone();
        tokio::spawn(async move {
            let out_of_memory = || {
                let reason = "it reached the memory limit of its control group";
                host.cgroups.ran_out_of_memory(guest).then(|| reason.to_owned())
            };
            let text = match vmm.watch(out_of_memory).await {
                Ok(text) => text,
                Err(error) => return tracing::error!(%guest, %error, "the VMM cannot be watched"),
            };
            {
                let mut alive = host.alive();
                if alive.get(&guest).is_some_and(|held| Arc::ptr_eq(held, &vmm)) {
                    alive.remove(&guest);
                }
            }
            if !vmm.is_end_expected() {
                // Nobody listens: then nobody is told.
                _ = host.events.send(GuestEvent::Ended { guest, text, clean: false });
            }
        });
    }

    pub fn alive(&self) -> MutexGuard<'_, BTreeMap<GuestId, Arc<Vmm>>> {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub fn living(vmm: &Vmm) -> Found {
    Found::living(vmm.guest, Some(vmm.pid))
}

pub fn dead(guest: GuestId) -> Found {
    Found::dead(guest)
}

/// QEMU's own words tell a host without memory from a mistake of ours.
fn did_not_start(text: String) -> HypervisorError {
    if text.contains("Cannot allocate memory") || text.contains("memory limit") {
        return HypervisorError::NoRoom(text);
    }
    HypervisorError::DidNotStart(text)
}
