//! The `perigee` program against a control plane that is played here: what it prints where, and how
//! it ends. The real control plane is tested elsewhere, end to end.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod canned;
mod console;
mod exec;
mod failures;
mod fake;
mod files;
mod formats;
mod grammar;
mod local;
mod real;
mod tasks;
