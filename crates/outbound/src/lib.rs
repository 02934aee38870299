//! Every call to the outside: one guarded HTTP client.
//!
//! Owns: what may be called (http and https, public addresses, and networks that were allowed), what a
//! call may cost (size, silence, redirects, memory), and taking a broken download up where it was.
//! Refuses: other schemes, credentials in an address, private and special addresses, from https to
//! http, packed bodies. Deliberately absent: proxies from the environment, cookies, a connection pool:
//! each call resolves, checks and connects anew.
//!
//! ```text
//!   address ──▶ resolve ──▶ guard each address ──▶ connect to that address ──▶ TLS by name ──▶ GET
//!      ▲                                                                              │
//!      └──────────── a redirect is an address like any other, 5 at most ◀─────────────┘
//! ```
//! The address that was checked is the one that is connected to: a name that means something else the
//! second time it is asked for changes nothing.
#![forbid(unsafe_code)]

mod call;
mod download;
mod error;
mod guard;

pub use call::{Answer, Outbound};
pub use download::Download;
pub use error::OutboundError;
pub use guard::{Guard, Network, place};

use std::time::Duration;

/// What a call may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of one body.
    pub bytes_max: u64,
    /// Resolving, connecting and shaking hands take at most so long, each.
    pub connect_within: Duration,
    /// The answer's head comes within this time.
    pub head_within: Duration,
    /// A body that brings less than 16 KiB in so long has stalled.
    pub stall_within: Duration,
    /// Redirects that are followed.
    pub redirects_max: u32,
    /// A download that broke so often without bringing anything new is given up.
    pub tries_max: u32,
    /// The first wait before a broken download goes on; doubles.
    pub retry_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes_max: 64 << 30,
            connect_within: Duration::from_secs(10),
            head_within: Duration::from_secs(30),
            stall_within: Duration::from_secs(30),
            redirects_max: 5,
            tries_max: 5,
            retry_after: Duration::from_millis(500),
        }
    }
}
