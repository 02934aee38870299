//! One life of the agent: takes up what the last one left, serves the link, ends in one go.

use crate::admission::Admission;
use crate::builds::{self, Builder, Builds};
use crate::cards::Cards;
use crate::execution::{self, Executions};
use crate::health::Health;
use crate::inherit;
use crate::intents::{self, Images};
use crate::journal::{Journal, JournalError};
use crate::link;
use crate::local;
use crate::networks::Networks;
use crate::nursery::Nursery;
use crate::outbox::Outbox;
use crate::parts::Parts;
use crate::spool::Spool;
use crate::uplink::Uplink;
use crate::volumes::Volumes;
use crate::watch::SharedSheet;
use crate::world::{Describe, Guests, Held, World};
use perigee_clock::Clock;
use perigee_hypervisor::Hypervisor;
use perigee_model::{HostId, RunId};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Everything an agent is made of. The same parts make the next life after a crash.
#[derive(Clone)]
pub struct Agent {
    /// Its host, as in its certificate.
    pub host: HostId,
    /// Time and randomness.
    pub clock: Clock,
    /// What runs guests: first the one that is part of this host, then those whose daemon may be away.
    pub drivers: Vec<Arc<dyn Hypervisor>>,
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
    /// What gives sandboxes their cards.
    pub cards: Arc<dyn Cards>,
    /// Reads the machine's inventory; drivers included.
    pub describe: Arc<Describe>,
    /// What guests used when they were measured last.
    pub measured: Arc<SharedSheet>,
    /// Where it says how it is.
    pub health: Arc<Health>,
    /// Where this host's own users ask for guests.
    pub local: Vec<Arc<local::Listener>>,
    /// Boots at once; what the driver can bear, unless set.
    pub boots_in_flight_max: Option<u32>,
    /// How often the host is compared with what is known of it; [`LOOK_EVERY`](crate::LOOK_EVERY), unless set.
    pub look_every: Option<Duration>,
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
        let most = self.boots_in_flight_max.unwrap_or(self.drivers[0].abilities().boots_in_flight_max);
        let world = Arc::new(World {
            host: self.host,
            run: RunId::new(self.clock.uuid()),
            clock: self.clock,
            drivers: self.drivers,
            held: Held::default(),
            journal: self.journal,
            spool: self.spool,
            uplink: self.uplink,
            parts: self.parts,
            builder: self.builder,
            cards: self.cards,
            describe: self.describe,
            measured: self.measured,
            health: self.health,
            admission: Admission::new(most),
            outbox: Outbox::default(),
            nursery,
            guests: Guests::default(),
            executions: Executions::default(),
            builds: Builds::default(),
            images: Images::default(),
            volumes: Volumes::default(),
            networks: Networks::default(),
        });
        // Before the inventory: nothing that ends from now on is missed.
        for driver in &world.drivers {
            world.nursery.spawn(inherit::hear(world.clone(), driver.events()));
        }
        let inherited = async {
            inherit::guests(&world).await?;
            execution::inherit(&world).await?;
            intents::inherit(&world).await?;
            builds::inherit(&world).await
        };
        tokio::select! {
            biased;
            inherited = inherited => inherited?,
            () = cancel.cancelled() => return Ok(()),
        }
        world.nursery.spawn(inherit::look(world.clone(), self.look_every.unwrap_or(inherit::LOOK_EVERY)));
        world.nursery.spawn(link::run(world.clone()));
        for listener in self.local {
            world.nursery.spawn(local::serve(listener, world.clone()));
        }
        let ended = tokio::select! {
            biased;
            () = cancel.cancelled() => Ok(()),
            () = world.nursery.panicked() => Err(AgentError::Panicked),
        };
        drop(owner);
        ended
    }
}
