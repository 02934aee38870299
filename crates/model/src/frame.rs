//! Frames: what one agent measured at one moment, as columns of integers under one timestamp.
//!
//! Owns: series, the sheet a collector writes on, and the one encoding that the agent's spool, the
//! link and the control plane's frame log all hold, byte for byte.
//! Refuses: floats on the way where decimals do, and reading what does not check: a frame is taken
//! whole or not at all.
//!
//! ```text
//! collectors ─set─▶ Sheet ─encode─▶ bytes ─▶ spool ─▶ link ─▶ frame log
//!                                                        └─▶ Columns (latest values) ─▶ readers
//! key frame: all series and values · delta frame: series added, values changed since the last one
//! ```

mod columns;
mod interned;
mod sheet;
mod wire;

pub use columns::{Change, Columns};
pub use interned::interned;
pub use sheet::{Sheet, Slot};
pub use wire::{FrameError, Header};

use crate::HostId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Which measurements.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamName {
    /// The host itself.
    Node,
    /// Its guests.
    Vm,
    /// What an agent that is not ours reports of the host over HTTP.
    Ingest,
}

impl StreamName {
    /// As it is written.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Vm => "vm",
            Self::Ingest => "ingest",
        }
    }
    /// Reads it.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Node, Self::Vm, Self::Ingest].into_iter().find(|name| name.text() == text)
    }
}

/// One stream of one host.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct StreamId {
    /// Whose.
    pub host: HostId,
    /// Which.
    pub name: StreamName,
}

/// How a series behaves, as in the Prometheus data model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricKind {
    /// Goes up and down.
    Gauge,
    /// Only goes up; less than before means that it began again.
    Counter,
}

/// What the integers of a series mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Decimals behind the point: 3 makes 12345 mean 12.345. At most [`Form::DIGITS_MAX`].
    Decimal(u8),
    /// The bits of an IEEE 754 double, for values whose precision nobody knows.
    Float,
}

impl Form {
    /// Powers of ten up to this are exact as doubles, so that a value reads like its decimal text.
    pub const DIGITS_MAX: u8 = 18;

    /// The number that `raw` stands for.
    #[expect(clippy::cast_precision_loss, reason = "a reader wants the nearest double")]
    pub fn value(self, raw: i64) -> f64 {
        match self {
            Self::Decimal(digits) => raw as f64 / POWERS[usize::from(digits.min(Self::DIGITS_MAX))],
            Self::Float => f64::from_bits(raw.cast_unsigned()),
        }
    }

    /// The integer nearest to `value`; `None` where it does not fit, as with NaN in a decimal.
    #[expect(clippy::cast_possible_truncation, reason = "checked against the bounds before")]
    pub fn raw(self, value: f64) -> Option<i64> {
        match self {
            Self::Decimal(digits) => {
                let scaled = (value * POWERS[usize::from(digits.min(Self::DIGITS_MAX))]).round();
                // 2^63 is exact as a double; its own value is one too much.
                (scaled.is_finite() && scaled.abs() < 9_223_372_036_854_775_808.0).then_some(scaled as i64)
            }
            Self::Float => Some(value.to_bits().cast_signed()),
        }
    }
}

const POWERS: [f64; 19] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18];

/// One time series of one host. The host itself is no label: whoever reads adds it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Series {
    /// As Prometheus names metrics: `node_cpu_seconds_total`.
    pub name: String,
    /// By label name.
    pub labels: BTreeMap<String, String>,
    /// Gauge or counter.
    pub kind: MetricKind,
    /// What its integers mean.
    pub form: Form,
}

impl Series {
    /// A gauge with so many decimals.
    pub fn gauge(name: &str, digits: u8) -> Self {
        let (name, labels) = (name.to_owned(), BTreeMap::new());
        Self { name, labels, kind: MetricKind::Gauge, form: Form::Decimal(digits) }
    }
    /// A counter with so many decimals.
    pub fn counter(name: &str, digits: u8) -> Self {
        Self { kind: MetricKind::Counter, ..Self::gauge(name, digits) }
    }
    /// With one more label. Values are cut to what is allowed.
    #[must_use]
    pub fn with(mut self, label: &str, value: &str) -> Self {
        let mut end = value.len().min(crate::limits::LABEL_VALUE_BYTES_MAX);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        self.labels.insert(label.to_owned(), value[..end].to_owned());
        self
    }

    /// Whether names and labels are as Prometheus wants them and within limits.
    pub fn is_well_formed(&self) -> bool {
        let name_fits = |text: &str, colon: bool| {
            let first = |b: u8| b.is_ascii_alphabetic() || b == b'_' || (colon && b == b':');
            text.len() <= crate::limits::METRIC_NAME_BYTES_MAX
                && text.bytes().next().is_some_and(first)
                && text.bytes().all(|b| first(b) || b.is_ascii_digit())
        };
        let digits_fit = !matches!(self.form, Form::Decimal(digits) if digits > Form::DIGITS_MAX);
        name_fits(&self.name, true)
            && digits_fit
            && self.labels.len() <= crate::limits::LABELS_PER_SERIES_MAX
            && self
                .labels
                .iter()
                .all(|(name, value)| name_fits(name, false) && value.len() <= crate::limits::LABEL_VALUE_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests;
