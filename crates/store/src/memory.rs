//! The twin of the SQL store that a simulation runs on.
//!
//! Owns: the same promises and the same refusals, in the same order, on ordered maps.
//! Refuses: threads, timers and awaiting. A call ends before it yields, so one seed gives one
//! story. Nothing is durable beyond the value itself: see [`MemoryStore::reopen`].

use crate::{Batch, Change, Expect, IdempotencyRow, Noun, Record, Store, StoreError};
use async_trait::async_trait;
use perigee_model::{Event, Timestamp};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An in-memory [`Store`].
#[derive(Default)]
pub struct MemoryStore {
    truth: Arc<Mutex<Truth>>,
    closed: AtomicBool,
}

impl MemoryStore {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another handle on the same truth, open even if this one is closed: what a process that
    /// starts again would find.
    #[must_use]
    pub fn reopen(&self) -> Self {
        Self { truth: Arc::clone(&self.truth), closed: AtomicBool::new(false) }
    }

    fn truth(&self) -> Result<MutexGuard<'_, Truth>, StoreError> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(StoreError::Engine("the store is closed".into()));
        }
        Ok(self.truth.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Default)]
struct Truth {
    records: BTreeMap<(Noun, String), Record>,
    names: BTreeMap<(Noun, String, String), String>,
    events: BTreeMap<i64, Event>,
    sequence: i64,
    reign: u64,
    keys: BTreeMap<(String, String), IdempotencyRow>,
}

/// What a record was before a batch touched it.
type Before = (Noun, String, Option<Record>);

impl Truth {
    fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        let key = batch.idempotency.map(|row| ((row.scope.clone(), row.key.clone()), row));
        if key.as_ref().is_some_and(|(key, _)| self.keys.contains_key(key)) {
            return Err(StoreError::KeyUsed);
        }
        let mut undo: Vec<Before> = Vec::new();
        for change in batch.changes {
            if let Err(refusal) = self.change(change, &mut undo) {
                while let Some((noun, id, before)) = undo.pop() {
                    self.place(noun, id, before);
                }
                return Err(refusal);
            }
        }
        for event in batch.events {
            self.sequence += 1;
            self.events.insert(self.sequence, event);
        }
        self.keys.extend(key);
        Ok(())
    }

    fn change(&mut self, change: Change, undo: &mut Vec<Before>) -> Result<(), StoreError> {
        let (noun, id, after) = match change {
            Change::Delete(noun, id) => (noun, id, None),
            Change::Put(record, expect) => {
                self.check(&record, expect)?;
                (record.noun(), record.id(), Some(record))
            }
        };
        let before = self.place(noun, id.clone(), after);
        undo.push((noun, id, before));
        Ok(())
    }

    fn check(&self, record: &Record, expect: Expect) -> Result<(), StoreError> {
        let (noun, id) = (record.noun(), record.id());
        let stored = self.records.get(&(noun, id.clone())).map(Record::revision);
        let fits = match expect {
            Expect::New => stored.is_none(),
            Expect::Revision(was) => stored == Some(was),
        };
        if !fits {
            return Err(StoreError::Stale { noun, id });
        }
        let Some((tenant, name)) = record.unique_name() else { return Ok(()) };
        match self.names.get(&(noun, tenant, name.clone())) {
            Some(holder) if *holder != id => Err(StoreError::NameTaken { name }),
            Some(_) | None => Ok(()),
        }
    }

    /// Puts or removes a record and its name; gives what was there.
    fn place(&mut self, noun: Noun, id: String, after: Option<Record>) -> Option<Record> {
        let name_of = |record: &Record| record.unique_name().map(|(tenant, name)| (noun, tenant, name));
        let name = after.as_ref().and_then(name_of);
        let before = match after {
            Some(record) => self.records.insert((noun, id.clone()), record),
            None => self.records.remove(&(noun, id.clone())),
        };
        if let Some(old) = before.as_ref().and_then(name_of) {
            self.names.remove(&old);
        }
        if let Some(name) = name {
            self.names.insert(name, id);
        }
        before
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        self.truth()?.commit(batch)
    }

    async fn all(&self, noun: Noun) -> Result<Vec<Record>, StoreError> {
        let truth = self.truth()?;
        let from = truth.records.range((noun, String::new())..);
        Ok(from.take_while(|((n, _), _)| *n == noun).map(|(_, record)| record.clone()).collect())
    }

    async fn events(&self, after: i64, limit: u32) -> Result<Vec<(i64, Event)>, StoreError> {
        let truth = self.truth()?;
        let newer = truth.events.range(after.saturating_add(1)..);
        Ok(newer.take(limit as usize).map(|(seq, event)| (*seq, event.clone())).collect())
    }

    async fn idempotency(&self, scope: &str, key: &str) -> Result<Option<IdempotencyRow>, StoreError> {
        Ok(self.truth()?.keys.get(&(scope.to_owned(), key.to_owned())).cloned())
    }

    async fn answer_idempotency(&self, scope: &str, key: &str, status: u16, body: &str) -> Result<(), StoreError> {
        if let Some(row) = self.truth()?.keys.get_mut(&(scope.to_owned(), key.to_owned())) {
            row.answer = Some((status, body.to_owned()));
        }
        Ok(())
    }

    async fn begin_reign(&self, _holder: &str, _at: Timestamp) -> Result<u64, StoreError> {
        let mut truth = self.truth()?;
        truth.reign += 1;
        Ok(truth.reign)
    }

    async fn prune(&self, keys_before: Timestamp, events_before: Timestamp) -> Result<u64, StoreError> {
        let mut truth = self.truth()?;
        let rows = truth.keys.len() + truth.events.len();
        truth.keys.retain(|_, row| row.at >= keys_before);
        truth.events.retain(|_, event| event.at >= events_before);
        Ok((rows - truth.keys.len() - truth.events.len()) as u64)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.truth().map(|_| ())
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }
}
