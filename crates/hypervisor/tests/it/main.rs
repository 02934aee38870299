//! What every driver promises, held against each of them, and what only the real one can show.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

mod cases;
mod contract;
mod image;
mod microvm;
mod real;
mod simulated;
