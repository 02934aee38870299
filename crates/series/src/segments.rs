//! The files that blocks are kept in, one for each day: appended to, read by place, dropped whole.

use crate::block::{self, Body, Meta, PREFIX_BYTES, Sealed};
use crate::error::{SeriesError, os};
use perigee_model::Timestamp;
use perigee_model::frame::StreamId;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const DAY_MICROS: i64 = 86_400_000_000;
/// Read at once when looking for the next block behind a damaged one.
const SEARCH_BYTES: usize = 1 << 20;

/// One day's file. Reading goes on when it is dropped meanwhile.
pub struct DayFile {
    /// Where it is.
    pub path: PathBuf,
    file: File,
}

/// A block in a file.
#[derive(Clone)]
pub struct Stored {
    /// What is known of it.
    pub meta: Arc<Meta>,
    /// Where it is.
    pub file: Arc<DayFile>,
    body: u64,
}

impl Body for Stored {
    fn read_at(&self, into: &mut [u8], offset: u64) -> bool {
        self.file.file.read_exact_at(into, self.body + offset).is_ok()
    }
}

struct Day {
    file: Arc<DayFile>,
    bytes: u64,
    blocks: Vec<Stored>,
}

/// All files.
pub struct Segments {
    folder: PathBuf,
    days: BTreeMap<i64, Day>,
    /// Bytes that were found behind the last whole block of a file and cut off.
    pub torn_bytes: u64,
    /// Bytes between blocks that are no block any more.
    pub damaged_bytes: u64,
}

impl Segments {
    /// Reads prefixes and headers of all blocks; no body.
    ///
    /// # Errors
    /// `Os`.
    pub fn open(folder: &Path) -> Result<Self, SeriesError> {
        std::fs::create_dir_all(folder).map_err(os(folder))?;
        let mut segments = Self { folder: folder.to_owned(), days: BTreeMap::new(), torn_bytes: 0, damaged_bytes: 0 };
        for entry in std::fs::read_dir(folder).map_err(os(folder))? {
            let path = entry.map_err(os(folder))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".blocks"));
            if let Some(day) = name.and_then(|name| name.parse::<i64>().ok()) {
                let (day_file, torn, damaged) = Day::read(&path)?;
                segments.torn_bytes += torn;
                segments.damaged_bytes += damaged;
                segments.days.insert(day, day_file);
            }
        }
        Ok(segments)
    }

    /// Appends blocks and syncs them. On an error nothing of them is counted as there.
    ///
    /// # Errors
    /// `Os`, a full disk among it.
    pub fn append(&mut self, sealed: Vec<Sealed>) -> Result<(), SeriesError> {
        let mut before = BTreeMap::new();
        let done = self.write(sealed, &mut before);
        if done.is_err() {
            // What was written of them would be written again.
            for (day, (bytes, blocks)) in before {
                if let Some(day) = self.days.get_mut(&day) {
                    _ = day.file.file.set_len(bytes);
                    day.bytes = bytes;
                    day.blocks.truncate(blocks);
                }
            }
        }
        done
    }

    fn write(&mut self, sealed: Vec<Sealed>, before: &mut BTreeMap<i64, (u64, usize)>) -> Result<(), SeriesError> {
        for block in sealed {
            let day = block.meta.from.div_euclid(DAY_MICROS);
            if !self.days.contains_key(&day) {
                let path = self.folder.join(format!("{day}.blocks"));
                let made = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
                let file = Arc::new(DayFile { file: made.map_err(os(&path))?, path });
                self.days.insert(day, Day { file, bytes: 0, blocks: Vec::new() });
                File::open(&self.folder).and_then(|f| f.sync_all()).map_err(os(&self.folder))?;
            }
            if let Some(at) = self.days.get_mut(&day) {
                before.entry(day).or_insert((at.bytes, at.blocks.len()));
                at.append(block)?;
            }
        }
        for day in before.keys().filter_map(|day| self.days.get(day)) {
            day.file.file.sync_data().map_err(os(&day.file.path))?;
        }
        Ok(())
    }

    /// Blocks that touch a stretch of time, oldest file first, in the order of their writing.
    pub fn overlapping(&self, from: i64, to: i64) -> impl Iterator<Item = &Stored> {
        // A block begins on its file's day and may end on the next.
        let days = self.days.range(from.div_euclid(DAY_MICROS) - 1..=to.div_euclid(DAY_MICROS));
        days.flat_map(|(_, day)| &day.blocks).filter(move |block| block.meta.from <= to && block.meta.to >= from)
    }

    /// All blocks.
    pub fn all(&self) -> impl Iterator<Item = &Stored> {
        self.days.values().flat_map(|day| &day.blocks)
    }

    /// The block with the frames of a stream that were taken last.
    pub fn newest(&self, stream: StreamId) -> Option<&Stored> {
        let mine = self.all().filter(|block| block.meta.stream() == Some(stream));
        mine.max_by_key(|block| block.meta.position)
    }

    /// Drops files: those whose every block ended before `oldest`, then the oldest ones until all
    /// are within `bytes_max`. The newest file stays.
    pub fn drop_old(&mut self, oldest: Timestamp, bytes_max: u64) -> u64 {
        let mut dropped = 0;
        while self.days.len() > 1 {
            let sum: u64 = self.days.values().map(|day| day.bytes).sum();
            let Some((first, day)) = self.days.first_key_value() else { break };
            let aged = day.blocks.iter().all(|block| block.meta.to < oldest.micros());
            if !aged && sum <= bytes_max {
                break;
            }
            match std::fs::remove_file(&day.file.path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => break,
                Ok(()) | Err(_) => dropped += day.bytes,
            }
            let first = *first;
            self.days.remove(&first);
        }
        dropped
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.days.values().map(|day| day.bytes).sum()
    }
}

impl Day {
    /// Also gives the bytes that were cut off, and those that are damaged.
    fn read(path: &Path) -> Result<(Self, u64, u64), SeriesError> {
        let file = File::options().read(true).write(true).open(path).map_err(os(path))?;
        let end = file.metadata().map_err(os(path))?.len();
        let file = Arc::new(DayFile { file, path: path.to_owned() });
        let mut day = Self { file, bytes: 0, blocks: Vec::new() };
        let (mut damaged, mut torn) = (0, 0);
        while day.bytes < end {
            if let Some((next, stored)) = day.block_at(day.bytes, end)? {
                day.blocks.push(stored);
                day.bytes = next;
                continue;
            }
            // A write that was cut off has nothing behind it. Anything else is damage: its bytes stay
            // where they are, and what is behind it is read.
            match day.next_block(day.bytes + 1, end)? {
                Some(next) => {
                    damaged += next - day.bytes;
                    day.bytes = next;
                }
                None => {
                    torn = end - day.bytes;
                    day.file.file.set_len(day.bytes).map_err(os(path))?;
                    break;
                }
            }
        }
        Ok((day, torn, damaged))
    }

    /// The block that begins there, and where it ends; `None` where none does, or not all of one.
    fn block_at(&self, at: u64, end: u64) -> Result<Option<(u64, Stored)>, SeriesError> {
        let mut start = [0; PREFIX_BYTES];
        if at + PREFIX_BYTES as u64 > end {
            return Ok(None);
        }
        // What the disk cannot read now may be readable tomorrow: no reason to give it up.
        self.file.file.read_exact_at(&mut start, at).map_err(os(&self.file.path))?;
        let Some((header, body, crc)) = block::prefix(&start) else { return Ok(None) };
        let begin = at + (PREFIX_BYTES + header) as u64;
        let next = begin + body as u64;
        if next > end {
            return Ok(None);
        }
        let mut bytes = vec![0; header];
        self.file.file.read_exact_at(&mut bytes, at + PREFIX_BYTES as u64).map_err(os(&self.file.path))?;
        let stored = |meta| Stored { meta: Arc::new(meta), file: self.file.clone(), body: begin };
        Ok(block::header(&bytes, crc).map(|meta| (next, stored(meta))))
    }

    /// Where the next whole block begins, from there on.
    fn next_block(&self, from: u64, end: u64) -> Result<Option<u64>, SeriesError> {
        let mut at = from;
        let mut chunk = vec![0; SEARCH_BYTES];
        while at + (PREFIX_BYTES as u64) <= end {
            let length = usize::try_from(end - at).map_or(SEARCH_BYTES, |left| left.min(SEARCH_BYTES));
            self.file.file.read_exact_at(&mut chunk[..length], at).map_err(os(&self.file.path))?;
            for (place, window) in chunk[..length].windows(block::MAGIC.len()).enumerate() {
                if window == block::MAGIC && self.block_at(at + place as u64, end)?.is_some() {
                    return Ok(Some(at + place as u64));
                }
            }
            // Chunks overlap, so that no mark falls between two of them.
            at += (length + 1 - block::MAGIC.len()) as u64;
        }
        Ok(None)
    }

    fn append(&mut self, sealed: Sealed) -> Result<(), SeriesError> {
        self.file.file.write_all_at(&sealed.bytes, self.bytes).map_err(os(&self.file.path))?;
        let header = sealed.bytes.len() as u64 - sealed.meta.body_bytes();
        let body = self.bytes + header;
        self.bytes += sealed.bytes.len() as u64;
        self.blocks.push(Stored { meta: Arc::new(sealed.meta), file: self.file.clone(), body });
        Ok(())
    }
}
