//! The shapes both ends exchange, as JSON, and the limits both ends keep.
//!
//! Owns: names, fields and numbers of the protocol. Refuses: behaviour.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::hello::VersionRange;

/// The versions this build speaks.
pub const VERSIONS: VersionRange = VersionRange { lowest: 1, highest: 1 };
/// The name of the virtio-serial port.
pub const PORT_NAME: &str = "perigee.agent";
/// Largest HTTP/2 frame either end accepts.
pub const FRAME_BYTES_MAX: u32 = 16 * 1024;
/// HTTP/2 stream window the host grants: what an execution may have on the way, unpersisted.
pub const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// HTTP/2 connection window the host grants.
pub const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// HTTP/2 stream window the guest grants. Times [`STREAMS_MAX`] it is the guest's connection
/// window, so that processes which never read their stdin cannot block the start of another.
pub const GUEST_STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// Largest header list either end accepts.
pub const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
/// Requests in flight on one session.
pub const STREAMS_MAX: u32 = 256;
/// Largest JSON body.
pub const JSON_BYTES_MAX: usize = 256 * 1024;
/// Executions a guest remembers, running or not yet acknowledged.
pub const EXECUTIONS_MAX: usize = 256;
/// Newest output kept per stream.
pub const RING_BYTES: usize = 1024 * 1024;
/// Output not yet handed to a reader at which the process's pipe is no longer read.
pub const BACKLOG_BYTES_MAX: usize = RING_BYTES - STREAM_WINDOW_BYTES as usize;
/// Output kept per stream when the start does not say.
pub const OUTPUT_LIMIT_BYTES: u64 = 16 * 1024 * 1024;
/// Longest path in a file request.
pub const PATH_BYTES_MAX: usize = 4096;
/// Longest clone id.
pub const CLONE_ID_BYTES_MAX: usize = 64;
/// Response header: how many stdin bytes the guest has taken for this execution.
pub const STDIN_OFFSET_HEADER: &str = "x-stdin-offset";
/// Response header: the length of the file that follows, in bytes.
pub const FILE_SIZE_HEADER: &str = "x-file-size";

/// Who answers on the other end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestHello {
    /// The agent's own version.
    pub version: String,
    /// The kernel's boot id: the same in every clone of one snapshot.
    pub boot_id: String,
    /// Which clone this is, as told to the guest.
    pub clone_id: String,
    /// `uname -r`.
    pub kernel_release: String,
    /// Time since the kernel booted.
    pub uptime_ms: u64,
}

/// Starts a command, or attaches to it if the id is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecStart {
    /// Names the execution; known ids are never run again.
    pub id: Uuid,
    /// The program, looked up in `PATH`, and its arguments.
    pub argv: Vec<String>,
    /// Added to `PATH` and `HOME`; nothing else is inherited.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory; `/` when absent.
    #[serde(default)]
    pub cwd: Option<String>,
    /// A name in the guest's `/etc/passwd`, or a number; the agent's own user when absent.
    #[serde(default)]
    pub user: Option<String>,
    /// Whether stdin follows; otherwise the process reads `/dev/null`.
    #[serde(default)]
    pub stdin: bool,
    /// Kills the process group after this long.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// Output kept per stream; what comes after is counted and thrown away.
    #[serde(default = "output_limit_default")]
    pub output_limit_bytes: u64,
    /// First stdout byte wanted.
    #[serde(default)]
    pub stdout_offset: u64,
    /// First stderr byte wanted.
    #[serde(default)]
    pub stderr_offset: u64,
    /// Refuse with [`ErrorCode::UnknownExecution`] instead of starting.
    #[serde(default)]
    pub attach_only: bool,
}

fn output_limit_default() -> u64 {
    OUTPUT_LIMIT_BYTES
}

impl ExecStart {
    /// A start with every option at its default.
    pub fn new(id: Uuid, argv: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            id,
            argv: argv.into_iter().map(Into::into).collect(),
            env: BTreeMap::new(),
            cwd: None,
            user: None,
            stdin: false,
            timeout_ms: None,
            output_limit_bytes: OUTPUT_LIMIT_BYTES,
            stdout_offset: 0,
            stderr_offset: 0,
            attach_only: false,
        }
    }
}

/// The process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecStarted {
    /// Process id and process group inside the guest.
    pub pid: u32,
}

/// A signal for an execution's process group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecSignal {
    /// 1 to 64.
    pub signal: i32,
}

/// How an execution ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ExecOutcome {
    /// By `exit`.
    Exited {
        /// 0 to 255.
        code: i32,
    },
    /// By a signal.
    Signaled {
        /// Its number.
        signal: i32,
    },
    /// Killed because `timeout_ms` passed.
    TimedOut,
    /// Never ran.
    FailedToStart {
        /// The kernel's reason.
        errno: i32,
        /// The same in words.
        message: String,
    },
}

/// The last record of an execution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecEnd {
    /// How it ended.
    pub outcome: ExecOutcome,
    /// Bytes written to stdout, the discarded ones included.
    pub stdout_bytes: u64,
    /// Bytes written to stderr, the discarded ones included.
    pub stderr_bytes: u64,
    /// Whether stdout went beyond the limit.
    pub stdout_truncated: bool,
    /// Whether stderr went beyond the limit.
    pub stderr_truncated: bool,
    /// From start to exit.
    pub duration_ms: u64,
}

/// Why a guest refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request is not one.
    Invalid,
    /// No such request.
    UnknownRequest,
    /// No execution with this id.
    UnknownExecution,
    /// Output at this offset is no longer kept.
    OffsetGone,
    /// The execution has not ended.
    StillRunning,
    /// The execution has ended.
    NotRunning,
    /// [`EXECUTIONS_MAX`] are known; acknowledge some.
    TooManyExecutions,
    /// No such file or directory.
    NotFound,
    /// Something other than a regular file.
    NotAFile,
    /// The guest's kernel said no.
    Denied,
    /// Beyond a limit.
    TooLarge,
    /// The guest's disk is full.
    NoSpace,
    /// Not absolute, too long, or with a NUL.
    BadPath,
    /// Any other failure of the guest's kernel.
    Io,
    /// A code this build does not know.
    #[serde(other)]
    Other,
}

impl ErrorCode {
    /// The HTTP status the guest answers with.
    pub fn status(self) -> u16 {
        match self {
            Self::Invalid | Self::BadPath => 400,
            Self::Denied => 403,
            Self::UnknownRequest | Self::UnknownExecution | Self::NotFound => 404,
            Self::StillRunning | Self::NotRunning | Self::NotAFile => 409,
            Self::OffsetGone => 410,
            Self::TooLarge => 413,
            Self::TooManyExecutions => 429,
            Self::NoSpace => 507,
            Self::Io | Self::Other => 500,
        }
    }
}

/// A guest's refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code:?}: {message}")]
pub struct GuestError {
    /// For programs.
    pub code: ErrorCode,
    /// For people. Written by the guest: never to be interpreted.
    pub message: String,
}

impl GuestError {
    /// A refusal with its words.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}
