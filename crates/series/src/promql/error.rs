//! Why a query has no answer.

use super::source::SourceError;

/// Why a query has no answer. Everything but [`QueryError::Source`] is the asker's to mend.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// It cannot be read.
    #[error("cannot read the query at character {at}, near {near:?}: {why}")]
    Syntax {
        /// Where, in bytes from 0.
        at: usize,
        /// What stands there; empty at the end.
        near: String,
        /// What is wrong.
        why: String,
    },
    /// It can be read, but its parts do not fit together.
    #[error("{0}")]
    Type(String),
    /// A function or operator that PromQL may have and we do not.
    #[error("{name:?} is not supported; the nearest that is: {nearest:?}")]
    Unsupported {
        /// What was asked for.
        name: String,
        /// What comes nearest by name.
        nearest: &'static str,
    },
    /// The query's text is too long or too deeply nested.
    #[error("the query has {found} {what}, more than {max}")]
    TooComplex {
        /// What there is too much of.
        what: &'static str,
        /// So many.
        found: usize,
        /// The limit.
        max: usize,
    },
    /// More points in time than one answer may have.
    #[error("exceeded maximum resolution of {max} points per timeseries: {found} asked for; take a longer step")]
    TooManySteps {
        /// So many.
        found: u64,
        /// The limit.
        max: u64,
    },
    /// More samples touched than one query may.
    #[error("the query touches more than {max} samples; ask for less time or fewer series")]
    TooManySamples {
        /// The limit.
        max: u64,
    },
    /// The caller said that the time is over.
    #[error("the query took too long")]
    TooSlow,
    /// The range is none: the end before the start, or a step that is not positive.
    #[error("no range: {0}")]
    Range(&'static str),
    /// Series that are two before would be one after.
    #[error("vector cannot contain metrics with the same labelset: {0}")]
    SameLabels(String),
    /// Two sides of an operator cannot be paired.
    #[error("{0}")]
    Matching(String),
    /// The source could not answer.
    #[error("the samples could not be read: {0}")]
    Source(#[source] SourceError),
}
