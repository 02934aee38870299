//! Measurements that an agent which is not ours posts: one batch is one frame of the host's
//! `ingest` stream, and is acknowledged when it is durable.

use super::Watching;
use crate::ingest::{Mark, Reporter, check_sequence, duplicate};
use perigee_model::frame::{Form, MetricKind, Series, Sheet, Slot, StreamId, StreamName};
use perigee_model::limits::INGEST_SERIES_MAX;
use perigee_model::{Code, HostId, Labels, Refusal, Timestamp};
use perigee_series::{Position, Refused};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A disk that has not taken a batch by then is said to be down.
const DURABLE_WITHIN: Duration = Duration::from_secs(10);
/// Labels that say who measured what; only we set them.
const OURS: [&str; 4] = ["host", "host_id", "instance", "job"];

/// What was measured at one moment.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Its place among the agent's batches.
    pub mark: Mark,
    /// When it was measured.
    pub at: Timestamp,
    /// Names, labels, kinds and values.
    pub values: Vec<(String, Labels, MetricKind, f64)>,
}

/// By host, what its agent posted last: the next frame says only what changed.
#[derive(Default)]
pub struct Desks(Mutex<BTreeMap<HostId, Arc<Mutex<Desk>>>>);

impl Desks {
    fn of(&self, host: HostId) -> Arc<Mutex<Desk>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(host).or_default().clone()
    }
}

#[derive(Default)]
struct Desk {
    last: Option<Mark>,
    sheet: Sheet,
    slots: HashMap<Series, Slot>,
}

impl Desk {
    /// The batch as a frame: a delta where it follows the last one.
    fn frame(&mut self, batch: &Batch, values: Vec<(Series, f64)>) -> Vec<u8> {
        let follows = |last: Mark| last.run == batch.mark.run && last.sequence + 1 == batch.mark.sequence;
        let key = !self.last.is_some_and(follows);
        let mut gone = std::mem::take(&mut self.slots);
        for (series, value) in values {
            let slot = gone.remove(&series).or_else(|| self.sheet.define(series.clone()));
            if let Some(slot) = slot {
                self.sheet.set_f64(slot, value);
                self.slots.insert(series, slot);
            }
        }
        gone.into_values().for_each(|slot| self.sheet.retire(slot));
        self.last = Some(batch.mark);
        self.sheet.encode(batch.mark.sequence, batch.at, key)
    }
}

impl Watching {
    /// Takes a batch: all of it, once. Returns when it is durable.
    ///
    /// # Errors
    /// `BadField`, `StaleTimestamp`, `FutureTimestamp`, `DuplicateSequence` (also only when that
    /// one is durable), `FrameRefused` from an agent process that another has followed,
    /// `SeriesDown`.
    pub async fn post(&self, reporter: &Reporter, batch: Batch) -> Result<(), Refusal> {
        check_sequence(batch.mark.sequence)?;
        self.0.control.timely(batch.at)?;
        let values = checked(&batch)?;
        let stream = StreamId { host: reporter.host(), name: StreamName::Ingest };
        let (refused, position) = match self.append(stream, &batch, values) {
            Ok(position) => (None, position),
            Err(Refused::Duplicate) => (Some(duplicate(batch.mark)), self.0.database.last_position(stream)),
            Err(Refused::Store(error)) => return Err(down().because(error)),
            Err(other) => return Err(Refusal::new(Code::FrameRefused, other.to_string())),
        };
        self.durable(position).await?;
        refused.map_or(Ok(()), Err)
    }

    fn append(&self, stream: StreamId, batch: &Batch, values: Vec<(Series, f64)>) -> Result<Position, Refused> {
        let parts = &self.0;
        let desk = parts.desks.of(stream.host);
        let mut desk = desk.lock().unwrap_or_else(PoisonError::into_inner);
        let frame = desk.frame(batch, values);
        let appended = parts.database.append(stream, batch.mark.run, &frame, parts.clock.now());
        match appended {
            Ok(appended) => {
                parts.live.take(stream, &frame, || parts.database.latest(stream));
                Ok(appended.position)
            }
            Err(refused) => {
                // No frame said what is on the sheet now.
                *desk = Desk::default();
                Err(refused)
            }
        }
    }

    async fn durable(&self, position: Position) -> Result<(), Refusal> {
        let mut told = self.0.durable.clone();
        // What was durable at the start was never told.
        let reached = |told: &Position| (*told).max(self.0.database.durable()) >= position;
        let waited = tokio::time::timeout(DURABLE_WITHIN, told.wait_for(reached)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(down()),
        }
    }
}

fn down() -> Refusal {
    let mut refusal = Refusal::new(Code::SeriesDown, "the batch is not on disk; send it again as it is");
    refusal.retry_after_s = Some(1);
    refusal
}

/// The batch's series, each once and well-formed.
fn checked(batch: &Batch) -> Result<Vec<(Series, f64)>, Refusal> {
    if batch.values.is_empty() || batch.values.len() > INGEST_SERIES_MAX {
        return Err(Refusal::field("metrics", format!("a batch has 1 to {INGEST_SERIES_MAX} metrics")));
    }
    let mut seen = BTreeSet::new();
    let mut values = Vec::with_capacity(batch.values.len());
    for (place, (name, labels, kind, value)) in batch.values.iter().enumerate() {
        let fault = |text: &str| Err(Refusal::field(&format!("metrics.{place}"), text));
        let series = Series { name: name.clone(), labels: labels.clone(), kind: *kind, form: Form::Float };
        if !series.is_well_formed() {
            return fault("its name, or a label, is too long or has characters that Prometheus does not allow");
        }
        if labels
            .iter()
            .any(|(label, text)| OURS.contains(&label.as_str()) || label.starts_with("__") || text.is_empty())
        {
            return fault("labels have a value, and are not host, host_id, instance, job or __…: those are set here");
        }
        if !value.is_finite() {
            return fault("a value is a finite number; leave a metric out that has none");
        }
        if !seen.insert((name, labels)) {
            return fault("its name and labels are there twice");
        }
        values.push((series, *value));
    }
    Ok(values)
}
