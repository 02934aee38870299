//! Durable truth.
//!
//! Owns: the [`Store`] seam, its forms (SQLite, PostgreSQL, memory), their migrations and rows.
//! Refuses: decisions. A caller computes a whole [`Batch`] and commits it; the store writes all of
//! it or nothing, and refuses it when a record has moved on since it was read.
#![forbid(unsafe_code)]

mod batch;
mod memory;
mod sql;

pub use batch::{Batch, Change, Expect, IdempotencyRow, Key, Noun, Record};
pub use memory::MemoryStore;
pub use sql::SqlStore;

use async_trait::async_trait;
use perigee_model::{Event, Timestamp};

/// What the store could not do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A record has another revision than expected, or exists when it should not.
    #[error("{noun:?} {id} has moved on")]
    Stale {
        /// Which noun.
        noun: Noun,
        /// Its id.
        id: String,
    },
    /// A name is already used by another living record of the tenant.
    #[error("the name {name} is taken")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The idempotency key exists; nothing was written.
    #[error("the idempotency key is already used")]
    KeyUsed,
    /// No space left; reads and deletes still work.
    #[error("the disk under the store is full")]
    DiskFull,
    /// The engine does not answer, or answers with an error of its own.
    #[error("the store's engine failed")]
    Engine(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A stored row cannot be read: the file was changed by something else, or by a newer Perigee.
    #[error("a row of {noun:?} cannot be read: {text}")]
    Damaged {
        /// Which noun.
        noun: Noun,
        /// What is wrong with it.
        text: String,
    },
    /// The database was written by a newer Perigee, or the server is too old.
    #[error("{0}")]
    Version(String),
}

/// The durable truth. One process writes; `commit` is atomic, durable (an acknowledged commit
/// survives kill -9 and power loss) and ordered.
#[async_trait]
pub trait Store: Send + Sync {
    /// Writes the whole batch or nothing.
    ///
    /// # Errors
    /// `Stale`, `NameTaken`, `KeyUsed` describe the batch; the rest the engine.
    async fn commit(&self, batch: Batch) -> Result<(), StoreError>;

    /// Every record of a noun, in the order of ids.
    ///
    /// # Errors
    /// `Damaged` or `Engine`.
    async fn all(&self, noun: Noun) -> Result<Vec<Record>, StoreError>;

    /// Audit events newer than `after` (a sequence number; 0 for all), oldest first, at most `limit`.
    ///
    /// # Errors
    /// `Damaged` or `Engine`.
    async fn events(&self, after: i64, limit: u32) -> Result<Vec<(i64, Event)>, StoreError>;

    /// What was answered under an idempotency key.
    ///
    /// # Errors
    /// `Engine`.
    async fn idempotency(&self, scope: &str, key: &str) -> Result<Option<IdempotencyRow>, StoreError>;

    /// Records the answer given under a key that a batch has written.
    ///
    /// # Errors
    /// `Engine`.
    async fn answer_idempotency(&self, scope: &str, key: &str, status: u16, body: &str) -> Result<(), StoreError>;

    /// Begins a reign: a number higher than every earlier one. `holder` is a name never used
    /// before, such as a fresh UUID.
    ///
    /// # Errors
    /// `Engine`.
    async fn begin_reign(&self, holder: &str, at: Timestamp) -> Result<u64, StoreError>;

    /// Forgets idempotency keys and events older than `before`. Gives the number of rows.
    ///
    /// # Errors
    /// `Engine`.
    async fn prune(&self, keys_before: Timestamp, events_before: Timestamp) -> Result<u64, StoreError>;

    /// Answers if the engine does.
    ///
    /// # Errors
    /// `Engine`.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Flushes and closes; later calls fail.
    async fn close(&self);
}
