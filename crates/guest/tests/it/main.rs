//! The guest's protocol with both ends in one process, over an emulated port.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod attach;
mod exec;
mod file;
mod hostile;
mod port;
mod record;
mod session;
