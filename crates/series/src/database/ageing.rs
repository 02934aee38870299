//! What is old becomes coarser, and then goes.
//!
//! ```text
//! a day's file ──when the day is over──▶ its minutes ──▶ its hours
//!      │ 30 days                              │ 90 days      │ 2 years      dropped by days
//! ```
//! A day's coarser steps are made from its blocks alone, as a whole, in a file beside it that takes
//! its place when it is synced: a crash leaves the old one or the new one. Blocks that come late make
//! the file grow; then its coarser steps are made again. Each block of coarser steps says how many
//! bytes of blocks it was made from.

use super::Database;
use crate::block::{self, Draft, FAMILY_COUNT, family};
use crate::error::{SeriesError, os};
use crate::rollup::{self, Point, Resolution};
use crate::segments::{DAY_MICROS, Finished, Replacement, Segments, Stored};
use perigee_model::frame::{Series, StreamId};
use perigee_model::{RunId, Timestamp};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use uuid::Uuid;

/// Series that are made coarser at once: what bounds the memory it takes.
const SERIES_AT_ONCE: usize = 1024;
/// A day is over when nothing of it is to be expected: hosts send within seconds, heads become
/// blocks within half an hour.
const OVER_AFTER: Duration = Duration::from_secs(45 * 60);

/// Minutes and hours on disk.
pub(crate) struct Rolled {
    minutes: Segments,
    hours: Segments,
}

/// What an ageing did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aged {
    /// Days whose coarser steps were made.
    pub days: u64,
    /// Bytes of files that were dropped.
    pub dropped_bytes: u64,
    /// Blocks that could not be read, and are in no coarser steps therefore.
    pub damaged_blocks: u64,
}

impl Rolled {
    pub fn open(folder: &Path) -> Result<Self, SeriesError> {
        let open = |resolution: Resolution| Segments::open(&folder.join(resolution.folder()));
        Ok(Self { minutes: open(Resolution::Minute)?, hours: open(Resolution::Hour)? })
    }
    pub fn of(&self, resolution: Resolution) -> &Segments {
        match resolution {
            Resolution::Minute => &self.minutes,
            Resolution::Hour => &self.hours,
        }
    }
    fn of_mut(&mut self, resolution: Resolution) -> &mut Segments {
        match resolution {
            Resolution::Minute => &mut self.minutes,
            Resolution::Hour => &mut self.hours,
        }
    }
    pub fn bytes(&self) -> u64 {
        self.minutes.bytes() + self.hours.bytes()
    }
    /// Whether a day's steps were made from all of its blocks that there are.
    pub fn is_current(&self, raw: &Segments, resolution: Resolution, day: i64) -> bool {
        let Some(blocks) = self.of(resolution).blocks_of(day) else { return false };
        blocks.iter().all(|stored| stored.meta.position >= source_bytes(raw, day))
    }
}

/// A day's frames are in its own file and, of a block begun before midnight, in the one before.
fn source_bytes(raw: &Segments, day: i64) -> u64 {
    raw.day_bytes(day - 1) + raw.day_bytes(day)
}

impl Database {
    /// Makes the minutes and hours of days that are over, then drops what is older than it is kept,
    /// or more than there is room for. Blocks for as long as that takes; call it every minute or so.
    /// `is_over` is asked now and then whether to stop.
    ///
    /// # Errors
    /// `Os`, a full disk among it. Nothing is lost then; the next call tries again. What is too much
    /// was dropped nevertheless, so that room comes.
    pub fn age(&self, now: Timestamp, is_over: &dyn Fn() -> bool) -> Result<Aged, SeriesError> {
        let _alone = self.ageing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut aged = Aged::default();
        let rolled = self.roll_up(now, is_over, &mut aged);
        let dropped = self.drop_old(now, &mut aged);
        rolled.and(dropped).map(|()| aged)
    }

    fn roll_up(&self, now: Timestamp, is_over: &dyn Fn() -> bool, aged: &mut Aged) -> Result<(), SeriesError> {
        for day in self.days_to_roll(now) {
            if is_over() {
                return Ok(());
            }
            if let Some(finished) = self.roll_day(day, is_over, aged)? {
                let mut rolled = self.rolled.write().unwrap_or_else(PoisonError::into_inner);
                for (resolution, finished) in finished {
                    rolled.of_mut(resolution).replace(finished);
                }
                aged.days += 1;
            }
        }
        Ok(())
    }

    fn days_to_roll(&self, now: Timestamp) -> Vec<i64> {
        let raw = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let rolled = self.rolled.read().unwrap_or_else(PoisonError::into_inner);
        let over = |day: &i64| (day + 1) * DAY_MICROS <= (now - OVER_AFTER).micros();
        let lacks = |day: &i64| Resolution::ALL.iter().any(|coarse| !rolled.is_current(&raw, *coarse, *day));
        raw.days().filter(over).filter(lacks).collect()
    }

    /// `None` when it was stopped, or when the day has nothing that can be read.
    fn roll_day(
        &self,
        day: i64,
        is_over: &dyn Fn() -> bool,
        aged: &mut Aged,
    ) -> Result<Option<Vec<(Resolution, Finished)>>, SeriesError> {
        let (from, to) = (day * DAY_MICROS, (day + 1) * DAY_MICROS - 1);
        let mut streams: BTreeMap<StreamId, Vec<Stored>> = BTreeMap::new();
        let source = {
            let raw = self.segments.read().unwrap_or_else(PoisonError::into_inner);
            for stored in raw.overlapping(from, to) {
                let Some(id) = stored.meta.stream() else { continue };
                streams.entry(id).or_default().push(stored.clone());
            }
            source_bytes(&raw, day)
        };
        let mut files = Vec::new();
        for resolution in Resolution::ALL {
            let rolled = self.rolled.read().unwrap_or_else(PoisonError::into_inner);
            files.push((resolution, rolled.of(resolution).replacement(day)?));
        }
        for (id, blocks) in streams {
            let mut source = Source { database: self, id, source, day: (from, to), blocks, aged: &mut *aged };
            if !source.roll(&mut files, is_over)? {
                return Ok(None);
            }
        }
        let finish = |(resolution, file): (Resolution, Replacement)| Ok((resolution, file.finish()?));
        files.into_iter().map(finish).collect::<Result<_, _>>().map(Some)
    }

    /// Days that are too old go when their coarser steps are made; those that are too much go at
    /// once, what was measured before the minutes and the minutes before the hours. The newest day
    /// stays.
    fn drop_old(&self, now: Timestamp, aged: &mut Aged) -> Result<(), SeriesError> {
        let mut raw = self.segments_mut();
        let mut rolled = self.rolled.write().unwrap_or_else(PoisonError::into_inner);
        let too_much = |raw: &Segments, rolled: &Rolled| raw.bytes() + rolled.bytes() > self.settings.bytes_max;
        while let Some((day, newest, false)) = raw.oldest() {
            let done = Resolution::ALL.iter().all(|coarse| rolled.is_current(&raw, *coarse, day));
            let old = done && newest < (now - self.settings.kept).micros();
            if !old && !too_much(&raw, &rolled) {
                break;
            }
            aged.dropped_bytes += raw.drop_day(day)?;
        }
        let kept = [(Resolution::Minute, self.settings.minutes_kept), (Resolution::Hour, self.settings.hours_kept)];
        for (resolution, kept) in kept {
            while let Some((day, newest, alone)) = rolled.of(resolution).oldest() {
                let old = newest < (now - kept).micros();
                if !old && (alone || !too_much(&raw, &rolled)) {
                    break;
                }
                aged.dropped_bytes += rolled.of_mut(resolution).drop_day(day)?;
            }
        }
        Ok(())
    }
}

/// One stream's blocks of one day.
struct Source<'a> {
    database: &'a Database,
    id: StreamId,
    /// Bytes of all streams' blocks of the day.
    source: u64,
    /// Its first microsecond and its last.
    day: (i64, i64),
    blocks: Vec<Stored>,
    aged: &'a mut Aged,
}

/// A block whose times were read.
struct Readable {
    stored: Stored,
    dictionary: Arc<block::Dictionary>,
    times: Vec<i64>,
}

impl Source<'_> {
    /// Appends its minutes and hours to the files; `false` when it was stopped.
    fn roll(
        &mut self,
        files: &mut [(Resolution, Replacement)],
        is_over: &dyn Fn() -> bool,
    ) -> Result<bool, SeriesError> {
        let blocks = self.readable();
        let mut families: Vec<BTreeSet<Arc<Series>>> = vec![BTreeSet::new(); FAMILY_COUNT];
        for series in blocks.iter().flat_map(|block| &block.dictionary.series) {
            families[family(&series.name)].insert(series.clone());
        }
        for family in families {
            let series: Vec<Arc<Series>> = family.into_iter().collect();
            for chunk in series.chunks(SERIES_AT_ONCE) {
                if is_over() {
                    return Ok(false);
                }
                self.roll_chunk(&blocks, chunk, files)?;
            }
        }
        Ok(true)
    }

    fn readable(&mut self) -> Vec<Readable> {
        let mut blocks = Vec::new();
        for stored in std::mem::take(&mut self.blocks) {
            match (self.database.dictionary_of(&stored), stored.meta.times(&stored)) {
                (Ok(dictionary), Ok(times)) => blocks.push(Readable { stored, dictionary, times }),
                (Err(_), _) | (_, Err(_)) => self.aged.damaged_blocks += 1,
            }
        }
        blocks.sort_by_key(|block| block.stored.meta.from);
        blocks
    }

    fn roll_chunk(
        &mut self,
        blocks: &[Readable],
        chunk: &[Arc<Series>],
        files: &mut [(Resolution, Replacement)],
    ) -> Result<(), SeriesError> {
        let places: HashMap<&Arc<Series>, usize> = chunk.iter().enumerate().map(|(at, series)| (series, at)).collect();
        let mut minutes: Vec<Vec<Point>> = vec![Vec::new(); chunk.len()];
        for Readable { stored, dictionary, times } in blocks {
            let wanted: Vec<bool> = dictionary.series.iter().map(|series| places.contains_key(series)).collect();
            let Ok(columns) = stored.meta.columns((stored, None), dictionary, &wanted, block::frames) else {
                self.aged.damaged_blocks += 1;
                continue;
            };
            // Of a block that reaches over midnight only this day's part.
            let first = times.partition_point(|at| *at < self.day.0);
            let end = times.partition_point(|at| *at <= self.day.1);
            for (column, values) in columns {
                let series = &dictionary.series[column];
                let (times, values) = (&times[first..end], &values[first..end]);
                rollup::add(&mut minutes[places[series]], series.form, Resolution::Minute, times, values);
            }
        }
        for (resolution, file) in files {
            let points = match resolution {
                Resolution::Minute => minutes.clone(),
                Resolution::Hour => {
                    let coarser = |(points, series): (&Vec<Point>, &Arc<Series>)| {
                        rollup::coarser(points, series.form, Resolution::Minute, Resolution::Hour)
                    };
                    minutes.iter().zip(chunk).map(coarser).collect()
                }
            };
            self.write(&points, chunk, file)?;
        }
        Ok(())
    }

    fn write(&self, points: &[Vec<Point>], chunk: &[Arc<Series>], file: &mut Replacement) -> Result<(), SeriesError> {
        let mut times: BTreeMap<i64, i64> = BTreeMap::new();
        for point in points.iter().flatten() {
            let newest = times.entry(point.bucket).or_insert(point.at);
            *newest = point.at.max(*newest);
        }
        let (buckets, times): (Vec<i64>, Vec<i64>) = times.into_iter().unzip();
        if times.is_empty() {
            return Ok(());
        }
        let run = RunId::new(Uuid::nil());
        let draft =
            Draft { stream: self.id, run, sequences: (0, 0), position: self.source, times: &times, series: chunk };
        let sealed = draft.seal(|column, out| rollup::encode(out, &chunk[column], &buckets, &points[column]));
        file.append(&sealed.map_err(os("a block"))?)
    }
}
