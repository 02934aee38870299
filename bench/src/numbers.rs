//! Samples and what is said of them: milliseconds, unless a line of the report has another unit.

use serde::Serialize;
use std::time::Duration;

/// One number for each run.
#[derive(Clone, Debug, Default)]
pub struct Sample(Vec<f64>);

/// What is said of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub runs: usize,
    pub median_ms: f64,
    pub p99_ms: f64,
    pub min_ms: f64,
    pub max_ms: f64,
}

pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

impl Sample {
    pub fn push(&mut self, time: Duration) {
        self.0.push(millis(time));
    }
    pub fn push_millis(&mut self, millis: f64) {
        self.0.push(millis);
    }
    /// One in whatever unit its line has.
    pub fn push_number(&mut self, number: f64) {
        self.0.push(number);
    }
    /// Run by run, the first less the second.
    pub fn less(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a - b).collect())
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn spread(&self) -> Spread {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let runs = sorted.len();
        let at = |share: f64| sorted.get(rank(share, runs)).copied().unwrap_or(f64::NAN);
        Spread { runs, median_ms: at(0.5), p99_ms: at(0.99), min_ms: at(0.0), max_ms: at(1.0) }
    }
}

/// The nearest-rank method: the smallest number that `share` of all do not exceed.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "small counts")]
fn rank(share: f64, runs: usize) -> usize {
    ((share * runs as f64).ceil() as usize).saturating_sub(1)
}

impl FromIterator<f64> for Sample {
    fn from_iter<I: IntoIterator<Item = f64>>(all: I) -> Self {
        Self(all.into_iter().collect())
    }
}

/// As a person reads it: three digits that count.
pub fn shown(number: f64, unit: &str) -> String {
    match number.abs() {
        m if m.is_nan() => "–".to_owned(),
        m if m >= 100.0 => format!("{number:.0} {unit}"),
        m if m >= 10.0 => format!("{number:.1} {unit}"),
        _ => format!("{number:.2} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_nearest_ranks() {
        let spread = (1..=200).map(f64::from).collect::<Sample>().spread();
        assert_eq!((spread.median_ms, spread.p99_ms, spread.min_ms, spread.max_ms), (100.0, 198.0, 1.0, 200.0));
        let one = [7.0].into_iter().collect::<Sample>().spread();
        assert_eq!((one.median_ms, one.p99_ms, one.min_ms, one.max_ms), (7.0, 7.0, 7.0, 7.0));
        assert!(Sample::default().spread().median_ms.is_nan());
    }

    #[test]
    fn differences_are_taken_in_pairs() {
        let sample = |all: [f64; 2]| all.into_iter().collect::<Sample>();
        assert_eq!(sample([5.0, 1.0]).less(&sample([2.0, 3.0])).0, [3.0, -2.0]);
    }

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!(
            [0.1234, 1.5, 12.34, 1234.5, -2.0].map(|number| shown(number, "ms")),
            ["0.12 ms", "1.50 ms", "12.3 ms", "1234 ms", "-2.00 ms"]
        );
    }
}
