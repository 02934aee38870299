//! `perigeed`: the control plane.
#![forbid(unsafe_code)]

use clap::Parser;
use perigee_server::{config, run};
use std::process::ExitCode;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt, registry};

#[tokio::main]
async fn main() -> ExitCode {
    let flags = config::Flags::parse();
    let filter = std::env::var("PERIGEE_LOG").ok().and_then(|filter| filter.parse().ok());
    let filter = filter.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let lines = fmt::layer().json().flatten_event(true).with_writer(std::io::stderr);
    registry().with(lines.with_filter(filter)).init();
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
