//! `perigee-agent`: the host agent's program.

mod config;
mod driver;
mod log;
mod measure;
mod memory;
mod run;

use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    memory::spare();
    serve()
}

#[tokio::main]
async fn serve() -> ExitCode {
    let line = config::Line::parse();
    log::start(line.log());
    tokio::spawn(memory::trim_now_and_then());
    let ended = match line.into_order() {
        Ok(config::Order::Join(join)) => run::join(join).await,
        Ok(config::Order::Run(config)) => run::run(*config).await,
        Err(e) => Err(e),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!(error = format!("{e:#}"), "perigee-agent ends");
            ExitCode::FAILURE
        }
    }
}
