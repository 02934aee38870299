//! The repository of backups as its callers meet it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod damage;
mod full;
mod key;
mod kill;
mod sealing;
mod store;
mod sweep;
mod world;
