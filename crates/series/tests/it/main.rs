//! The integration binary of the series.
//!
//! `store` takes frames, dies and comes back; `newest` reads only what moments need; `ageing` makes them coarser and drops them; `promql` compares answers with Prometheus.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::panic, reason = "tests")]

mod ageing;
mod newest;
mod promql;
mod store;
mod world;
