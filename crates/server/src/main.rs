//! `perigeed`: the control plane.
#![forbid(unsafe_code)]

use clap::Parser;
use perigee_server::{config, run};
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    let flags = config::Flags::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("PERIGEE_LOG");
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).with_writer(std::io::stderr).init();
    let started = async { run::run(config::load(flags)?).await };
    match started.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(
                program = "perigeed",
                version = env!("CARGO_PKG_VERSION"),
                error = format!("{error:#}"),
                "perigeed ends"
            );
            ExitCode::FAILURE
        }
    }
}
