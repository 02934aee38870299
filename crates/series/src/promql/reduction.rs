//! Fewer points for a picture, without losing a peak.

use super::source::Sample;
use super::{Range, Value};

impl Value {
    /// Of each two steps of `step_ms`, the least and the greatest value, in the order they came in,
    /// at the multiples of the step: a spike of one sample stays as high as it was, and all series
    /// have their points at the same moments. Stretches without a value stay without one. What is no
    /// finer than the step already stays as it is.
    #[must_use]
    pub fn reduced(self, range: Range, step_ms: i64) -> Self {
        match self {
            Self::Matrix(series) if step_ms > range.step_ms => {
                let reduce = |(labels, samples): (_, Vec<Sample>)| (labels, reduced(&samples, step_ms));
                Self::Matrix(series.into_iter().map(reduce).collect())
            }
            other => other,
        }
    }
}

fn reduced(samples: &[Sample], step_ms: i64) -> Vec<Sample> {
    let pair_of = |sample: &Sample| sample.t_ms.div_euclid(step_ms.saturating_mul(2));
    let mut points = Vec::new();
    for pair in samples.chunk_by(|a, b| pair_of(a) == pair_of(b)) {
        let (Some(first), Some(last)) = (pair.first(), pair.last()) else { continue };
        let begin = pair_of(first).saturating_mul(step_ms.saturating_mul(2));
        let half = |sample: &Sample| if sample.t_ms < begin.saturating_add(step_ms) { begin } else { begin + step_ms };
        // What is no number is neither, unless there is nothing else.
        let is_number = |sample: &&Sample| !sample.v.is_nan();
        let least = pair.iter().filter(is_number).min_by(|a, b| a.v.total_cmp(&b.v)).unwrap_or(first);
        let greatest = pair.iter().filter(is_number).max_by(|a, b| a.v.total_cmp(&b.v)).unwrap_or(first);
        let (one, other) = if least.t_ms <= greatest.t_ms { (least, greatest) } else { (greatest, least) };
        if half(first) == half(last) && one.v.to_bits() == other.v.to_bits() {
            points.push(Sample { t_ms: half(first), v: one.v });
            continue;
        }
        points.push(Sample { t_ms: begin, v: one.v });
        points.push(Sample { t_ms: begin + step_ms, v: other.v });
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(samples: &[(i64, f64)], step_ms: i64) -> Vec<(i64, f64)> {
        let samples: Vec<_> = samples.iter().map(|(t_ms, v)| Sample { t_ms: *t_ms, v: *v }).collect();
        reduced(&samples, step_ms).iter().map(|sample| (sample.t_ms, sample.v)).collect()
    }

    #[test]
    fn a_spike_stays_and_a_hole_stays() {
        let mut samples: Vec<_> = (0..40).filter(|n| !(12..28).contains(n)).map(|n| (n * 1000, 1.0)).collect();
        samples[5].1 = 90.0;
        samples[6].1 = -4.0;
        assert_eq!(
            shown(&samples, 5000),
            [(0, 90.0), (5000, -4.0), (10_000, 1.0), (25_000, 1.0), (30_000, 1.0), (35_000, 1.0)]
        );
    }

    #[test]
    fn a_value_that_is_no_number_hides_none() {
        assert_eq!(shown(&[(0, f64::NAN), (1000, 2.0), (2000, f64::NAN)], 2000), [(0, 2.0), (2000, 2.0)]);
        assert!(shown(&[(0, f64::NAN)], 2000)[0].1.is_nan());
    }

    proptest! {
        #[test]
        fn extremes_and_times_are_kept(values in prop::collection::vec(-1e6f64..1e6, 1..500), step in 1i64..60) {
            let samples: Vec<_> = (0..).map(|n| n * 1000).zip(values.iter().copied()).collect();
            let points = shown(&samples, step * 1000);
            let ends = |of: &[(i64, f64)]| {
                let values = of.iter().map(|(_, v)| *v);
                (values.clone().fold(f64::INFINITY, f64::min), values.fold(f64::NEG_INFINITY, f64::max))
            };
            prop_assert_eq!(ends(&points), ends(&samples));
            prop_assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0));
            prop_assert!(points.iter().all(|(t_ms, _)| t_ms % (step * 1000) == 0));
            prop_assert!(points.len() <= samples.len() / usize::try_from(step).unwrap() + 2);
        }
    }
}
