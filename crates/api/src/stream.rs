//! The exec stream: `GET /api/v1/sandboxes/{id}/exec` as a WebSocket (RFC 6455).
//!
//! ```text
//!   client                                   server
//!   text  {"argv": …, "stdin": true}   ─▶            once, first
//!   binary 0x00 bytes                  ─▶            standard input
//!   text  {"stdin_end": true}          ─▶
//!   text  {"signal": 15}               ─▶
//!                                      ◀─  text   {"started": {"execution_id": …}}
//!                                      ◀─  binary 0x01 bytes    standard output
//!                                      ◀─  binary 0x02 bytes    standard error
//!                                      ◀─  text   {"ended": ExecutionView}   then close 1000
//!                                      ◀─  text   {"problem": ProblemDocument} then close 1008
//! ```
//! Closing the socket detaches; the command goes on. The client may ping; the server pings every 20 s.

use crate::{ExecuteRequest, ExecutionView, ProblemDocument};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// First byte of a binary message: standard input.
pub const STDIN: u8 = 0;
/// First byte of a binary message: standard output.
pub const STDOUT: u8 = 1;
/// First byte of a binary message: standard error.
pub const STDERR: u8 = 2;

/// The first message of a client.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ExecOpen {
    /// What to run.
    #[serde(flatten)]
    pub request: ExecuteRequest,
    /// Standard input will be sent; without it the command reads end of file.
    #[serde(default)]
    pub stdin: bool,
}

/// Later text messages of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ExecControl {
    /// End of standard input.
    StdinEnd(bool),
    /// Send this signal to the command.
    Signal(i32),
}

/// Text messages of the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExecEvent {
    /// The execution is recorded and on its way to the guest.
    Started {
        /// Its id.
        execution_id: String,
    },
    /// It ended.
    Ended(Box<ExecutionView>),
    /// It cannot be run, or followed any longer.
    Problem(ProblemDocument),
}
