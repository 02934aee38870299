//! `perigee-sim fleet`: played hosts for a real control plane, until SIGTERM or the end of `--for`.

use anyhow::{Context as _, Result};
use clap::Parser;
use perigee_agent::home::prepare;
use perigee_agent::tls::ServerUrl;
use perigee_client::{Address, Client, Token};
use perigee_clock::Clock;
use perigee_sim::fleet::{Fleet, Mix, Past, Standing};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// More hosts than this in one process is a mistake.
const HOSTS_MAX: u64 = 20_000;

/// Played hosts that speak the agent's real protocol.
#[derive(Debug, Parser)]
#[command(name = "perigee-sim fleet")]
struct Line {
    /// The control plane's agent link
    #[arg(long, value_name = "URL")]
    server: ServerUrl,
    /// Its API, for one join token for each host
    #[arg(long, value_name = "URL")]
    api: String,
    /// File with an administrator's token of the API
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// Where identities are kept; hosts that are there join no second time
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// How many
    #[arg(long, default_value = "1000", value_parser = clap::value_parser!(u64).range(1..=HOSTS_MAX))]
    hosts: u64,
    /// Milliseconds between two measurements of a host
    #[arg(long, default_value = "5000", value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
    interval_ms: u64,
    /// End after so many seconds
    #[arg(long = "for", value_name = "SECONDS")]
    lasts: Option<u64>,
    /// What the hosts measure is drawn from it
    #[arg(long, default_value = "0")]
    seed: u64,
    /// How much of what they measure moves
    #[arg(long, value_enum, default_value = "usual")]
    mix: Mix,
    /// Seconds for which they measured, each second, before they came here
    #[arg(long, value_name = "SECONDS", requires = "past_dir")]
    past: Option<u32>,
    /// Where that is written down as OpenMetrics text, a file for each host
    #[arg(long, value_name = "DIR", requires = "past")]
    past_dir: Option<PathBuf>,
    /// Show Prometheus the last measurements of host NAME here, at /NAME
    #[arg(long, value_name = "ADDRESS")]
    pages: Option<SocketAddr>,
}

/// Reads the line and plays.
pub fn main() -> Result<ExitCode> {
    let line = Line::parse_from(std::env::args_os().skip(1));
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(std::io::stderr).init();
    more_files()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(play(line))?;
    // What is still to be said to the control plane is in nobody's interest any more.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

async fn play(line: Line) -> Result<()> {
    let token = std::fs::read_to_string(&line.token_file);
    let token = token.with_context(|| format!("{} cannot be read", line.token_file.display()))?;
    prepare(&line.data_dir)?;
    let cancel = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let record = Record::write(&line.data_dir)?;
    let fleet = Fleet {
        hosts: usize::try_from(line.hosts)?,
        interval: Duration::from_millis(line.interval_ms),
        seed: line.seed,
        mix: line.mix,
        past: line.past.zip(line.past_dir).map(|(seconds, folder)| Past { seconds, folder }),
        pages: line.pages,
        folder: line.data_dir.clone(),
        server: line.server,
        client: Client::new(Address::parse(&line.api)?, Some(Token::new(token.trim()))),
        clock: Clock::real(),
    };
    let playing = fleet.run(cancel.clone(), |standing| tell(line.hosts, standing));
    let end = async {
        let lasts = async {
            match line.lasts {
                Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = lasts => {}
        }
        cancel.cancel();
    };
    let (played, ()) = tokio::join!(playing, end);
    played?;
    drop(record);
    Ok(())
}

#[allow(clippy::print_stdout, reason = "what a program at a terminal is for")]
fn tell(hosts: u64, standing: Standing) {
    let Standing { joined, linked, waiting, lost } = standing;
    println!("{hosts} hosts: {joined} joined, {linked} linked, {waiting} frames wait, {lost} lost");
}

/// `endpoints.json`, by which `perigee down` finds this process; gone when it ends.
struct Record(PathBuf);

impl Record {
    fn write(folder: &Path) -> Result<Self> {
        let path = folder.join("endpoints.json");
        std::fs::write(&path, serde_json::json!({ "pid": std::process::id() }).to_string())?;
        Ok(Self(path))
    }
}
impl Drop for Record {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

/// Each host has a connection: as many descriptors as this process may have.
fn more_files() -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}
