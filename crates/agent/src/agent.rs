//! One life of the agent: takes up what the last one left, serves the link, ends in one go.

use crate::admission::Admission;
use crate::builds::{self, Builder, Builds};
use crate::execution::{self, Executions};
use crate::guest::{self, Document};
use crate::health::Health;
use crate::journal::{self, Journal, JournalError};
use crate::link;
use crate::nursery::Nursery;
use crate::outbox::Outbox;
use crate::parts::Parts;
use crate::spool::Spool;
use crate::uplink::Uplink;
use crate::world::{Describe, Guests, World};
use perigee_clock::Clock;
use perigee_hypervisor::{Found, GuestEvent, Hypervisor};
use perigee_model::{GuestId, HostId, RunId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The host is compared with what is known this often, events or not.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// A host that cannot be read at the start is read again after this.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Everything an agent is made of. The same parts make the next life after a crash.
#[derive(Clone)]
pub struct Agent {
    /// Its host, as in its certificate.
    pub host: HostId,
    /// Time and randomness.
    pub clock: Clock,
    /// What runs guests.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Its documents.
    pub journal: Arc<dyn Journal>,
    /// Output of executions.
    pub spool: Arc<dyn Spool>,
    /// The way to the control plane.
    pub uplink: Arc<dyn Uplink>,
    /// Images' parts.
    pub parts: Arc<dyn Parts>,
    /// What builds images.
    pub builder: Arc<dyn Builder>,
    /// Reads the machine's inventory; drivers included.
    pub describe: Arc<Describe>,
    /// Where it says how it is.
    pub health: Arc<Health>,
    /// Boots at once; what the driver can bear, unless set.
    pub boots_in_flight_max: Option<u32>,
}

/// Why an agent ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The journal cannot be read.
    #[error("the journal cannot be read")]
    Journal(#[from] JournalError),
    /// A task panicked. The next life takes everything up.
    #[error("a task panicked")]
    Panicked,
}

impl Agent {
    /// Serves until cancelled. Guests and executions go on when it ends; dropping this is as
    /// sudden as `kill -9` and as harmless.
    ///
    /// # Errors
    /// `Journal` at the beginning, `Panicked` later.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), AgentError> {
        let (nursery, owner) = Nursery::new();
        let most = self.boots_in_flight_max.unwrap_or(self.hypervisor.abilities().boots_in_flight_max);
        let world = Arc::new(World {
            host: self.host,
            run: RunId::new(self.clock.uuid()),
            clock: self.clock,
            hypervisor: self.hypervisor,
            journal: self.journal,
            spool: self.spool,
            uplink: self.uplink,
            parts: self.parts,
            builder: self.builder,
            describe: self.describe,
            health: self.health,
            admission: Admission::new(most),
            outbox: Outbox::default(),
            nursery,
            guests: Guests::default(),
            executions: Executions::default(),
            builds: Builds::default(),
        });
        // Before the inventory: nothing that ends from now on is missed.
        world.nursery.spawn(hear(world.clone(), world.hypervisor.events()));
        let inherited = async {
            inherit(&world).await?;
            execution::inherit(&world).await?;
            builds::inherit(&world).await
        };
        tokio::select! {
            biased;
            inherited = inherited => inherited?,
            () = cancel.cancelled() => return Ok(()),
        }
        world.nursery.spawn(look(world.clone()));
        world.nursery.spawn(link::run(world.clone()));
        let ended = tokio::select! {
            biased;
            () = cancel.cancelled() => Ok(()),
            () = world.nursery.panicked() => Err(AgentError::Panicked),
        };
        drop(owner);
        ended
    }
}

/// Adopts the guests that live, and clears up after those nobody knows.
async fn inherit(world: &Arc<World>) -> Result<(), JournalError> {
    let found = first_inventory(world).await;
    let mut alive: BTreeMap<GuestId, bool> = found.into_iter().map(|f| (f.guest, f.alive)).collect();
    let mut documents = Vec::new();
    for key in world.journal.list(guest::SHELF).await? {
        match journal::read::<Document>(world.journal.as_ref(), guest::SHELF, &key).await {
            Ok(Some(document)) => documents.push(document.inherited()),
            Ok(None) => {}
            Err(e) => warn!(%key, error = %crate::chain(&e), "a guest's document cannot be read"),
        }
    }
    // All at once, before any of them runs: those that boot hold their slots before others ask.
    for document in documents {
        let lives = alive.remove(&document.id()).unwrap_or(false);
        info!(guest = %document.id(), phase = ?document.observed.phase, alive = lives, "taken up");
        guest::spawn(world, document, lives, true);
    }
    let mut unknown = BTreeSet::new();
    for (id, lives) in alive {
        if lives {
            warn!(guest = %id, "a guest of this instance lives here without a document; it is left alone");
            unknown.insert(id);
            continue;
        }
        info!(guest = %id, "leftovers of a guest without a document are removed");
        if let Err(e) = world.hypervisor.destroy(id).await {
            warn!(guest = %id, error = %crate::chain(&e), "leftovers were not removed");
        }
    }
    world.health.set_unknown_guests(unknown);
    Ok(())
}

/// Without knowing what lives here nothing may be done: it is asked until it is known.
async fn first_inventory(world: &World) -> Vec<Found> {
    loop {
        match world.hypervisor.inventory().await {
            Ok(found) => {
                world.health.set("driver", true, world.hypervisor.abilities().driver);
                return found;
            }
            Err(e) => {
                warn!(error = %crate::chain(&e), "the host's guests cannot be read, once more");
                world.health.set("driver", false, e.to_string());
                tokio::time::sleep(ASK_AGAIN).await;
            }
        }
    }
}

/// Hands the driver's hints on.
async fn hear(world: Arc<World>, mut events: tokio::sync::broadcast::Receiver<GuestEvent>) {
    loop {
        match events.recv().await {
            Ok(GuestEvent::Changed { .. }) => {}
            Ok(GuestEvent::Ended { guest, text, clean: _ }) => {
                if let Some(handle) = world.guests.get(guest) {
                    handle.ended(text);
                }
            }
            Err(RecvError::Lagged(_)) => compare(&world).await,
            Err(RecvError::Closed) => return,
        }
    }
}

/// Looks at the host now and then: hints may be lost.
async fn look(world: Arc<World>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        compare(&world).await;
        execution::sweep(&world).await;
    }
}

async fn compare(world: &World) {
    let found = match world.hypervisor.inventory().await {
        Ok(found) => found,
        Err(e) => {
            world.health.set("driver", false, e.to_string());
            return;
        }
    };
    world.health.set("driver", true, world.hypervisor.abilities().driver);
    let alive: BTreeSet<GuestId> = found.into_iter().filter(|f| f.alive).map(|f| f.guest).collect();
    for (id, handle) in world.guests.all() {
        if !alive.contains(&id) {
            handle.ended("its VMM is not there any more".to_owned());
        }
    }
}
