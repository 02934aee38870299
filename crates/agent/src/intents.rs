//! Acts on this host itself: written down, then done, then told to the control plane once it is there.
//!
//! Owns: the order of the three, and repeating an act until it was taken. Refuses: deciding whether it
//! counts: the control plane takes it as an ordinary verb, or says that something else was asked for
//! meanwhile, and its word replaces what was done here.

use crate::guest::{self, Document, Handle};
use crate::journal::{self, JournalError, Keep};
use crate::world::World;
use perigee_agent_api::{Act, DesiredGuest, Intent};
use perigee_model::{Desired, GuestId, GuestKind, GuestSpec, ImageId, Labels, Name, Part};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use tracing::{info, warn};
use uuid::Uuid;

const SHELF: &str = "intents";
const IMAGES: &str = "images";

/// An image as guests of this host were made of it: enough to make another while nobody can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownImage {
    pub id: ImageId,
    pub name: Name,
    pub parts: Vec<Part>,
}

/// The images that are written down.
#[derive(Default)]
pub(crate) struct Images(Mutex<BTreeSet<ImageId>>);

impl Images {
    /// Writes down what a guest is made of, the first time.
    pub(crate) async fn keep(&self, world: &World, spec: &GuestSpec) {
        let new = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(spec.image);
        let adopted = spec.vm.as_ref().is_some_and(|vm| vm.adopted);
        if !new || adopted {
            return;
        }
        let of_image = |part: &&Part| part.role != perigee_model::PartRole::UserData;
        let parts = spec.parts.iter().filter(of_image).cloned().collect();
        let image = KnownImage { id: spec.image, name: spec.image_name.clone(), parts };
        let key = spec.image.to_string();
        if let Err(e) = journal::write(world.journal.as_ref(), IMAGES, &key, &image, Keep::Process).await {
            warn!(error = %crate::chain(&e), "an image was not written down");
        }
    }
}

/// The newest image of that name that guests here were made of.
pub(crate) async fn image_named(world: &World, name: &str) -> Option<KnownImage> {
    let mut found = None;
    for key in world.journal.list(IMAGES).await.ok()? {
        let known = journal::read::<KnownImage>(world.journal.as_ref(), IMAGES, &key).await;
        found = known.ok().flatten().filter(|image| image.name.as_str() == name).or(found);
    }
    found
}

/// Takes up the acts that were not told before the last life ended.
///
/// # Errors
/// When the journal cannot be read.
pub(crate) async fn inherit(world: &Arc<World>) -> Result<(), JournalError> {
    for key in world.journal.list(SHELF).await? {
        match journal::read::<Intent>(world.journal.as_ref(), SHELF, &key).await {
            Ok(Some(intent)) => {
                // Written down, perhaps not done: done again it changes nothing.
                world.outbox.intent(intent.clone());
                perform(world, &intent);
            }
            Ok(None) => {}
            Err(e) => {
                warn!(%key, error = %crate::chain(&e), "an act cannot be read and is set aside");
                world.journal.set_aside(SHELF, &key).await?;
            }
        }
    }
    Ok(())
}

/// Writes the act down, does it, and has it told.
///
/// # Errors
/// When it cannot be written down: then nothing was done.
pub(crate) async fn act(world: &Arc<World>, intent: Intent) -> Result<(), JournalError> {
    let key = intent.id.to_string();
    journal::write(world.journal.as_ref(), SHELF, &key, &intent, Keep::Power).await?;
    info!(intent = %key, guest = %intent.guest, verb = intent.act.verb(), uid = ?intent.uid, "done on this host");
    // From here on no order from before it is taken, and the guest is not forgotten, until it was told.
    world.outbox.intent(intent.clone());
    perform(world, &intent);
    Ok(())
}

fn perform(world: &Arc<World>, intent: &Intent) {
    match (&intent.act, world.guests.get(intent.guest)) {
        (Act::Create { name, labels, spec }, None) => {
            let document = Document::new(made_here(world, intent.guest, name, (labels, spec)), 0, world.clock.now());
            guest::spawn(world, document, None);
        }
        (Act::Create { .. }, Some(_)) | (_, None) => {}
        (act, Some(handle)) => handle.act(intent.id, intent.base_generation, act.clone()),
    }
}

fn made_here(world: &World, id: GuestId, name: &Name, (labels, spec): (&Labels, &GuestSpec)) -> DesiredGuest {
    let desired = Desired::running(1, Some(world.host));
    DesiredGuest { id, name: name.clone(), labels: labels.clone(), kind: GuestKind::Vm, spec: spec.clone(), desired }
}

/// The control plane has it.
pub(crate) async fn taken(world: &Arc<World>, intent: Uuid) {
    if let Err(e) = world.journal.remove(SHELF, &intent.to_string()).await {
        warn!(%intent, error = %crate::chain(&e), "an act that was taken is told once more");
        return;
    }
    if let Some(intent) = world.outbox.drop_intent(intent) {
        // What was said of a guest before the control plane knew it was not heard.
        world.outbox.repeat_guest(intent.guest);
        if let Some(handle) = world.guests.get(intent.guest) {
            handle.go_on();
        }
    }
}

/// Guests of the host with what is known of each.
pub(crate) fn documents(world: &World) -> Vec<(Arc<Handle>, Document)> {
    let all = world.guests.all().into_iter();
    all.filter_map(|(_, handle)| handle.document().map(|document| (handle, document))).collect()
}
