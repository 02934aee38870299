//! The client against servers that misbehave, on loopback, which the tests allow.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod body;
mod far;
mod lead;
mod resume;
mod tls;
