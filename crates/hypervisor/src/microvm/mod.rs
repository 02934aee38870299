//! QEMU's `microvm`: a machine without firmware, PCI and legacy devices, under KVM or translation.
//!
//! ```text
//!  start ─▶ directory ─▶ user, disks, sockets, control group ─▶ process ─▶ greeting ─▶ watched
//!               └─────────────── a crash anywhere: found by inventory ───────┘
//!  destroy ─▶ kill by pidfd ─▶ reaped ─▶ control group, sockets ─▶ directory
//! ```
//! Owns: the VMMs of one instance on this host. They are sessions of their own and outlive this
//! process; whoever comes next finds them by their arguments and adopts them.
//! Refuses: to run as root, a second VMM for a guest, and to touch what another instance made.
//!
//! Guests run as users of their own, without capabilities or new privileges, under QEMU's system
//! call filter and the limits of a control group. Without root they share our user and have no
//! limits; [`Microvm::reduced`] says so.

mod arguments;
mod cgroups;
mod launch;
mod place;
mod probe;
mod processes;
mod qmp;
mod record;
mod session;
mod sys;
mod vmm;

use crate::{Channel, Found, GuestEvent, Hypervisor, HypervisorError, Pause, Plan, Session};
use arguments::Machine;
use async_trait::async_trait;
use cgroups::Cgroups;
use perigee_clock::{Clock, Instant};
use perigee_guest::{ChannelError, ChannelLimits, UnixDial};
use perigee_model::{Abilities, GuestId, InstanceId};
use place::Places;
use qmp::{Qmp, QmpError};
use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedMutexGuard, broadcast};
use vmm::Vmm;

/// Hints kept for a slow receiver.
const EVENTS_KEPT: usize = 1024;
/// For QEMU to make the machine, on a busy host.
const GREETING_WITHIN: Duration = Duration::from_secs(15);
/// For a killed process to be gone; longer only while its disk does not answer.
const DEATH_WITHIN: Duration = Duration::from_secs(10);
/// For one QMP command.
const QMP_WITHIN: Duration = Duration::from_secs(5);

/// How the driver runs on this host.
#[derive(Clone, Debug)]
pub struct MicrovmConfig {
    /// Whose guests.
    pub instance: InstanceId,
    /// A directory per guest is made here. Nobody else writes here.
    pub dir: PathBuf,
    /// Sockets are made here; its path is at most 72 bytes long.
    pub run_dir: PathBuf,
    /// `qemu-system-x86_64`.
    pub qemu: PathBuf,
    /// First of [`UIDS`] users set aside for this instance's guests; needs root. `None`: guests
    /// run as our own user, without control groups. Root must give one.
    pub uid_base: Option<u32>,
    /// Randomness and monotonic time.
    pub clock: Clock,
}

pub use place::UIDS;

/// Where the time of a start went, for benchmarks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartTimes {
    /// Ours: until QEMU's process was there, everything included.
    pub ours: Duration,
    /// QEMU's: until it had made the machine and said so.
    pub vmm: Duration,
}

/// The driver. Cheap to clone.
#[derive(Clone)]
pub struct Microvm(Arc<Host>);

/// All there is about one instance on this host.
struct Host {
    qemu: PathBuf,
    clock: Clock,
    machine: Machine,
    abilities: Abilities,
    cgroups: Cgroups,
    places: Places,
    reduced: Vec<String>,
    last_start: Mutex<Option<StartTimes>>,
    alive: Mutex<BTreeMap<GuestId, Arc<Vmm>>>,
    gates: Mutex<BTreeMap<GuestId, Arc<tokio::sync::Mutex<()>>>>,
    events: broadcast::Sender<GuestEvent>,
}

impl Microvm {
    /// Looks at the host and at what is left of earlier days. Blocks for some 50 ms.
    ///
    /// # Errors
    /// `Os` when QEMU or a directory is missing, `DidNotStart` when QEMU does not tell its
    /// version, `BadPlan` for a configuration that cannot work.
    pub fn new(config: MicrovmConfig) -> Result<Self, HypervisorError> {
        let root = nix::unistd::geteuid().is_root();
        if root != config.uid_base.is_some() {
            let text = if root { "root must give guests users of their own" } else { "only root can change users" };
            return Err(HypervisorError::BadPlan(text.to_owned()));
        }
        let (abilities, machine) = probe::probe(&config)?;
        let places = Places::at(config.dir, config.run_dir, config.uid_base)?;
        let cgroups = if root { Cgroups::find(&config.instance) } else { Cgroups::none() };
        let mut reduced = Vec::new();
        if !root {
            reduced.push("guests share the agent's user".to_owned());
        }
        for controller in cgroups.missing() {
            reduced.push(format!("no {controller} limit: no control group for it"));
        }
        Ok(Self(Arc::new(Host {
            qemu: config.qemu,
            clock: config.clock,
            machine,
            abilities,
            cgroups,
            places,
            reduced,
            last_start: Mutex::default(),
            alive: Mutex::default(),
            gates: Mutex::default(),
            events: broadcast::Sender::new(EVENTS_KEPT),
        })))
    }

    /// What is missing here that isolates guests on other hosts, for people. Empty: nothing.
    pub fn reduced(&self) -> &[String] {
        &self.0.reduced
    }

    /// How long the newest successful start took.
    pub fn last_start(&self) -> Option<StartTimes> {
        *self.0.last_start.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Hypervisor for Microvm {
    fn abilities(&self) -> Abilities {
        self.0.abilities.clone()
    }

    async fn inventory(&self) -> Result<Vec<Found>, HypervisorError> {
        let host = self.0.clone();
        let guests = off_thread(move || {
            host.adopt_all()?;
            host.places.guests()
        });
        let mut found: BTreeMap<_, _> = guests.await?.into_iter().map(|guest| (guest, dead(guest))).collect();
        let host = &self.0;
        found.extend(host.alive().values().filter(|vmm| !vmm.has_ended()).map(|vmm| (vmm.guest, living(vmm))));
        Ok(found.into_values().collect())
    }

    async fn start(&self, plan: &Plan) -> Result<Found, HypervisorError> {
        let (host, plan) = (self.0.clone(), plan.clone());
        // A task of its own: it ends what it began, whoever stops waiting for it.
        finish(tokio::spawn(async move {
            let _alone = host.alone(plan.guest).await;
            host.start(plan).await
        }))
        .await
    }

    async fn destroy(&self, guest: GuestId) -> Result<(), HypervisorError> {
        let host = self.0.clone();
        finish(tokio::spawn(async move {
            let _alone = host.alone(guest).await;
            host.destroy(guest).await
        }))
        .await
    }

    fn events(&self) -> broadcast::Receiver<GuestEvent> {
        self.0.events.subscribe()
    }
    fn channel(&self) -> Option<&dyn Channel> {
        Some(self)
    }
    fn pause(&self) -> Option<&dyn Pause> {
        Some(self)
    }
}

#[async_trait]
impl Channel for Microvm {
    async fn open(&self, guest: GuestId, within: Duration) -> Result<Arc<dyn Session>, HypervisorError> {
        let vmm = self.0.running(guest).await?;
        let dial = UnixDial { path: self.0.places.channel(guest) };
        let mut entropy = || self.0.clock.random();
        let opening = perigee_guest::Channel::open(&dial, &mut entropy, within, ChannelLimits::default());
        let opened = tokio::select! {
            opened = opening => opened,
            _ = vmm.ended() => return Err(HypervisorError::NotRunning),
        };
        match opened {
            Ok(channel) => Ok(Arc::new(session::ChannelSession(channel))),
            Err(ChannelError::NoAnswer { .. } | ChannelError::TimedOut { .. }) => Err(HypervisorError::Silent(within)),
            Err(error) => Err(session::told(error)),
        }
    }
}

#[async_trait]
impl Pause for Microvm {
    async fn pause(&self, guest: GuestId) -> Result<(), HypervisorError> {
        self.0.tell(guest, "stop").await
    }
    async fn resume(&self, guest: GuestId) -> Result<(), HypervisorError> {
        self.0.tell(guest, "cont").await
    }
}

impl Host {
    async fn start(self: &Arc<Self>, plan: Plan) -> Result<Found, HypervisorError> {
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
        self.watch(vmm.clone());
        let ours = began.elapsed();
        let socket = self.places.qmp(guest);
        let deadline = self.clock.instant().after(GREETING_WITHIN).into_tokio();
        tokio::select! {
            greeted = Qmp::connect(&socket, deadline) => match greeted {
                Ok(_) => {
                    vmm.expect_end(false);
                    Ok((vmm, ours))
                }
                // A dead VMM closes its sockets: how it died says more.
                Err(QmpError::Io(_)) => Err(did_not_start(vmm.ended().await)),
                Err(error) => Err(HypervisorError::DidNotStart(error.to_string())),
            },
            text = vmm.ended() => Err(did_not_start(text)),
        }
    }

    async fn destroy(self: &Arc<Self>, guest: GuestId) -> Result<(), HypervisorError> {
        let vmm = match self.running(guest).await {
            Ok(vmm) => Some(vmm),
            Err(HypervisorError::NotRunning) => None,
            Err(error) => return Err(error),
        };
        if let Some(vmm) = vmm {
            vmm.expect_end(true);
            vmm.kill().map_err(place::os("killing the VMM"))?;
            let dead = tokio::time::timeout(DEATH_WITHIN, vmm.ended()).await;
            dead.map_err(|_| place::os("waiting for the VMM to end")(std::io::ErrorKind::TimedOut.into()))?;
        }
        let host = self.clone();
        off_thread(move || {
            host.cgroups.remove(guest).map_err(place::os("removing a control group"))?;
            host.places.remove(guest)
        })
        .await
    }

    async fn tell(self: &Arc<Self>, guest: GuestId, command: &str) -> Result<(), HypervisorError> {
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
    async fn running(self: &Arc<Self>, guest: GuestId) -> Result<Arc<Vmm>, HypervisorError> {
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
    fn adopt_all(self: &Arc<Self>) -> Result<(), HypervisorError> {
        let instance = &self.machine.instance;
        let uids = self.places.uids();
        for process in processes::all(instance, &uids).map_err(place::os("reading /proc"))? {
            let guest = process.guest;
            if self.living_vmm(guest).is_some() {
                continue;
            }
            let Some(pidfd) = process.pidfd(instance).map_err(place::os("holding on to a VMM"))? else { continue };
            self.places.keep_uid(guest, process.uid);
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
                _ = host.events.send(GuestEvent::Ended { guest, text });
            }
        });
    }

    /// One start or destroy of a guest after the other.
    async fn alone(&self, guest: GuestId) -> OwnedMutexGuard<()> {
        let gate = {
            let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
            // One that only this map knows is nobody's.
            gates.retain(|_, gate| Arc::strong_count(gate) > 1);
            gates.entry(guest).or_default().clone()
        };
        gate.lock_owned().await
    }

    fn alive(&self) -> MutexGuard<'_, BTreeMap<GuestId, Arc<Vmm>>> {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn living(vmm: &Vmm) -> Found {
    Found { guest: vmm.guest, alive: true, pid: Some(vmm.pid) }
}

fn dead(guest: GuestId) -> Found {
    Found { guest, alive: false, pid: None }
}

/// QEMU's own words tell a host without memory from a mistake of ours.
fn did_not_start(text: String) -> HypervisorError {
    if text.contains("Cannot allocate memory") || text.contains("memory limit") {
        return HypervisorError::NoRoom(text);
    }
    HypervisorError::DidNotStart(text)
}

/// File system work, where it delays nobody else.
async fn off_thread<T, F>(work: F) -> Result<T, HypervisorError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, HypervisorError> + Send + 'static,
{
    finish(tokio::task::spawn_blocking(work)).await
}

async fn finish<T>(
    task: impl Future<Output = Result<Result<T, HypervisorError>, tokio::task::JoinError>>,
) -> Result<T, HypervisorError> {
    match task.await {
        Ok(done) => done,
        Err(stopped) => Err(place::os("a task of the driver stopped")(std::io::Error::other(stopped))),
    }
}
