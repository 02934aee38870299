//! The newest values of one stream, not yet in a block: by column, the moments of change.

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
    /// By column: from this moment on, this value.
    changes: Vec<Vec<(u32, Option<i64>)>>,
}

impl Head {
    /// Begins with a frame that was just applied.
    pub fn begin(run: RunId, change: &Change, columns: &Columns, known: &[Arc<Series>]) -> Self {
        let sequence = change.header.sequence;
        let series = columns.series().iter().enumerate();
        let series = series.map(|(at, series)| match known.get(at) {
            Some(known) if **known == *series => known.clone(),
            Some(_) | None => Arc::new(series.clone()),
        });
        let changes = columns.raw().iter().map(|value| vec![(0, *value)]).collect();
        let times = vec![change.header.at.micros()];
        Self { run, first: sequence, last: sequence, times, series: series.collect(), changes }
    }

    /// Takes the next frame; `false` when it does not belong here: other series, another run, or a
    /// time that does not follow.
    pub fn push(&mut self, run: RunId, change: &Change, columns: &Columns) -> bool {
        let at = change.header.at.micros();
        let follows = self.run == run && self.times.last().is_some_and(|last| *last < at);
        let same = change.added_from == self.series.len()
            || (change.header.key && columns.series().iter().eq(self.series.iter().map(|series| &**series)));
        if !follows || !same {
            return false;
        }
        let moment = u32::try_from(self.times.len()).unwrap_or(u32::MAX);
        self.times.push(at);
        self.last = change.header.sequence;
        for series in columns.series().get(self.series.len()..).unwrap_or_default() {
            self.series.push(Arc::new(series.clone()));
            self.changes.push(vec![(0, None)]);
        }
        for column in &change.changed {
            let value = columns.raw().get(*column as usize).copied().flatten();
            if let Some(changes) = self.changes.get_mut(*column as usize)
                && changes.last().is_none_or(|(_, last)| *last != value)
            {
                changes.push((moment, value));
            }
        }
        true
    }

    /// How many changes it holds: what it costs to keep in memory.
    pub fn weight(&self) -> usize {
        self.changes.iter().map(Vec::len).sum::<usize>() + self.times.len()
    }

    /// A column's value at every moment.
    pub fn values(&self, column: usize) -> Vec<Option<i64>> {
        let mut values = vec![None; self.times.len()];
        let changes = self.changes.get(column).map_or(&[][..], Vec::as_slice);
        for (index, (from, value)) in changes.iter().enumerate() {
            let to = changes.get(index + 1).map_or(values.len(), |(next, _)| *next as usize);
            values[*from as usize..to].fill(*value);
        }
        values
    }
}
