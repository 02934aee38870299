//! The network in namespaces of a test's own: real bridges, TAPs, rules and frames. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

mod card;
mod forward;
mod frames;
mod inventory;
mod kill;
mod names;
mod ns;
mod policy;
mod six;
mod spoof;
mod surroundings;
mod world;
