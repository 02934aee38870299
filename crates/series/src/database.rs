//! The store of everything measured.

mod ageing;
mod standing;

pub use ageing::Aged;
pub(crate) use ageing::Rolled;
pub use standing::Standing;

use crate::block::{self, Dictionary};
use crate::cache::Cache;
use crate::error::{Refused, SeriesError, os};
use crate::head::Head;
use crate::journal::{Journal, OnDurable, Position, Record};
use crate::segments::{Segments, Stored};
use crate::stream::{Class, Losses, Stream, class};
use nix::fcntl::{Flock, FlockArg};
use perigee_model::frame::{Change, Columns, Header, MetricKind, StreamId, StreamName};
use perigee_model::{HostId, RunId, Timestamp};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use uuid::Uuid;

/// However small the disk is, so much may be kept: it is refused by the disk first.
const BLOCKS_BYTES_MIN: u64 = 256 << 20;
const DAY: Duration = Duration::from_secs(86_400);
/// Lists of series that are kept unpacked.
const SERIES_KEPT: usize = 512;
/// A record's beginning: stream, host, run.
const RECORD_HEAD: usize = 33;
/// Set in a record's first byte: the frame's time is not believed; its values are in no block.
const SEEN_ONLY: u8 = 0x80;

/// How it is kept.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Frames wait this long for others to be synced with.
    pub group: Duration,
    /// A stretch of so many frames becomes a block …
    pub block_frames: usize,
    /// … or of such a length …
    pub block_span: Duration,
    /// … or of so many changes in memory.
    pub block_changes: usize,
    /// What was measured is kept so long, by days, …
    pub kept: Duration,
    /// … its minutes so long …
    pub minutes_kept: Duration,
    /// … and its hours so long.
    pub hours_kept: Duration,
    /// All blocks together; the oldest day goes first.
    pub bytes_max: u64,
}

impl Settings {
    /// The usual ones, with a tenth of the folder's disk for all blocks.
    pub fn of_disk(folder: &Path) -> Self {
        let usual = Self::default();
        let disk = nix::sys::statvfs::statvfs(folder).map(|disk| disk.blocks().saturating_mul(disk.fragment_size()));
        Self { bytes_max: disk.map_or(usual.bytes_max, |bytes| (bytes / 10).max(BLOCKS_BYTES_MIN)), ..usual }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            group: Duration::from_millis(250),
            block_frames: 600,
            block_span: Duration::from_secs(1800),
            block_changes: 400_000,
            kept: DAY * 30,
            minutes_kept: DAY * 90,
            hours_kept: DAY * 730,
            bytes_max: 20 << 30,
        }
    }
}

/// A frame that was taken.
#[derive(Clone, Debug)]
pub struct Appended {
    /// Durable when this is.
    pub position: Position,
    /// How old it was.
    pub class: Class,
    /// What it changed.
    pub change: Change,
}

/// What was found at the opening that should not have been there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Bytes at the ends of files that a crash had left half written.
    pub torn_bytes: u64,
    /// Bytes of blocks that the disk did not keep as they were written. They are left in place.
    pub damaged_bytes: u64,
}

pub(crate) type SharedStream = Arc<Mutex<Stream>>;

/// The store. All calls block for at most a lock, but for [`Self::seal`] and queries.
pub struct Database {
    settings: Settings,
    journal: Journal,
    streams: Mutex<BTreeMap<StreamId, SharedStream>>,
    pub(crate) segments: RwLock<Segments>,
    pub(crate) rolled: RwLock<Rolled>,
    unpacked: Mutex<HashMap<(u32, u32), Arc<Dictionary>>>,
    pub(crate) pages: Cache,
    repaired: Repaired,
    sealing: Mutex<()>,
    ageing: Mutex<()>,
    _lock: Flock<File>,
}

impl Database {
    /// Opens or makes it. `told` hears how far all is durable, on a thread of its own.
    ///
    /// # Errors
    /// `InUse`, `Os`.
    pub fn open(folder: &Path, settings: Settings, told: OnDurable) -> Result<Self, SeriesError> {
        std::fs::create_dir_all(folder).map_err(os(folder))?;
        let lock = lock(folder.join("lock"))?;
        let segments = Segments::open(&folder.join("raw"))?;
        let rolled = Rolled::open(folder)?;
        let mut streams = BTreeMap::new();
        // In the order of taking, which a clock set back makes another than that of days.
        let mut blocks: Vec<&Stored> = segments.all().collect();
        blocks.sort_by_key(|stored| stored.meta.position);
        let mut newest: BTreeMap<StreamId, &Stored> = BTreeMap::new();
        for stored in blocks {
            let Some(id) = stored.meta.stream() else { continue };
            let stream: &mut Stream = streams.entry(id).or_default();
            stream.note(stored.meta.run(), stored.meta.last);
            newest.insert(id, stored);
        }
        for (id, stored) in newest {
            if let (Some(stream), Some(columns)) = (streams.get_mut(&id), last_columns(stored)) {
                stream.columns = columns;
            }
        }
        let replay = |record: Record| replay(&mut streams, &record);
        let (journal, torn) = Journal::open(&folder.join("log"), settings.group, told, replay)?;
        let repaired = Repaired { torn_bytes: torn + segments.torn_bytes, damaged_bytes: segments.damaged_bytes };
        // What came twice or never before this start was counted then.
        streams.values_mut().for_each(|stream| stream.losses = Losses::default());
        let streams = streams.into_iter().map(|(id, stream)| (id, Arc::new(Mutex::new(stream)))).collect();
        let (streams, segments) = (Mutex::new(streams), RwLock::new(segments));
        Ok(Self {
            settings,
            journal,
            streams,
            segments,
            rolled: RwLock::new(rolled),
            unpacked: Mutex::default(),
            pages: Cache::default(),
            repaired,
            sealing: Mutex::default(),
            ageing: Mutex::default(),
            _lock: lock,
        })
    }

    /// Takes a frame: checks it, makes it the latest, and hands it to the log.
    ///
    /// # Errors
    /// Why it was not taken. `Future` and `TooOld` frames are read, so that those behind them can
    /// be, but not kept.
    pub fn append(&self, id: StreamId, run: RunId, frame: &[u8], now: Timestamp) -> Result<Appended, Refused> {
        let header = Header::read(frame).map_err(Refused::Frame)?;
        let shared = self.stream(id);
        let mut stream = lock_stream(&shared);
        stream.admit(run, header)?;
        if !self.journal.has_room(RECORD_HEAD + frame.len()) {
            return Err(SeriesError::Stuck.into());
        }
        let class = match class(header.at, now, self.settings.kept) {
            Ok(class) => class,
            Err(refused) => {
                let position = self.write(&mut stream, id, run, frame, SEEN_ONLY)?.0;
                stream.pass_over(position);
                return Err(refused);
            }
        };
        let (position, change) = self.write(&mut stream, id, run, frame, 0)?;
        stream.keep(run, &change, position);
        Ok(Appended { position, class, change })
    }

    /// Makes a frame the latest and hands it to the log. Also one whose time is not believed: those
    /// behind it build on it, when the log is read again too.
    fn write(
        &self,
        stream: &mut Stream,
        id: StreamId,
        run: RunId,
        frame: &[u8],
        flag: u8,
    ) -> Result<(Position, Change), Refused> {
        let mark = stream.mark();
        let change = stream.apply(run, frame)?;
        let mut head = record_head(id, run);
        head[0] |= flag;
        let position = self.journal.append(&[&head, frame]).inspect_err(|_| {
            // It is not kept, so what follows must not build on it.
            stream.columns = Columns::default();
            if let (Some((known, last)), Some((run, before))) = (stream.runs.back_mut(), mark)
                && *known == run
            {
                *last = before;
            }
        })?;
        Ok((position, change))
    }

    /// The newest run of a stream and its last frame that was taken: where its agent goes on.
    pub fn mark(&self, id: StreamId) -> Option<(RunId, u64)> {
        lock_stream(self.known(id).as_ref()?).mark()
    }
    /// Where the last frame of a stream is in the log; 0 when it is in none.
    pub fn last_position(&self, id: StreamId) -> Position {
        self.known(id).map_or(0, |shared| lock_stream(&shared).last)
    }
    /// Up to where all is durable.
    pub fn durable(&self) -> Position {
        self.journal.durable()
    }
    /// Why the disk takes nothing, if so.
    pub fn failing(&self) -> Option<String> {
        self.journal.failing()
    }
    /// A copy of a stream's latest values.
    pub fn latest(&self, id: StreamId) -> Option<Columns> {
        Some(lock_stream(self.known(id).as_ref()?).columns.clone())
    }
    /// What a stream lost since the start.
    pub fn losses(&self, id: StreamId) -> Losses {
        self.known(id).map(|shared| lock_stream(&shared).losses).unwrap_or_default()
    }
    /// Every stream there is.
    pub fn streams(&self) -> Vec<StreamId> {
        self.all().keys().copied().collect()
    }
    /// What was mended at the opening.
    pub fn repaired(&self) -> Repaired {
        self.repaired
    }
    /// Bytes of all blocks, those of coarser steps among them.
    pub fn block_bytes(&self) -> u64 {
        let raw = self.segments.read().unwrap_or_else(PoisonError::into_inner).bytes();
        raw + self.rolled.read().unwrap_or_else(PoisonError::into_inner).bytes()
    }
    /// What is measured now, by name.
    pub fn kinds(&self) -> BTreeMap<String, MetricKind> {
        let mut kinds = BTreeMap::new();
        for shared in self.all().values() {
            let stream = lock_stream(shared);
            for series in stream.columns.series() {
                if !kinds.contains_key(&series.name) {
                    kinds.insert(series.name.clone(), series.kind);
                }
            }
        }
        kinds
    }

    /// Makes blocks of what is due, and lets the log forget what is in blocks. Blocks for the disk;
    /// call it every few seconds. With `all`, everything is due.
    ///
    /// # Errors
    /// `Os`. Nothing is lost then; the next call tries again.
    pub fn seal(&self, now: Timestamp, all: bool) -> Result<(), SeriesError> {
        let _alone = self.sealing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = Vec::new();
        for (id, shared) in self.all() {
            let mut stream = lock_stream(&shared);
            if stream.open.as_ref().is_some_and(|(head, _)| all || self.is_due(head, now)) {
                stream.close();
            }
            let heads: Vec<(Arc<Head>, Position)> = stream.closed.iter().cloned().collect();
            drop(stream);
            if !heads.is_empty() {
                due.push((id, shared, heads));
            }
        }
        for (id, shared, heads) in due {
            let sealed =
                heads.iter().map(|(head, first)| block::seal(id, head, *first)).collect::<std::io::Result<Vec<_>>>();
            let sealed = sealed.map_err(os("a block"))?;
            self.segments_mut().append(sealed)?;
            lock_stream(&shared).closed.drain(..heads.len());
        }
        let unsealed = self.all().values().filter_map(|shared| lock_stream(shared).unsealed_from()).min();
        self.journal.release(unsealed.map_or(self.journal.durable(), |first| first.saturating_sub(1)));
        Ok(())
    }

    fn is_due(&self, head: &Head, now: Timestamp) -> bool {
        let began = head.times.first().map_or(now, |at| Timestamp::from_micros(*at));
        head.times.len() >= self.settings.block_frames
            || now.since(began) >= self.settings.block_span
            || head.weight() >= self.settings.block_changes
    }

    /// A block's series, unpacked once for all blocks that have the same.
    pub(crate) fn dictionary_of(&self, stored: &Stored) -> Result<Arc<Dictionary>, SeriesError> {
        let mark = stored.meta.series_mark();
        let mut unpacked = self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dictionary) = unpacked.get(&mark) {
            return Ok(dictionary.clone());
        }
        let read = stored.meta.dictionary(stored).map_err(|_| SeriesError::Damaged(stored.file.path.clone()))?;
        let dictionary = Arc::new(read);
        if unpacked.len() >= SERIES_KEPT {
            unpacked.clear();
        }
        unpacked.insert(mark, dictionary.clone());
        Ok(dictionary)
    }

    pub(crate) fn all(&self) -> BTreeMap<StreamId, SharedStream> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    pub(crate) fn known(&self, id: StreamId) -> Option<SharedStream> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }
    fn stream(&self, id: StreamId) -> SharedStream {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default().clone()
    }
    fn segments_mut(&self) -> std::sync::RwLockWriteGuard<'_, Segments> {
        self.segments.write().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn lock_stream(shared: &SharedStream) -> MutexGuard<'_, Stream> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lock(path: PathBuf) -> Result<Flock<File>, SeriesError> {
    let file = File::options().write(true).create(true).truncate(false).open(&path).map_err(os(&path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => SeriesError::InUse(path),
        other => SeriesError::Os { path, source: other.into() },
    })
}

/// The values after a block's last frame; `None` when it is damaged: a key frame will be wanted.
fn last_columns(stored: &Stored) -> Option<Columns> {
    let dictionary = stored.meta.dictionary(stored).ok()?;
    let series = &dictionary.series;
    let wanted = vec![true; series.len()];
    let mut values = vec![None; series.len()];
    for (column, moments) in stored.meta.columns((stored, None), &dictionary, &wanted, block::frames).ok()? {
        values[column] = moments.last().copied().flatten();
    }
    let at = Timestamp::from_micros(stored.meta.to);
    let header = Header { sequence: stored.meta.last, at, key: true };
    Some(Columns::restore(series.clone(), values, header))
}

fn record_head(id: StreamId, run: RunId) -> [u8; RECORD_HEAD] {
    let mut head = [0; RECORD_HEAD];
    head[0] = match id.name {
        StreamName::Node => 1,
        StreamName::Vm => 2,
        StreamName::Ingest => 3,
    };
    head[1..17].copy_from_slice(id.host.uuid().as_bytes());
    head[17..].copy_from_slice(run.uuid().as_bytes());
    head
}

fn read_record(payload: &[u8]) -> Option<(StreamId, RunId, &[u8])> {
    let (head, frame) = payload.split_first_chunk::<RECORD_HEAD>()?;
    let name = match head[0] & !SEEN_ONLY {
        1 => StreamName::Node,
        2 => StreamName::Vm,
        3 => StreamName::Ingest,
        _ => return None,
    };
    let host = HostId::new(Uuid::from_slice(&head[1..17]).ok()?);
    Some((StreamId { host, name }, RunId::new(Uuid::from_slice(&head[17..]).ok()?), frame))
}

/// Takes a frame of the log again. One that is in a block already, or whose forerunner is gone with
/// a damaged file, is passed over.
fn replay(streams: &mut BTreeMap<StreamId, Stream>, record: &Record) {
    let Some((id, run, frame)) = read_record(&record.payload) else { return };
    let Ok(header) = Header::read(frame) else { return };
    let stream = streams.entry(id).or_default();
    if stream.admit(run, header).is_ok()
        && let Ok(change) = stream.apply(run, frame)
    {
        if record.payload[0] & SEEN_ONLY == 0 {
            stream.keep(run, &change, record.position);
        } else {
            stream.pass_over(record.position);
        }
    }
}
