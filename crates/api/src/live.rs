//! What `/api/v1/live` pushes: the latest values, then what changes, as JSON texts.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A message to a watcher. `sequence` counts the connection's messages from 1, without gaps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LiveMessage {
    /// Everything; replaces all that was known.
    Snapshot {
        /// This message's number.
        sequence: u64,
        /// One for each host and kind of measurement.
        streams: Vec<LiveStream>,
    },
    /// What one stream's values are now, where they changed.
    Frame {
        /// This message's number.
        sequence: u64,
        /// The host's id.
        host: String,
        /// `node` or `vm`.
        stream: String,
        /// When it was measured: milliseconds since 1970.
        at: i64,
        /// All series of the stream are replaced by `added`.
        reset: bool,
        /// Series that follow those known; each gets the next column.
        added: Vec<LiveSeries>,
        /// Columns with another value.
        columns: Vec<u32>,
        /// Their values; `null` where there is none.
        values: Vec<Option<f64>>,
    },
}

/// The latest values of one stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LiveStream {
    /// The host's id.
    pub host: String,
    /// `node` or `vm`.
    pub stream: String,
    /// When it was measured: milliseconds since 1970.
    pub at: i64,
    /// What is measured, by column.
    pub series: Vec<LiveSeries>,
    /// The values, by column; `null` where there is none.
    pub values: Vec<Option<f64>>,
}

/// One time series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LiveSeries {
    /// The metric's name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// `gauge` or `counter`.
    pub kind: String,
}

/// What a watcher may say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum LiveRequest {
    /// Send a snapshot: something was missed.
    Resync {},
}
