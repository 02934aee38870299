//! The records inside an exec request and its answer: `u8 kind, u32 big-endian length, payload`.
//!
//! Owns: the framing. Refuses: a payload above [`PAYLOAD_BYTES_MAX`], before buffering any of it.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 5;
/// Largest payload of one record.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// Kinds in a request.
pub mod request {
    /// JSON `ExecStart`, the first record and only that.
    pub const START: u8 = 0;
    /// Bytes for the process.
    pub const STDIN: u8 = 1;
    /// Reserved for the size of a terminal.
    pub const RESIZE: u8 = 4;
    /// JSON `ExecSignal`.
    pub const SIGNAL: u8 = 5;
}

/// Kinds in an answer.
pub mod answer {
    /// Bytes of the process.
    pub const STDOUT: u8 = 1;
    /// Bytes of the process.
    pub const STDERR: u8 = 2;
    /// JSON `ExecEnd`, the last record.
    pub const END: u8 = 3;
    /// JSON `ExecStarted`.
    pub const STARTED: u8 = 4;
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// See [`request`] and [`answer`].
    pub kind: u8,
    /// At most [`PAYLOAD_BYTES_MAX`].
    pub payload: Bytes,
}

/// A length no honest end sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record of {bytes} bytes; at most {PAYLOAD_BYTES_MAX} are allowed")]
pub struct RecordTooLong {
    /// What the header said.
    pub bytes: usize,
}

/// The record as bytes, header and payload in one piece.
pub fn encode(kind: u8, payload: &[u8]) -> Result<Bytes, RecordTooLong> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(RecordTooLong { bytes: payload.len() });
    }
    let mut bytes = BytesMut::with_capacity(HEADER_BYTES + payload.len());
    bytes.put_u8(kind);
    bytes.put_u32(length);
    bytes.put_slice(payload);
    Ok(bytes.freeze())
}

/// Cuts a byte stream into records. Holds one record and one pushed piece at most, as long as the
/// caller pushes only after [`RecordDecoder::next_record`] returned `None`.
#[derive(Debug, Default)]
pub struct RecordDecoder {
    buffer: BytesMut,
}

impl RecordDecoder {
    /// Adds the next piece of the stream.
    pub fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next whole record.
    pub fn next_record(&mut self) -> Result<Option<Record>, RecordTooLong> {
        let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let [kind, length @ ..] = *header;
        let length = u32::from_be_bytes(length) as usize;
        if length > PAYLOAD_BYTES_MAX {
            return Err(RecordTooLong { bytes: length });
        }
        if self.buffer.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
        let payload = self.buffer.split_to(length).freeze();
        Ok(Some(Record { kind, payload }))
    }

    /// Whether nothing is left over.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }
}
