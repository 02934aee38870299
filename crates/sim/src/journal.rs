//! A host's disk under the agent's journal.
//!
//! Owns: how long a write takes, and the fence's checker: what an agent writes down about a guest
//! never goes back in generation, reign or sequence.
//! Refuses: losing what was written, unless it is sabotaged.

use crate::scene::Scene;
use crate::truth::Slowness;
use async_trait::async_trait;
use perigee_agent::journal::{JournalError, Keep};
use perigee_agent::{Journal, MemoryJournal};
use perigee_agent_api::{Act, Intent};
use perigee_model::{Desired, GuestId, Observed, Phase, Power, RestartPolicy};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

const GUESTS: &str = "guests";
const EXECUTIONS: &str = "executions";
const INTENTS: &str = "intents";

/// Generation, reign and sequence of a guest's document.
type Fence = (u64, u64, u64);

/// What an agent has written down about a guest.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    pub phase: Phase,
    /// What it should be.
    pub desired: Desired,
    /// What was seen is what should be: nothing is to be brought about.
    pub is_settled: bool,
    /// The newest act of the host on it.
    pub acted: Value,
    /// When it ends by itself; of VMs.
    pub restart: Option<RestartPolicy>,
}

impl Written {
    fn read(document: &Value) -> Option<Self> {
        let desired: Desired = serde_json::from_value(document["order"]["desired"].clone()).ok()?;
        let observed: Observed = serde_json::from_value(document["observed"].clone()).ok()?;
        let done = observed.generation >= desired.generation && observed.restarts >= desired.restarts;
        Some(Self {
            phase: observed.phase,
            is_settled: done && document["acting"] != true,
            acted: document["acted"].clone(),
            restart: serde_json::from_value(document["order"]["spec"]["vm"]["restart"].clone()).ok(),
            desired,
        })
    }
}

/// A journal that is looked over the shoulder.
pub struct WatchedJournal {
    scene: Arc<Scene>,
    host: String,
    inner: MemoryJournal,
    /// How slow the disk is.
    pub slowness: Slowness,
    fences: Mutex<BTreeMap<String, Fence>>,
}

impl WatchedJournal {
    /// Of one host.
    pub fn new(scene: Arc<Scene>, host: &str) -> Self {
        let (inner, slowness) = (MemoryJournal::default(), Slowness::default());
        Self { scene, host: host.to_owned(), inner, slowness, fences: Mutex::default() }
    }

    /// How many documents there are on a shelf.
    pub fn count(&self, shelf: &str) -> usize {
        self.inner.count(shelf)
    }

    /// What a guest's document says of it.
    pub async fn guest(&self, guest: GuestId) -> Option<Written> {
        let json = self.inner.get(GUESTS, &guest.to_string()).await.ok()??;
        Written::read(&serde_json::from_slice(&json).ok()?)
    }

    /// The newest act on a guest that the control plane has not taken yet.
    pub async fn act_on(&self, guest: GuestId) -> Option<Intent> {
        // Their names are in the order of their times.
        for key in self.inner.list(INTENTS).await.ok()?.into_iter().rev() {
            let json = self.inner.get(INTENTS, &key).await.ok()??;
            let intent: Option<Intent> = serde_json::from_slice(&json).ok();
            if let Some(intent) = intent.filter(|intent| intent.guest == guest) {
                return Some(intent);
            }
        }
        None
    }

    /// What was done last on the host holds there until the control plane has heard of it.
    async fn watch_acts(&self, key: &str) {
        let Ok(guest) = key.parse::<GuestId>() else { return };
        let (Some(is), Some(intent)) = (self.guest(guest).await, self.act_on(guest).await) else { return };
        if is.acted != intent.id.to_string() {
            return; // not taken up yet
        }
        let mut then = is.desired.clone();
        match intent.act {
            Act::Switch(switch) => switch.apply(&mut then),
            Act::Delete => then.power = Power::Absent,
            Act::Create { .. } | Act::Update(_) => return,
        }
        let name = self.scene.story.guest(guest);
        self.scene.checks.that(then.power == is.desired.power, "an act on a host holds until it was heard", || {
            format!("{} of {name} on {} was followed by {:?}", intent.act.verb(), self.host, is.desired.power)
        });
    }

    /// Loses every document about executions.
    ///
    /// # Errors
    /// What the journal says.
    pub async fn forget_executions(&self) -> Result<(), JournalError> {
        for key in self.inner.list(EXECUTIONS).await? {
            self.inner.remove(EXECUTIONS, &key).await?;
        }
        Ok(())
    }

    fn watch(&self, key: &str, json: &[u8]) {
        let Ok(value) = serde_json::from_slice::<Value>(json) else { return };
        let number = |v: &Value| v.as_u64().unwrap_or(0);
        let generation = number(&value["order"]["desired"]["generation"]);
        let is = (generation, number(&value["epoch"]), number(&value["observed"]["sequence"]));
        let was = self.with(|f| f.insert(key.to_owned(), is)).unwrap_or_default();
        let forward = is.0 >= was.0 && is.1 >= was.1 && is.2 >= was.2;
        self.scene.checks.that(forward, "an order of an older generation or reign never takes effect", || {
            format!("the document of {key} on {} went from {was:?} to {is:?}", self.host)
        });
    }

    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<String, Fence>) -> T) -> T {
        f(&mut self.fences.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Journal for WatchedJournal {
    async fn put(&self, shelf: &str, key: &str, json: Vec<u8>, keep: Keep) -> Result<(), JournalError> {
        self.slowness.wait().await;
        self.inner.put(shelf, key, json.clone(), keep).await?;
        // Only what is really there counts: a crash may have come before.
        if shelf == GUESTS {
            self.watch(key, &json);
            self.watch_acts(key).await;
        }
        self.slowness.wait().await;
        Ok(())
    }
    async fn get(&self, shelf: &str, key: &str) -> Result<Option<Vec<u8>>, JournalError> {
        self.inner.get(shelf, key).await
    }
    async fn list(&self, shelf: &str) -> Result<Vec<String>, JournalError> {
        self.inner.list(shelf).await
    }
    async fn remove(&self, shelf: &str, key: &str) -> Result<(), JournalError> {
        self.slowness.wait().await;
        self.inner.remove(shelf, key).await?;
        if shelf == GUESTS {
            self.with(|f| f.remove(key));
        }
        Ok(())
    }
    async fn set_aside(&self, shelf: &str, key: &str) -> Result<(), JournalError> {
        self.inner.set_aside(shelf, key).await
    }
}
