//! Full VMs by libvirt: QEMU machines that libvirt keeps, with disks, consoles and networks.
//!
//! ```text
//!              ┌─ orders ──────▶┐
//!  driver ─────┼─ events ◀──────┤ libvirtd ─▶ QEMU ─▶ guest
//!              ├─ statistics ──▶┘               │ unix sockets: channel, screen
//!              └────────────────────────────────┘
//! ```
//! Owns: the domains that carry this instance's mark in their metadata, their folders, three
//! connections of its own. Domains outlive this process; whoever comes next finds them by their mark.
//! Refuses: to touch a domain with another mark or none, but to measure it; to wait for a libvirt that
//! does not answer beyond the deadline.

mod backups;
mod below;
mod breaker;
mod cards;
mod connections;
mod create;
mod domains;
mod facts;
mod host;
mod machine;
mod mark;
mod networks;
mod places;
mod processes;
mod quiesce;
mod seed;
mod seen;
mod snapshots;
mod stands;
mod tools;
mod volumes;
mod watching;
mod xml;

pub use breaker::BreakerState;
pub use connections::LibvirtHealth;
pub use domains::Domains;
pub use perigee_libvirt::Endpoint;
pub use perigee_libvirt::uri::Target;

use crate::cpu::{CPU_FLAGS, virtualisation};
use crate::session::{self, ChannelSession};
use crate::sockets::connect;
use crate::work::{finish, off_thread, os};
use crate::{
    Addresses, Adopt, BackupWish, Backups, Channel, Console, Found, FoundNetwork, GuestEvent, GuestUsage, Halt, Halted,
    Hypervisor, HypervisorError, Keep, Kept, Measure, NetworkPlan, Networks, NewDisk, NodeUsage, OpenDisk, Pause, Plan,
    Plugs, Progress, Reserve, Room, Seat, Session, Snapshots, Space, Stream, Volumes,
};
use async_trait::async_trait;
use connections::{Ask, Link};
use host::Host;
use perigee_clock::Clock;
use perigee_guest::{ChannelError, ChannelLimits, UnixDial};
use perigee_libvirt::{AddressSource, Connection, Domain, State, Wish};
use perigee_model::{
    Abilities, Acceleration, BackupId, GuestId, GuestKind, InstanceId, NetworkId, SnapshotId, VolumeId,
};
use places::Places;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// libvirt's reason why a domain that is on its way up counts as paused (`virDomainPausedReason`).
const STARTING_UP: i32 = 11;
/// A machine takes up whoever comes to its screen within this.
const SCREEN_WITHIN: Duration = Duration::from_secs(10);

/// How the driver runs on this host.
#[derive(Clone, Debug)]
pub struct LibvirtConfig {
    /// Whose guests.
    pub instance: InstanceId,
    /// A folder per guest is made here. QEMU's user must be able to pass through.
    pub dir: PathBuf,
    /// Sockets are made here; its path is at most 68 bytes long. QEMU's user must be able to pass.
    pub run_dir: PathBuf,
    /// Images are in here: what the disk of a guest may lie above.
    pub images: PathBuf,
    /// Where libvirtd listens.
    pub endpoint: Endpoint,
    /// libvirt's driver: `qemu:///system`.
    pub uri: String,
    /// How long one call may take; starting and ending a guest may take a minute.
    pub deadline: Duration,
    /// Randomness and monotonic time.
    pub clock: Clock,
    /// What new disks leave free of the file system they are on.
    pub reserve: Reserve,
}

/// The driver. Cheap to clone; its connections are closed with the last of its clones.
#[derive(Clone)]
pub struct Libvirt {
    host: Arc<Host>,
    domains: Arc<Domains>,
    _watching: Arc<Watching>,
}

/// The task that watches, ended with the driver.
struct Watching(AbortHandle);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Libvirt {
    /// Makes the directories and begins to watch. Asks libvirt nothing: it may come later than we do.
    /// Call inside a runtime.
    ///
    /// # Errors
    /// `Os` when a directory cannot be made, `BadPlan` for a configuration that cannot work.
    pub fn new(config: LibvirtConfig) -> Result<Self, HypervisorError> {
        let LibvirtConfig { instance, dir, run_dir, images, endpoint, uri, deadline, clock, reserve } = config;
        let flags = std::fs::read_to_string(CPU_FLAGS).map_err(os(format!("reading {CPU_FLAGS}")))?;
        let places = Places::at(dir, run_dir)?;
        let control = Link::new(endpoint.clone(), uri.clone(), deadline, clock.clone());
        let events = control.another();
        let hardware = virtualisation(&flags);
        let host = Arc::new(Host::new(instance, clock, (places, images), control, (hardware, reserve)));
        let watching = tokio::spawn(watching::watch(Arc::downgrade(&host), events));
        let domains = Arc::new(Domains::of(host.clock.clone(), Wish { endpoint, uri, deadline }));
        Ok(Self { host, domains, _watching: Arc::new(Watching(watching.abort_handle())) })
    }

    /// How libvirt has been lately.
    pub fn health(&self) -> LibvirtHealth {
        self.host.control.health()
    }

    /// One piece of work on a guest, in a task of its own: it ends what it began, whoever stops waiting.
    async fn alone<T, F>(&self, guest: GuestId, work: impl FnOnce(Arc<Host>) -> F) -> Result<T, HypervisorError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, HypervisorError>> + Send + 'static,
    {
        let host = self.host.clone();
        // Waited for here: who calls after us is served after us, however tasks are scheduled.
        let alone = host.gates.alone(guest).await;
        let work = work(host);
        finish(tokio::spawn(async move {
            let _alone = alone;
            work.await
        }))
        .await
    }
}

#[async_trait]
impl Hypervisor for Libvirt {
    fn abilities(&self) -> Abilities {
        let facts = self.host.known_facts();
        let assumed = if self.host.hardware { Acceleration::Kvm } else { Acceleration::Tcg };
        let acceleration = facts.as_ref().map_or(assumed, |facts| facts.acceleration);
        let cores = std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
        Abilities {
            driver: "libvirt".to_owned(),
            kinds: vec![GuestKind::Vm],
            version: facts.map_or_else(|| "unknown".to_owned(), |facts| facts.version.clone()),
            acceleration,
            channel: true,
            pause: true,
            halt: true,
            console: true,
            snapshots: true,
            volumes: true,
            networks: !self.host.control.is_far(),
            adopt: true,
            boots_in_flight_max: if acceleration == Acceleration::Kvm { cores.saturating_mul(4) } else { cores },
        }
    }

    async fn inventory(&self) -> Result<Vec<Found>, HypervisorError> {
        let found = self.host.inventory().await?;
        if self.host.known_facts().is_none() {
            // What this libvirt is and can do is asked before the first start needs it, which also says why not.
            drop(self.host.facts().await);
        }
        Ok(found)
    }

    async fn start(&self, plan: &Plan) -> Result<Found, HypervisorError> {
        let plan = plan.clone();
        self.alone(plan.guest, |host| async move { create::start(&host, plan).await }).await
    }

    async fn destroy(&self, guest: GuestId) -> Result<(), HypervisorError> {
        self.alone(guest, |host| async move { host.destroy(guest).await }).await
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
    fn halt(&self) -> Option<&dyn Halt> {
        Some(self)
    }
    fn console(&self) -> Option<&dyn Console> {
        Some(self)
    }
    fn addresses(&self) -> Option<&dyn Addresses> {
        Some(self)
    }
    fn adopt(&self) -> Option<&dyn Adopt> {
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
        // What a subnet must leave alone is what this machine says, not another.
        (!self.host.control.is_far()).then_some(self)
    }
    fn room(&self) -> Option<&dyn Room> {
        Some(self)
    }
}

#[async_trait]
impl Channel for Libvirt {
    async fn open(&self, guest: GuestId, within: Duration) -> Result<Arc<dyn Session>, HypervisorError> {
        self.host.running(guest).await?;
        let dial = UnixDial { path: self.host.places.channel(guest) };
        let mut entropy = || self.host.clock.random();
        match perigee_guest::Channel::open(&dial, &mut entropy, within, ChannelLimits::default()).await {
            Ok(channel) => Ok(Arc::new(ChannelSession(channel))),
            Err(ChannelError::NoAnswer { .. } | ChannelError::TimedOut { .. }) => {
                // Perhaps it is not there any more.
                self.host.running(guest).await?;
                Err(HypervisorError::Silent(within))
            }
            Err(error) => Err(session::told(error)),
        }
    }
}

#[async_trait]
impl Pause for Libvirt {
    async fn pause(&self, guest: GuestId) -> Result<(), HypervisorError> {
        self.alone(guest, |host| async move { host.set_paused(guest, true).await }).await
    }
    async fn resume(&self, guest: GuestId) -> Result<(), HypervisorError> {
        self.alone(guest, |host| async move { host.set_paused(guest, false).await }).await
    }
}

#[async_trait]
impl Halt for Libvirt {
    async fn halt(&self, guest: GuestId, grace: Duration) -> Result<Halted, HypervisorError> {
        self.alone(guest, |host| async move { host.halt(guest, grace).await }).await
    }
}

#[async_trait]
impl Console for Libvirt {
    async fn sit(&self, guest: GuestId, seat: Seat) -> Result<Box<dyn Stream>, HypervisorError> {
        let domain = self.host.running(guest).await?.domain;
        let state = self.host.control.ask(async |libvirt| libvirt.domain_state(&domain).await).await;
        if state.map_err(Ask::told)? == (State::Paused, STARTING_UP) {
            // It has no ports yet, and libvirt would blame its definition.
            return Err(HypervisorError::NotRunning);
        }
        match seat {
            Seat::Serial => {
                let opened = self
                    .host
                    .control
                    .ask(async |libvirt| libvirt.open_console(&domain, None, perigee_libvirt::console::FORCE).await);
                Ok(Box::new(opened.await.map_err(Ask::told)?))
            }
            Seat::Vnc => match timeout(SCREEN_WITHIN, connect(&self.host.places.vnc(guest))).await {
                Ok(Ok(stream)) => Ok(Box::new(stream)),
                Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                    Err(HypervisorError::BadPlan("it has no screen of ours".to_owned()))
                }
                Ok(Err(error)) => Err(HypervisorError::Channel(format!("its screen: {error}"))),
                Err(_) => Err(HypervisorError::Channel("its screen takes nobody up".to_owned())),
            },
        }
    }
}

#[async_trait]
impl Addresses for Libvirt {
    async fn addresses(&self, guest: GuestId) -> Result<Vec<IpAddr>, HypervisorError> {
        let domain = self.host.running(guest).await?.domain;
        let told = self.host.control.ask(async |libvirt| Ok(addresses(&libvirt, &domain).await)).await;
        told.map_err(Ask::told)
    }
}

/// Each source may have nothing to say, or fail for reasons of its own. Whom the host has heard speak on the wire
/// is asked for only when neither its lease nor its own agent says anything: the host forgets slowly.
async fn addresses(libvirt: &Connection, domain: &Domain) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for source in [AddressSource::Lease, AddressSource::Agent, AddressSource::Arp] {
        if source == AddressSource::Arp && !found.is_empty() {
            break;
        }
        let cards = match libvirt.interfaces(domain, source).await {
            Ok(cards) => cards,
            Err(error) => {
                tracing::debug!(domain = domain.name, ?source, %error, "no addresses");
                continue;
            }
        };
        let mut told: Vec<_> = cards.into_iter().flat_map(|card| card.addresses).filter(leads_there).collect();
        told.sort_unstable();
        for address in told {
            if !found.contains(&address) {
                found.push(address);
            }
        }
    }
    found
}

/// Whether others can reach a guest by it: not by one of its own, nor by one that holds on its wire alone.
fn leads_there(address: &IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(local || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

#[async_trait]
impl Adopt for Libvirt {
    async fn adopt(&self, guest: GuestId, memo: &str) -> Result<Found, HypervisorError> {
        let memo = memo.to_owned();
        self.alone(guest, |host| async move { host.adopt(guest, &memo).await }).await
    }
    async fn release(&self, guest: GuestId) -> Result<(), HypervisorError> {
        self.alone(guest, |host| async move { host.release(guest).await }).await
    }
}

#[async_trait]
impl Snapshots for Libvirt {
    async fn kept(&self, guest: GuestId) -> Result<Vec<Kept>, HypervisorError> {
        self.alone(guest, |host| async move { host.kept(guest).await }).await
    }
    async fn keep(&self, guest: GuestId, wish: &Keep, tell: &watch::Sender<Progress>) -> Result<Kept, HypervisorError> {
        let (wish, tell) = (wish.clone(), tell.clone());
        self.alone(guest, |host| async move { host.keep(guest, &wish, &tell).await }).await
    }
    async fn go_back(&self, guest: GuestId, snapshot: SnapshotId) -> Result<Found, HypervisorError> {
        self.alone(guest, |host| async move { host.go_back(guest, snapshot).await }).await
    }
    async fn forget(&self, guest: GuestId, snapshot: SnapshotId) -> Result<(), HypervisorError> {
        self.alone(guest, |host| async move { host.forget(guest, snapshot).await }).await
    }
}

#[async_trait]
impl Backups for Libvirt {
    async fn open_disk(&self, guest: GuestId, wish: &BackupWish) -> Result<OpenDisk, HypervisorError> {
        let wish = wish.clone();
        self.alone(guest, |host| async move { host.open_disk(guest, &wish).await }).await
    }
    async fn close_disk(&self, guest: GuestId, backup: BackupId, made: bool) -> Result<(), HypervisorError> {
        self.alone(guest, |host| async move { host.close_disk(guest, backup, made).await }).await
    }
    async fn new_disk(&self, guest: GuestId, bytes: u64) -> Result<Option<Box<dyn NewDisk>>, HypervisorError> {
        self.alone(guest, |host| async move { host.new_disk(guest, bytes).await }).await
    }
}

#[async_trait]
impl Volumes for Libvirt {
    async fn store(&self, volume: VolumeId, bytes: u64, guest: Option<GuestId>) -> Result<u64, HypervisorError> {
        // In the guest's turn: its QEMU neither takes the file nor leaves it meanwhile.
        let turn = guest.unwrap_or(GuestId::new(volume.uuid()));
        self.alone(turn, |host| async move { host.store(volume, bytes, guest).await }).await
    }
    async fn discard(&self, volume: VolumeId) -> Result<(), HypervisorError> {
        self.host.discard(volume).await
    }
    async fn plug(&self, guest: GuestId, volumes: &[VolumeId]) -> Result<Plugs, HypervisorError> {
        let volumes = volumes.to_vec();
        self.alone(guest, |host| async move { host.plug(guest, &volumes).await }).await
    }
}

#[async_trait]
impl Networks for Libvirt {
    async fn networks(&self) -> Result<Vec<FoundNetwork>, HypervisorError> {
        self.host.networks().await
    }
    async fn establish(&self, plan: &NetworkPlan) -> Result<FoundNetwork, HypervisorError> {
        let plan = plan.clone();
        self.alone(GuestId::new(plan.id.uuid()), |host| async move { host.establish(&plan).await }).await
    }
    async fn dismantle(&self, network: NetworkId) -> Result<(), HypervisorError> {
        self.alone(GuestId::new(network.uuid()), |host| async move { host.dismantle(network).await }).await
    }
    fn definition(&self, plan: &NetworkPlan) -> Result<String, HypervisorError> {
        networks::definition(plan)
    }
}

#[async_trait]
impl Room for Libvirt {
    async fn room(&self, guest: GuestId, volumes: bool) -> Result<Space, HypervisorError> {
        self.host.room(guest, volumes).await
    }
    async fn below(&self) -> Result<Vec<PathBuf>, HypervisorError> {
        let places = self.host.places.clone();
        off_thread(move || below::of_all(&places)).await
    }
}

#[async_trait]
impl Measure for Libvirt {
    /// Foreign domains are told, too.
    async fn usages(&self) -> Result<Vec<GuestUsage>, HypervisorError> {
        let (mut usages, unknown) = self.domains.told().await?;
        let domains: Vec<_> = usages.iter().map(|usage| GuestId::new(usage.id)).collect();
        let ours = self.host.ours_of(&domains).await?;
        for usage in &mut usages {
            usage.ours = ours.contains(&GuestId::new(usage.id));
            if unknown.contains(&usage.id) {
                usage.starved = self.host.starves(GuestId::new(usage.id)).await?;
            }
            if let Some(name) = usage.name.as_mut().filter(|_| usage.ours) {
                *name = machine::guest_name(&self.host.instance, name);
            }
        }
        Ok(usages)
    }
    async fn node(&self) -> Result<Option<NodeUsage>, HypervisorError> {
        self.domains.machine().await
    }
}
