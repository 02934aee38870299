//! `perigee-agent`: the host agent's program.

mod config;
mod driver;
mod log;
mod measure;
mod memory;
mod run;

use clap::Parser as _;
use std::process::ExitCode;

/// Of so many processors the agent's tasks use one at most: a word from one task to another that runs on another
/// processor costs more than most of what they do, and the machine is there for others.
const PROCESSORS_FOR_ONE: usize = 4;
const WORKERS_MAX: usize = 4;

fn main() -> std::io::Result<ExitCode> {
    memory::spare();
    let line = config::Line::parse();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = (processors / PROCESSORS_FOR_ONE).clamp(1, WORKERS_MAX);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    Ok(runtime.block_on(serve(line)))
}

async fn serve(line: config::Line) -> ExitCode {
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
