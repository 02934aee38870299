//! What a person can sit at.

use serde::{Deserialize, Serialize};

/// A way to sit at a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seat {
    /// The first serial port: bytes both ways.
    Serial,
    /// The screen, keyboard and mouse: the RFB protocol (RFC 6143).
    Vnc,
}

impl Seat {
    /// As it is written in requests and in the audit.
    pub fn text(self) -> &'static str {
        match self {
            Self::Serial => "serial",
            Self::Vnc => "vnc",
        }
    }
}
