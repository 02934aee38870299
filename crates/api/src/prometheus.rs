//! Answers of `/api/v1/query` and `/api/v1/query_range`: the Prometheus HTTP API's shapes.
//! <https://prometheus.io/docs/prometheus/latest/querying/api/#expression-query-result-formats>

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Seconds since 1970, and a number as text: `NaN`, `+Inf` and `-Inf` are numbers too.
pub type Point = (f64, String);

/// A whole answer; refusals have `error` instead of `data`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueryAnswer {
    /// `success`.
    pub status: String,
    /// What was asked for.
    pub data: QueryData,
}

/// What a query gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "snake_case")]
pub enum QueryData {
    /// Samples by series.
    Matrix(Vec<RangeSeries>),
    /// One sample for each series.
    Vector(Vec<InstantSeries>),
    /// A number without a series.
    Scalar(Point),
    /// A text.
    String(Point),
}

/// One series over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RangeSeries {
    /// Its labels, the metric's name as `__name__`.
    pub metric: BTreeMap<String, String>,
    /// Oldest first.
    pub values: Vec<Point>,
}

/// One series at a moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstantSeries {
    /// Its labels, the metric's name as `__name__`.
    pub metric: BTreeMap<String, String>,
    /// The sample.
    pub value: Point,
}

/// A refusal in that API's shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryFault {
    /// What is wrong.
    pub error: String,
    /// Our code for it.
    pub code: String,
}

/// `/api/v1/metadata`: what each metric is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataAnswer {
    /// By the metric's name.
    pub data: BTreeMap<String, Vec<Metadata>>,
}

/// What a metric is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// `gauge` or `counter`.
    #[serde(rename = "type")]
    pub kind: String,
    /// One sentence; may be empty.
    pub help: String,
}
