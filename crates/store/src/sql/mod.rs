//! The SQL store: SQLite or PostgreSQL behind the same statements.
//!
//! Owns: [`SqlStore`]; its parts are `open` (options, versions), `migrate`, `steps` and `rows`
//! (texts and columns), `writer` (the one order of writes), `fault` (what errors mean).
//! Refuses: reading through the writer: readers have connections of their own and never wait for
//! a commit.

mod engine;
mod fault;
mod migrate;
mod open;
mod reserve;
mod rows;
mod steps;
mod writer;

use crate::{Batch, IdempotencyRow, Noun, Record, Store, StoreError};
use async_trait::async_trait;
use engine::{Readers, Value};
use perigee_model::{Event, Timestamp};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use steps::Work;
use tokio::sync::{mpsc, oneshot};
use writer::{Order, closed};

/// A [`Store`] on SQLite or PostgreSQL.
///
/// A caller that stops waiting for `commit` has not cancelled it. With PostgreSQL, `Engine` from
/// `commit` may mean that the connection broke after the server had written the batch: read before
/// trying again (a second try of the same batch is refused as `Stale`, not written twice).
pub struct SqlStore {
    readers: Readers,
    orders: mpsc::Sender<Order>,
    is_dead: Arc<AtomicBool>,
}

impl SqlStore {
    /// Opens or makes a SQLite database at `path`, readable by its owner only. WAL, one fsync per
    /// commit or group of commits. Call inside a tokio runtime.
    ///
    /// # Errors
    /// `Version` for a database of a newer Perigee or a SQLite that is too old; `Engine` when the
    /// file cannot be opened or is no database.
    pub async fn open_sqlite(path: &Path) -> Result<Self, StoreError> {
        open::sqlite(path).await
    }

    /// Connects to PostgreSQL 15 or newer. `url` is a libpq URL
    /// (`postgres://user@host/database?sslmode=verify-full&sslrootcert=…`). Without `sslmode`, a
    /// connection that leaves the machine is verified TLS and one that does not is plain. Call
    /// inside a tokio runtime.
    ///
    /// # Errors
    /// `Version` for a server that is too old or a database of a newer Perigee; `Engine` when the
    /// server cannot be reached.
    pub async fn open_postgres(url: &str) -> Result<Self, StoreError> {
        open::postgres(url).await
    }

    async fn write(&self, work: Work) -> Result<u64, StoreError> {
        let (reply, outcome) = oneshot::channel();
        self.orders.send(Order::Write(work, reply)).await.map_err(|_| closed())?;
        outcome.await.map_err(|_| closed())?
    }
}

#[async_trait]
impl Store for SqlStore {
    async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return self.ping().await;
        }
        self.write(steps::commit(batch)?).await.map(|_| ())
    }

    async fn all(&self, noun: Noun) -> Result<Vec<Record>, StoreError> {
        let table = rows::table(noun);
        if noun == Noun::Execution {
            let text =
                format!("SELECT id, revision, doc, stdout, stdout_tail, stderr, stderr_tail FROM {table} ORDER BY id");
            let found = self.readers.rows(text, &[]).await.map_err(|e| fault::reading(noun, e))?;
            return found.into_iter().map(rows::record_with_output).collect();
        }
        let text = format!("SELECT id, revision, doc FROM {table} ORDER BY id");
        let found = self.readers.rows(text, &[]).await.map_err(|e| fault::reading(noun, e))?;
        found.iter().map(|row| rows::record(noun, row)).collect()
    }

    async fn events(&self, after: i64, limit: u32) -> Result<Vec<(i64, Event)>, StoreError> {
        let text = "SELECT seq, doc FROM events WHERE seq > $1 ORDER BY seq LIMIT $2";
        let values = [Value::Int(Some(after)), Value::Int(Some(i64::from(limit)))];
        let found: Vec<(i64, String)> = self.readers.rows(text, &values).await.map_err(fault::engine)?;
        let read = |(seq, doc): (i64, String)| {
            let event = serde_json::from_str(&doc);
            event.map(|event| (seq, event)).map_err(|e| fault::engine(format!("event {seq} cannot be read: {e}")))
        };
        found.into_iter().map(read).collect()
    }

    async fn idempotency(&self, scope: &str, key: &str) -> Result<Option<IdempotencyRow>, StoreError> {
        type Found = (String, String, i64, Option<i64>, Option<String>);
        let text = "SELECT fingerprint, subject, at, status, body FROM idempotency WHERE scope = $1 AND key = $2";
        let found = self.readers.rows(text, &[scope.into(), key.into()]).await.map_err(fault::engine)?;
        let row = |(fingerprint, subject, at, status, body): Found| IdempotencyRow {
            scope: scope.to_owned(),
            key: key.to_owned(),
            fingerprint,
            subject,
            at: Timestamp::from_micros(at),
            answer: status.and_then(|s| u16::try_from(s).ok()).zip(body),
        };
        Ok(found.into_iter().next().map(row))
    }

    async fn answer_idempotency(&self, scope: &str, key: &str, status: u16, body: &str) -> Result<(), StoreError> {
        self.write(steps::answer(scope, key, status, body)).await.map(|_| ())
    }

    async fn begin_reign(&self, holder: &str, at: Timestamp) -> Result<u64, StoreError> {
        self.write(steps::reign(holder, at)).await?;
        let text = "SELECT epoch FROM reigns WHERE holder = $1";
        let found: Vec<(i64,)> = self.readers.rows(text, &[holder.into()]).await.map_err(fault::engine)?;
        let epoch = found.first().and_then(|(epoch,)| u64::try_from(*epoch).ok());
        epoch.ok_or_else(|| fault::engine("the reign that was just begun is not there"))
    }

    async fn prune(&self, keys_before: Timestamp, events_before: Timestamp) -> Result<u64, StoreError> {
        self.write(steps::prune(keys_before, events_before)).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        if self.is_dead.load(Ordering::SeqCst) {
            return Err(fault::engine("a write to the store's file has failed"));
        }
        if self.orders.is_closed() {
            return Err(closed());
        }
        let _: Vec<(i64,)> =
            self.readers.rows("SELECT count(*) FROM schema_version", &[]).await.map_err(fault::engine)?;
        Ok(())
    }

    async fn close(&self) {
        let (done, stopped) = oneshot::channel();
        self.readers.close().await;
        if self.orders.send(Order::Stop(done)).await.is_ok() {
            // An error means that it stopped before.
            let _ = stopped.await;
        }
    }
}
