//! Speaking to a control plane: every route of `/api/v1` as a typed call.
//!
//! Owns: addresses and tokens, one kept-alive connection, time-outs, request ids, idempotency keys,
//! and turning what comes back into a value or a [`ClientError`].
//! Refuses: rules and printing. What a refusal means to a person is the command line's business.
//! Deliberately absent: TLS. An `https` address is refused by name until it exists.
#![forbid(unsafe_code)]

mod address;
mod ask;
mod backup;
mod call;
mod console;
mod error;
mod event;
mod exec;
mod execution;
mod file;
mod health;
mod host;
mod image;
mod local;
mod metrics;
mod network;
mod query;
mod sandbox;
mod snapshot;
mod task;
mod vm;
mod volume;
mod websocket;

pub use address::{Address, Token};
pub use call::{Client, RawAnswer};
pub use console::{ConsoleReceiver, ConsoleSender};
pub use error::ClientError;
pub use exec::{ExecMessage, ExecReceiver, ExecSender};
pub use file::FileStream;
pub use metrics::{LiveReceiver, QueryRange};
pub use query::{Answer, ListQuery, Tagged};
pub use vm::Switch;
