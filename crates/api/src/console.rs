//! Consoles of virtual machines: a ticket, then `GET /api/v1/vms/{id}/console?ticket=…` as a WebSocket.
//!
//! ```text
//!   client                          server
//!   POST …/console {"seat": …}  ─▶  ConsoleView: good once, for half a minute
//!   GET url, upgrade            ─▶  101, when the console is open
//!   binary bytes                ◀─▶ binary bytes      what is typed, what is shown
//!                               ◀─  close 1000 when the guest ended it, 1011 when it broke off
//! ```
//! The subprotocol `binary` may be offered. The server pings every 20 s, and a client that takes nothing for
//! a minute is let go. A newer console at the serial port ends an older one.

use perigee_model::Seat;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Asks for a ticket to a console.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsoleRequest {
    /// Where to sit.
    #[serde(default)]
    pub seat: ConsoleSeat,
}

/// Where to sit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConsoleSeat {
    /// At the first serial port: bytes both ways.
    #[default]
    Serial,
    /// At screen, keyboard and mouse: RFB (RFC 6143) both ways.
    Vnc,
}

impl From<ConsoleSeat> for Seat {
    fn from(seat: ConsoleSeat) -> Self {
        match seat {
            ConsoleSeat::Serial => Self::Serial,
            ConsoleSeat::Vnc => Self::Vnc,
        }
    }
}

/// A ticket to a console: shown once, good once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConsoleView {
    /// The right to open it, for its user, guest and seat.
    pub ticket: String,
    /// Path and query to open as a WebSocket on this API, the ticket in it.
    pub url: String,
    /// Refused from then on.
    pub expires_at: String,
}
