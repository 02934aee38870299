//! The reading end: the latest values of one stream.

use super::wire::{self, FrameError, Header, Reader};
use super::{Series, interned};
use crate::Timestamp;
use crate::limits::SERIES_PER_STREAM_MAX;
use std::sync::Arc;

/// What one frame changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The frame.
    pub header: Header,
    /// The first column that it added; for a key frame 0.
    pub added_from: usize,
    /// Columns whose value is another now, in order; of a key frame all.
    pub changed: Vec<u32>,
}

/// The latest values of one stream, column by column. Columns keep their place until a key frame.
#[derive(Clone, Debug, Default)]
pub struct Columns {
    series: Vec<Arc<Series>>,
    values: Vec<Option<i64>>,
    last: Option<Header>,
}

impl Columns {
    /// As they were: what a store kept of them.
    pub fn restore(series: Vec<Arc<Series>>, mut values: Vec<Option<i64>>, last: Header) -> Self {
        values.resize(series.len(), None);
        Self { series, values, last: Some(last) }
    }

    /// The series, by column.
    pub fn series(&self) -> &[Arc<Series>] {
        &self.series
    }
    /// The values as integers, by column.
    pub fn raw(&self) -> &[Option<i64>] {
        &self.values
    }
    /// One column's value.
    pub fn value(&self, column: u32) -> Option<f64> {
        let at = column as usize;
        Some(self.series.get(at)?.form.value((*self.values.get(at)?)?))
    }
    /// The last frame taken.
    pub fn last(&self) -> Option<Header> {
        self.last
    }
    /// When the last frame was measured.
    pub fn at(&self) -> Option<Timestamp> {
        self.last.map(|header| header.at)
    }

    /// Takes one frame: all of it, or nothing.
    ///
    /// # Errors
    /// `Gap` for a delta that does not follow the last frame taken; else what is wrong with it.
    pub fn apply(&mut self, frame: &[u8]) -> Result<Change, FrameError> {
        let (header, reader) = wire::open(frame)?;
        if header.key { self.apply_key(header, reader) } else { self.apply_delta(header, reader) }
    }

    fn apply_key(&mut self, header: Header, mut reader: Reader<'_>) -> Result<Change, FrameError> {
        let series = interned(reader.dictionary()?);
        let presence = reader.take(series.len().div_ceil(8))?;
        let mut values = Vec::with_capacity(series.len());
        for column in 0..series.len() {
            let there = presence[column / 8] & 1 << (column % 8) != 0;
            values.push(if there { Some(reader.zigzag()?) } else { None });
        }
        reader.end()?;
        let changed = (0..u32::try_from(series.len()).unwrap_or(u32::MAX)).collect();
        *self = Self { series, values, last: Some(header) };
        Ok(Change { header, added_from: 0, changed })
    }

    fn apply_delta(&mut self, header: Header, mut reader: Reader<'_>) -> Result<Change, FrameError> {
        let last = self.last.map_or(0, |last| last.sequence);
        if self.last.is_none() || last.checked_add(1) != Some(header.sequence) {
            return Err(FrameError::Gap { last, got: header.sequence });
        }
        let added_from = self.series.len();
        let room = SERIES_PER_STREAM_MAX * 2 - added_from.min(SERIES_PER_STREAM_MAX * 2);
        let count = reader.count(room, "series")?;
        let added = (0..count).map(|_| reader.series()).collect::<Result<Vec<_>, _>>()?;
        let columns = added_from + added.len();
        let count = reader.count(columns, "changes")?;
        let mut changes = Vec::with_capacity(count);
        let mut next = 0usize;
        for _ in 0..count {
            let mark = reader.varint()?;
            let column = usize::try_from(mark >> 1).ok().and_then(|gap| next.checked_add(gap));
            let column = column.filter(|c| *c < columns).ok_or(FrameError::Malformed("a column"))?;
            next = column + 1;
            let last = self.values.get(column).copied().flatten().unwrap_or(0);
            let value = if mark & 1 == 1 { None } else { Some(last.wrapping_add(reader.zigzag()?)) };
            changes.push((u32::try_from(column).unwrap_or(u32::MAX), value));
        }
        reader.end()?;
        self.series.extend(interned(added));
        self.values.resize(columns, None);
        let changed = changes.iter().map(|(column, _)| *column).collect();
        for (column, value) in changes {
            self.values[column as usize] = value;
        }
        self.last = Some(header);
        Ok(Change { header, added_from, changed })
    }
}
