//! What lives on the host: taken up when the agent starts, compared now and then.
//!
//! Owns: matching documents with what drivers find. Refuses: doing anything to guests of a driver that
//! has not told yet what it has; their orders wait.
//!
//! ```text
//! documents ─┐
//!            ├─ by guest ─▶ both: taken up · only found: made again from its memo, or left alone
//! inventory ─┘              only a document: taken up as ended · leftovers: removed
//! ```

use crate::cards::{CardError, Kept, Stage};
use crate::execution;
use crate::guest::{self, Document, Fall};
use crate::journal::{self, Journal, JournalError};
use crate::world::World;
use perigee_hypervisor::{Found, GuestEvent};
use perigee_model::{GuestId, GuestKind, Phase};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;
use tracing::{info, warn};

/// The host is compared with what is known this often, events or not, unless it is set.
pub const LOOK_EVERY: Duration = Duration::from_secs(60);
/// A host that cannot be read at the start is read again after this.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// A driver whose daemon may be away is waited for this long at the start: a libvirtd that comes up with the machine
/// may ask QEMU for seconds what it can do, and the host is wanted now.
const AT_THE_START: Duration = Duration::from_secs(1);
/// The parts of health that drivers are, in their order.
const PARTS: [&str; 2] = ["driver", "libvirt"];

/// What the journal holds.
#[derive(Default)]
struct Known {
    documents: Vec<Document>,
    /// Guests whose document could not be read: theirs is nothing to be removed.
    damaged: BTreeSet<GuestId>,
}

/// Guests as a driver found them; `None`: it does not tell now.
type Told = Option<Vec<Found>>;

/// Takes up every guest. Those of the first driver before this returns, of others too where their daemon tells at once
/// what lives here; else when it does.
///
/// # Errors
/// When the journal cannot be read.
pub(crate) async fn guests(world: &Arc<World>) -> Result<(), JournalError> {
    let mut known = read(world).await?;
    let mut told: Vec<Told> = Vec::new();
    for (place, driver) in world.drivers.iter().enumerate() {
        told.push(match place {
            0 => Some(inventory(world, place).await),
            _ => timeout(AT_THE_START, driver.inventory()).await.ok().and_then(Result::ok),
        });
    }
    restore_cards(world, &known, &told).await;
    for (place, found) in told.into_iter().enumerate().rev() {
        let of_driver = |document: &Document| world.driver_place(document.order.kind) == place;
        let (own, rest) = std::mem::take(&mut known.documents).into_iter().partition(of_driver);
        known.documents = rest;
        let own = Known { documents: own, damaged: known.damaged.clone() };
        if let Some(found) = found {
            tell(world, place, None);
            take_up(world, place, own, found).await;
        } else {
            tell(world, place, Some("it has not told yet which guests run here".to_owned()));
            world.held.close(place);
            let world = world.clone();
            world.clone().nursery.spawn(async move {
                let found = inventory(&world, place).await;
                take_up(&world, place, own, found).await;
                for (epoch, order) in world.held.open(place) {
                    world.order(order, epoch);
                }
            });
        }
    }
    Ok(())
}

/// Whether a guest of this kind may be this host's: a document says so, or cannot be read.
///
/// # Errors
/// When the journal cannot be read.
pub async fn may_have(journal: &dyn Journal, kind: GuestKind) -> Result<bool, JournalError> {
    for key in journal.list(guest::SHELF).await? {
        match journal::read::<Document>(journal, guest::SHELF, &key).await {
            Ok(document) if document.as_ref().is_none_or(|document| document.order.kind != kind) => {}
            Ok(_) | Err(_) => return Ok(true),
        }
    }
    Ok(false)
}

/// Every document; one that cannot be read is set aside, so that its guest can have another.
async fn read(world: &World) -> Result<Known, JournalError> {
    let mut known = Known::default();
    for key in world.journal.list(guest::SHELF).await? {
        match journal::read::<Document>(world.journal.as_ref(), guest::SHELF, &key).await {
            Ok(Some(document)) => known.documents.push(document.inherited()),
            Ok(None) => {}
            Err(e) => {
                warn!(%key, error = %crate::chain(&e), "a guest's document cannot be read and is set aside");
                world.journal.set_aside(guest::SHELF, &key).await?;
                known.damaged.extend(key.parse::<GuestId>());
            }
        }
    }
    Ok(known)
}

/// Adopts the guests that live, and clears up after those nobody knows.
async fn take_up(world: &Arc<World>, place: usize, known: Known, found: Vec<Found>) {
    let mut found: BTreeMap<GuestId, Found> = found.into_iter().map(|f| (f.guest, f)).collect();
    let mut actors = Vec::new();
    // All at once, before any of them runs: those that boot hold their slots before others ask, and
    // those that will boot stand in the queue by their order.
    for document in known.documents {
        let here = found.remove(&document.id());
        let alive = here.as_ref().is_some_and(|f| f.alive);
        info!(guest = %document.id(), phase = ?document.observed.phase, alive, "taken up");
        actors.push((guest::make(world, document, here.as_ref()), true));
    }
    let mut unknown = BTreeSet::new();
    for (id, here) in found {
        if let Some(document) = Document::from_memo(&here, world.clock.now()) {
            warn!(guest = %id, "its document is made again from what its driver has kept");
            actors.push((guest::make(world, document, Some(&here)), false));
        } else if here.alive || known.damaged.contains(&id) {
            warn!(guest = %id, "a guest of this instance lives here without a document; it is left alone");
            unknown.insert(id);
        } else {
            info!(guest = %id, "leftovers of a guest without a document are removed");
            if let Err(e) = world.drivers[place].destroy(id).await {
                warn!(guest = %id, error = %crate::chain(&e), "leftovers were not removed");
            }
        }
    }
    world.health.add_unknown_guests(unknown);
    for (actor, written) in actors {
        world.nursery.spawn(actor.run(written));
    }
}

/// Before any guest is changed: who lives keeps its card and its address, who is off its address, and nobody else has
/// one. Of whom nobody tells now it is what was so when it was last heard of.
async fn restore_cards(world: &World, known: &Known, told: &[Told]) {
    let found = |document: &Document| {
        let told = told.get(world.driver_place(document.order.kind))?.as_ref()?;
        Some(told.iter().any(|found| found.guest == document.id() && found.alive))
    };
    let of_documents = known.documents.iter().filter_map(|document| kept(document, found(document)));
    let ids: BTreeSet<GuestId> = known.documents.iter().map(Document::id).collect();
    let lost = told.iter().flatten().flatten().filter(|found| !ids.contains(&found.guest));
    let of_memos = lost.filter_map(|found| {
        let document = Document::from_memo(found, world.clock.now())?;
        kept(&document, Some(found.alive))
    });
    let all = of_documents.chain(of_memos).collect();
    tell_cards(world, world.cards.restore(all).await);
}

/// The card that a guest has by its document; `alive` where its driver told.
fn kept(document: &Document, alive: Option<bool>) -> Option<Kept> {
    let (guest, address) = (document.id(), document.address?);
    let reach = document.order.spec.reach()?;
    // Those that led to it, and are still wanted; what was asked for since, its actor sees to.
    let wanted = &document.order.spec.forwards;
    let forwards = document.observed.forwards.iter().filter(|one| wanted.contains(one)).copied().collect();
    let (is_up, boots) = match document.observed.phase {
        Phase::Running | Phase::Paused | Phase::Stopping => (true, false),
        Phase::Booting => (false, true),
        Phase::Waiting | Phase::Fetching | Phase::Stopped | Phase::Failed => (false, false),
        Phase::Gone => return None,
    };
    let stage = match (alive.unwrap_or(is_up || boots), is_up) {
        (true, true) => Stage::Up,
        (true, false) => Stage::Plugged,
        (false, _) => Stage::Rests,
    };
    Some(Kept { guest, address, reach, forwards, stage })
}

fn tell_cards(world: &World, done: Result<(), CardError>) {
    if let Err(error) = &done {
        warn!(error = %crate::chain(error), "the network of guests is not as it should be");
    }
    world.health.set(
        "network",
        done.is_ok(),
        done.map_or_else(|error| error.to_string(), |()| "as planned".to_owned()),
    );
}

/// Without knowing what lives here nothing may be done: it is asked until it is known.
async fn inventory(world: &World, place: usize) -> Vec<Found> {
    loop {
        match world.drivers[place].inventory().await {
            Ok(found) => {
                tell(world, place, None);
                return found;
            }
            Err(e) => {
                warn!(error = %crate::chain(&e), "the host's guests cannot be read, once more");
                tell(world, place, Some(e.to_string()));
                tokio::time::sleep(ASK_AGAIN).await;
            }
        }
    }
}

fn tell(world: &World, place: usize, error: Option<String>) {
    let part = PARTS[place.min(PARTS.len() - 1)];
    match error {
        None => world.health.set(part, true, world.drivers[place].abilities().driver),
        Some(error) => world.health.set(part, false, error),
    }
}

/// Hands a driver's hints on.
pub(crate) async fn hear(world: Arc<World>, mut events: Receiver<GuestEvent>) {
    loop {
        match events.recv().await {
            Ok(GuestEvent::Ended { guest, text, clean }) => {
                if let Some(handle) = world.guests.get(guest) {
                    handle.ended(Fall { text, clean });
                }
            }
            Ok(GuestEvent::Changed { guest }) => {
                if let Some(handle) = world.guests.get(guest) {
                    handle.look();
                }
            }
            Err(RecvError::Lagged(_)) => compare(&world).await,
            Err(RecvError::Closed) => return,
        }
    }
}

/// Looks at the host now and then: hints may be lost.
pub(crate) async fn look(world: Arc<World>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        compare(&world).await;
        let looked = world.cards.look().await;
        if let Ok(amiss) = &looked
            && !amiss.is_empty()
        {
            world.health.mend();
            warn!(%amiss, "somebody else changed the network of guests; it is as planned again");
        }
        tell_cards(&world, looked.map(drop));
        execution::sweep(&world).await;
    }
}

/// One look at everything: whoever is not as its actor thinks is told to look.
async fn compare(world: &World) {
    let all = world.guests.all();
    for (place, driver) in world.drivers.iter().enumerate() {
        let found = match driver.inventory().await {
            Ok(found) => found,
            Err(e) => {
                tell(world, place, Some(e.to_string()));
                continue;
            }
        };
        tell(world, place, None);
        let found: BTreeMap<GuestId, Found> = found.into_iter().map(|f| (f.guest, f)).collect();
        for (id, handle) in all.iter().filter(|(_, handle)| handle.driver == place) {
            match found.get(id) {
                Some(here) if handle.is_as_found(here) => {}
                Some(here) if here.alive => handle.look(),
                Some(_) | None => handle.ended(Fall::unseen("its VMM is not there any more")),
            }
        }
    }
}
