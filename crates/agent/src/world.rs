//! What every task of one agent shares.

use crate::admission::Admission;
use crate::builds::{Builder, Builds};
use crate::cards::Cards;
use crate::execution::Executions;
use crate::guest::{self, Document, Handle};
use crate::health::Health;
use crate::intents::Images;
use crate::journal::Journal;
use crate::networks::Networks;
use crate::nursery::Nursery;
use crate::outbox::Outbox;
use crate::parts::Parts;
use crate::spool::Spool;
use crate::uplink::Uplink;
use crate::volumes::Volumes;
use crate::watch::SharedSheet;
use perigee_agent_api::DesiredGuest;
use perigee_clock::Clock;
use perigee_hypervisor::{Found, Hypervisor};
use perigee_model::guest::Problem;
use perigee_model::{Code, GuestId, GuestKind, HostId, Inventory, RunId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tracing::warn;

/// A driver that has not told yet what lives here is waited for this long by who asks for a guest.
const TOLD_WITHIN: Duration = Duration::from_secs(15);

/// Reads the machine's inventory.
pub type Describe = dyn Fn() -> Inventory + Send + Sync;

pub(crate) struct World {
    pub host: HostId,
    pub run: RunId,
    pub clock: Clock,
    /// What runs guests here; the first is always here, the others' daemons may be away.
    pub drivers: Vec<Arc<dyn Hypervisor>>,
    pub held: Held,
    pub journal: Arc<dyn Journal>,
    pub spool: Arc<dyn Spool>,
    pub uplink: Arc<dyn Uplink>,
    pub parts: Arc<dyn Parts>,
    pub builder: Arc<dyn Builder>,
    pub cards: Arc<dyn Cards>,
    pub describe: Arc<Describe>,
    pub measured: Arc<SharedSheet>,
    pub health: Arc<Health>,
    pub admission: Admission,
    pub outbox: Outbox,
    pub nursery: Nursery,
    pub guests: Guests,
    pub executions: Executions,
    pub builds: Builds,
    pub images: Images,
    pub volumes: Volumes,
    pub networks: Networks,
}

impl World {
    /// What runs guests of this kind. A host without such a driver is never given such a guest; the
    /// first driver refuses it in words if it is all the same.
    pub fn driver(&self, kind: GuestKind) -> Arc<dyn Hypervisor> {
        self.drivers[self.driver_place(kind)].clone()
    }
    /// Its place among the drivers.
    pub fn driver_place(&self, kind: GuestKind) -> usize {
        self.drivers.iter().position(|d| d.abilities().kinds.contains(&kind)).unwrap_or(0)
    }

    /// Sleeps until a wall-clock time, at most `most`; for ever without one. May be dropped.
    pub async fn sleep_until(&self, until: Option<Timestamp>, most: Duration) {
        match until {
            None => std::future::pending().await,
            Some(until) => tokio::time::sleep(until.since(self.clock.now()).min(most)).await,
        }
    }

    /// The task of a guest that something is wanted of. As long as a driver has not told what lives here, one that is
    /// not known yet may.
    pub async fn guest(&self, id: GuestId) -> Result<Arc<Handle>, Problem> {
        if let Some(handle) = self.guests.get(id) {
            return Ok(handle);
        }
        if tokio::time::timeout(TOLD_WITHIN, self.held.told()).await.is_err() {
            let text = "the host cannot tell yet which guests run: its libvirt has not answered";
            return Err(Problem::new(Code::ChannelBroken, text));
        }
        self.guests.get(id).ok_or_else(|| Problem::new(Code::GuestNotRunning, "the guest is not running"))
    }

    /// Hands an order to its guest's task, which is started if there is none.
    pub fn order(self: &Arc<Self>, order: DesiredGuest, epoch: u64) {
        if order.desired.host.is_some_and(|host| host != self.host) {
            warn!(guest = %order.id, "an order for another host was refused");
            return;
        }
        let Some(order) = self.held.pass(self.driver_place(order.kind), order, epoch) else { return };
        match self.guests.get(order.id) {
            Some(handle) => handle.order(order, epoch),
            // A late copy of an order for a guest whose end was reported and taken.
            None if self.guests.was_erased(&order) => {}
            None => {
                let found = Found::living(order.id, None);
                let alive = self.health.take_unknown_guest(order.id);
                let document = Document::new(order, epoch, self.clock.now());
                guest::spawn(self, document, Some(&found).filter(|_| alive));
            }
        }
    }

    /// Every order there is: a gone guest that is not among them is forgotten.
    pub fn order_all(self: &Arc<Self>, orders: Vec<DesiredGuest>, epoch: u64) {
        let named: BTreeSet<GuestId> = orders.iter().map(|o| o.id).collect();
        for order in orders {
            self.order(order, epoch);
        }
        for (id, handle) in self.guests.all() {
            if !named.contains(&id) {
                handle.forget();
            }
        }
    }
}

/// The newest order of each guest, with its reign.
type Orders = BTreeMap<GuestId, (u64, DesiredGuest)>;

/// Orders for guests of drivers that have not told yet what lives here: nothing is done to those.
#[derive(Default)]
pub(crate) struct Held {
    orders: Mutex<BTreeMap<usize, Orders>>,
    /// How many drivers have not told.
    silent: watch::Sender<usize>,
}

impl Held {
    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<usize, Orders>) -> T) -> T {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let done = f(&mut orders);
        self.silent.send_replace(orders.len());
        done
    }
    /// From now on orders for this driver's guests are held.
    pub fn close(&self, driver: usize) {
        self.with(|held| held.insert(driver, BTreeMap::new()));
    }
    /// What was held; from now on orders pass.
    pub fn open(&self, driver: usize) -> Vec<(u64, DesiredGuest)> {
        self.with(|held| held.remove(&driver).unwrap_or_default().into_values().collect())
    }
    /// Until every driver has told what lives here.
    async fn told(&self) {
        // The sender is ours.
        _ = self.silent.subscribe().wait_for(|silent| *silent == 0).await;
    }
    /// The order back, unless it is held; of several the newest is.
    fn pass(&self, driver: usize, order: DesiredGuest, epoch: u64) -> Option<DesiredGuest> {
        self.with(|held| {
            let Some(kept) = held.get_mut(&driver) else { return Some(order) };
            let older = |(e, o): &(u64, DesiredGuest)| (o.desired.generation, *e) <= (order.desired.generation, epoch);
            if kept.get(&order.id).is_none_or(older) {
                kept.insert(order.id, (epoch, order));
            }
            None
        })
    }
}

/// Erased guests that are remembered, the youngest ones.
const ERASED_MAX: usize = 4096;

/// The guests that have a task, and the last generation of those that were erased.
#[derive(Default)]
pub(crate) struct Guests {
    living: Mutex<BTreeMap<GuestId, Arc<Handle>>>,
    erased: Mutex<BTreeMap<GuestId, u64>>,
}

impl Guests {
    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<GuestId, Arc<Handle>>) -> T) -> T {
        f(&mut self.living.lock().unwrap_or_else(PoisonError::into_inner))
    }
    /// Nothing is left of it: orders up to this generation are late ones.
    pub fn erase(&self, id: GuestId, generation: u64, handle: &Arc<Handle>) {
        let mut erased = self.erased.lock().unwrap_or_else(PoisonError::into_inner);
        erased.insert(id, generation);
        if erased.len() > ERASED_MAX {
            erased.pop_first();
        }
        drop(erased);
        self.remove(id, handle);
    }
    fn was_erased(&self, order: &DesiredGuest) -> bool {
        let erased = self.erased.lock().unwrap_or_else(PoisonError::into_inner);
        erased.get(&order.id).is_some_and(|generation| order.desired.generation <= *generation)
    }
    pub fn get(&self, id: GuestId) -> Option<Arc<Handle>> {
        self.with(|g| g.get(&id).cloned())
    }
    pub fn all(&self) -> Vec<(GuestId, Arc<Handle>)> {
        self.with(|g| g.iter().map(|(id, handle)| (*id, handle.clone())).collect())
    }
    pub fn insert(&self, id: GuestId, handle: Arc<Handle>) {
        self.with(|g| g.insert(id, handle));
    }
    fn remove(&self, id: GuestId, handle: &Arc<Handle>) {
        self.with(|g| {
            if g.get(&id).is_some_and(|known| Arc::ptr_eq(known, handle)) {
                g.remove(&id);
            }
        });
    }
}
