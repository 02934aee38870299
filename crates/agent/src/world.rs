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
        match self.guests.get(order.id) {
            Some(handle) => handle.order(order, epoch),
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

/// The guests that have a task.
#[derive(Default)]
pub(crate) struct Guests(Mutex<BTreeMap<GuestId, Arc<Handle>>>);

impl Guests {
    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<GuestId, Arc<Handle>>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
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
    pub fn remove(&self, id: GuestId, handle: &Arc<Handle>) {
        self.with(|g| {
            if g.get(&id).is_some_and(|known| Arc::ptr_eq(known, handle)) {
                g.remove(&id);
            }
        });
    }
}
