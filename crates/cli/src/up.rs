//! `perigee up`: a control plane and an agent on this machine, or the half that is missing.
//!
//! ```text
//!   perigeed there? ──no──▶ start, wait for endpoints.json ─┐
//!        └─yes──────────────────────────────────────────────┴▶ agent there? ──no──▶ start ─┐
//!                                                                  └─yes───────────────────┴▶ ready?
//! ```

use crate::cell::Cell;
use crate::down;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::instance::{Endpoints, Program};
use crate::launch::{self, Started};
use crate::progress::{Line, interrupted};
use crate::session::Session;
use crate::settings::Settings;
use crate::table::{Column, Shown, column};
use clap::{Args, ValueEnum};
use perigee_api::ReadyView;
use serde::Serialize;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// An instance is ready by then, or something is wrong with it. It takes a second or two; a host whose disk or
/// processors are taken by others needs longer, and ending what is about to be ready would help nobody.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Between looks at readiness.
const LOOK: Duration = Duration::from_millis(20);
/// Between looks at programs that should run for ever.
const WATCH: Duration = Duration::from_millis(500);

/// How to start.
#[derive(Debug, Args)]
pub struct Options {
    /// Address of the API [default: 127.0.0.1 and a free port; 127.0.0.1:8080 without --data-dir]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Address that agents of other machines dial [default: 127.0.0.1 and a free port; 127.0.0.1:8443
    /// without --data-dir]
    #[arg(long, value_name = "ADDRESS")]
    agents: Option<String>,
    /// Come back as soon as it is ready
    #[arg(long)]
    detach: bool,
    /// What runs guests
    #[arg(long, value_enum, default_value = "auto")]
    driver: Driver,
    /// Play so many hosts beside it, which measure what is made up
    #[arg(long, value_name = "HOSTS", value_parser = clap::value_parser!(u64).range(1..=20_000))]
    sim: Option<u64>,
}

/// What runs guests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Driver {
    /// The best this machine has
    Auto,
    /// Nothing real: guests are played, for trying out
    Simulated,
}

/// What is running now.
#[derive(Serialize)]
struct Up {
    url: String,
    agents: Option<String>,
    data_dir: PathBuf,
    token_file: PathBuf,
    perigeed_pid: i32,
    agent_pid: i32,
    started: Vec<&'static str>,
    took_ms: u64,
}

/// One program, and its start if that was ours.
struct Half {
    program: Program,
    pid: i32,
    started: Option<Started>,
}

/// Starts what is missing.
pub async fn run(options: &Options, session: &Session) -> Result<Exit, Failure> {
    // Whatever other control plane was meant by options or variables, this is about the local one.
    let session = &Session::new(session.settings.local());
    let settings = &session.settings;
    let root = settings.data_dir.as_path();
    let began = Instant::now();
    launch::prepare(root)?;
    let lock = launch::lock(root)?;
    let mut halves = Vec::new();
    let line = Line::begin(session, "starting");
    let endpoints = match bring_up(options, session, &mut halves, began + READY_WITHIN).await {
        Ok(endpoints) => endpoints,
        Err(failure) => {
            drop(line);
            end_started(root, &mut halves).await;
            return Err(failure);
        }
    };
    drop(line);
    drop(lock);
    report(session, &endpoints, &halves, began)?;
    if options.detach { Ok(Exit::OK) } else { stay(session, halves).await }
}

async fn bring_up(
    options: &Options,
    session: &Session,
    halves: &mut Vec<Half>,
    deadline: Instant,
) -> Result<Endpoints, Failure> {
    let settings = &session.settings;
    let root = settings.data_dir.as_path();
    let server = half(Program::ControlPlane, settings, server_arguments(options, settings), halves, deadline).await?;
    let link = server.agents.clone().ok_or_else(|| {
        Failure::new(Exit::FAILURE, "perigeed does not say where agents dial").hint("perigee version")
    })?;
    half(Program::Agent, settings, agent_arguments(options, settings, &link), halves, deadline).await?;
    loop {
        for half in halves.iter_mut() {
            if let Some(started) = &mut half.started {
                launch::still_there(started, root)?;
            }
        }
        let missing = match session.client() {
            Ok(client) => match client.ready().await {
                Ok(ready) if is_ready(&ready) => break,
                Ok(ready) => unready(&ready),
                Err(error) => error.to_string(),
            },
            Err(failure) => failure.what,
        };
        if Instant::now() >= deadline {
            let within = READY_WITHIN.as_secs();
            return Err(Failure::new(Exit::TIMEOUT, format!("The instance was not ready within {within} s"))
                .cause(missing)
                .cause(format!("see {}", Program::Agent.log(root).display()))
                .hint("perigee doctor"));
        }
        sleep(LOOK).await;
    }
    if let Some(hosts) = options.sim {
        let arguments = fleet_arguments(hosts, settings, &server)?;
        half(Program::Fleet, settings, arguments, halves, deadline).await?;
    }
    Ok(server)
}

/// The program that runs, or a new one.
async fn half(
    program: Program,
    settings: &Settings,
    arguments: Vec<OsString>,
    halves: &mut Vec<Half>,
    deadline: Instant,
) -> Result<Endpoints, Failure> {
    let root = settings.data_dir.as_path();
    if let Some(endpoints) = program.alive(root).await {
        halves.push(Half { program, pid: endpoints.pid, started: None });
        return Ok(endpoints);
    }
    if let Some(stuck) = program.recorded(root).filter(|e| program.is(root, e.pid)) {
        return Err(Failure::new(
            Exit::CONFLICT,
            format!("{} runs as {} but does not answer", program.name(), stuck.pid),
        )
        .hint("perigee down --force; perigee up"));
    }
    let file = launch::find(program, &settings.search_path)?;
    let mut started = launch::start(program, root, &file, &arguments)?;
    let pid = i32::try_from(started.child.id()).unwrap_or_default();
    let appeared = launch::appeared(&mut started, root, deadline).await;
    halves.push(Half { program, pid, started: Some(started) });
    appeared
}

fn server_arguments(options: &Options, settings: &Settings) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["--data-dir".into(), settings.data_dir.clone().into()];
    let fixed = |address: &str| settings.system.then(|| address.to_owned());
    for (flag, address) in [
        ("--listen", options.listen.clone().or_else(|| fixed("127.0.0.1:8080"))),
        ("--agents", options.agents.clone().or_else(|| fixed("127.0.0.1:8443"))),
    ] {
        if let Some(address) = address {
            arguments.extend([flag.into(), address.into()]);
        }
    }
    arguments
}

fn agent_arguments(options: &Options, settings: &Settings, link: &str) -> Vec<OsString> {
    let root = settings.data_dir.as_path();
    let health = if settings.system { "127.0.0.1:9092" } else { "127.0.0.1:0" };
    let mut arguments: Vec<OsString> = vec![
        "run".into(),
        "--data-dir".into(),
        Program::Agent.dir(root).into(),
        "--server".into(),
        link.into(),
        "--token-file".into(),
        root.join("local.token").into(),
        "--health".into(),
        health.into(),
    ];
    if options.driver == Driver::Simulated {
        arguments.extend(["--driver".into(), "simulated".into()]);
    }
    // One instance, one id. An agent of before keeps its own: its guests carry it.
    let new = !Program::Agent.dir(root).join("instance").exists();
    if let Some(id) = std::fs::read_to_string(root.join("instance")).ok().filter(|_| new) {
        arguments.extend(["--instance".into(), id.trim().into()]);
    }
    arguments
}

fn fleet_arguments(hosts: u64, settings: &Settings, server: &Endpoints) -> Result<Vec<OsString>, Failure> {
    let root = settings.data_dir.as_path();
    let (Some(link), Some(api)) = (&server.agents, &server.http) else {
        return Err(Failure::new(Exit::FAILURE, "perigeed does not say where it listens"));
    };
    let pairs: [(&str, OsString); 5] = [
        ("--data-dir", Program::Fleet.dir(root).into()),
        ("--server", link.into()),
        ("--api", api.into()),
        ("--token-file", root.join("token").into()),
        ("--hosts", hosts.to_string().into()),
    ];
    let pairs = pairs.into_iter().flat_map(|(name, value)| [name.into(), value]);
    Ok(std::iter::once("fleet".into()).chain(pairs).collect())
}

/// The control plane is, and a host with it. A host elsewhere may be away meanwhile.
fn is_ready(ready: &ReadyView) -> bool {
    let about_hosts = |name: &str| name.starts_with("host ") || name.starts_with("driver ");
    let ours = ready.parts.iter().filter(|p| !about_hosts(&p.name)).all(|p| p.ready);
    let local = nix::unistd::gethostname().ok().and_then(|n| n.into_string().ok()).unwrap_or_default();
    let local = format!("host {}", local.to_ascii_lowercase());
    let mut hosts = ready.parts.iter().filter(|p| p.name.starts_with("host "));
    let host = match ready.parts.iter().find(|p| p.name == local) {
        Some(part) => part.ready,
        None => hosts.any(|p| p.ready),
    };
    ours && host
}

fn unready(ready: &ReadyView) -> String {
    let missing = ready.parts.iter().filter(|p| !p.ready).map(|p| format!("{}: {}", p.name, p.text));
    let missing: Vec<String> = missing.collect();
    if missing.is_empty() { "no host is connected".to_owned() } else { missing.join("; ") }
}

fn report(session: &Session, endpoints: &Endpoints, halves: &[Half], began: Instant) -> Result<(), Failure> {
    let root = &session.settings.data_dir;
    let pid = |program| halves.iter().find(|h| h.program == program).map_or(0, |h| h.pid);
    session.out.object(&Up {
        url: endpoints.http.clone().unwrap_or_default(),
        agents: endpoints.agents.clone(),
        data_dir: root.clone(),
        token_file: root.join("cli.toml"),
        perigeed_pid: pid(Program::ControlPlane),
        agent_pid: pid(Program::Agent),
        started: halves.iter().filter(|h| h.started.is_some()).map(|h| h.program.name()).collect(),
        took_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    })?;
    if pid(Program::Fleet) > 0 {
        session.out.note("Played hosts are joining; see perigee host list.");
    }
    let given = if session.settings.system { String::new() } else { format!(" --data-dir {}", root.display()) };
    session.out.note("next:");
    session.out.note(&format!("  perigee{given} image build base"));
    session.out.note(&format!("  perigee{given} sandbox run --image base -- uname -r"));
    Ok(())
}

/// Until Ctrl-C, or until one of them ends by itself.
async fn stay(session: &Session, mut halves: Vec<Half>) -> Result<Exit, Failure> {
    let root = session.settings.data_dir.as_path();
    session.out.note("Ctrl-C ends it; guests live on.");
    let died = tokio::select! {
        () = interrupted() => None,
        failure = watch(root, &mut halves) => Some(failure),
    };
    let ended = down::end(session, false).await;
    match died {
        Some(failure) => Err(failure),
        None => ended.map(|()| Exit::OK),
    }
}

async fn watch(root: &Path, halves: &mut [Half]) -> Failure {
    loop {
        for half in halves.iter_mut() {
            match &mut half.started {
                Some(started) => {
                    if let Err(failure) = launch::still_there(started, root) {
                        return failure;
                    }
                }
                None if half.program.is(root, half.pid) => {}
                None => return Failure::new(Exit::FAILURE, format!("{} ended", half.program.name())),
            }
        }
        sleep(WATCH).await;
    }
}

/// A start that failed leaves nothing of its own behind.
async fn end_started(root: &Path, halves: &mut [Half]) {
    for half in halves.iter_mut().rev().filter(|h| h.started.is_some()) {
        if half.program.signal(root, half.pid, nix::sys::signal::Signal::SIGTERM) {
            half.program.gone(root, half.pid, Instant::now() + down::END_WITHIN).await;
        }
    }
}

impl Shown for Up {
    const COLUMNS: &'static [Column] = &[
        column("URL"),
        column("AGENTS"),
        column("DATA_DIR"),
        column("TOKEN_FILE"),
        column("STARTED"),
        column("READY_AFTER"),
    ];
    fn cells(&self) -> Vec<Cell> {
        vec![
            Cell::Text(self.url.clone()),
            Cell::text(self.agents.as_ref()),
            Cell::Text(self.data_dir.display().to_string()),
            Cell::Text(self.token_file.display().to_string()),
            Cell::Text(self.started.join(" ")),
            Cell::Millis(self.took_ms),
        ]
    }
    fn name(&self) -> String {
        self.url.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perigee_api::ReadyPart;

    fn ready(parts: &[(&str, bool)]) -> bool {
        let part =
            |(name, ready): &(&str, bool)| ReadyPart { name: (*name).into(), ready: *ready, text: String::new() };
        let parts = parts.iter().map(part).collect();
        is_ready(&ReadyView { ready: false, parts, version: String::new(), instance: String::new() })
    }

    #[test]
    fn ready_needs_the_control_plane_and_a_host() {
        assert!(ready(&[("store", true), ("host elsewhere-1", true), ("driver x on elsewhere-1", false)]));
        assert!(ready(&[("store", true), ("host elsewhere-1", false), ("host elsewhere-2", true)]));
        assert!(!ready(&[("store", true)]));
        assert!(!ready(&[("store", false), ("host elsewhere-1", true)]));
        assert!(!ready(&[("store", true), ("host elsewhere-1", false)]));
    }
}
