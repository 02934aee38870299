//! What can go wrong on the host's side of a channel.
//!
//! Owns: the error, and the cleaning of a guest's words. Refuses: to pass on what a guest wrote
//! without bounding it.

use std::io;
use std::time::Duration;

use crate::hello::VersionRange;
use crate::protocol::{ErrorCode, GuestError};
use crate::record::RecordTooLong;

const MESSAGE_CHARS_MAX: usize = 512;

/// Why a channel, or one request on it, failed.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The port could not be connected to before the deadline.
    #[error("the guest's port could not be reached in {attempts} attempts")]
    Unreachable {
        /// How often it was tried.
        attempts: u32,
        /// Why the last one failed.
        #[source]
        cause: io::Error,
    },
    /// Nobody on the port answered the hello before the deadline.
    #[error("the guest did not answer {attempts} hellos within {waited:?}")]
    NoAnswer {
        /// How often it was tried.
        attempts: u32,
        /// How long in all.
        waited: Duration,
    },
    /// No protocol version in common.
    #[error("the guest speaks protocol versions {theirs}, this host {ours}")]
    Version {
        /// What this host speaks.
        ours: VersionRange,
        /// What the guest speaks.
        theirs: VersionRange,
    },
    /// The guest broke the protocol. Do not trust this session any longer.
    #[error("the guest broke the protocol: {0}")]
    Protocol(&'static str),
    /// A record above the limit, either way.
    #[error(transparent)]
    Record(#[from] RecordTooLong),
    /// The session ended.
    #[error("the channel to the guest is closed: {0}")]
    Closed(String),
    /// The guest did not do its part in time.
    #[error("the guest did not {what} within {limit:?}")]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// How long.
        limit: Duration,
    },
    /// The guest does not know the execution: it is lost.
    #[error("the guest does not know this execution")]
    Lost,
    /// Output at the wanted offset is no longer kept.
    #[error("the guest no longer keeps this output: {0}")]
    OffsetGone(String),
    /// The guest sent more output than the execution's limit allows.
    #[error("the guest sent more than the {limit} bytes of output allowed")]
    OutputBeyondLimit {
        /// The limit, per stream.
        limit: u64,
    },
    /// A file beyond the limit.
    #[error("the file has {bytes} bytes; at most {limit} are allowed")]
    FileTooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The process takes no more stdin.
    #[error("the execution takes no more stdin")]
    StdinClosed,
    /// What was to be uploaded could not be read.
    #[error("the upload could not be read")]
    Source(#[source] io::Error),
    /// The guest refused for another reason.
    #[error("the guest refused: {0}")]
    Refused(GuestError),
}

impl From<h2::Error> for ChannelError {
    fn from(error: h2::Error) -> Self {
        if error.is_reset() {
            return Self::Closed(format!("the guest ended the request: {error}"));
        }
        Self::Closed(error.to_string())
    }
}

impl From<GuestError> for ChannelError {
    fn from(error: GuestError) -> Self {
        let words = error.message.chars().take(MESSAGE_CHARS_MAX);
        let message = words.map(|word| if word.is_control() { ' ' } else { word }).collect();
        match error.code {
            ErrorCode::UnknownExecution => Self::Lost,
            ErrorCode::OffsetGone => Self::OffsetGone(message),
            code => Self::Refused(GuestError { code, message }),
        }
    }
}
