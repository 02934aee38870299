//! PromQL: a query and a source of samples in, an answer in the Prometheus API's terms out.
//!
//! Owns: evaluation, with the semantics of Prometheus 2.42, which the test
//! `real_the_same_answers_as_prometheus` compares it with.
//! Refuses: native histograms, storing, HTTP, and asking for the time: whoever calls says when a
//! query has taken too long. Why so: docs/decisions/0009.
//!
//! ```text
//! text ──syntax──▶ Expr ──evaluation──▶ rows × steps ──▶ Value ──serialise──▶ JSON
//!                             │ once per selector, for all steps
//!                             ▼
//!                          Source
//! ```
//! Of samples that come in coarser steps than they were measured in, each function asks for what it
//! needs of a bucket: the least for `min_over_time`, sums and counts for means. Where steps of a fifth
//! of the query's step and of a window's length are to be had, they are taken.
//!
//! Every node of an expression gives one row per series, with a cell for each step of the query; an
//! instant query has one step.

mod aggregation;
mod dates;
mod error;
mod evaluation;
mod functions;
mod histogram;
mod labelling;
mod pairing;
mod reduction;
mod rows;
mod source;
mod sums;
mod syntax;
mod value;
mod windows;

pub use error::QueryError;
pub use rows::Moments;
pub use source::{Asked, GAP, Labels, MatchOp, Matcher, NAME, Reading, Sample, Source, SourceError};
pub use value::{Value, serialise};

use evaluation::{Budget, Evaluation};
use rows::Node;
use windows::RangeFunction;

/// A query's text is at most this long.
pub const QUERY_BYTES_MAX: usize = 8 * 1024;
/// Brackets within brackets, at most; operators within operators, at most twice as deep.
pub const QUERY_DEPTH_MAX: usize = 64;
/// So many operators in one query.
pub const QUERY_OPERATORS_MAX: usize = 256;

/// How queries are evaluated, and what one may cost.
#[derive(Clone, Copy, Debug)]
pub struct Engine {
    /// So long a sample counts where no newer one and no gap follows.
    pub lookback_ms: i64,
    /// The step of a subquery that names none.
    pub subquery_step_ms: i64,
    /// A range query has at most one point more than this, as with Prometheus.
    pub steps_max: u64,
    /// So many samples may be read and cells be computed.
    pub samples_max: u64,
}

impl Default for Engine {
    /// As Prometheus: five minutes, one minute, 11,000; but a fifth of its 50 million
    /// samples, which are sixteen bytes each.
    fn default() -> Self {
        Self { lookback_ms: 300_000, subquery_step_ms: 60_000, steps_max: 11_000, samples_max: 10_000_000 }
    }
}

/// The moments of a range query: `from_ms`, then every `step_ms`, up to `to_ms`.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// The first moment.
    pub from_ms: i64,
    /// No moment after this.
    pub to_ms: i64,
    /// From one moment to the next.
    pub step_ms: i64,
}

impl Engine {
    /// What a query gives at one moment. `is_over` is asked now and then whether to stop.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn instant(
        &self,
        source: &dyn Source,
        query: &str,
        at_ms: i64,
        is_over: &dyn Fn() -> bool,
    ) -> Result<Value, QueryError> {
        let expr = syntax::parse(query)?;
        let budget = Budget::new(self.samples_max, is_over);
        let moments = Moments { first_ms: at_ms, step_ms: 1, count: 1 };
        let evaluation = Evaluation::new(self, source, &budget, moments, at_ms);
        if let Some(ranges) = evaluation.ranges(&expr, RangeFunction::Last)? {
            return Ok(Value::Matrix(ranges.at_the_only_moment()));
        }
        Ok(match evaluation.node(&expr)? {
            Node::Scalar(values) => Value::Scalar(Sample { t_ms: at_ms, v: values[0] }),
            Node::Text(text) => Value::String(at_ms, text),
            Node::Rows(rows) => Value::Vector(
                rows.into_iter()
                    .filter_map(|row| row.cells[0].map(|v| (row.labels, Sample { t_ms: at_ms, v })))
                    .collect(),
            ),
        })
    }

    /// What a query gives at each moment of a range. `is_over` is asked now and then whether to stop.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn range(
        &self,
        source: &dyn Source,
        query: &str,
        range: Range,
        is_over: &dyn Fn() -> bool,
    ) -> Result<Value, QueryError> {
        let moments = self.moments(range)?;
        let expr = syntax::parse(query)?;
        let budget = Budget::new(self.samples_max, is_over);
        let evaluation = Evaluation::new(self, source, &budget, moments, range.to_ms);
        let of_type = |found: &str| {
            format!("invalid expression type {found:?} for range query, must be Scalar or instant Vector")
        };
        if matches!(expr.value_type(), promql_parser::parser::value::ValueType::Matrix) {
            return Err(QueryError::Type(of_type("range vector")));
        }
        let rows = match evaluation.node(&expr)? {
            Node::Text(_) => return Err(QueryError::Type(of_type("string"))),
            node => node.into_rows(),
        };
        let mut series: Vec<_> = rows
            .into_iter()
            .map(|row| (row.labels, moments.samples_of(&row.cells)))
            .filter(|(_, samples)| !samples.is_empty())
            .collect();
        series.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(Value::Matrix(series))
    }

    fn moments(&self, range: Range) -> Result<Moments, QueryError> {
        if range.step_ms <= 0 {
            return Err(QueryError::Range("the step must be positive"));
        }
        let Some(length) = range.to_ms.checked_sub(range.from_ms).and_then(|ms| u64::try_from(ms).ok()) else {
            return Err(QueryError::Range("the end is before the start"));
        };
        let found = length / range.step_ms.unsigned_abs();
        if found > self.steps_max {
            return Err(QueryError::TooManySteps { found, max: self.steps_max });
        }
        let count = usize::try_from(found).map_or(usize::MAX, |steps| steps + 1);
        Ok(Moments { first_ms: range.from_ms, step_ms: range.step_ms, count })
    }
}

/// The conditions of a selector, as `match[]` parameters give them.
///
/// # Errors
/// `Type` for an expression that is no instant selector; else as for a query.
pub fn matchers_of(selector: &str) -> Result<Vec<Matcher>, QueryError> {
    match syntax::parse(selector)? {
        promql_parser::parser::Expr::VectorSelector(selector) => evaluation::matchers(&selector),
        _ => Err(QueryError::Type("a selector is wanted, such as node_load1{host=\"web-1\"}".to_owned())),
    }
}

#[cfg(test)]
mod tests;
