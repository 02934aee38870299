//! Functions of a range: what the samples of one series in one window give.
//!
//! The formulas are those of Prometheus 2.42 (`promql/functions.go`), the order of additions
//! included, so that the answers agree to the last digits.

use super::source::Sample;
use super::sums::{Kahan, quantile, stays_infinite};

/// A function of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeFunction {
    Rate,
    Increase,
    Delta,
    Irate,
    Idelta,
    Deriv,
    PredictLinear,
    Changes,
    Resets,
    Avg,
    Min,
    Max,
    Sum,
    Count,
    Last,
    Present,
    Stddev,
    Stdvar,
    Quantile,
}

impl RangeFunction {
    pub const ALL: &[(&str, Self)] = &[
        ("rate", Self::Rate),
        ("increase", Self::Increase),
        ("delta", Self::Delta),
        ("irate", Self::Irate),
        ("idelta", Self::Idelta),
        ("deriv", Self::Deriv),
        ("predict_linear", Self::PredictLinear),
        ("changes", Self::Changes),
        ("resets", Self::Resets),
        ("avg_over_time", Self::Avg),
        ("min_over_time", Self::Min),
        ("max_over_time", Self::Max),
        ("sum_over_time", Self::Sum),
        ("count_over_time", Self::Count),
        ("last_over_time", Self::Last),
        ("present_over_time", Self::Present),
        ("stddev_over_time", Self::Stddev),
        ("stdvar_over_time", Self::Stdvar),
        ("quantile_over_time", Self::Quantile),
    ];
}

/// Where a series is less than just before: there a counter began again.
#[derive(Clone, Copy)]
pub struct Fall {
    /// Of the lower sample, among the samples of its series.
    pub place: usize,
    /// What it fell from.
    pub from: f64,
}

impl Fall {
    /// All of a series. Found once, so that no window of a counter needs to look at each sample.
    pub fn all(samples: &[Sample]) -> Vec<Self> {
        let fallen = |(place, pair): (usize, &[Sample])| {
            (pair[1].v < pair[0].v).then_some(Self { place: place + 1, from: pair[0].v })
        };
        samples.windows(2).enumerate().filter_map(fallen).collect()
    }
}

/// The samples of one series between two moments, both included, without gaps.
#[derive(Clone, Copy)]
pub struct Window<'a> {
    pub samples: &'a [Sample],
    /// The falls whose both samples are in the window.
    pub falls: &'a [Fall],
    pub from_ms: i64,
    pub to_ms: i64,
    /// The moment that is evaluated: `to_ms` without the offset.
    pub at_ms: i64,
}

/// What a window gives; `parameter` is the number that some functions take besides.
#[expect(clippy::cast_precision_loss, reason = "counts of samples are far below 2^52")]
pub fn apply(function: RangeFunction, window: Window<'_>, parameter: f64) -> Option<f64> {
    let samples = window.samples;
    let (first, last) = (samples.first()?, samples.last()?);
    Some(match function {
        RangeFunction::Rate => return extrapolated(window, true, true),
        RangeFunction::Increase => return extrapolated(window, true, false),
        RangeFunction::Delta => return extrapolated(window, false, false),
        RangeFunction::Irate => return between_last_two(samples, true),
        RangeFunction::Idelta => return between_last_two(samples, false),
        RangeFunction::Deriv => return line(samples, first.t_ms).map(|(slope, _)| slope),
        RangeFunction::PredictLinear => {
            return line(samples, window.at_ms).map(|(slope, now)| slope * parameter + now);
        }
        RangeFunction::Changes => {
            let changed = |pair: &&[Sample]| pair[0].v != pair[1].v && !(pair[0].v.is_nan() && pair[1].v.is_nan());
            samples.windows(2).filter(changed).count() as f64
        }
        RangeFunction::Resets => window.falls.len() as f64,
        RangeFunction::Avg => mean(samples),
        RangeFunction::Min => samples.iter().fold(first.v, |min, s| if s.v < min || min.is_nan() { s.v } else { min }),
        RangeFunction::Max => samples.iter().fold(first.v, |max, s| if s.v > max || max.is_nan() { s.v } else { max }),
        RangeFunction::Sum => samples.iter().fold(Kahan::default(), |sum, s| added(sum, s.v)).exact(),
        RangeFunction::Count => samples.len() as f64,
        RangeFunction::Last => last.v,
        RangeFunction::Present => 1.0,
        RangeFunction::Stddev => variance(samples).sqrt(),
        RangeFunction::Stdvar => variance(samples),
        RangeFunction::Quantile => quantile(parameter, &mut samples.iter().map(|s| s.v).collect::<Vec<_>>()),
    })
}

fn added(mut sum: Kahan, v: f64) -> Kahan {
    sum.add(v);
    sum
}

#[expect(clippy::cast_precision_loss, reason = "differences of times within a window")]
fn seconds(from_ms: i64, to_ms: i64) -> f64 {
    to_ms.saturating_sub(from_ms) as f64 / 1000.0
}

/// `rate`, `increase` and `delta`: what the samples show, extended to the window's edges unless an
/// edge is further from the samples than 1.1 times their mean distance; then by half of that
/// distance. A counter is not extended below zero.
#[expect(clippy::cast_precision_loss, reason = "counts of samples are far below 2^52")]
fn extrapolated(window: Window<'_>, is_counter: bool, per_second: bool) -> Option<f64> {
    let samples = window.samples;
    let (first, last) = (samples.first()?, samples.last()?);
    if samples.len() < 2 {
        return None;
    }
    let mut result = last.v - first.v;
    if is_counter {
        result = window.falls.iter().fold(result, |sum, fall| sum + fall.from);
    }
    let mut to_start = seconds(window.from_ms, first.t_ms);
    let to_end = seconds(last.t_ms, window.to_ms);
    let sampled = seconds(first.t_ms, last.t_ms);
    let distance = sampled / (samples.len() - 1) as f64;
    if is_counter && result > 0.0 && first.v >= 0.0 {
        let to_zero = sampled * (first.v / result);
        if to_zero < to_start {
            to_start = to_zero;
        }
    }
    let threshold = distance * 1.1;
    let mut covered = sampled;
    covered += if to_start < threshold { to_start } else { distance / 2.0 };
    covered += if to_end < threshold { to_end } else { distance / 2.0 };
    let mut factor = covered / sampled;
    if per_second {
        factor /= seconds(window.from_ms, window.to_ms);
    }
    Some(result * factor)
}

/// `irate` and `idelta`.
fn between_last_two(samples: &[Sample], is_rate: bool) -> Option<f64> {
    let [.., before, last] = samples else { return None };
    if last.t_ms == before.t_ms {
        return None;
    }
    let fell = is_rate && last.v < before.v;
    let result = if fell { last.v } else { last.v - before.v };
    Some(if is_rate { result / seconds(before.t_ms, last.t_ms) } else { result })
}

fn mean(samples: &[Sample]) -> f64 {
    let (mut mean, mut count) = (Kahan::default(), 0.0);
    for sample in samples {
        count += 1.0;
        if !stays_infinite(mean.rough(), sample.v) {
            mean.add(sample.v / count - mean.rough() / count);
        }
    }
    mean.exact()
}

/// Welford's, with both sums kept exact.
fn variance(samples: &[Sample]) -> f64 {
    let (mut mean, mut squares, mut count) = (Kahan::default(), Kahan::default(), 0.0);
    for sample in samples {
        count += 1.0;
        let delta = sample.v - mean.exact();
        mean.add(delta / count);
        squares.add(delta * (sample.v - mean.exact()));
    }
    squares.exact() / count
}

/// The least-squares line: its slope per second and its value at `at_ms`.
fn line(samples: &[Sample], at_ms: i64) -> Option<(f64, f64)> {
    let first = samples.first()?;
    if samples.len() < 2 {
        return None;
    }
    if samples.iter().all(|s| s.v == first.v) {
        return Some(if first.v.is_infinite() { (f64::NAN, f64::NAN) } else { (0.0, first.v) });
    }
    let (mut n, mut xs, mut ys) = (0.0, Kahan::default(), Kahan::default());
    let (mut products, mut squares) = (Kahan::default(), Kahan::default());
    for sample in samples {
        let x = seconds(at_ms, sample.t_ms);
        n += 1.0;
        xs.add(x);
        ys.add(sample.v);
        products.add(x * sample.v);
        squares.add(x * x);
    }
    let (xs, ys) = (xs.exact(), ys.exact());
    let covariance = products.exact() - xs * ys / n;
    let slope = covariance / (squares.exact() - xs * xs / n);
    Some((slope, ys / n - slope * xs / n))
}
