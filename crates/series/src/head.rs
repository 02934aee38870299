//! The newest values of one stream, not yet in a block: by column, the moments of change.

use crate::column::{read_varint, read_zigzag, varint, zigzag};
use crate::promql::GAP;
use perigee_model::RunId;
use perigee_model::frame::{Change, Columns, Series};
use std::sync::Arc;

/// A stretch of one run's frames with rising times.
#[derive(Clone, Debug)]
pub struct Head {
    /// Whose numbers the sequences are.
    pub run: RunId,
    /// The sequence of the first frame.
    pub first: u64,
    /// And of the last.
    pub last: u64,
    /// When each frame was measured, in microseconds; rising.
    pub times: Vec<i64>,
    /// By column.
    pub series: Vec<Arc<Series>>,
    /// By column.
    changes: Vec<Changes>,
    weight: usize,
}

/// A column's changes, packed: most are a moment later and a little more.
///
/// ```text
/// change = moments since the last one, twice, and 1 where there is no value now:varint
///          difference to the last value:zigzag, unless there is none
/// ```
#[derive(Clone, Debug)]
struct Changes {
    packed: Vec<u8>,
    moment: u32,
    value: Option<i64>,
    /// The last value there was.
    base: i64,
}

impl Changes {
    /// From the beginning on, this value.
    fn begin(value: Option<i64>) -> Self {
        let mut changes = Self { packed: Vec::new(), moment: 0, value: None, base: 0 };
        changes.push(0, value);
        changes
    }

    fn push(&mut self, moment: u32, value: Option<i64>) {
        let later = u64::from(moment - self.moment) << 1;
        varint(&mut self.packed, later | u64::from(value.is_none()));
        if let Some(value) = value {
            zigzag(&mut self.packed, value.wrapping_sub(self.base));
            self.base = value;
        }
        (self.moment, self.value) = (moment, value);
    }

    /// Moments and values, as they were pushed.
    fn iter(&self) -> impl Iterator<Item = (u32, Option<i64>)> {
        let (mut rest, mut moment, mut base) = (self.packed.as_slice(), 0u32, 0i64);
        std::iter::from_fn(move || {
            // Of nothing but what `push` wrote, so that it ends where `packed` does.
            let mark = read_varint(&mut rest).ok()?;
            moment += u32::try_from(mark >> 1).ok()?;
            if mark & 1 == 1 {
                return Some((moment, None));
            }
            base = base.wrapping_add(read_zigzag(&mut rest).ok()?);
            Some((moment, Some(base)))
        })
    }
}

impl Head {
    /// Begins with a frame that was just applied.
    pub fn begin(run: RunId, change: &Change, columns: &Columns) -> Self {
        let sequence = change.header.sequence;
        let changes: Vec<Changes> = columns.raw().iter().map(|value| Changes::begin(*value)).collect();
        let times = vec![change.header.at.micros()];
        let weight = changes.len() + 1;
        Self { run, first: sequence, last: sequence, times, series: columns.series().to_vec(), changes, weight }
    }

    /// Takes the next frame; `false` when it does not belong here: other series, another run, or a
    /// time that does not follow.
    pub fn push(&mut self, run: RunId, change: &Change, columns: &Columns) -> bool {
        let at = change.header.at.micros();
        let follows = self.run == run && self.times.last().is_some_and(|last| *last < at);
        let same = change.added_from == self.series.len() || (change.header.key && columns.series() == self.series);
        if !follows || !same {
            return false;
        }
        let moment = u32::try_from(self.times.len()).unwrap_or(u32::MAX);
        self.times.push(at);
        self.last = change.header.sequence;
        for series in columns.series().get(self.series.len()..).unwrap_or_default() {
            self.series.push(series.clone());
            self.changes.push(Changes::begin(None));
        }
        for column in &change.changed {
            let value = columns.raw().get(*column as usize).copied().flatten();
            if let Some(changes) = self.changes.get_mut(*column as usize).filter(|changes| changes.value != value) {
                changes.push(moment, value);
                self.weight += 1;
            }
        }
        self.weight += 1;
        true
    }

    /// How many changes it holds: what it costs to keep in memory.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// A column's value at every moment.
    pub fn values(&self, column: usize) -> Vec<Option<i64>> {
        self.at_every_moment(column, |value| value)
    }

    /// The same as numbers, where there is none a gap.
    pub fn numbers(&self, column: usize) -> Vec<f64> {
        let form = self.series.get(column).map(|series| series.form);
        self.at_every_moment(column, |value| form.zip(value).map_or(GAP, |(form, value)| form.value(value)))
    }

    fn at_every_moment<T: Clone>(&self, column: usize, shown: impl Fn(Option<i64>) -> T) -> Vec<T> {
        let mut values = Vec::with_capacity(self.times.len());
        let mut now = shown(None);
        for (from, value) in self.changes.get(column).into_iter().flat_map(Changes::iter) {
            values.resize(from as usize, now);
            now = shown(value);
        }
        values.resize(self.times.len(), now);
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn changes_come_back(values in prop::collection::vec(prop_oneof![2 => Just(None), 3 => any::<i64>().prop_map(Some), 6 => (0i64..3).prop_map(Some)], 1..300)) {
            let mut changes = Changes::begin(values[0]);
            for (moment, value) in (0..).zip(&values).skip(1) {
                if changes.value != *value {
                    changes.push(moment, *value);
                }
            }
            let mut back = Vec::new();
            let mut now = None;
            for (from, value) in changes.iter() {
                back.resize(from as usize, now);
                now = value;
            }
            back.resize(values.len(), now);
            prop_assert_eq!(back, values);
        }
    }
}
