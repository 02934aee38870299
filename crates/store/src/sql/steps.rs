//! Steps: a batch as statements.
//!
//! Owns: the texts that write. They are made in the caller's task, so that the one writer does
//! nothing but write.

use super::engine::Value;
use super::rows;
use crate::{Batch, Change, Expect, IdempotencyRow, Noun, Record, StoreError};
use perigee_model::Timestamp;
use std::sync::Arc;

/// One statement and what its answer means.
#[derive(Debug)]
pub(super) struct Step {
    pub text: Arc<str>,
    pub values: Vec<Value>,
    /// What it means that no row was touched.
    pub untouched: Untouched,
    /// The name a unique index would refuse.
    pub name: Option<String>,
}

/// What it means that no row was touched.
#[derive(Debug)]
pub(super) enum Untouched {
    /// Nothing.
    Fine,
    /// The record has moved on.
    Stale(Noun, String),
    /// The idempotency key exists.
    KeyUsed,
}

/// All steps of one piece of work.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub steps: Vec<Step>,
    /// It deletes something: it may use the space kept back for a full disk.
    pub frees: bool,
}

/// A whole batch. The key comes first: a repeated request is told so, whatever else is wrong.
pub(super) fn commit(batch: Batch) -> Result<Work, StoreError> {
    let mut work = Work::default();
    work.steps.extend(batch.idempotency.map(remember));
    for change in batch.changes {
        work.frees |= matches!(change, Change::Delete(..));
        work.steps.push(match change {
            Change::Put(record, expect) => put(record, expect)?,
            Change::Delete(noun, id) => delete(noun, id),
        });
    }
    for event in &batch.events {
        let columns = rows::event(event)?;
        let text = insert_text("events", &columns, "");
        work.steps.push(plain(text, columns.into_iter().map(|(_, value)| value).collect()));
    }
    Ok(work)
}

/// The answer given under a key.
pub(super) fn answer(scope: &str, key: &str, status: u16, body: &str) -> Work {
    let text = "UPDATE idempotency SET status = $1, body = $2 WHERE scope = $3 AND key = $4";
    let values = vec![u64::from(status).into(), body.into(), scope.into(), key.into()];
    Work { steps: vec![plain(text, values)], frees: false }
}

/// A row whose number no other reign has.
pub(super) fn reign(holder: &str, at: Timestamp) -> Work {
    let text = "INSERT INTO reigns (holder, at) VALUES ($1, $2)";
    Work { steps: vec![plain(text, vec![holder.into(), at.into()])], frees: false }
}

/// Forgets old keys and events.
pub(super) fn prune(keys_before: Timestamp, events_before: Timestamp) -> Work {
    let keys = plain("DELETE FROM idempotency WHERE at < $1", vec![keys_before.into()]);
    let events = plain("DELETE FROM events WHERE at < $1", vec![events_before.into()]);
    Work { steps: vec![keys, events], frees: true }
}

fn put(record: Record, expect: Expect) -> Result<Step, StoreError> {
    let untouched = Untouched::Stale(record.noun(), record.id());
    let name = record.unique_name().map(|(_, name)| name);
    let row = rows::row(record)?;
    let text = match expect {
        Expect::New => insert_text(row.table, &row.columns, " ON CONFLICT (id) DO NOTHING"),
        Expect::Revision(_) => update_text(row.table, &row.columns),
    };
    let mut values: Vec<Value> = row.columns.into_iter().map(|(_, value)| value).collect();
    if let Expect::Revision(was) = expect {
        values.push(was.into());
    }
    Ok(Step { text: text.into(), values, untouched, name })
}

fn delete(noun: Noun, id: String) -> Step {
    plain(format!("DELETE FROM {} WHERE id = $1", rows::table(noun)), vec![id.into()])
}

fn remember(row: IdempotencyRow) -> Step {
    let (status, body) = row.answer.unzip();
    let columns = [
        ("scope", row.scope.into()),
        ("key", row.key.into()),
        ("fingerprint", row.fingerprint.into()),
        ("subject", row.subject.into()),
        ("at", row.at.into()),
        ("status", status.map(u64::from).into()),
        ("body", body.into()),
    ];
    let text = insert_text("idempotency", &columns, " ON CONFLICT (scope, key) DO NOTHING");
    let values = columns.into_iter().map(|(_, value)| value).collect();
    Step { text: text.into(), values, untouched: Untouched::KeyUsed, name: None }
}

fn plain(text: impl Into<Arc<str>>, values: Vec<Value>) -> Step {
    Step { text: text.into(), values, untouched: Untouched::Fine, name: None }
}

fn insert_text(table: &str, columns: &[(&'static str, Value)], tail: &str) -> String {
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    let places: Vec<String> = (1..=columns.len()).map(|n| format!("${n}")).collect();
    format!("INSERT INTO {table} ({}) VALUES ({}){tail}", names.join(", "), places.join(", "))
}

/// `id` is the first column; the revision it had is the value after the last.
fn update_text(table: &str, columns: &[(&'static str, Value)]) -> String {
    let numbered = columns.iter().enumerate().skip(1);
    let sets: Vec<String> = numbered.map(|(n, (name, _))| format!("{name} = ${}", n + 1)).collect();
    let was = columns.len() + 1;
    format!("UPDATE {table} SET {} WHERE id = $1 AND revision = ${was}", sets.join(", "))
}
