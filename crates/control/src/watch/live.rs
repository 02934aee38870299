//! The latest values of every stream, and who watches them.
//!
//! Nobody has a queue: a watcher remembers what it has seen of each stream and takes what changed
//! since, at its own pace. A slow one sees fewer steps; it costs nobody anything.

use perigee_model::frame::{Columns, FrameError, Series, StreamId, StreamName};
use perigee_model::{HostId, Timestamp};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// What those who watch all hosts see of each: what the agent sums up for them.
const SUMMARY: &str = "perigee_host_";
const LOAD: &str = "node_load1";

#[derive(Default)]
struct Latest {
    columns: Columns,
    /// Counts key frames: columns have other places after one.
    generation: u64,
    tick: u64,
    /// By column, the tick of its last change.
    changed: Vec<u64>,
}

/// All streams' latest values.
pub struct Live {
    streams: Mutex<BTreeMap<StreamId, Latest>>,
    moved: watch::Sender<u64>,
    watched: Mutex<BTreeMap<HostId, usize>>,
    attention: watch::Sender<u64>,
}

impl Default for Live {
    fn default() -> Self {
        let (streams, watched) = (Mutex::default(), Mutex::default());
        Self { streams, watched, moved: watch::Sender::new(0), attention: watch::Sender::new(0) }
    }
}

impl Live {
    fn streams(&self) -> MutexGuard<'_, BTreeMap<StreamId, Latest>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a frame that was accepted; `known` gives the values before it where they are not here.
    pub fn take(&self, stream: StreamId, frame: &[u8], known: impl FnOnce() -> Option<Columns>) {
        let mut streams = self.streams();
        let latest = streams.entry(stream).or_default();
        let change = match latest.columns.apply(frame) {
            Err(FrameError::Gap { .. }) => {
                // After a start: the store has taken this frame already.
                let Some(columns) = known() else { return };
                latest.columns = columns;
                latest.begin_again();
                None
            }
            Ok(change) => Some(change),
            Err(_) => return,
        };
        latest.tick += 1;
        match change {
            Some(change) if change.header.key => latest.begin_again(),
            Some(change) => {
                latest.changed.resize(latest.columns.series().len(), latest.tick);
                for column in change.changed {
                    if let Some(at) = latest.changed.get_mut(column as usize) {
                        *at = latest.tick;
                    }
                }
            }
            None => {}
        }
        drop(streams);
        self.moved.send_modify(|count| *count += 1);
    }

    /// Values of a host's own stream, by the names of series without labels.
    pub fn values<const N: usize>(&self, host: HostId, names: [&str; N]) -> Option<(Timestamp, [Option<f64>; N])> {
        let streams = self.streams();
        // Where our own agent does not measure, another one may.
        let mut latest = [StreamName::Node, StreamName::Ingest].into_iter();
        let columns = &latest.find_map(|name| streams.get(&StreamId { host, name }))?.columns;
        let place = |name: &str| columns.series().iter().position(|s| s.name == name && s.labels.is_empty());
        let value = |name: &str| columns.value(u32::try_from(place(name)?).ok()?);
        Some((columns.at()?, names.map(value)))
    }

    /// When what another agent reported of a host last was measured.
    pub fn reported(&self, host: HostId) -> Option<Timestamp> {
        self.streams().get(&StreamId { host, name: StreamName::Ingest })?.columns.at()
    }

    /// Whether somebody looks at this host closely.
    pub fn is_watched(&self, host: HostId) -> bool {
        self.watched().contains_key(&host)
    }
    /// Those who watch one host, and those who watch all.
    pub fn watchers(&self) -> (usize, usize) {
        let close = self.watched().values().sum();
        (close, self.moved.receiver_count().saturating_sub(close))
    }
    /// Changes when somebody begins or ends looking closely.
    pub fn attention(&self) -> watch::Receiver<u64> {
        self.attention.subscribe()
    }
    fn watched(&self) -> MutexGuard<'_, BTreeMap<HostId, usize>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn look(&self, host: HostId, begin: bool) {
        let mut watched = self.watched();
        let count = watched.entry(host).or_default();
        *count = if begin { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            watched.remove(&host);
        }
        drop(watched);
        self.attention.send_modify(|count| *count += 1);
    }
}

impl Latest {
    /// Columns have other places now.
    fn begin_again(&mut self) {
        self.generation += 1;
        self.changed = vec![self.tick; self.columns.series().len()];
    }
}

/// What a watcher is told of one stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// Whose.
    pub stream: StreamId,
    /// When it was measured.
    pub at: Timestamp,
    /// The series known so far are no more; `added` are all.
    pub reset: bool,
    /// Series that follow those known, in the watcher's own numbers.
    pub added: Vec<Arc<Series>>,
    /// Numbers and values, where they changed.
    pub values: Vec<(u32, Option<f64>)>,
}

#[derive(Default)]
struct Seen {
    generation: u64,
    tick: u64,
    /// By column of the stream, the watcher's number.
    numbers: Vec<Option<u32>>,
    count: u32,
}

/// One watcher.
pub struct Watcher {
    live: Arc<Live>,
    /// Only this host, and all of it; without one, what sums up each host.
    host: Option<HostId>,
    /// Its guests too, whoever owns them.
    guests: bool,
    seen: BTreeMap<StreamId, Seen>,
    moved: watch::Receiver<u64>,
}

impl Watcher {
    /// Watches one host closely, with all guests on it or without, or all hosts from afar.
    pub fn new(live: Arc<Live>, host: Option<HostId>, guests: bool) -> Self {
        if let Some(host) = host {
            live.look(host, true);
        }
        let moved = live.moved.subscribe();
        Self { live, host, guests: guests && host.is_some(), seen: BTreeMap::new(), moved }
    }

    /// Forgets what was told: the next updates tell everything again.
    pub fn forget(&mut self) {
        self.seen.clear();
        self.moved.mark_changed();
    }

    /// Waits until something is new. May be dropped.
    pub async fn moved(&mut self) {
        if self.moved.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// What changed since the last call.
    pub fn updates(&mut self) -> Vec<Update> {
        let streams = self.live.streams();
        let wanted = streams.iter().filter(|(id, _)| {
            self.host.is_none_or(|host| id.host == host) && (self.guests || id.name != StreamName::Vm)
        });
        let close = self.host.is_some();
        let mut updates = Vec::new();
        for (id, latest) in wanted {
            let seen = self.seen.entry(*id).or_default();
            updates.extend(seen.update(*id, latest, close));
        }
        updates
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Some(host) = self.host {
            self.live.look(host, false);
        }
    }
}

impl Seen {
    fn update(&mut self, stream: StreamId, latest: &Latest, close: bool) -> Option<Update> {
        if (self.generation, self.tick) == (latest.generation, latest.tick) {
            return None;
        }
        let at = latest.columns.at()?;
        let reset = self.generation != latest.generation;
        if reset {
            *self = Self { generation: latest.generation, ..Self::default() };
        }
        let mut added = Vec::new();
        for series in &latest.columns.series()[self.numbers.len()..] {
            let wanted = close || series.name.starts_with(SUMMARY) || series.name == LOAD;
            self.numbers.push(wanted.then_some(self.count));
            if wanted {
                added.push(series.clone());
                self.count += 1;
            }
        }
        let mut values = Vec::new();
        for (column, changed) in (0u32..).zip(&latest.changed) {
            let number = self.numbers.get(column as usize).copied().flatten();
            if let Some(number) = number.filter(|_| reset || *changed > self.tick) {
                values.push((number, latest.columns.value(column)));
            }
        }
        self.tick = latest.tick;
        Some(Update { stream, at, reset, added, values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perigee_model::frame::Sheet;
    use uuid::Uuid;

    const STREAM: StreamId = StreamId { host: HostId::new(Uuid::from_u128(5)), name: StreamName::Node };

    struct World {
        live: Arc<Live>,
        sheet: Sheet,
        sequence: u64,
    }

    impl World {
        fn new() -> Self {
            Self { live: Arc::default(), sheet: Sheet::default(), sequence: 0 }
        }
        fn frame(&mut self, key: bool, values: &[(&str, i64)]) {
            for (name, value) in values {
                let slot = self.sheet.define(Series::gauge(name, 0)).unwrap();
                self.sheet.set(slot, *value);
            }
            self.sequence += 1;
            let at = Timestamp::from_micros(self.sequence.cast_signed());
            let frame = self.sheet.encode(self.sequence, at, key);
            self.live.take(STREAM, &frame, || None);
        }
    }

    fn told(updates: &[Update]) -> Vec<String> {
        let names = |u: &Update| u.added.iter().map(|s| s.name.clone()).collect::<Vec<_>>().join(",");
        let values =
            |u: &Update| u.values.iter().map(|(n, v)| format!("{n}={}", v.unwrap_or(-1.0))).collect::<Vec<_>>();
        updates
            .iter()
            .map(|u| format!("{}+{} {}", if u.reset { "reset " } else { "" }, names(u), values(u).join(" ")))
            .collect()
    }

    #[test]
    fn watchers_see_what_changed_since_they_looked() {
        let mut world = World::new();
        let mut close = Watcher::new(world.live.clone(), Some(STREAM.host), true);
        let mut slow = Watcher::new(world.live.clone(), Some(STREAM.host), true);
        world.frame(true, &[("a", 1), ("b", 2)]);
        assert_eq!(told(&close.updates()), ["reset +a,b 0=1 1=2"]);
        assert_eq!(close.updates(), []);
        world.frame(false, &[("b", 3)]);
        assert_eq!(told(&close.updates()), ["+ 1=3"]);
        world.frame(false, &[("c", 4), ("b", 5)]);
        world.frame(false, &[("a", 6)]);
        assert_eq!(told(&close.updates()), ["+c 0=6 1=5 2=4"]);
        assert_eq!(told(&slow.updates()), ["reset +a,b,c 0=6 1=5 2=4"]);
        world.frame(true, &[]);
        assert_eq!(told(&slow.updates()), ["reset +a,b,c 0=6 1=5 2=4"]);
        slow.forget();
        assert_eq!(told(&slow.updates()), ["reset +a,b,c 0=6 1=5 2=4"]);
    }

    #[test]
    fn from_afar_only_summaries_are_seen() {
        let mut world = World::new();
        world.frame(true, &[("a", 1), ("perigee_host_cpu_usage_ratio", 2), ("node_load1", 3)]);
        let mut far = Watcher::new(world.live.clone(), None, true);
        assert_eq!(told(&far.updates()), ["reset +perigee_host_cpu_usage_ratio,node_load1 0=2 1=3"]);
        world.frame(false, &[("a", 9)]);
        assert_eq!(told(&far.updates()), ["+ "], "it was measured again, with the same values");
        let values = world.live.values(STREAM.host, ["perigee_host_cpu_usage_ratio", "nothing"]);
        assert_eq!(values.unwrap().1, [Some(2.0), None]);
    }

    #[test]
    fn guests_are_seen_by_who_may() {
        let mut world = World::new();
        world.frame(true, &[("a", 1)]);
        let guests = StreamId { name: StreamName::Vm, ..STREAM };
        let frame = Sheet::default().encode(1, Timestamp::from_micros(1), true);
        world.live.take(guests, &frame, || None);
        let streams = |host, may| {
            let updates = Watcher::new(world.live.clone(), host, may).updates();
            updates.iter().map(|update| update.stream.name).collect::<Vec<_>>()
        };
        assert_eq!(streams(Some(STREAM.host), true), [StreamName::Node, StreamName::Vm]);
        assert_eq!(streams(Some(STREAM.host), false), [StreamName::Node]);
        assert_eq!(streams(None, true), [StreamName::Node], "from afar nobody looks at single guests");
    }

    #[test]
    fn a_host_is_watched_as_long_as_somebody_looks() {
        let world = World::new();
        let one = Watcher::new(world.live.clone(), Some(STREAM.host), true);
        let two = Watcher::new(world.live.clone(), Some(STREAM.host), true);
        drop(one);
        assert!(world.live.is_watched(STREAM.host));
        drop(two);
        assert!(!world.live.is_watched(STREAM.host));
    }
}
