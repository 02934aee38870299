//! The store's one integration binary.
//!
//! `contract` holds what every store promises; `memory`, `sqlite` and `postgres` run it. `twins`
//! compares two stores on random stories, `durability` kills a process that writes, `disk` fills a
//! disk, `pace` measures.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::panic, reason = "tests")]

mod cluster;
mod contract;
mod disk;
mod durability;
mod memory;
mod pace;
mod postgres;
mod samples;
mod sqlite;
mod twins;
