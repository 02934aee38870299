//! The integration binary of the series.
//!
//! `store` takes frames, dies and comes back; `promql` compares answers with Prometheus.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::panic, reason = "tests")]

mod promql;
mod store;
