//! The agent inside a guest, the protocol it speaks, and the host's end of it.
//!
//! Owns: the session layer on the guest's one serial port, the HTTP/2 requests on top, both ends.
//! Refuses: anything unbounded. The host treats the guest as hostile, the guest trusts its host.
//!
//! # Session layer
//!
//! The port is one byte stream that outlives every host process and every snapshot, so a host may
//! find bytes of somebody else's conversation on it. A session starts like this:
//!
//! ```text
//! host  → PERIGEE1 <nonce> <lowest>-<highest>\n      nonce: 32 hex digits, new each time
//! guest → OK <nonce> <version> <clone id>\n          or  NO <nonce> <lowest>-<highest>\n
//! host  → HTTP/2 client preface …
//! ```
//!
//! The host discards what it reads until a line with its own nonce. Without one after 40 ms (then
//! 80, 160 … 1 s) it disconnects and tries again, from the second time on behind 32 KiB of zeros:
//! they fill the frame a previous host died in and then break the guest's HTTP/2, which makes the
//! guest look for the hello in what it last read. Neither line is anchored to the start of a line:
//! garbage may stand directly before it.
//!
//! ```text
//! guest:  seeking ──hello──▶ serving ──error, end of file, or a hello in what broke it──▶ seeking
//! ```
//!
//! # Requests
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /v1/hello` | – | [`GuestHello`] |
//! | `POST /v1/close` | – | 204, then the guest ends the session and seeks the next hello |
//! | `POST /v1/exec` | records: 0 [`ExecStart`], then 1 stdin bytes and 5 [`ExecSignal`]; end of stream is end of stdin | records: 4 [`ExecStarted`], 1 stdout, 2 stderr, 3 [`ExecEnd`]; header `x-stdin-offset` |
//! | `POST /v1/exec/{id}/signal` | `{"signal": 15}` | 204 |
//! | `DELETE /v1/exec/{id}` | – | 204; 409 while it runs |
//! | `PUT /v1/files?path=P&mode=644` | the file | 204 |
//! | `GET /v1/files?path=P` | – | the file; header `x-file-size` |
//!
//! `mode` is octal, `path` percent-encoded. A record is `u8 kind, u32 big-endian length, payload` with at most
//! 64 KiB of payload ([`record`]). A refusal is a [`GuestError`] as JSON under the status of its
//! [`ErrorCode`].
//!
//! A start is idempotent by id: a known id is attached to, at the offset given for each stream,
//! and never run again. The guest keeps the newest 1 MiB of each stream and stops reading a
//! process's pipe while 768 KiB of it were not handed to an attached reader; together with a
//! stream window of 256 KiB nothing is lost when a host dies and its successor attaches at what
//! was persisted. A result stays until it is acknowledged by `DELETE`.

pub mod boot;
pub mod card;
pub mod channel;
pub mod hello;
pub mod machine;
pub mod protocol;
pub mod query;
pub mod record;
mod root;
pub mod server;
mod syscall;

pub use channel::{
    Channel, ChannelError, ChannelLimits, Dial, ExecEvent, Execution, ExecutionOutput, FileDownload, StdinWriter,
    Stream, UnixDial,
};
pub use protocol::{ErrorCode, ExecEnd, ExecOutcome, ExecSignal, ExecStart, ExecStarted, GuestError, GuestHello};
