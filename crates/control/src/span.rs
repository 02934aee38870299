//! A part of a list, in the order of its ids.

use std::collections::BTreeMap;
use std::ops::Bound;

/// Which part of a list: what comes after an id, and at most so many.
#[derive(Clone, Copy, Debug)]
pub struct Span<Id> {
    /// The last one known already.
    pub after: Option<Id>,
    /// At most so many.
    pub most: usize,
}

impl<Id> Default for Span<Id> {
    /// Everything.
    fn default() -> Self {
        Self { after: None, most: usize::MAX }
    }
}

impl<Id: Ord + Copy> Span<Id> {
    /// Those that fit, in the order of their ids: ids are in the order of time.
    pub fn oldest<V: Clone>(&self, rows: &BTreeMap<Id, V>, fits: impl Fn(&V) -> bool) -> Vec<V> {
        let from = self.after.map_or(Bound::Unbounded, Bound::Excluded);
        rows.range((from, Bound::Unbounded))
            .map(|(_, row)| row)
            .filter(|row| fits(row))
            .take(self.most)
            .cloned()
            .collect()
    }

    /// The same backwards.
    pub fn newest<V: Clone>(&self, rows: &BTreeMap<Id, V>, fits: impl Fn(&V) -> bool) -> Vec<V> {
        let to = self.after.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = rows.range((Bound::Unbounded, to)).rev();
        rows.map(|(_, row)| row).filter(|row| fits(row)).take(self.most).cloned().collect()
    }
}
