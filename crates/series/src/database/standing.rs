//! How the store stands, in numbers, for whoever watches the watcher.

use super::{Database, lock_stream};
use crate::journal::Progress;
use crate::rollup::Resolution;
use crate::stream::Losses;
use std::sync::PoisonError;

/// Counted since the start, but for what is there now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Streams that are known.
    pub streams: usize,
    /// Series that were in the newest frame of their stream.
    pub series: usize,
    /// Frames that never came, came twice, or were refused, of all streams.
    pub losses: Losses,
    /// The log.
    pub log: Progress,
    /// Blocks of what was measured, on disk.
    pub blocks: usize,
    /// Bytes of them.
    pub block_bytes: u64,
    /// Bytes of their minutes.
    pub minute_bytes: u64,
    /// Bytes of their hours.
    pub hour_bytes: u64,
}

impl Database {
    /// How it stands. Looks at every stream.
    pub fn standing(&self) -> Standing {
        let mut standing = Standing { log: self.journal.progress(), ..Standing::default() };
        for shared in self.all().values() {
            let stream = lock_stream(shared);
            standing.streams += 1;
            standing.series += stream.columns.series().len();
            standing.losses.lost = standing.losses.lost.saturating_add(stream.losses.lost);
            standing.losses.duplicates += stream.losses.duplicates;
            standing.losses.refused += stream.losses.refused;
        }
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        standing.blocks = segments.all().count();
        standing.block_bytes = segments.bytes();
        let rolled = self.rolled.read().unwrap_or_else(PoisonError::into_inner);
        standing.minute_bytes = rolled.of(Resolution::Minute).bytes();
        standing.hour_bytes = rolled.of(Resolution::Hour).bytes();
        standing
    }
}
