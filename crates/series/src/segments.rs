//! The files that blocks are kept in, one for each day: appended to, read by place, dropped whole.

use crate::block::{self, Body, Meta, PREFIX_BYTES, Sealed};
use crate::cache::Key;
use crate::error::{SeriesError, os};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A UTC day.
pub const DAY_MICROS: i64 = 86_400_000_000;
/// How a file ends that is being made as a whole.
const UNFINISHED: &str = "new";
/// Read at once when looking for the next block behind a damaged one.
const SEARCH_BYTES: usize = 1 << 20;

/// One day's file. Reading goes on when it is dropped meanwhile.
pub struct DayFile {
    /// Where it is.
    pub path: PathBuf,
    file: File,
    /// No other file has it, as long as this process lives.
    number: u64,
}

impl DayFile {
    fn new(path: PathBuf, file: File) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Arc::new(Self { path, file, number: NEXT.fetch_add(1, Ordering::Relaxed) })
    }
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
    fn key(&self, offset: u64) -> Key {
        (self.file.number, self.body + offset, None)
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
            if path.extension().is_some_and(|extension| extension == UNFINISHED) {
                std::fs::remove_file(&path).map_err(os(&path))?;
                continue;
            }
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
                let file = made.map_err(os(&path))?;
                let file = DayFile::new(path, file);
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

    /// Its days, counted from 1970, oldest first.
    pub fn days(&self) -> impl DoubleEndedIterator<Item = i64> {
        self.days.keys().copied()
    }

    /// The oldest day, when its newest block ended, and whether it is the only one.
    pub fn oldest(&self) -> Option<(i64, i64, bool)> {
        let (number, day) = self.days.first_key_value()?;
        let newest = day.blocks.iter().map(|block| block.meta.to).max().unwrap_or(i64::MIN);
        Some((*number, newest, self.days.len() == 1))
    }

    /// Bytes of a day's file; 0 where there is none.
    pub fn day_bytes(&self, day: i64) -> u64 {
        self.days.get(&day).map_or(0, |day| day.bytes)
    }

    /// A day's blocks, in the order of their writing; `None` where it has no file.
    pub fn blocks_of(&self, day: i64) -> Option<&[Stored]> {
        self.days.get(&day).map(|day| day.blocks.as_slice())
    }

    /// Removes a day's file; its bytes.
    ///
    /// # Errors
    /// `Os`. The day stays.
    pub fn drop_day(&mut self, day: i64) -> Result<u64, SeriesError> {
        let Some(found) = self.days.get(&day) else { return Ok(0) };
        let path = &found.file.path;
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(os(path)(error)),
            Ok(()) | Err(_) => {}
        }
        Ok(self.days.remove(&day).map_or(0, |day| day.bytes))
    }

    /// Begins a day's file that takes the place of the one there is, when it is whole.
    ///
    /// # Errors
    /// `Os`.
    pub fn replacement(&self, day: i64) -> Result<Replacement, SeriesError> {
        let path = self.folder.join(format!("{day}.blocks"));
        let unfinished = path.with_extension(UNFINISHED);
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&unfinished);
        let file = file.map_err(os(&unfinished))?;
        Ok(Replacement { day, path, unfinished, file, done: false })
    }

    /// Takes a finished one.
    pub fn replace(&mut self, finished: Finished) {
        self.days.insert(finished.day, finished.contents);
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.days.values().map(|day| day.bytes).sum()
    }
}

/// A day's file in the making. Dropped unfinished, it is removed.
pub struct Replacement {
    day: i64,
    path: PathBuf,
    unfinished: PathBuf,
    file: File,
    done: bool,
}

/// A day's file that was made whole and is in its place.
pub struct Finished {
    day: i64,
    contents: Day,
}

impl Replacement {
    /// Appends a block.
    ///
    /// # Errors
    /// `Os`, a full disk among it.
    pub fn append(&mut self, sealed: &Sealed) -> Result<(), SeriesError> {
        self.file.write_all(&sealed.bytes).map_err(os(&self.unfinished))
    }

    /// Syncs it and puts it in its place.
    ///
    /// # Errors
    /// `Os`.
    pub fn finish(mut self) -> Result<Finished, SeriesError> {
        self.file.sync_all().map_err(os(&self.unfinished))?;
        std::fs::rename(&self.unfinished, &self.path).map_err(os(&self.path))?;
        self.done = true;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(os(folder))?;
        let (contents, _, _) = Day::read(&self.path)?;
        Ok(Finished { day: self.day, contents })
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.done {
            _ = std::fs::remove_file(&self.unfinished);
        }
    }
}

impl Day {
    /// Also gives the bytes that were cut off, and those that are damaged.
    fn read(path: &Path) -> Result<(Self, u64, u64), SeriesError> {
        let file = File::options().read(true).write(true).open(path).map_err(os(path))?;
        let end = file.metadata().map_err(os(path))?.len();
        let file = DayFile::new(path.to_owned(), file);
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
