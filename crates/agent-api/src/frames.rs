//! What a stream of measurements says in both directions.
//!
//! ```text
//! agent  ──Begin(node)──▶ server          the server answers with what it has
//! agent  ◀──durable──────                 so the agent knows where to go on
//! agent  ──Frame──Frame──▶                at most `window` that are not durable yet
//! agent  ◀──durable · want_key · refused──
//! ```

use crate::base64_bytes;
use perigee_model::RunId;
use perigee_model::frame::StreamName;
use perigee_model::guest::Problem;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A frame of a run; all before it are meant too.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mark {
    /// Whose numbers these are.
    pub run: RunId,
    /// Up to this one.
    pub sequence: u64,
}

/// From the agent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FramesUp {
    /// Which stream this is; the first word.
    Begin(StreamName),
    /// An encoded frame (`perigee_model::frame`).
    Frame {
        /// The run that measured it.
        run: RunId,
        /// As the spool has it.
        #[serde(serialize_with = "base64_bytes::serialize", deserialize_with = "base64_bytes::frame")]
        frame: Vec<u8>,
    },
}

/// From the control plane: all it has to say, each time.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
pub struct FramesDown {
    /// On disk there; `None`: nothing yet.
    pub durable: Option<Mark>,
    /// So many frames may be under way.
    pub window: u32,
    /// How often to measure, when somebody watches.
    pub interval: Option<Duration>,
    /// What follows `durable` cannot be read: go on from a key frame.
    pub want_key: bool,
    /// The frame behind `durable` will never be taken.
    pub refused: Option<Problem>,
}
