//! Building images for the control plane.
//!
//! Owns: the [`Builder`] seam, one build at a time, the parts' way to the control plane, and the
//! result until it is taken. Refuses: keeping half a build: after a crash it is made again, which
//! gives the same bytes.

mod recipes;

pub use recipes::Recipes;

use crate::journal::{self, Keep};
use crate::uplink::UplinkError;
use crate::world::World;
use async_trait::async_trait;
use perigee_agent_api::{BuildReport, BuildStage};
use perigee_model::guest::Problem;
use perigee_model::limits::{RECONNECT_FIRST, RECONNECT_MAX, TEXT_BYTES_MAX};
use perigee_model::{Code, ImageId, Part, Recipe};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tracing::{info, warn};

const SHELF: &str = "builds";
/// Reports of one build come no more often than this.
const REPORT_EVERY: Duration = Duration::from_millis(250);

/// How far a build is: a note and 0 to 100.
pub type BuildProgress = Option<(String, Option<u8>)>;

/// What a build made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// `x86_64`.
    pub arch: String,
    /// `uname -r` of the kernel.
    pub kernel_release: String,
    /// The parts and where their bytes are.
    pub parts: Vec<(Part, PathBuf)>,
}

/// Builds images.
#[async_trait]
pub trait Builder: Send + Sync {
    /// Builds a recipe. The same recipe may be built again and again.
    ///
    /// # Errors
    /// A text for the user.
    async fn build(&self, recipe: &Recipe, progress: watch::Sender<BuildProgress>) -> Result<Built, String>;
}

/// The builds that were asked for and not taken yet.
pub(crate) struct Builds {
    known: Mutex<BTreeSet<ImageId>>,
    turn: Arc<Semaphore>,
}

impl Default for Builds {
    fn default() -> Self {
        Self { known: Mutex::default(), turn: Arc::new(Semaphore::new(1)) }
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Document {
    image: ImageId,
    recipe: Recipe,
    end: Option<BuildStage>,
}

/// Takes up what a former life of the agent left.
pub(crate) async fn inherit(world: &Arc<World>) -> Result<(), journal::JournalError> {
    for key in world.journal.list(SHELF).await? {
        let read = journal::read::<Document>(world.journal.as_ref(), SHELF, &key).await;
        let Ok(Some(document)) = read else {
            warn!(%key, "a build's document cannot be read");
            continue;
        };
        world.builds.insert(document.image);
        match document.end.clone() {
            Some(stage) => world.outbox.build(BuildReport { image: document.image, stage }),
            None => {
                world.nursery.spawn(run(world.clone(), document));
            }
        }
    }
    Ok(())
}

/// Builds an image unless it is known.
pub(crate) fn begin(world: &Arc<World>, image: ImageId, recipe: Recipe) {
    if !world.builds.insert(image) {
        return;
    }
    let document = Document { image, recipe, end: None };
    world.nursery.spawn(run(world.clone(), document));
}

/// Its end is stored elsewhere.
pub(crate) fn taken(world: &Arc<World>, image: ImageId) {
    let world = world.clone();
    world.clone().nursery.spawn(async move {
        if let Err(e) = world.journal.remove(SHELF, &image.to_string()).await {
            warn!(%image, error = %crate::chain(&e), "a build's document was not removed");
            return;
        }
        world.outbox.drop_build(image);
        world.builds.with(|known| known.remove(&image));
    });
}

impl Builds {
    fn with<T>(&self, f: impl FnOnce(&mut BTreeSet<ImageId>) -> T) -> T {
        f(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
    fn insert(&self, image: ImageId) -> bool {
        self.with(|known| known.insert(image))
    }
}

async fn save(world: &World, document: &Document) {
    let key = document.image.to_string();
    let written = journal::write(world.journal.as_ref(), SHELF, &key, document, Keep::Power).await;
    world.health.journal(written.as_ref().err());
}

async fn run(world: Arc<World>, mut document: Document) {
    save(&world, &document).await;
    let image = document.image;
    let say = |note: &str, percent| {
        let stage = BuildStage::Running { note: note.to_owned(), percent };
        world.outbox.build(BuildReport { image, stage });
    };
    say("waiting for another build", None);
    let Ok(_turn) = world.builds.turn.clone().acquire_owned().await else { return };
    say("building", None);
    let stage = match build(&world, &document).await {
        Ok(built) => match push(&world, image, &built).await {
            Ok(()) => BuildStage::Built {
                arch: built.arch,
                kernel_release: built.kernel_release,
                parts: built.parts.into_iter().map(|(part, _)| part).collect(),
            },
            Err(text) => failed(&text),
        },
        Err(text) => failed(&text),
    };
    info!(%image, recipe = %document.recipe, stage = ?stage, "the build ended");
    document.end = Some(stage.clone());
    save(&world, &document).await;
    world.outbox.build(BuildReport { image, stage });
}

fn failed(text: &str) -> BuildStage {
    let text: String = text.chars().filter(|c| !c.is_control()).take(TEXT_BYTES_MAX / 4).collect();
    BuildStage::Failed(Problem::new(Code::ImageBuildFailed, text))
}

async fn build(world: &Arc<World>, document: &Document) -> Result<Built, String> {
    let (tell, mut told) = watch::channel(None);
    let (builder, recipe) = (world.builder.clone(), document.recipe.clone());
    let mut effect = world.nursery.effect(async move { builder.build(&recipe, tell).await });
    loop {
        tokio::select! {
            biased;
            built = effect.wait() => return built.unwrap_or_else(|| Err("the agent ended".to_owned())),
            changed = told.changed() => {
                let progress = told.borrow_and_update().clone();
                if let Some((note, percent)) = progress {
                    let stage = BuildStage::Running { note, percent };
                    world.outbox.build(BuildReport { image: document.image, stage });
                }
                if changed.is_err() {
                    return effect.wait().await.unwrap_or_else(|| Err("the agent ended".to_owned()));
                }
                tokio::time::sleep(REPORT_EVERY).await;
            }
        }
    }
}

/// Sends every part; while the control plane is away it waits.
async fn push(world: &Arc<World>, image: ImageId, built: &Built) -> Result<(), String> {
    for (part, path) in &built.parts {
        let note = format!("sending {} MiB", part.bytes >> 20);
        world.outbox.build(BuildReport { image, stage: BuildStage::Running { note, percent: None } });
        let mut wait = RECONNECT_FIRST;
        loop {
            match world.uplink.push_blob(&part.digest, path).await {
                Ok(()) => break,
                Err(UplinkError::Away(why) | UplinkError::Certificate(why)) => {
                    info!(%image, %why, "a part was not sent, once more");
                    tokio::time::sleep(world.clock.jitter(wait)).await;
                    wait = (wait * 2).min(RECONNECT_MAX);
                }
                Err(e) => return Err(crate::chain(&e)),
            }
        }
    }
    Ok(())
}
