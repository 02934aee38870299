//! The newest output of one stream of one execution.
//!
//! Owns: at most 1 MiB, the offset of its first byte, what a reader was handed, the counts.
//! Refuses: offsets it no longer keeps, and output beyond the limit (counted, then discarded).

use std::collections::VecDeque;

use bytes::BufMut;

use crate::protocol::{BACKLOG_BYTES_MAX, ErrorCode, GuestError, RING_BYTES};

/// See the module.
#[derive(Debug)]
pub struct Ring {
    bytes: VecDeque<u8>,
    /// Offset of the first byte kept.
    first: u64,
    /// Offset of the first byte the reader was not handed.
    handed: u64,
    written: u64,
    limit: u64,
}

impl Ring {
    /// Keeps nothing beyond `limit` bytes of the stream.
    pub fn new(limit: u64) -> Self {
        Self { bytes: VecDeque::new(), first: 0, handed: 0, written: 0, limit }
    }

    /// How much may be read from the process now.
    pub fn room(&self) -> usize {
        if self.end() >= self.limit {
            return BACKLOG_BYTES_MAX;
        }
        BACKLOG_BYTES_MAX.saturating_sub(self.waiting())
    }

    /// Output kept and not yet handed to a reader.
    pub fn waiting(&self) -> usize {
        usize::try_from(self.end() - self.handed).unwrap_or(usize::MAX)
    }

    /// Takes what the process wrote; the oldest bytes make room.
    pub fn append(&mut self, output: &[u8]) {
        self.written += output.len() as u64;
        let left = usize::try_from(self.limit - self.end()).unwrap_or(usize::MAX);
        self.bytes.extend(&output[..output.len().min(left)]);
        let surplus = self.bytes.len().saturating_sub(RING_BYTES);
        self.bytes.drain(..surplus);
        self.first += surplus as u64;
    }

    /// A reader wants everything from `offset` on.
    pub fn attach(&mut self, offset: u64) -> Result<(), GuestError> {
        self.check(offset)?;
        self.handed = offset;
        Ok(())
    }

    /// Whether a reader may attach at `offset`.
    pub fn check(&self, offset: u64) -> Result<(), GuestError> {
        if offset < self.first {
            let message = format!("output before byte {} is gone", self.first);
            return Err(GuestError::new(ErrorCode::OffsetGone, message));
        }
        if offset > self.end() {
            let message = format!("output ends at byte {}", self.end());
            return Err(GuestError::new(ErrorCode::Invalid, message));
        }
        Ok(())
    }

    /// Hands the reader up to `count` bytes.
    pub fn hand(&mut self, count: usize, to: &mut impl BufMut) {
        let skip = usize::try_from(self.handed - self.first).unwrap_or(usize::MAX);
        let count = count.min(self.waiting());
        let (front, back) = self.bytes.as_slices();
        let from_front = front.get(skip..).unwrap_or_default();
        let part = from_front.len().min(count);
        to.put_slice(&from_front[..part]);
        let from_back = &back[skip.saturating_sub(front.len())..];
        to.put_slice(&from_back[..count - part]);
        self.handed += count as u64;
    }

    /// Bytes the process wrote, the discarded ones included.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Whether some were discarded because of the limit.
    pub fn truncated(&self) -> bool {
        self.written > self.limit
    }

    fn end(&self) -> u64 {
        self.first + self.bytes.len() as u64
    }
}
