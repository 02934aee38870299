//! The ground the control plane stands on: a store that outlives it.
//!
//! Owns: opening the truth again after a crash, and the moments before and after each commit at
//! which a crash can strike (a commit that was written but never acknowledged among them).
//! Refuses: judging what is written.

use async_trait::async_trait;
use perigee_model::{Event, Timestamp};
use perigee_store::{Batch, IdempotencyRow, MemoryStore, Noun, Record, SqlStore, Store, StoreError};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Where the truth lies.
pub enum Ground {
    /// In memory: one seed, one story.
    Memory(MemoryStore),
    /// In a SQLite file, in real time.
    Sqlite(PathBuf),
}

/// How slow the disk under the store is, in milliseconds for each commit.
#[derive(Clone, Debug, Default)]
pub struct Slowness(Arc<AtomicU64>);

impl Slowness {
    /// So many milliseconds from now on; zero is quick.
    pub fn set(&self, millis: u64) {
        self.0.store(millis, Ordering::Relaxed);
    }
    /// One access to the disk.
    pub async fn wait(&self) {
        match self.0.load(Ordering::Relaxed) {
            0 => tokio::task::yield_now().await,
            millis => tokio::time::sleep(Duration::from_millis(millis)).await,
        }
    }
}

impl Ground {
    /// What a control plane that starts finds.
    ///
    /// # Errors
    /// What the store says.
    pub async fn open(&self, slowness: Slowness) -> Result<Arc<dyn Store>, StoreError> {
        let inner: Arc<dyn Store> = match self {
            Self::Memory(store) => Arc::new(store.reopen()),
            Self::Sqlite(path) => Arc::new(SqlStore::open_sqlite(path).await?),
        };
        Ok(Arc::new(Disk { inner, slowness }))
    }
}

/// A store behind a disk that takes its time.
struct Disk {
    inner: Arc<dyn Store>,
    slowness: Slowness,
}

#[async_trait]
impl Store for Disk {
    async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        self.slowness.wait().await;
        let done = self.inner.commit(batch).await;
        self.slowness.wait().await;
        done
    }
    async fn all(&self, noun: Noun) -> Result<Vec<Record>, StoreError> {
        self.inner.all(noun).await
    }
    async fn events(&self, after: i64, limit: u32) -> Result<Vec<(i64, Event)>, StoreError> {
        self.inner.events(after, limit).await
    }
    async fn idempotency(&self, scope: &str, key: &str) -> Result<Option<IdempotencyRow>, StoreError> {
        self.inner.idempotency(scope, key).await
    }
    async fn answer_idempotency(&self, scope: &str, key: &str, status: u16, body: &str) -> Result<(), StoreError> {
        self.inner.answer_idempotency(scope, key, status, body).await
    }
    async fn begin_reign(&self, holder: &str, at: Timestamp) -> Result<u64, StoreError> {
        self.inner.begin_reign(holder, at).await
    }
    async fn prune(&self, keys_before: Timestamp, events_before: Timestamp) -> Result<u64, StoreError> {
        self.inner.prune(keys_before, events_before).await
    }
    async fn ping(&self) -> Result<(), StoreError> {
        self.inner.ping().await
    }
    async fn close(&self) {
        self.inner.close().await;
    }
}
