//! Frames that are not durable at the control plane yet.
//!
//! Owns: segment files, their cap, and the count of what was lost to it. Refuses: losing a frame
//! that was written to a process's end; to a power cut it may lose the last second.
//!
//! ```text
//! segment = record*     record = length:u32 run:16 frame      (little endian; the frame checks itself)
//! append ─▶ last segment ─1 MiB, key frame─▶ next one    release ─▶ segments before are removed
//! over the cap ─▶ the oldest segment is lost             disk full ─▶ segments in memory, a few
//! ```

use perigee_agent_api::Mark;
use perigee_model::RunId;
use perigee_model::frame::Header;
use std::collections::VecDeque;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use uuid::Uuid;

const LENGTH_BYTES: usize = 4;
const RUN_BYTES: usize = 16;
const HEAD_BYTES: usize = LENGTH_BYTES + RUN_BYTES;
/// The longest record that is believed.
const RECORD_BYTES_MAX: usize = perigee_model::limits::FRAME_BYTES_MAX + HEAD_BYTES;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// A segment that is larger is followed by a new one at the next key frame.
    pub segment_bytes: u64,
    /// On disk altogether.
    pub disk_bytes: u64,
    /// In memory while the disk takes nothing.
    pub memory_bytes: u64,
}

impl Default for Caps {
    fn default() -> Self {
        Self { segment_bytes: 1 << 20, disk_bytes: 64 << 20, memory_bytes: 4 << 20 }
    }
}

/// A frame on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in the spool.
    pub position: u64,
    /// Who measured it.
    pub run: RunId,
    /// The frame's own beginning.
    pub header: Header,
    /// The frame.
    pub frame: Vec<u8>,
}

/// Where a reader is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    position: u64,
    /// The first place of the segment that it is in, and where in it.
    segment: u64,
    offset: u64,
}

enum Body {
    Disk(File, PathBuf),
    Memory(Vec<u8>),
}

struct Segment {
    first: u64,
    count: u64,
    bytes: u64,
    body: Body,
}

struct Inner {
    segments: VecDeque<Segment>,
    next: u64,
    released: u64,
    synced: u64,
    lost: u64,
    full: bool,
}

/// The spool of one stream.
pub struct FrameSpool {
    /// Without one everything is in memory.
    folder: Option<PathBuf>,
    caps: Caps,
    inner: Mutex<Inner>,
    /// Something was appended.
    pub appended: Notify,
}

impl FrameSpool {
    /// Opens or makes it. A record that was cut off by a crash is dropped.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(folder: PathBuf, caps: Caps) -> std::io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let mut firsts: Vec<u64> = Vec::new();
        for entry in std::fs::read_dir(&folder)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".frames"));
            firsts.extend(number.and_then(|number| u64::from_str_radix(number, 16).ok()));
        }
        firsts.sort_unstable();
        let mut segments = VecDeque::new();
        let mut next = 1;
        for first in firsts {
            let path = path_of(&folder, first);
            let file = std::fs::OpenOptions::new().read(true).write(true).open(&path)?;
            let (count, bytes) = scan(&file)?;
            file.set_len(bytes)?;
            next = first + count;
            if count == 0 {
                std::fs::remove_file(&path)?;
            } else {
                segments.push_back(Segment { first, count, bytes, body: Body::Disk(file, path) });
            }
        }
        let inner = Inner { segments, next, released: 0, synced: next - 1, lost: 0, full: false };
        Ok(Self { folder: Some(folder), caps, inner: Mutex::new(inner), appended: Notify::new() })
    }

    /// One that lives no longer than this process: for hosts that are played.
    pub fn in_memory(caps: Caps) -> Self {
        let inner = Inner { segments: VecDeque::new(), next: 1, released: 0, synced: 0, lost: 0, full: false };
        Self { folder: None, caps, inner: Mutex::new(inner), appended: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next frame should be a key frame: a new segment is due.
    pub fn is_key_due(&self) -> bool {
        let inner = self.lock();
        inner.segments.back().is_none_or(|last| last.bytes >= self.segment_bytes(last))
    }

    fn segment_bytes(&self, segment: &Segment) -> u64 {
        match segment.body {
            Body::Disk(..) => self.caps.segment_bytes,
            // Short ones, so that the disk is tried again soon.
            Body::Memory(_) => self.caps.segment_bytes.min(self.caps.memory_bytes / 4),
        }
    }

    /// Writes a frame down; never fails. What finds no room anywhere is counted as lost.
    pub fn append(&self, run: RunId, frame: &[u8], key: bool) {
        let length = u32::try_from(RUN_BYTES + frame.len()).unwrap_or(u32::MAX);
        let mut record = Vec::with_capacity(HEAD_BYTES + frame.len());
        record.extend(length.to_le_bytes());
        record.extend(run.uuid().as_bytes());
        record.extend(frame);
        let mut inner = self.lock();
        let due = inner.segments.back().is_none_or(|last| last.bytes >= self.segment_bytes(last));
        if key && due {
            self.begin_segment(&mut inner);
        }
        if !inner.write(&record) {
            self.begin_segment(&mut inner);
            let written = inner.write(&record);
            if !written {
                self.begin_in_memory(&mut inner);
                inner.write(&record);
            }
        }
        self.keep_caps(&mut inner);
        drop(inner);
        self.appended.notify_one();
    }

    fn begin_segment(&self, inner: &mut Inner) {
        let Some(folder) = &self.folder else { return inner.push(Body::Memory(Vec::new())) };
        let path = path_of(folder, inner.next);
        let file =
            std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path);
        match file {
            Ok(file) => {
                inner.full = false;
                inner.push(Body::Disk(file, path));
            }
            Err(_) => self.begin_in_memory(inner),
        }
    }

    fn begin_in_memory(&self, inner: &mut Inner) {
        inner.full = true;
        // A file that was made but took nothing.
        if inner.segments.back().is_some_and(|last| last.count == 0) {
            inner.drop_last();
        }
        inner.push(Body::Memory(Vec::new()));
    }

    fn keep_caps(&self, inner: &mut Inner) {
        loop {
            let sum = |disk: bool| {
                let same = |s: &&Segment| matches!(s.body, Body::Disk(..)) == disk;
                inner.segments.iter().filter(same).map(|s| s.bytes).sum::<u64>()
            };
            let (disk, memory) = (sum(true) > self.caps.disk_bytes, sum(false) > self.caps.memory_bytes);
            if inner.segments.len() < 2 || !(disk || memory) {
                return;
            }
            inner.drop_first();
        }
    }

    /// The place behind a mark; the oldest frame when the mark is not here.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn behind(&self, mark: Option<Mark>) -> std::io::Result<Cursor> {
        let mut cursor = Cursor::default();
        let Some(mark) = mark else { return Ok(cursor) };
        let start = cursor;
        loop {
            let records = self.read(&mut cursor, 64)?;
            if records.is_empty() {
                return Ok(start);
            }
            if let Some(found) = records.iter().find(|r| r.run == mark.run && r.header.sequence == mark.sequence) {
                // Read again up to it: offsets are known only along the way.
                let mut exact = start;
                while exact.position <= found.position {
                    self.read(&mut exact, 1)?;
                }
                return Ok(exact);
            }
        }
    }

    /// Up to `most` frames from the cursor on, which moves behind them. Lost ones are jumped over.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn read(&self, cursor: &mut Cursor, most: usize) -> std::io::Result<Vec<Record>> {
        let inner = self.lock();
        let mut records = Vec::new();
        for segment in &inner.segments {
            if cursor.position >= segment.first + segment.count {
                continue;
            }
            if cursor.segment != segment.first {
                *cursor = Cursor { position: segment.first, segment: segment.first, offset: 0 };
            }
            while records.len() < most && cursor.position < segment.first + segment.count {
                let (run, frame) = segment.record(cursor.offset)?;
                let position = cursor.position;
                cursor.position += 1;
                cursor.offset += (HEAD_BYTES + frame.len()) as u64;
                // One that does not check was damaged on this disk: it cannot be sent.
                if let Ok(header) = Header::read(&frame) {
                    records.push(Record { position, run, header, frame });
                }
            }
            if records.len() >= most {
                break;
            }
        }
        Ok(records)
    }

    /// These and all before are durable elsewhere.
    pub fn release(&self, position: u64) {
        let mut inner = self.lock();
        inner.released = inner.released.max(position);
        while inner.segments.len() > 1
            && inner.segments.front().is_some_and(|s| s.first + s.count - 1 <= inner.released)
        {
            inner.drop_first();
        }
    }

    /// Something is neither durable elsewhere nor on this disk.
    pub fn is_sync_due(&self) -> bool {
        let inner = self.lock();
        let on_disk = inner.segments.back().is_some_and(|last| matches!(last.body, Body::Disk(..)));
        on_disk && inner.next - 1 > inner.synced.max(inner.released)
    }

    /// Syncs what is neither durable elsewhere nor here. Blocks for the disk.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn sync(&self) -> std::io::Result<()> {
        let (file, upto) = {
            let inner = self.lock();
            let upto = inner.next - 1;
            if upto <= inner.synced.max(inner.released) {
                return Ok(());
            }
            match inner.segments.back().map(|last| &last.body) {
                Some(Body::Disk(file, _)) => (file.try_clone()?, upto),
                Some(Body::Memory(_)) | None => return Ok(()),
            }
        };
        file.sync_data()?;
        let mut inner = self.lock();
        inner.synced = inner.synced.max(upto);
        Ok(())
    }

    /// Frames lost to the cap since this agent started.
    pub fn lost(&self) -> u64 {
        self.lock().lost
    }
    /// Frames that wait.
    pub fn waiting(&self) -> u64 {
        let inner = self.lock();
        let oldest = inner.segments.front().map_or(inner.next, |first| first.first);
        inner.next - oldest.max(inner.released + 1).min(inner.next)
    }
    /// The disk takes nothing.
    pub fn is_full(&self) -> bool {
        self.lock().full
    }
}

impl Inner {
    fn push(&mut self, body: Body) {
        self.segments.push_back(Segment { first: self.next, count: 0, bytes: 0, body });
    }

    /// `false` when the last segment took nothing.
    fn write(&mut self, record: &[u8]) -> bool {
        let Some(last) = self.segments.back_mut() else { return false };
        match &mut last.body {
            Body::Memory(bytes) => bytes.extend(record),
            Body::Disk(file, _) => {
                if file.write_all_at(record, last.bytes).is_err() {
                    // Half a record would be read as one.
                    _ = file.set_len(last.bytes);
                    return false;
                }
            }
        }
        last.bytes += record.len() as u64;
        last.count += 1;
        self.next += 1;
        true
    }

    fn drop_first(&mut self) {
        let Some(segment) = self.segments.pop_front() else { return };
        let last = segment.first + segment.count;
        self.lost += last - segment.first.max(self.released + 1).min(last);
        segment.remove();
    }

    fn drop_last(&mut self) {
        if let Some(segment) = self.segments.pop_back() {
            segment.remove();
        }
    }
}

impl Segment {
    fn remove(self) {
        if let Body::Disk(_, path) = self.body {
            _ = std::fs::remove_file(path);
        }
    }

    fn record(&self, offset: u64) -> std::io::Result<(RunId, Vec<u8>)> {
        let mut head = [0; HEAD_BYTES];
        self.read_at(&mut head, offset)?;
        let (length, run) = split_head(&head);
        let mut frame = vec![0; length.checked_sub(RUN_BYTES).ok_or(ErrorKind::InvalidData)?];
        self.read_at(&mut frame, offset + HEAD_BYTES as u64)?;
        Ok((run, frame))
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> std::io::Result<()> {
        match &self.body {
            Body::Disk(file, _) => file.read_exact_at(into, offset),
            Body::Memory(bytes) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX);
                let there = bytes.get(from..).and_then(|rest| rest.get(..into.len()));
                into.copy_from_slice(there.ok_or(ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }
}

fn split_head(head: &[u8; HEAD_BYTES]) -> (usize, RunId) {
    let (length, run) = head.split_at(LENGTH_BYTES);
    let length = length.iter().rev().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte));
    let run = run.iter().fold(0u128, |sum, byte| sum << 8 | u128::from(*byte));
    (length, RunId::new(Uuid::from_u128(run)))
}

/// Whole records and their bytes.
fn scan(file: &File) -> std::io::Result<(u64, u64)> {
    let end = file.metadata()?.len();
    let (mut count, mut offset) = (0, 0);
    let mut head = [0; HEAD_BYTES];
    while offset + HEAD_BYTES as u64 <= end {
        file.read_exact_at(&mut head, offset)?;
        let (length, _) = split_head(&head);
        let next = offset + (LENGTH_BYTES + length) as u64;
        if !(RUN_BYTES..=RECORD_BYTES_MAX).contains(&length) || next > end {
            break;
        }
        (count, offset) = (count + 1, next);
    }
    Ok((count, offset))
}

fn path_of(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:016x}.frames"))
}

#[cfg(test)]
mod tests;
