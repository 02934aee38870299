//! What every task of one agent shares.

use crate::admission::Admission;
use crate::builds::{Builder, Builds};
use crate::execution::Executions;
use crate::guest::{self, Document, Handle};
use crate::health::Health;
use crate::journal::Journal;
use crate::nursery::Nursery;
use crate::outbox::Outbox;
use crate::parts::Parts;
use crate::spool::Spool;
use crate::uplink::Uplink;
use perigee_agent_api::DesiredGuest;
use perigee_clock::Clock;
use perigee_hypervisor::Hypervisor;
use perigee_model::{GuestId, HostId, Inventory, RunId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tracing::warn;

/// Reads the machine's inventory.
pub type Describe = dyn Fn() -> Inventory + Send + Sync;

pub(crate) struct World {
    pub host: HostId,
    pub run: RunId,
    pub clock: Clock,
    pub hypervisor: Arc<dyn Hypervisor>,
    pub journal: Arc<dyn Journal>,
    pub spool: Arc<dyn Spool>,
    pub uplink: Arc<dyn Uplink>,
    pub parts: Arc<dyn Parts>,
    pub builder: Arc<dyn Builder>,
    pub describe: Arc<Describe>,
    pub health: Arc<Health>,
    pub admission: Admission,
    pub outbox: Outbox,
    pub nursery: Nursery,
    pub guests: Guests,
    pub executions: Executions,
    pub builds: Builds,
}

impl World {
    /// Sleeps until a wall-clock time, at most `most`; for ever without one. May be dropped.
    pub async fn sleep_until(&self, until: Option<Timestamp>, most: Duration) {
        match until {
            None => std::future::pending().await,
            Some(until) => tokio::time::sleep(until.since(self.clock.now()).min(most)).await,
        }
    }

    /// Hands an order to its guest's task, which is started if there is none.
    pub fn order(self: &Arc<Self>, order: DesiredGuest, epoch: u64) {
        if order.desired.host.is_some_and(|host| host != self.host) {
            warn!(guest = %order.id, "an order for another host was refused");
            return;
        }
        match self.guests.get(order.id) {
            Some(handle) => handle.order(order, epoch),
            // A late copy of an order for a guest whose end was reported and taken.
            None if self.guests.was_erased(&order) => {}
            None => {
                let alive = self.health.take_unknown_guest(order.id);
                let document = Document::new(order, epoch, self.clock.now());
                guest::spawn(self, document, alive, false);
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
