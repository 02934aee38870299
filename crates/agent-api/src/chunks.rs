//! What is said of a backup's chunks: one after the other, for as long as one likes.
//!
//! ```text
//! agent  ──Offer──▶ server      ◀──Stored── it has it already
//!                               ◀──Send──── it wants it: Data… ──▶ ◀──Stored──
//! agent  ──Want──▶  server      ◀──Comes── Data…      ◀──Missing──
//! server ──Failed──▶ instead of any other answer
//! ```
//! The next word of the agent comes after the answer to the last one. Silence ends it, and either end may
//! leave at any time: what was not answered may have been done or not, and is asked again.

use crate::base64_bytes;
use perigee_model::Digest;
use serde::{Deserialize, Serialize};

/// Most bytes of one `Data`.
pub const CHUNK_PIECE_BYTES_MAX: usize = 256 << 10;

/// From the agent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChunkUp {
    /// I have this chunk.
    Offer {
        /// Whether it is to be sealed where it is kept.
        sealed: bool,
        /// Of its bytes.
        digest: Digest,
        /// So many.
        bytes: u64,
    },
    /// The next bytes of what was offered.
    Data(#[serde(serialize_with = "base64_bytes::serialize", deserialize_with = "base64_bytes::piece")] Vec<u8>),
    /// I need this chunk.
    Want {
        /// Whether it is kept sealed.
        sealed: bool,
        /// Of its bytes.
        digest: Digest,
    },
}

/// From the control plane.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChunkDown {
    /// All of its bytes, please.
    Send,
    /// It is kept: verified and durable.
    Stored(ChunkStored),
    /// So many bytes follow.
    Comes {
        /// All of them together.
        bytes: u64,
    },
    /// The next ones.
    Data(#[serde(serialize_with = "base64_bytes::serialize", deserialize_with = "base64_bytes::piece")] Vec<u8>),
    /// It is not there.
    Missing,
    /// It cannot be done.
    Failed(ChunkFailed),
}

/// What became of a chunk that was offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChunkStored {
    /// It was not there before.
    pub new: bool,
    /// Bytes on the disk where it is kept.
    pub stored_bytes: u64,
}

/// Why a chunk was not stored or given.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChunkFailed {
    /// What can be done about it.
    pub fault: ChunkFault,
    /// For people.
    pub text: String,
}

/// What can be done about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChunkFault {
    /// The disk of the repository is full.
    NoSpace,
    /// The chunk was stored and its file has changed since.
    Damaged,
    /// It is refused, and will be again.
    Refused,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_that_is_too_long_is_not_read() {
        let said = |length: usize| serde_json::to_string(&ChunkUp::Data(vec![7; length])).unwrap();
        assert!(serde_json::from_str::<ChunkUp>(&said(CHUNK_PIECE_BYTES_MAX)).is_ok());
        assert!(serde_json::from_str::<ChunkUp>(&said(CHUNK_PIECE_BYTES_MAX + 1)).is_err());
    }
}
