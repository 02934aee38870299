//! What every driver promises, held against each of them, and what only the real one can show.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

mod cases;
mod contract;
#[path = "../../../libvirt/tests/it/daemon.rs"]
#[allow(dead_code, reason = "shared with the tests of the protocol")]
mod daemon;
mod image;
mod libvirt;
mod machines;
mod microvm;
mod network;
mod networks;
#[path = "../../../network/tests/it/ns.rs"]
#[allow(dead_code, reason = "shared with the tests of the network")]
mod ns;
mod real;
mod simulated;
mod snapshots;
mod volumes;
