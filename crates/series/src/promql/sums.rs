//! Sums that keep what rounding loses, in the order and the way Prometheus 2.42 adds.

/// Kahan's sum with Neumaier's improvement.
#[derive(Clone, Copy, Default)]
pub struct Kahan {
    sum: f64,
    lost: f64,
}

impl Kahan {
    pub fn add(&mut self, v: f64) {
        let next = self.sum + v;
        if self.sum.abs() >= v.abs() {
            self.lost += (self.sum - next) + v;
        } else {
            self.lost += (v - next) + self.sum;
        }
        self.sum = next;
    }

    /// The sum without what was lost: what the next step of a running mean builds on.
    pub fn rough(self) -> f64 {
        self.sum
    }

    pub fn exact(self) -> f64 {
        // Beside an infinity what was lost is NaN.
        if self.sum.is_infinite() { self.sum } else { self.sum + self.lost }
    }
}

/// Whether a running mean that reached an infinity stays where it is at `v`: only the opposite
/// infinity and NaN move it.
pub fn stays_infinite(mean: f64, v: f64) -> bool {
    mean.is_infinite() && if v.is_infinite() { (mean > 0.0) == (v > 0.0) } else { !v.is_nan() }
}

/// The quantile between the two nearest ranks. NaN sorts first; NaN where there is no value.
#[expect(clippy::cast_precision_loss, reason = "counts of samples are far below 2^52")]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "ranks lie within the slice")]
pub fn quantile(q: f64, values: &mut [f64]) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    values.sort_by(|a, b| nan_first(*a, *b));
    let last = values.len() - 1;
    let rank = q * last as f64;
    let lower = rank.floor().max(0.0);
    let weight = rank - rank.floor();
    let at = lower as usize;
    values[at] * (1.0 - weight) + values[(at + 1).min(last)] * weight
}

/// By value, NaN before everything.
pub fn nan_first(a: f64, b: f64) -> std::cmp::Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
}
