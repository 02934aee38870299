//! QEMU's `microvm`: a machine without firmware, PCI and legacy devices, under KVM or translation.
//!
//! ```text
//!  start ─▶ directory ─▶ user, disks, sockets, control group ─▶ process ─▶ limited, greeting ─▶ watched
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
mod host;
mod launch;
mod measure;
mod place;
mod probe;
mod processes;
mod qmp;
mod record;
mod sys;
mod vmm;

use crate::session;
use crate::work::{finish, off_thread};
use crate::{
    Channel, Found, GuestEvent, GuestUsage, Hypervisor, HypervisorError, Measure, Pause, Plan, Reserve, Session,
};
use async_trait::async_trait;
use cgroups::Cgroups;
use host::{Host, dead, living};
use perigee_clock::Clock;
use perigee_guest::{ChannelError, ChannelLimits, UnixDial};
use perigee_model::{Abilities, GuestId, InstanceId};
use place::Places;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast;

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
    /// What new disks leave free of the file system that `dir` is on.
    pub reserve: Reserve,
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
pub struct Microvm {
    host: Arc<Host>,
    reduced: Arc<[String]>,
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
        let probed = probe::probe(&config)?;
        let places = Places::at(config.dir, config.run_dir, config.uid_base)?;
        let cgroups = if root { Cgroups::find(&config.instance) } else { Cgroups::none() };
        let mut reduced = Vec::new();
        if !root {
            reduced.push("guests share the agent's user".to_owned());
        }
        for controller in cgroups.missing() {
            reduced.push(format!("no {controller} limit: no control group for it"));
        }
        let host = Host::new((config.qemu, config.reserve), config.clock, probed, cgroups, places);
        Ok(Self { host: Arc::new(host), reduced: reduced.into() })
    }

    /// What is missing here that isolates guests on other hosts, for people. Empty: nothing.
    pub fn reduced(&self) -> &[String] {
        &self.reduced
    }

    /// How long the newest successful start took.
    pub fn last_start(&self) -> Option<StartTimes> {
        *self.host.last_start.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Hypervisor for Microvm {
    fn abilities(&self) -> Abilities {
        self.host.abilities.clone()
    }

    async fn inventory(&self) -> Result<Vec<Found>, HypervisorError> {
        let host = self.host.clone();
        let guests = off_thread(move || {
            host.adopt_all()?;
            host.places.guests()
        });
        let mut found: BTreeMap<_, _> = guests.await?.into_iter().map(|guest| (guest, dead(guest))).collect();
        let host = &self.host;
        found.extend(host.alive().values().filter(|vmm| !vmm.has_ended()).map(|vmm| (vmm.guest, living(vmm))));
        Ok(found.into_values().collect())
    }

    async fn start(&self, plan: &Plan) -> Result<Found, HypervisorError> {
        let (host, plan) = (self.host.clone(), plan.clone());
        // Waited for here: who calls after us is served after us, however tasks are scheduled.
        let alone = host.gates.alone(plan.guest).await;
        // A task of its own: it ends what it began, whoever stops waiting for it.
        finish(tokio::spawn(async move {
            let _alone = alone;
            host.start(plan).await
        }))
        .await
    }

    async fn destroy(&self, guest: GuestId) -> Result<(), HypervisorError> {
        let host = self.host.clone();
        let alone = host.gates.alone(guest).await;
        finish(tokio::spawn(async move {
            let _alone = alone;
            host.destroy(guest).await
        }))
        .await
    }

    fn events(&self) -> broadcast::Receiver<GuestEvent> {
        self.host.events.subscribe()
    }
    fn channel(&self) -> Option<&dyn Channel> {
        Some(self)
    }
    fn pause(&self) -> Option<&dyn Pause> {
        Some(self)
    }
    fn measure(&self) -> Option<&dyn Measure> {
        Some(self)
    }
}

#[async_trait]
impl Channel for Microvm {
    async fn open(&self, guest: GuestId, within: Duration) -> Result<Arc<dyn Session>, HypervisorError> {
        let vmm = self.host.running(guest).await?;
        let dial = UnixDial { path: self.host.places.channel(guest) };
        let mut entropy = || self.host.clock.random();
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
impl Measure for Microvm {
    async fn usages(&self) -> Result<Vec<GuestUsage>, HypervisorError> {
        Ok(measure::usages(&self.host).await)
    }
}

#[async_trait]
impl Pause for Microvm {
    async fn pause(&self, guest: GuestId) -> Result<(), HypervisorError> {
        self.host.tell(guest, "stop").await
    }
    async fn resume(&self, guest: GuestId) -> Result<(), HypervisorError> {
        self.host.tell(guest, "cont").await
    }
}
