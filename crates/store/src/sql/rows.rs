//! Rows: how a record lies in its table.
//!
//! Owns: the one conversion between a record and its columns. The column `doc` holds the whole
//! record as JSON and is what is read back; the other columns repeat what one would query, written
//! by the same function in the same statement, so they cannot drift. An execution's output is the
//! exception: its bytes lie in columns of their own and not in `doc`, where JSON would make them
//! four times as long.
//!
//! Numbers beyond `i64::MAX` are held at it, and NUL characters (which PostgreSQL's text cannot
//! hold) become U+FFFD in the repeated columns; `doc` is exact.

use super::engine::Value;
use super::fault::engine;
use crate::{Key, Noun, Record, StoreError};
use perigee_model::{Backup, Event, Execution, Guest, Host, Image, Network, Task, Timestamp, Volume};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A record, ready to be written.
pub(super) struct Row {
    pub table: &'static str,
    pub columns: Vec<(&'static str, Value)>,
}

/// The table of a noun.
pub(super) fn table(noun: Noun) -> &'static str {
    match noun {
        Noun::Host => "hosts",
        Noun::Guest => "guests",
        Noun::Image => "images",
        Noun::Task => "tasks",
        Noun::Execution => "executions",
        Noun::Key => "keys",
        Noun::Backup => "backups",
        Noun::Volume => "volumes",
        Noun::Network => "networks",
    }
}

/// Takes a record apart.
pub(super) fn row(record: Record) -> Result<Row, StoreError> {
    let table = table(record.noun());
    let columns = match record {
        Record::Host(r) => host(&r)?,
        Record::Guest(r) => guest(&r)?,
        Record::Image(r) => image(&r)?,
        Record::Task(r) => task(&r)?,
        Record::Execution(r) => execution(r)?,
        Record::Key(r) => key(&r)?,
        Record::Backup(r) => backup(&r)?,
        Record::Volume(r) => volume(&r)?,
        Record::Network(r) => network(&r)?,
    };
    Ok(Row { table, columns })
}

/// What is read of every noun.
pub(super) type Stored = (String, i64, String);
/// What is read of an execution: stdout's head and tail, stderr's head and tail.
pub(super) type StoredOutput = (String, i64, String, Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>);

/// Puts a record together again.
pub(super) fn record(noun: Noun, (id, revision, doc): &Stored) -> Result<Record, StoreError> {
    let record = match noun {
        Noun::Host => Record::Host(parse(noun, id, doc)?),
        Noun::Guest => Record::Guest(parse(noun, id, doc)?),
        Noun::Image => Record::Image(parse(noun, id, doc)?),
        Noun::Task => Record::Task(parse(noun, id, doc)?),
        Noun::Execution => Record::Execution(parse(noun, id, doc)?),
        Noun::Key => Record::Key(parse(noun, id, doc)?),
        Noun::Backup => Record::Backup(parse(noun, id, doc)?),
        Noun::Volume => Record::Volume(parse(noun, id, doc)?),
        Noun::Network => Record::Network(parse(noun, id, doc)?),
    };
    if record.id() != *id || whole(record.revision()) != *revision {
        let text = format!("the columns and the doc of {id} disagree");
        return Err(StoreError::Damaged { noun, text });
    }
    Ok(record)
}

/// Puts an execution together again.
pub(super) fn record_with_output(row: StoredOutput) -> Result<Record, StoreError> {
    let (id, revision, doc, out_head, out_tail, err_head, err_tail) = row;
    let mut record = record(Noun::Execution, &(id, revision, doc))?;
    if let Record::Execution(execution) = &mut record {
        (execution.stdout.head, execution.stdout.tail) = (out_head, out_tail);
        (execution.stderr.head, execution.stderr.tail) = (err_head, err_tail);
    }
    Ok(record)
}

fn parse<T: DeserializeOwned>(noun: Noun, id: &str, doc: &str) -> Result<T, StoreError> {
    serde_json::from_str(doc).map_err(|e| StoreError::Damaged { noun, text: format!("the doc of {id}: {e}") })
}

type Columns = Result<Vec<(&'static str, Value)>, StoreError>;

fn host(r: &Host) -> Columns {
    let has = r.inventory.as_ref();
    let status = match (r.revoked, r.drained) {
        (true, _) => "revoked",
        (false, true) => "drained",
        (false, false) => "active",
    };
    let capacity = has.map(|i| {
        serde_json::json!({"cpus": i.cpus, "memory_bytes": i.memory_bytes, "disk_bytes": i.disk_bytes}).to_string()
    });
    let available = has.map(|i| serde_json::json!({"disk_bytes": i.disk_free_bytes}).to_string());
    Ok(vec![
        ("id", r.id.to_string().into()),
        ("name", r.name.as_str().into()),
        ("hostname", has.map(|i| i.hostname.clone()).into()),
        ("type", has.and_then(|i| i.drivers.first()).map(|d| d.driver.clone()).into()),
        ("status", status.into()),
        ("capacity", capacity.into()),
        ("available", available.into()),
        ("labels", json(&r.labels)?.into()),
        ("arch", has.map(|i| i.arch.clone()).into()),
        ("os", has.map(|i| i.os.clone()).into()),
        ("kernel_release", has.map(|i| i.kernel_release.clone()).into()),
        ("agent_version", has.map(|i| i.agent_version.clone()).into()),
        ("cpus", has.map(|i| u64::from(i.cpus)).into()),
        ("memory_bytes", has.map(|i| i.memory_bytes).into()),
        ("disk_bytes", has.map(|i| i.disk_bytes).into()),
        ("disk_free_bytes", has.map(|i| i.disk_free_bytes).into()),
        ("revoked", Value::Flag(r.revoked)),
        ("drained", Value::Flag(r.drained)),
        ("run_id", r.run.map(|i| i.to_string()).into()),
        ("created_at", r.created_at.into()),
        ("seen_at", r.seen_at.into()),
        ("updated_at", r.seen_at.max(Some(r.created_at)).into()),
        ("revision", r.revision.into()),
        ("doc", json(r)?.into()),
    ])
}

fn guest(r: &Guest) -> Columns {
    let observed = r.observed.as_ref();
    let updated_at = observed.map(|o| o.since).max(r.gone_at).max(Some(r.created_at));
    Ok(vec![
        ("id", r.id.to_string().into()),
        ("tenant", r.tenant.as_str().into()),
        ("owner", r.owner.as_str().into()),
        ("name", r.name.as_str().into()),
        ("kind", word(&r.kind)?.into()),
        ("labels", json(&r.labels)?.into()),
        ("host_id", r.desired.host.map(|i| i.to_string()).into()),
        ("image_id", r.spec.image.to_string().into()),
        ("image_name", r.spec.image_name.as_str().into()),
        ("cpus", u64::from(r.spec.resources.cpus).into()),
        ("memory_bytes", r.spec.resources.memory_bytes.into()),
        ("power", word(&r.desired.power)?.into()),
        ("generation", r.desired.generation.into()),
        ("expires_at", r.desired.expires_at.into()),
        ("phase", observed.map(|o| word(&o.phase)).transpose()?.into()),
        ("phase_since", observed.map(|o| o.since).into()),
        ("observed_generation", observed.map(|o| o.generation).into()),
        ("observed_sequence", observed.map(|o| o.sequence).into()),
        ("problem_code", observed.and_then(|o| o.problem.as_ref()).map(|p| p.code.clone()).into()),
        ("kernel_release", observed.and_then(|o| o.kernel_release.clone()).into()),
        ("boot_ms", observed.and_then(|o| o.boot_ms).into()),
        ("created_at", r.created_at.into()),
        ("updated_at", updated_at.into()),
        ("gone_at", r.gone_at.into()),
        ("revision", r.revision.into()),
        ("doc", json(r)?.into()),
    ])
}

fn image(r: &Image) -> Columns {
    let bytes = r.parts.iter().fold(0_u64, |sum, part| sum.saturating_add(part.bytes));
    Ok(vec![
        ("id", r.id.to_string().into()),
        ("tenant", r.tenant.as_str().into()),
        ("owner", r.owner.as_str().into()),
        ("name", r.name.as_str().into()),
        ("arch", r.arch.as_str().into()),
        ("kernel_release", r.kernel_release.clone().into()),
        ("state", word(&r.state)?.into()),
        ("bytes", bytes.into()),
        ("created_at", r.created_at.into()),
        ("revision", r.revision.into()),
        ("doc", json(r)?.into()),
    ])
}

fn task(r: &Task) -> Columns {
    Ok(vec![
        ("id", r.id.to_string().into()),
        ("tenant", r.tenant.as_str().into()),
        ("owner", r.owner.as_str().into()),
        ("kind", r.kind.text().into()),
        ("guest_id", r.kind.guest().map(|i| i.to_string()).into()),
        ("image_id", r.kind.image().map(|i| i.to_string()).into()),
        ("execution_id", r.kind.execution().map(|i| i.to_string()).into()),
        ("volume_id", r.kind.volume().map(|i| i.to_string()).into()),
        ("network_id", r.kind.network().map(|i| i.to_string()).into()),
        ("priority", word(&r.priority)?.into()),
        ("state", word(&r.state)?.into()),
        ("attempts", u64::from(r.attempts).into()),
        ("attempts_max", u64::from(r.attempts_max).into()),
        ("worker", r.worker.clone().into()),
        ("epoch", r.epoch.into()),
        ("host_id", r.host.map(|i| i.to_string()).into()),
        ("generation", r.generation.into()),
        ("cancel_asked", Value::Flag(r.cancel_asked)),
        ("note", r.note.clone().into()),
        ("progress_percent", r.progress_percent.map(u64::from).into()),
        ("problem_code", r.problem.as_ref().map(|p| p.code.clone()).into()),
        ("problem_text", r.problem.as_ref().map(|p| p.text.clone()).into()),
        ("created_at", r.created_at.into()),
        ("scheduled_at", r.scheduled_at.into()),
        ("started_at", r.started_at.into()),
        ("completed_at", r.completed_at.into()),
        ("revision", r.revision.into()),
        ("doc", json(r)?.into()),
    ])
}

fn execution(mut r: Execution) -> Columns {
    let stdout = (std::mem::take(&mut r.stdout.head), std::mem::take(&mut r.stdout.tail));
    let stderr = (std::mem::take(&mut r.stderr.head), std::mem::take(&mut r.stderr.tail));
    let outcome = r.outcome.as_ref().map(serde_json::to_value).transpose().map_err(engine)?;
    let outcome = outcome.and_then(|o| o.get("kind")?.as_str().map(str::to_owned));
    let exit_code = r.outcome.as_ref().and_then(perigee_model::Outcome::exit_code);
    Ok(vec![
        ("id", r.id.to_string().into()),
        ("tenant", r.tenant.as_str().into()),
        ("owner", r.owner.as_str().into()),
        ("guest_id", r.guest.to_string().into()),
        ("task_id", r.task.map(|i| i.to_string()).into()),
        ("command", r.command.argv.first().map_or("", String::as_str).into()),
        ("args", json(&r.command.argv.get(1..).unwrap_or_default())?.into()),
        ("env", json(&r.command.env)?.into()),
        ("state", word(&r.state)?.into()),
        ("outcome", outcome.into()),
        ("exit_code", Value::Int(exit_code.map(i64::from))),
        ("stdout", Value::Bytes(stdout.0)),
        ("stdout_tail", Value::Bytes(stdout.1)),
        ("stdout_bytes", r.stdout.bytes.into()),
        ("stderr", Value::Bytes(stderr.0)),
        ("stderr_tail", Value::Bytes(stderr.1)),
        ("stderr_bytes", r.stderr.bytes.into()),
        ("problem_code", r.problem.as_ref().map(|p| p.code.clone()).into()),
        ("created_at", r.created_at.into()),
        ("started_at", r.started_at.into()),
        ("completed_at", r.ended_at.into()),
        ("duration_ms", r.duration_ms.into()),
        ("revision", r.revision.into()),
        ("doc", json(&r)?.into()),
    ])
}

fn key(r: &Key) -> Columns {
    Ok(vec![
        ("id", r.digest.as_str().into()),
        ("tenant", r.tenant.as_str().into()),
        ("name", r.name.as_str().into()),
        ("role", r.role.map(|role| word(&role)).transpose()?.into()),
        ("created_at", r.created_at.into()),
        ("expires_at", r.expires_at.into()),
        ("revision", r.revision.into()),
        ("doc", json(r)?.into()),
    ])
}

fn backup(r: &Backup) -> Columns {
    let stored = r.stored.as_ref();
    Ok(vec![
        ("id", r.id.to_string().into()),
        ("tenant", r.tenant.as_str().into()),
        ("owner", r.owner.as_str().into()),
        ("name", r.name.as_str().into()),
        ("guest_id", r.guest.to_string().into()),
        ("guest_name", r.guest_name.as_str().into()),
        ("state", word(&r.state)?.into()),
        ("sealed", Value::Flag(r.sealed)),
        ("scheduled", Value::Flag(r.scheduled)),
        ("since_id", stored.and_then(|s| s.since).map(|i| i.to_string()).into()),
        ("disk_bytes", stored.map(|s| s.disk_bytes).into()),
        ("taken_at", stored.map(|s| s.at).into()),
        ("verified_at", r.verified.as_ref().map(|v| v.at).into()),
        ("created_at", r.created_at.into()),
        ("revision", r.revision.into()),
        ("doc", json(r)?.into()),
    ])
}

fn volume(r: &Volume) -> Columns {
    Ok(vec![
        ("id", r.id.to_string().into()),
        ("tenant", r.tenant.as_str().into()),
        ("owner", r.owner.as_str().into()),
        ("name", r.name.as_str().into()),
        ("labels", json(&r.labels)?.into()),
        ("host_id", r.host.to_string().into()),
        ("guest_id", r.guest.map(|i| i.to_string()).into()),
        ("bytes", r.bytes.into()),
        ("stored_bytes", r.stored_bytes.into()),
        ("generation", r.generation.into()),
        ("created_at", r.created_at.into()),
        ("revision", r.revision.into()),
        ("doc", json(r)?.into()),
    ])
}

fn network(r: &Network) -> Columns {
    Ok(vec![
        ("id", r.id.to_string().into()),
        ("tenant", r.tenant.as_str().into()),
        ("owner", r.owner.as_str().into()),
        ("name", r.name.as_str().into()),
        ("description", r.description.as_str().into()),
        ("host_id", r.host.to_string().into()),
        ("kind", word(&r.kind)?.into()),
        ("subnet", r.subnet.map(|block| block.to_string()).into()),
        ("bridge", r.bridge.clone().into()),
        ("generation", r.generation.into()),
        ("created_at", r.created_at.into()),
        ("revision", r.revision.into()),
        ("doc", json(r)?.into()),
    ])
}

/// Takes an event apart.
pub(super) fn event(r: &Event) -> Columns {
    Ok(vec![
        ("id", r.id.to_string().into()),
        ("at", r.at.into()),
        ("tenant", r.tenant.as_str().into()),
        ("actor", r.actor.as_str().into()),
        ("verb", r.verb.as_str().into()),
        ("noun", r.subject.noun.as_str().into()),
        ("subject_id", r.subject.id.as_str().into()),
        ("request_id", r.request_id.clone().into()),
        ("doc", json(r)?.into()),
    ])
}

fn json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(engine)
}

/// The published word of an enum without content.
fn word(value: &impl Serialize) -> Result<String, StoreError> {
    Ok(json(value)?.trim_matches('"').to_owned())
}

/// How a number of ours lies in a column.
pub(super) fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn without_nul(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{FFFD}") } else { text }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Some(text.to_owned()).into()
    }
}
impl From<String> for Value {
    fn from(text: String) -> Self {
        Some(text).into()
    }
}
impl From<Option<String>> for Value {
    fn from(text: Option<String>) -> Self {
        Self::Text(text.map(without_nul))
    }
}
impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Some(number).into()
    }
}
impl From<Option<u64>> for Value {
    fn from(number: Option<u64>) -> Self {
        Self::Int(number.map(whole))
    }
}
impl From<Timestamp> for Value {
    fn from(at: Timestamp) -> Self {
        Some(at).into()
    }
}
impl From<Option<Timestamp>> for Value {
    fn from(at: Option<Timestamp>) -> Self {
        Self::Int(at.map(Timestamp::micros))
    }
}
