//! The frame log: every frame that was taken, in order, until it is in a block.
//!
//! Owns: one thread that writes and syncs in groups, and says up to where all is durable.
//! Refuses: more waiting bytes than a bound, when the disk does not take them.
//!
//! ```text
//! append ─▶ waiting ─thread: write, fdatasync─▶ durable ─told─▶ acknowledgement
//!                    └ full disk: cut back to the last whole record, tried again
//! record = length:4 crc:4 payload         file = <position of its first record>.log
//! ```

use crate::error::{SeriesError, os};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

const PREFIX_BYTES: usize = 8;
const PAYLOAD_BYTES_MAX: usize = (2 << 20) + 64;
/// A file that is larger is followed by a new one.
const FILE_BYTES: u64 = 8 << 20;
/// More than this never waits.
const WAITING_BYTES_MAX: usize = 32 << 20;
/// A disk that takes nothing is tried again after this.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// A place in the log: how many records came before, over all time.
pub type Position = u64;

/// Told how far all is durable.
pub type OnDurable = Box<dyn Fn(Position) + Send + Sync>;

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// Records appended so far, and those of them that are durable.
    appended: Position,
    durable: Position,
    failing: Option<String>,
    released: Position,
    stop: bool,
    syncs: u64,
    bytes: u64,
}

/// How far the log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Records over all time.
    pub appended: Position,
    /// Those of them that are durable.
    pub durable: Position,
    /// Bytes that wait for the next sync.
    pub waiting_bytes: usize,
    /// Syncs since the opening.
    pub syncs: u64,
    /// Bytes written since the opening.
    pub bytes: u64,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The log of one database.
pub struct Journal {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A record of the log.
pub struct Record {
    /// Its place, counted from 1.
    pub position: Position,
    /// What was appended.
    pub payload: Vec<u8>,
}

impl Journal {
    /// Reads what is there, giving each record to `take`, and goes on behind it. A record that was
    /// cut off or does not check ends its file. Gives how many bytes were dropped.
    ///
    /// # Errors
    /// `Os`.
    pub fn open(
        folder: &Path,
        group: Duration,
        told: OnDurable,
        mut take: impl FnMut(Record),
    ) -> Result<(Self, u64), SeriesError> {
        std::fs::create_dir_all(folder).map_err(os(folder))?;
        let mut appended = 0;
        let mut dropped = 0;
        for (first, path) in files(folder)? {
            // A hole: positions only tell order.
            appended = first.saturating_sub(1).max(appended);
            let mut bytes = Vec::new();
            let mut file = File::options().read(true).write(true).open(&path).map_err(os(&path))?;
            file.read_to_end(&mut bytes).map_err(os(&path))?;
            let mut at = 0;
            while let Some(payload) = record(&bytes[at..]) {
                at += PREFIX_BYTES + payload.len();
                appended += 1;
                take(Record { position: appended, payload: payload.to_vec() });
            }
            if at < bytes.len() {
                dropped += (bytes.len() - at) as u64;
                file.set_len(at as u64).map_err(os(&path))?;
            }
        }
        let state = State { appended, durable: appended, ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let writer = Writer { folder: folder.to_owned(), file: None, shared: shared.clone(), group, told };
        let thread = std::thread::Builder::new().name("frame-log".to_owned()).spawn(move || writer.run());
        let thread = Some(thread.map_err(os(folder))?);
        Ok((Self { shared, thread }, dropped))
    }

    /// Hands a record over; it is durable when its position is.
    ///
    /// # Errors
    /// `Stuck` when the disk has taken nothing for long.
    pub fn append(&self, parts: &[&[u8]]) -> Result<Position, SeriesError> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut crc = crc32fast::Hasher::new();
        parts.iter().for_each(|part| crc.update(part));
        let mut state = self.shared.lock();
        if state.waiting.len() + length > WAITING_BYTES_MAX {
            return Err(SeriesError::Stuck);
        }
        let first = state.waiting.is_empty();
        state.waiting.extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
        state.waiting.extend(crc.finalize().to_le_bytes());
        parts.iter().for_each(|part| state.waiting.extend(*part));
        state.appended += 1;
        let position = state.appended;
        drop(state);
        if first {
            self.shared.changed.notify_all();
        }
        Ok(position)
    }

    /// Whether a record of this length would be taken now.
    pub fn has_room(&self, length: usize) -> bool {
        self.shared.lock().waiting.len() + length <= WAITING_BYTES_MAX
    }
    /// Up to where all is durable.
    pub fn durable(&self) -> Position {
        self.shared.lock().durable
    }
    /// How far it is.
    pub fn progress(&self) -> Progress {
        let state = self.shared.lock();
        let State { appended, durable, syncs, bytes, .. } = *state;
        Progress { appended, durable, waiting_bytes: state.waiting.len(), syncs, bytes }
    }
    /// Why the disk takes nothing, if so.
    pub fn failing(&self) -> Option<String> {
        self.shared.lock().failing.clone()
    }
    /// Up to here records are in blocks: files that hold no others are removed.
    pub fn release(&self, position: Position) {
        let mut state = self.shared.lock();
        state.released = state.released.max(position);
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Writer {
    folder: PathBuf,
    file: Option<(File, u64)>,
    shared: Arc<Shared>,
    group: Duration,
    told: OnDurable,
}

impl Writer {
    fn run(mut self) {
        let mut cleaned = 0;
        loop {
            let (bytes, from, upto, released, stop) = self.next(cleaned);
            if !bytes.is_empty() {
                while let Err(error) = self.write(&bytes, from) {
                    let mut state = self.shared.lock();
                    state.failing = Some(error.to_string());
                    if state.stop {
                        return;
                    }
                    drop(self.shared.changed.wait_timeout(state, AGAIN_AFTER));
                }
                let mut state = self.shared.lock();
                state.durable = upto;
                state.syncs += 1;
                state.bytes += bytes.len() as u64;
                state.failing = None;
                drop(state);
                (self.told)(upto);
            }
            if released > cleaned {
                cleaned = released;
                self.clean(released);
            }
            if stop {
                return;
            }
        }
    }

    /// Waits for something to do, then a little more, so that one sync serves many.
    fn next(&self, cleaned: Position) -> (Vec<u8>, Position, Position, Position, bool) {
        let idle = |state: &mut State| state.waiting.is_empty() && state.released <= cleaned && !state.stop;
        let waited = self.shared.changed.wait_while(self.shared.lock(), idle);
        let state = waited.unwrap_or_else(PoisonError::into_inner);
        let together = |state: &mut State| !state.stop;
        let waited = self.shared.changed.wait_timeout_while(state, self.group, together);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let bytes = std::mem::take(&mut state.waiting);
        (bytes, state.durable + 1, state.appended, state.released, state.stop)
    }

    fn write(&mut self, bytes: &[u8], first: Position) -> std::io::Result<()> {
        if self.file.as_ref().is_none_or(|(_, length)| *length > FILE_BYTES) {
            let path = self.folder.join(format!("{first:016x}.log"));
            let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            File::open(&self.folder)?.sync_all()?;
            self.file = Some((file, 0));
        }
        let Some((file, length)) = &mut self.file else { return Ok(()) };
        let written = file.write_all_at(bytes, *length).and_then(|()| file.sync_data());
        if let Err(error) = written {
            // What is half there would be taken for the end of the file.
            _ = file.set_len(*length);
            return Err(error);
        }
        *length += bytes.len() as u64;
        Ok(())
    }

    fn clean(&self, released: Position) {
        let Ok(files) = files(&self.folder) else { return };
        for pair in files.windows(2) {
            // All of a file's records come before the next file's first.
            if pair[1].0 <= released + 1 {
                _ = std::fs::remove_file(&pair[0].1);
            }
        }
    }
}

fn files(folder: &Path) -> Result<Vec<(Position, PathBuf)>, SeriesError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(os(folder))? {
        let path = entry.map_err(os(folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".log"));
        if let Some(first) = name.and_then(|name| u64::from_str_radix(name, 16).ok()) {
            files.push((first, path));
        }
    }
    files.sort();
    Ok(files)
}

/// The payload of the record at the beginning, if a whole one is there.
fn record(bytes: &[u8]) -> Option<&[u8]> {
    let (prefix, rest) = bytes.split_first_chunk::<PREFIX_BYTES>()?;
    let number = |part: &[u8]| part.iter().rev().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte));
    let length = number(&prefix[..4]) as usize;
    let payload = rest.get(..length).filter(|_| length <= PAYLOAD_BYTES_MAX)?;
    (crc32fast::hash(payload) == number(&prefix[4..])).then_some(payload)
}
