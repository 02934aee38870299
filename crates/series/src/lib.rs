//! Series: what was measured, kept and asked about.
//!
//! Owns: the frame log and its syncing, blocks of compressed columns, which frames were taken, and
//! PromQL over all of it.
//! Refuses: measuring, which is the probe's; protocols, which are the server's; and reading the
//! clock: whoever calls says what time it is. Why files of our own: docs/decisions/0008.
//!
//! ```text
//! append ─▶ latest values ─▶ head: changes by column ─seal─▶ block in a day's file
//!        └▶ frame log ─group fdatasync─▶ durable: acknowledged      │ dropped by days
//! select ◀── blocks and heads, by family page ◀─────────────────────┘
//! ```
//! A crash at any point loses nothing acknowledged: a frame is in the log until its block is synced,
//! and a frame that is in both is taken once.
#![forbid(unsafe_code)]

mod block;
mod cache;
mod column;
mod database;
mod error;
mod head;
mod journal;
pub mod promql;
mod query;
mod rollup;
mod segments;
mod stream;

pub use database::{Aged, Appended, Database, Repaired, Settings, Standing};
pub use error::{Refused, SeriesError};
pub use journal::{OnDurable, Position, Progress};
pub use query::Selection;
pub use stream::{Class, Losses};
