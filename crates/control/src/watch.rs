//! Watching: frames come in, are kept and acknowledged, shown live and asked about.
//!
//! Owns: the series store, each stream's conversation ([`Feed`]), the latest values ([`Live`]), and
//! who may see which measurements. Refuses: protocols, and taking a frame of a host over another's
//! link.
//!
//! ```text
//! link ─▶ Feed ─append─▶ series store ─durable─▶ Feed ─▶ acknowledgement
//! HTTP ─▶ post ┘  └─▶ Live ─▶ watchers
//! ```

mod feed;
mod foreign;
mod intake;
mod live;
mod usage;

pub use feed::{Feed, Taken};
pub use foreign::ForeignVm;
pub use intake::Batch;
pub use live::{Update, Watcher};
pub use usage::GuestUse;

use crate::Control;
use live::Live;
use perigee_clock::Clock;
use perigee_model::frame::{MetricKind, StreamId, StreamName};
use perigee_model::{Code, HostId, Refusal, Tenant, Timestamp, Verb, Who};
use perigee_series::promql::{Asked, Labels, QueryError, Reading, Sample, Source, SourceError};
use perigee_series::{Aged, Database, Position, Selection, SeriesError, Settings, Standing};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What is due becomes a block this often.
const SEAL_EVERY: Duration = Duration::from_secs(5);
/// What is old is looked at this often.
const AGE_EVERY: Duration = Duration::from_secs(60);
/// A host of which nothing was reported for so long is not heard of any more.
const REPORTED_WITHIN: Duration = Duration::from_secs(180);
/// One query reads at most so many samples.
const SAMPLES_MAX: u64 = 50_000_000;

/// Everything measured. Cheap to clone; every clone is the same one.
#[derive(Clone)]
pub struct Watching(Arc<Parts>);

struct Parts {
    control: Control,
    clock: Clock,
    database: Arc<Database>,
    live: Arc<Live>,
    durable: watch::Receiver<Position>,
    desks: intake::Desks,
}

impl Watching {
    /// Opens the series store in a folder. Blocks for the disk.
    ///
    /// # Errors
    /// What the store says.
    pub fn open(control: Control, folder: &Path, settings: Settings) -> Result<Self, SeriesError> {
        let (tell, durable) = watch::channel(0);
        let told = Box::new(move |position| _ = tell.send(position));
        let database = Arc::new(Database::open(folder, settings, told)?);
        let repaired = database.repaired();
        if repaired.torn_bytes > 0 {
            tracing::warn!(bytes = repaired.torn_bytes, "half-written measurements of a crash were cut off");
        }
        if repaired.damaged_bytes > 0 {
            tracing::error!(bytes = repaired.damaged_bytes, "measurements on disk are damaged; the rest is read");
        }
        let clock = control.clock().clone();
        let (live, desks) = (Arc::default(), intake::Desks::default());
        Ok(Self(Arc::new(Parts { control, clock, database, live, durable, desks })))
    }

    /// Makes blocks until cancelled; beside it, makes what is old coarser and drops it.
    pub async fn run(&self, cancel: CancellationToken) {
        tokio::join!(self.seal(&cancel), self.age(&cancel));
    }

    async fn age(&self, cancel: &CancellationToken) {
        let mut failing = false;
        while !cancel.is_cancelled() {
            let (database, now, stopped) = (self.0.database.clone(), self.0.clock.now(), cancel.clone());
            let aged = tokio::task::spawn_blocking(move || database.age(now, &|| stopped.is_cancelled())).await;
            let error = match aged.map_err(|stopped| stopped.to_string()).map(|aged| aged.map_err(|e| e.to_string())) {
                Ok(Ok(aged)) => {
                    if aged != Aged::default() {
                        tracing::info!(?aged, "measurements of the past were made coarser, or dropped");
                    }
                    None
                }
                Ok(Err(error)) | Err(error) => Some(error),
            };
            if let Some(error) = error.as_ref().filter(|_| !failing) {
                tracing::error!(error, "measurements of the past stay as they are");
            }
            failing = error.is_some();
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(AGE_EVERY) => {}
            }
        }
    }

    async fn seal(&self, cancel: &CancellationToken) {
        let mut failing = false;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(SEAL_EVERY) => {}
            }
            let (database, now) = (self.0.database.clone(), self.0.clock.now());
            let sealed = tokio::task::spawn_blocking(move || database.seal(now, false)).await;
            let error = match sealed {
                Ok(Ok(())) => self.0.database.failing(),
                Ok(Err(error)) => Some(error.to_string()),
                Err(error) => Some(error.to_string()),
            };
            match (&error, failing) {
                (Some(error), false) => tracing::error!(error, "measurements cannot be written"),
                (None, true) => tracing::info!("measurements can be written again"),
                (Some(_), true) | (None, false) => {}
            }
            failing = error.is_some();
        }
    }

    /// One stream of one host, as its agent opens it.
    pub fn feed(&self, host: HostId, name: StreamName) -> Feed {
        Feed::new(self.clone(), StreamId { host, name })
    }

    /// Somebody who watches one host closely, or all from afar.
    ///
    /// # Errors
    /// `Denied`.
    pub fn watcher(&self, who: &Who, host: Option<HostId>) -> Result<Watcher, Refusal> {
        who.authorize(Verb::See)?;
        Ok(Watcher::new(self.0.live.clone(), host, who.tenant == Tenant::first()))
    }

    /// The latest values of a host's series without labels, and when they were so.
    pub fn latest<const N: usize>(&self, host: HostId, names: [&str; N]) -> Option<(Timestamp, [Option<f64>; N])> {
        self.0.live.values(host, names)
    }

    /// Whether another agent than ours reported of a host over HTTP within the last minutes.
    pub fn is_reporting(&self, host: HostId) -> bool {
        self.0.live.reported(host).is_some_and(|at| self.0.clock.now().since(at) <= REPORTED_WITHIN)
    }

    /// Frames of a host that were measured and will never come, since this control plane started.
    pub fn lost(&self, host: HostId) -> u64 {
        let one = |name| self.0.database.losses(StreamId { host, name }).lost;
        [StreamName::Node, StreamName::Vm, StreamName::Ingest].into_iter().map(one).fold(0, u64::saturating_add)
    }

    /// What is measured, by name.
    ///
    /// # Errors
    /// `Denied`.
    pub fn kinds(&self, who: &Who) -> Result<BTreeMap<String, MetricKind>, Refusal> {
        who.authorize(Verb::See)?;
        Ok(self.0.database.kinds())
    }

    /// What queries of this caller read.
    ///
    /// # Errors
    /// `Denied`.
    pub fn samples(&self, who: &Who) -> Result<Samples, Refusal> {
        who.authorize(Verb::See)?;
        let rows = self.0.control.view().read();
        let labels = |host: &perigee_model::Host| {
            let pairs = [
                ("host", host.name.to_string()),
                ("host_id", host.id.to_string()),
                ("instance", host.name.to_string()),
            ];
            (host.id, Labels::from_iter(pairs))
        };
        let hosts = rows.hosts.values().map(|host| labels(host)).collect();
        let others = rows.guests.values().filter(|guest| guest.tenant != who.tenant);
        let others = others.map(|guest| guest.id.to_string()).collect();
        let foreign = who.tenant == Tenant::first();
        let own = rows.guests.values().filter(|guest| guest.tenant == who.tenant && !foreign);
        let own = own.map(|guest| guest.id.to_string()).collect();
        Ok(Samples { database: self.0.database.clone(), hosts, guests: Guests { foreign, others, own } })
    }

    /// How the store stands, and who watches.
    pub fn figures(&self) -> Figures {
        let (watchers_close, watchers_far) = self.0.live.watchers();
        Figures { store: self.0.database.standing(), watchers_close, watchers_far }
    }

    /// Whether the store takes what comes, in words.
    pub fn health(&self) -> Result<String, String> {
        match self.0.database.failing() {
            Some(why) => Err(why),
            None => Ok(format!(
                "{} streams, {} bytes in blocks",
                self.0.database.streams().len(),
                self.0.database.block_bytes()
            )),
        }
    }
}

/// How watching stands.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// The series store.
    pub store: Standing,
    /// Those who watch one host.
    pub watchers_close: usize,
    /// Those who watch all from afar.
    pub watchers_far: usize,
}

/// Everything one caller may read.
pub struct Samples {
    database: Arc<Database>,
    hosts: BTreeMap<HostId, Labels>,
    guests: Guests,
}

/// Which guests' series a caller may read.
struct Guests {
    /// Those too that nobody made here, or that are gone.
    foreign: bool,
    /// Known to be another tenant's.
    others: BTreeSet<String>,
    /// The caller's, where foreign ones are not.
    own: BTreeSet<String>,
}

impl Guests {
    fn may_see(&self, labels: &Labels) -> bool {
        let guest = labels.get("guest");
        guest.is_empty() || if self.foreign { !self.others.contains(guest) } else { self.own.contains(guest) }
    }
}

impl Samples {
    /// The labels of the series that match one of the selectors; of all without any.
    ///
    /// # Errors
    /// Of a selector that is none, or of the store.
    pub fn series(&self, selectors: &[String], from_ms: i64, to_ms: i64) -> Result<Vec<Labels>, QueryError> {
        let mut sets = Vec::new();
        for selector in selectors {
            sets.push(perigee_series::promql::matchers_of(selector)?);
        }
        if sets.is_empty() {
            sets.push(Vec::new());
        }
        let mut all = std::collections::BTreeSet::new();
        for matchers in &sets {
            let asked = Asked { matchers, from_ms, to_ms, reading: Reading::Value, coarsest_ms: 0, at: None };
            let found = self.database.series(&self.selection(&asked, &|id| self.labels(id)));
            let found = found.map_err(|error| QueryError::Source(Box::new(error)))?;
            all.extend(found.into_iter().filter(|labels| self.guests.may_see(labels)));
        }
        Ok(all.into_iter().collect())
    }

    fn labels(&self, id: StreamId) -> Option<Labels> {
        let mut labels = self.hosts.get(&id.host).cloned()?;
        // What another agent reports never looks as if our own had measured it.
        labels.set("job", if id.name == StreamName::Ingest { "ingest" } else { "perigee" });
        Some(labels)
    }

    fn selection<'a>(&self, asked: &Asked<'a>, labels: &'a dyn Fn(StreamId) -> Option<Labels>) -> Selection<'a> {
        let Asked { matchers, from_ms, to_ms, reading, coarsest_ms, at } = *asked;
        Selection { matchers, from_ms, to_ms, labels, samples_max: SAMPLES_MAX, reading, coarsest_ms, at }
    }
}

impl Source for Samples {
    fn select(&self, asked: &Asked<'_>) -> Result<Vec<(Labels, Vec<Sample>)>, SourceError> {
        let labels = |id| self.labels(id);
        let mut found = self.database.select(&self.selection(asked, &labels))?;
        found.retain(|(labels, _)| self.guests.may_see(labels));
        Ok(found)
    }

    fn resolution(&self, asked: &Asked<'_>) -> i64 {
        self.database.resolution(&self.selection(asked, &|id| self.labels(id)))
    }
}

/// A store's refusal of a frame, for the agent.
fn problem(refused: &perigee_series::Refused) -> perigee_model::guest::Problem {
    perigee_model::guest::Problem::new(Code::FrameRefused, refused.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_series_are_seen_by_their_tenant() {
        let labels = |guest: &str| Labels::from_iter([("guest", guest)]);
        let set = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        let first = Guests { foreign: true, others: set(&["b"]), own: BTreeSet::new() };
        let second = Guests { foreign: false, others: set(&["a"]), own: set(&["b"]) };
        let table = [("", true, true), ("a", true, false), ("b", false, true), ("nobody's", true, false)];
        for (guest, one, other) in table {
            assert_eq!((first.may_see(&labels(guest)), second.may_see(&labels(guest))), (one, other), "{guest}");
        }
    }
}
