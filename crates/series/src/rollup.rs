//! A series in coarser steps: what each minute and each hour of it came to. Pure.
//!
//! ```text
//! gauge   = count last low high sum      a column each, by bucket; sum with its own form before it
//! counter = count last peak              peak only where it is more than last: there it began again
//! ```
//! A bucket holds the samples of `[n × step, (n + 1) × step)` of Unix time. Of a counter the last
//! value and, where it began again, the one it fell from are enough for exact increases between
//! buckets; of one that began again twice within a bucket the middle is lost.

use crate::column::{self, Malformed};
use crate::promql::{Reading, Sample};
use perigee_model::frame::{Form, MetricKind, Series};

/// How coarse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resolution {
    /// Sixty seconds.
    Minute,
    /// Sixty minutes.
    Hour,
}

impl Resolution {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Minute, Self::Hour];

    /// A bucket's length in milliseconds.
    pub const fn millis(self) -> i64 {
        match self {
            Self::Minute => 60_000,
            Self::Hour => 3_600_000,
        }
    }
    /// Which bucket a moment in microseconds is in.
    pub const fn bucket(self, micros: i64) -> i64 {
        micros.div_euclid(self.millis() * 1000)
    }
    /// Where its files are.
    pub const fn folder(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
        }
    }
}

/// The sum of a bucket's values: of decimals exact, as integers of their form.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sum {
    Whole(i128),
    Float(f64),
}

/// What one bucket of one series came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Which bucket.
    pub bucket: i64,
    /// When its last value was measured, in microseconds.
    pub at: i64,
    count: u32,
    last: i64,
    low: i64,
    high: i64,
    sum: Sum,
}

impl Point {
    fn of(form: Form, bucket: i64, at: i64, raw: i64) -> Self {
        let sum = match form {
            Form::Decimal(_) => Sum::Whole(raw.into()),
            Form::Float => Sum::Float(form.value(raw)),
        };
        Self { bucket, at, count: 1, last: raw, low: raw, high: raw, sum }
    }

    /// Both together, whichever was first.
    #[must_use]
    pub fn with(mut self, form: Form, other: Self) -> Self {
        let less = |a: i64, b: i64| match form {
            Form::Decimal(_) => a < b,
            // What is no number is neither least nor greatest, unless there is nothing else.
            Form::Float => form.value(a) < form.value(b) || form.value(b).is_nan(),
        };
        let greater = |a: i64, b: i64| match form {
            Form::Decimal(_) => a > b,
            Form::Float => form.value(a) > form.value(b) || form.value(b).is_nan(),
        };
        if other.at >= self.at {
            (self.at, self.last) = (other.at, other.last);
        }
        if less(other.low, self.low) {
            self.low = other.low;
        }
        if greater(other.high, self.high) {
            self.high = other.high;
        }
        self.count = self.count.saturating_add(other.count);
        self.sum = match (self.sum, other.sum) {
            (Sum::Whole(a), Sum::Whole(b)) => Sum::Whole(a + b),
            (Sum::Float(a), Sum::Float(b)) => Sum::Float(a + b),
            (one, _) => one,
        };
        self
    }
}

/// Adds a stretch of a series to its points, which are kept in the order of buckets.
pub fn add(points: &mut Vec<Point>, form: Form, resolution: Resolution, times: &[i64], values: &[Option<i64>]) {
    for (at, value) in times.iter().zip(values) {
        if let Some(raw) = value {
            put(points, form, Point::of(form, resolution.bucket(*at), *at, *raw));
        }
    }
}

/// The points in coarser buckets.
pub fn coarser(points: &[Point], form: Form, from: Resolution, to: Resolution) -> Vec<Point> {
    let mut coarse = Vec::new();
    for point in points {
        let bucket = (point.bucket * from.millis()).div_euclid(to.millis());
        put(&mut coarse, form, Point { bucket, ..*point });
    }
    coarse
}

fn put(points: &mut Vec<Point>, form: Form, point: Point) {
    match points.last_mut() {
        Some(last) if last.bucket == point.bucket => *last = last.with(form, point),
        Some(last) if last.bucket > point.bucket => {
            match points.binary_search_by_key(&point.bucket, |known| known.bucket) {
                Ok(place) => points[place] = points[place].with(form, point),
                Err(place) => points.insert(place, point),
            }
        }
        Some(_) | None => points.push(point),
    }
}

/// Writes a series' columns. `buckets` are those of the block, in rising order.
pub fn encode(out: &mut Vec<u8>, series: &Series, buckets: &[i64], points: &[Point]) {
    let mut rest = points.iter().peekable();
    let placed: Vec<Option<&Point>> =
        buckets.iter().map(|bucket| rest.next_if(|point| point.bucket == *bucket)).collect();
    let mut column = |form: Form, part: &dyn Fn(&Point) -> Option<i64>| {
        let values: Vec<_> = placed.iter().map(|point| point.and_then(part)).collect();
        column::encode(out, form, &values);
    };
    column(Form::Decimal(0), &|point| Some(point.count.into()));
    column(series.form, &|point| Some(point.last));
    if series.kind == MetricKind::Counter {
        return column(series.form, &|point| (point.high != point.last).then_some(point.high));
    }
    column(series.form, &|point| Some(point.low));
    column(series.form, &|point| Some(point.high));
    let exact = |point: &Point| match point.sum {
        Sum::Whole(sum) => i64::try_from(sum).ok(),
        Sum::Float(_) => None,
    };
    if points.iter().all(|point| exact(point).is_some()) {
        out.push(1);
        let values: Vec<_> = placed.iter().map(|point| point.and_then(exact)).collect();
        return column::encode(out, series.form, &values);
    }
    out.push(0);
    let float = |point: &Point| match point.sum {
        Sum::Float(sum) => sum,
        Sum::Whole(sum) => scaled(series.form, sum),
    };
    let values: Vec<_> = placed.iter().map(|point| point.map(|p| float(p).to_bits().cast_signed())).collect();
    column::encode(out, Form::Float, &values);
}

/// A sum too great for its form's integers.
#[expect(clippy::cast_precision_loss, reason = "a reader wants the nearest double")]
fn scaled(form: Form, sum: i128) -> f64 {
    const PARTS: i64 = 1 << 32;
    let (high, low) = (sum.div_euclid(PARTS.into()), sum.rem_euclid(PARTS.into()));
    let value = |part: i128| i64::try_from(part).map_or(f64::INFINITY, |part| form.value(part));
    value(high) * PARTS as f64 + value(low)
}

/// A series' columns as they were written.
#[derive(Debug)]
pub struct Columns {
    counts: Vec<Option<i64>>,
    last: Vec<Option<i64>>,
    /// Of a counter the peaks alone.
    high: Vec<Option<i64>>,
    gauge: Option<Gauge>,
}

#[derive(Debug)]
struct Gauge {
    low: Vec<Option<i64>>,
    sum: (Form, Vec<Option<i64>>),
}

impl Columns {
    /// Reads them, or steps over them.
    ///
    /// # Errors
    /// `Malformed`.
    pub fn read(bytes: &mut &[u8], series: &Series, moments: usize, wanted: bool) -> Result<Option<Self>, Malformed> {
        let next = |bytes: &mut &[u8]| match wanted {
            true => column::decode(bytes, moments),
            false => column::skip(bytes, moments).map(|()| Vec::new()),
        };
        let (counts, last) = (next(bytes)?, next(bytes)?);
        if series.kind == MetricKind::Counter {
            let high = next(bytes)?;
            return Ok(wanted.then_some(Self { counts, last, high, gauge: None }));
        }
        let (low, high) = (next(bytes)?, next(bytes)?);
        let (exact, rest) = bytes.split_first().ok_or(Malformed)?;
        *bytes = rest;
        let form = if *exact == 1 { series.form } else { Form::Float };
        let gauge = Some(Gauge { low, sum: (form, next(bytes)?) });
        Ok(wanted.then_some(Self { counts, last, high, gauge }))
    }

    /// Its samples under one reading, a gap for each bucket without one. `times` are those of the
    /// block, in microseconds.
    pub fn samples(&self, series: &Series, times: &[i64], reading: Reading) -> Vec<Sample> {
        let form = series.form;
        let mut samples = Vec::with_capacity(times.len());
        for (at, micros) in times.iter().enumerate() {
            let t_ms = micros / 1000;
            let of = |column: &[Option<i64>], form: Form| column.get(at).copied().flatten().map(|raw| form.value(raw));
            let last = of(&self.last, form);
            let peak = of(&self.high, form);
            let value = match (reading, &self.gauge) {
                (Reading::Count, _) => of(&self.counts, Form::Decimal(0)),
                (Reading::Value, Some(_)) => last,
                (Reading::Low, Some(gauge)) => of(&gauge.low, form),
                (Reading::High, Some(_)) => peak,
                (Reading::Sum, Some(gauge)) => of(&gauge.sum.1, gauge.sum.0),
                (Reading::High, None) => peak.or(last),
                (Reading::Value, None) => {
                    // It fell within the bucket: what it fell from comes first.
                    samples.extend(peak.map(|v| Sample { t_ms: t_ms - 1, v }));
                    last
                }
                // What a counter was lowest, and what its values add up to, was not kept: its last
                // value stands for the bucket.
                (Reading::Low, None) => last,
                (Reading::Sum, None) => last.zip(of(&self.counts, Form::Decimal(0))).map(|(v, n)| v * n),
            };
            samples.push(value.map_or_else(|| Sample::gap(t_ms), |v| Sample { t_ms, v }));
        }
        samples
    }
}

#[cfg(test)]
mod tests;
