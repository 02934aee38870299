//! Which steps serve which time: as measured, by minutes, or by hours.
//!
//! What was measured is dropped first, then the minutes. Each day is served by the finest there is,
//! unless the question allows coarser steps: then by those, where they are up to date.

use crate::database::Rolled;
use crate::rollup::Resolution;
use crate::segments::{DAY_MICROS, Segments};
use std::collections::BTreeSet;

/// A stretch of time, both ends included, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// `None`: as measured.
    pub resolution: Option<Resolution>,
    pub from: i64,
    pub to: i64,
}

/// Covers the time without a hole and without an overlap.
pub fn spans(raw: &Segments, coarse: &Rolled, (from, to): (i64, i64), coarsest_ms: i64) -> Vec<Span> {
    let (first, last) = (from.div_euclid(DAY_MICROS), to.div_euclid(DAY_MICROS));
    let tiers = [raw, coarse.of(Resolution::Minute), coarse.of(Resolution::Hour)];
    let days: BTreeSet<i64> = tiers.into_iter().flat_map(Segments::days).collect();
    let allowed = Resolution::ALL.into_iter().rfind(|resolution| resolution.millis() <= coarsest_ms);
    let mut spans: Vec<Span> = Vec::new();
    for day in days.into_iter().filter(|day| (first..=last).contains(day)) {
        let resolution = serves(raw, coarse, day, allowed);
        let begin = (day * DAY_MICROS).max(from);
        match spans.last_mut() {
            Some(before) if before.resolution == resolution => {}
            Some(before) => {
                before.to = begin - 1;
                spans.push(Span { resolution, from: begin, to });
            }
            // A block of the day before may reach into the first.
            None => spans.push(Span { resolution, from, to }),
        }
    }
    if spans.is_empty() {
        spans.push(Span { resolution: None, from, to });
    }
    spans
}

fn serves(raw: &Segments, coarse: &Rolled, day: i64, allowed: Option<Resolution>) -> Option<Resolution> {
    let upwards = Resolution::ALL.into_iter();
    let fit = upwards.clone().rev().filter(|resolution| Some(*resolution) <= allowed);
    let current = fit.into_iter().find(|resolution| coarse.is_current(raw, *resolution, day));
    let finest = || match raw.day_bytes(day) {
        0 => upwards.into_iter().find(|resolution| coarse.of(*resolution).day_bytes(day) > 0),
        _ => None,
    };
    current.or_else(finest)
}
