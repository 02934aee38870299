//! The writing end: what collectors fill in.

use super::wire::{self, Header};
use super::{MetricKind, Series};
use crate::Timestamp;
use crate::limits::SERIES_PER_STREAM_MAX;
use std::collections::HashMap;

/// A series' place on a sheet, until it is retired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(u32);

/// A series that no frame has named yet has no column.
const NO_COLUMN: u32 = u32::MAX;
/// So many columns of retired series are carried before a key frame tidies up.
const EMPTY_COLUMNS_MAX: u32 = 512;

struct Row {
    series: Series,
    column: u32,
    now: Option<i64>,
    said: Option<i64>,
}

/// The current values of one stream's series, and what the last frame said of them.
#[derive(Default)]
pub struct Sheet {
    rows: Vec<Option<Row>>,
    free: Vec<Slot>,
    slots: HashMap<Series, Slot>,
    /// Columns the next delta must empty.
    departed: Vec<u32>,
    columns: u32,
    empty: u32,
    refused: u64,
    begun: bool,
}

impl Sheet {
    /// The series' slot; a new one if it has none. `None` when the sheet is full.
    pub fn define(&mut self, series: Series) -> Option<Slot> {
        if let Some(slot) = self.slots.get(&series) {
            return Some(*slot);
        }
        if self.slots.len() >= SERIES_PER_STREAM_MAX || !series.is_well_formed() {
            self.refused += 1;
            return None;
        }
        let row = Some(Row { series: series.clone(), column: NO_COLUMN, now: None, said: None });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.rows[slot.0 as usize] = row;
                slot
            }
            None => {
                self.rows.push(row);
                Slot(u32::try_from(self.rows.len() - 1).unwrap_or(u32::MAX))
            }
        };
        self.slots.insert(series, slot);
        Some(slot)
    }

    /// Series that found no room or were malformed.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Writes a value. Retired slots take none.
    pub fn set(&mut self, slot: Slot, value: i64) {
        self.put(slot, Some(value));
    }

    /// A number as the series' form has it; what does not fit is no value.
    pub fn set_f64(&mut self, slot: Slot, value: f64) {
        let raw = self.row(slot).and_then(|row| row.series.form.raw(value));
        self.put(slot, raw);
    }

    /// The series is there but has no value now.
    pub fn clear(&mut self, slot: Slot) {
        self.put(slot, None);
    }

    fn put(&mut self, slot: Slot, value: Option<i64>) {
        if let Some(Some(row)) = self.rows.get_mut(slot.0 as usize) {
            row.now = value;
        }
    }
    fn row(&self, slot: Slot) -> Option<&Row> {
        self.rows.get(slot.0 as usize)?.as_ref()
    }

    /// The series is no more; its slot may be another's from now on.
    pub fn retire(&mut self, slot: Slot) {
        let Some(row) = self.rows.get_mut(slot.0 as usize).and_then(Option::take) else { return };
        self.slots.remove(&row.series);
        self.free.push(slot);
        if row.column != NO_COLUMN {
            self.empty += 1;
            if row.said.is_some() {
                self.departed.push(row.column);
            }
        }
    }

    /// What is on it now, for readers on this host.
    pub fn values(&self) -> impl Iterator<Item = (&Series, f64)> {
        self.rows.iter().flatten().filter_map(|row| Some((&row.series, row.series.form.value(row.now?))))
    }

    /// Slots of one kind, for those that look at the whole sheet.
    pub fn count(&self, kind: MetricKind) -> usize {
        self.slots.keys().filter(|series| series.kind == kind).count()
    }

    /// The next frame. Without `key` a delta, unless it is the first or too much of it is empty.
    pub fn encode(&mut self, sequence: u64, at: Timestamp, key: bool) -> Vec<u8> {
        if key || !self.begun || self.empty > EMPTY_COLUMNS_MAX {
            self.begun = true;
            return self.encode_key(sequence, at);
        }
        self.encode_delta(sequence, at)
    }

    fn encode_key(&mut self, sequence: u64, at: Timestamp) -> Vec<u8> {
        let mut out = wire::begin(Header { sequence, at, key: true });
        let series: Vec<&Series> = self.rows.iter().flatten().map(|row| &row.series).collect();
        wire::dictionary(&mut out, &series);
        let mut presence = vec![0u8; series.len().div_ceil(8)];
        let mut values = Vec::with_capacity(series.len() * 4);
        self.columns = 0;
        for row in self.rows.iter_mut().flatten() {
            row.column = self.columns;
            self.columns += 1;
            row.said = row.now;
            if let Some(value) = row.now {
                presence[row.column as usize / 8] |= 1 << (row.column % 8);
                wire::zigzag(&mut values, value);
            }
        }
        self.empty = 0;
        self.departed.clear();
        out.extend(presence);
        out.extend(values);
        wire::seal(out)
    }

    fn encode_delta(&mut self, sequence: u64, at: Timestamp) -> Vec<u8> {
        let mut out = wire::begin(Header { sequence, at, key: false });
        let mut added = Vec::new();
        let mut count = 0u64;
        for row in self.rows.iter_mut().flatten().filter(|row| row.column == NO_COLUMN) {
            row.column = self.columns;
            self.columns += 1;
            count += 1;
            wire::write_series(&mut added, &row.series);
        }
        wire::varint(&mut out, count);
        out.extend(added);
        let mut changes: Vec<(u32, Option<i64>)> = self.departed.drain(..).map(|column| (column, None)).collect();
        for row in self.rows.iter_mut().flatten().filter(|row| row.now != row.said) {
            changes.push((row.column, row.now.map(|now| now.wrapping_sub(row.said.unwrap_or(0)))));
            row.said = row.now;
        }
        changes.sort_unstable_by_key(|change| change.0);
        wire::varint(&mut out, changes.len() as u64);
        let mut next = 0;
        for (column, difference) in changes {
            wire::varint(&mut out, u64::from(column - next) << 1 | u64::from(difference.is_none()));
            next = column + 1;
            if let Some(difference) = difference {
                wire::zigzag(&mut out, difference);
            }
        }
        wire::seal(out)
    }
}
