//! The seam to whatever holds samples: what a query asks of it, and what it answers with.

use super::rows::Moments;
use regex::Regex;
use std::fmt;
use std::sync::Arc;

/// The name of the label that holds the metric's name.
pub const NAME: &str = "__name__";

/// The labels of one series, the metric's name among them as `__name__`; sorted, each name once. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels(Vec<(Arc<str>, Arc<str>)>);

impl Labels {
    /// The value of a label; empty where there is none, as PromQL has it.
    pub fn get(&self, label: &str) -> &str {
        self.place(label).map_or("", |at| &self.0[at].1)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(label, value)| (&**label, &**value))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Writes one label; an empty value takes it away.
    pub fn set(&mut self, label: &str, value: &str) {
        match (self.place(label), value.is_empty()) {
            (Ok(at), true) => drop(self.0.remove(at)),
            (Ok(at), false) => self.0[at].1 = value.into(),
            (Err(_), true) => {}
            (Err(at), false) => self.0.insert(at, (label.into(), value.into())),
        }
    }

    /// With those too that it does not have; empty values are none, and no name comes twice.
    #[must_use]
    pub fn and<'a>(&self, more: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut all = Vec::with_capacity(self.0.len() + more.size_hint().1.unwrap_or(0));
        all.extend_from_slice(&self.0);
        let new = more.filter(|(label, value)| !value.is_empty() && self.place(label).is_err());
        all.extend(new.map(|(label, value)| (label.into(), value.into())));
        all.sort_unstable_by(|(a, _): &(Arc<str>, _), (b, _)| a.cmp(b));
        Self(all)
    }

    /// Only those that `keep` says.
    #[must_use]
    pub fn filtered(&self, keep: impl Fn(&str) -> bool) -> Self {
        Self(self.0.iter().filter(|(label, _)| keep(label)).cloned().collect())
    }

    /// Without the metric's name, which no longer fits a computed value.
    #[must_use]
    pub fn unnamed(&self) -> Self {
        self.filtered(|label| label != NAME)
    }

    fn place(&self, label: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(name, _)| (**name).cmp(label))
    }
}

impl<L: Into<String>, V: Into<String>> FromIterator<(L, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (L, V)>>(pairs: I) -> Self {
        let mut labels = Self::default();
        for (label, value) in pairs {
            labels.set(&label.into(), &value.into());
        }
        labels
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{{", self.get(NAME))?;
        for (at, (label, value)) in self.iter().filter(|(label, _)| *label != NAME).enumerate() {
            write!(f, "{}{label}={value:?}", if at == 0 { "" } else { ", " })?;
        }
        write!(f, "}}")
    }
}

/// A value at a moment. Which NaN it is matters: see [`Sample::gap`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Milliseconds since the epoch.
    pub t_ms: i64,
    /// The value.
    pub v: f64,
}

/// The bits by which Prometheus marks staleness; computing makes other NaNs.
const GAP_BITS: u64 = 0x7ff0_0000_0000_0002;

/// The value of a sample that says that there is none.
pub const GAP: f64 = f64::from_bits(GAP_BITS);

impl Sample {
    /// From here on the series has no value, until its next sample: without this, the value before
    /// counts for the lookback.
    pub fn gap(t_ms: i64) -> Self {
        Self { t_ms, v: GAP }
    }

    /// Whether this says that there is none.
    pub fn is_gap(self) -> bool {
        self.v.to_bits() == GAP_BITS
    }
}

/// How a label is compared. Patterns match the whole value; they are compiled anchored.
#[derive(Clone, Debug)]
pub enum MatchOp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`
    Regex(Regex),
    /// `!~`
    NotRegex(Regex),
}

/// One condition on a label. A label that a series lacks has the empty value.
#[derive(Clone, Debug)]
pub struct Matcher {
    /// The label's name; `__name__` for the metric's.
    pub label: String,
    /// How it is compared.
    pub op: MatchOp,
    /// With what, as written.
    pub value: String,
}

impl Matcher {
    /// Whether a label's value passes.
    pub fn is_met_by(&self, value: &str) -> bool {
        match &self.op {
            MatchOp::Equal => self.value == value,
            MatchOp::NotEqual => self.value != value,
            MatchOp::Regex(pattern) => pattern.is_match(value),
            MatchOp::NotRegex(pattern) => !pattern.is_match(value),
        }
    }

    /// Whether a series passes all of them.
    pub fn all_met_by(matchers: &[Self], labels: &Labels) -> bool {
        matchers.iter().all(|matcher| matcher.is_met_by(labels.get(&matcher.label)))
    }
}

/// Why a source could not answer; its own error.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// What is wanted of a bucket, where samples come in coarser steps than they were measured in. A
/// sample as it was measured is a bucket of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// The last value.
    #[default]
    Value,
    /// The least.
    Low,
    /// The greatest.
    High,
    /// All together.
    Sum,
    /// How many there were.
    Count,
}

/// What a query asks a source for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// All must be met.
    pub matchers: &'a [Matcher],
    /// From this moment on, in milliseconds since the epoch.
    pub from_ms: i64,
    /// Up to and with this one.
    pub to_ms: i64,
    /// What is wanted of buckets.
    pub reading: Reading,
    /// Steps up to this many milliseconds are as good as finer ones.
    pub coarsest_ms: i64,
    /// Only what is newest at one of these moments is wanted, a gap too; other samples may be left out.
    pub at: Option<Moments>,
}

/// Whatever holds samples.
pub trait Source {
    /// Every series that meets all matchers, each once, with its samples of `from_ms..=to_ms` in
    /// rising time, no time twice, gaps among them.
    ///
    /// # Errors
    /// When it cannot read, or would have to read more than it is willing to.
    fn select(&self, asked: &Asked<'_>) -> Result<Vec<(Labels, Vec<Sample>)>, SourceError>;

    /// How coarse the coarsest samples of a selection are, in milliseconds; 0: as measured.
    fn resolution(&self, asked: &Asked<'_>) -> i64 {
        let _ = asked;
        0
    }
}
