//! The crate against daemons that misbehave, and against libvirtd itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

mod console;
mod daemon;
mod far;
mod hostile;
mod lifecycle;
mod real;
mod streams;
