//! `histogram_quantile` over classic histograms: buckets told apart by the label `le`.

use super::rows::Row;
use super::source::{Labels, NAME};
use std::collections::HashMap;

/// The label that holds a bucket's upper bound.
const BOUND: &str = "le";

#[derive(Clone, Copy)]
struct Bucket {
    bound: f64,
    count: f64,
}

/// The quantile of each histogram at each moment. Rows whose `le` is no number are passed over.
pub fn histogram_quantile(quantiles: &[f64], rows: &[Row]) -> Vec<Row> {
    let mut places: HashMap<Labels, usize> = HashMap::new();
    let mut histograms: Vec<(Labels, Vec<(f64, &Row)>)> = Vec::new();
    for row in rows {
        let Some(bound) = parse_bound(row.labels.get(BOUND)) else { continue };
        let labels = row.labels.filtered(|label| label != BOUND && label != NAME);
        let place = *places.entry(labels.clone()).or_insert(histograms.len());
        if place == histograms.len() {
            histograms.push((labels, Vec::new()));
        }
        histograms[place].1.push((bound, row));
    }
    let of_one = |(labels, buckets): (Labels, Vec<(f64, &Row)>)| {
        let cell = |(step, q): (usize, &f64)| {
            let there = buckets.iter().filter_map(|(bound, row)| {
                row.cells.get(step).copied().flatten().map(|count| Bucket { bound: *bound, count })
            });
            let mut there: Vec<Bucket> = there.collect();
            (!there.is_empty()).then(|| quantile_of(*q, &mut there))
        };
        Row { labels, cells: quantiles.iter().enumerate().map(cell).collect() }
    };
    histograms.into_iter().map(of_one).collect()
}

fn parse_bound(text: &str) -> Option<f64> {
    text.parse().ok()
}

/// Linear within the bucket that holds the rank; the first bucket begins at 0 if its bound is
/// positive, and the last has only its lower bound to give. As `bucketQuantile` of Prometheus 2.42.
fn quantile_of(q: f64, buckets: &mut Vec<Bucket>) -> f64 {
    if q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    buckets.sort_by(|a, b| a.bound.total_cmp(&b.bound));
    // Two spellings of one bound are one bucket.
    buckets.dedup_by(|later, kept| {
        let same = later.bound == kept.bound;
        if same {
            kept.count += later.count;
        }
        same
    });
    let mut most = f64::NEG_INFINITY;
    for bucket in buckets.iter_mut() {
        // Counters of buckets are read one after the other: a later one may lag behind.
        if bucket.count > most {
            most = bucket.count;
        } else if bucket.count < most {
            bucket.count = most;
        }
    }
    let [finite @ .., last] = buckets.as_slice() else { return f64::NAN };
    let Some(highest) = finite.last() else { return f64::NAN };
    if last.bound != f64::INFINITY || last.count == 0.0 {
        return f64::NAN;
    }
    let rank = q * last.count;
    let Some((at, bucket)) = finite.iter().enumerate().find(|(_, bucket)| bucket.count >= rank) else {
        return highest.bound;
    };
    if at == 0 && bucket.bound <= 0.0 {
        return bucket.bound;
    }
    let below = at.checked_sub(1).map_or(Bucket { bound: 0.0, count: 0.0 }, |before| finite[before]);
    below.bound + (bucket.bound - below.bound) * ((rank - below.count) / (bucket.count - below.count))
}
