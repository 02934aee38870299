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
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

const GUESTS: &str = "guests";
const EXECUTIONS: &str = "executions";

/// Generation, reign and sequence of a guest's document.
type Fence = (u64, u64, u64);

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

    /// The phase in a guest's document.
    pub async fn phase(&self, guest: &str) -> Option<String> {
        let json = self.inner.get(GUESTS, guest).await.ok()??;
        let value: Value = serde_json::from_slice(&json).ok()?;
        value["observed"]["phase"].as_str().map(str::to_owned)
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
