//! The command line `perigee`: nouns and verbs over `/api/v1`, and `up`, `down` and `doctor` for the
//! machine it runs on.
//!
//! Owns: the grammar, the formats, the exit codes, and what a person reads when something fails.
//! Refuses: rules about guests. The control plane decides; this shows what it said.
//!
//! ```text
//!   args ──▶ settings ──▶ session ──▶ one file per noun ──▶ output ──▶ stdout: data, nothing else
//!                                            │                └─────▶ stderr: everything for people
//!                                            └──▶ perigee-client ──▶ control plane
//! ```
#![forbid(unsafe_code)]

mod api;
pub mod args;
mod cell;
mod complete;
mod copy;
mod doctor;
mod down;
mod event;
mod execution;
pub mod exit;
mod failure;
mod host;
mod image;
mod instance;
mod launch;
mod listing;
mod live;
mod metrics;
mod names;
mod network;
mod output;
mod progress;
mod removal;
mod rows;
mod running;
mod sandbox;
mod session;
mod settings;
mod spark;
mod table;
mod task;
mod top;
pub mod units;
mod up;
mod version;
mod vm;
mod volume;

use args::{Cli, Noun};
use clap::Parser;
use exit::Exit;
use failure::Failure;
use session::Session;
use std::ffi::OsString;

/// Runs one command line and gives its exit code.
pub fn run(arguments: impl Iterator<Item = OsString>) -> i32 {
    let arguments: Vec<OsString> = arguments.collect();
    // Not in the grammar: nobody but `up` says this.
    if arguments.get(1).is_some_and(|word| word == launch::START_SESSION) {
        return output::plain_failure(&launch::start_session(&arguments[2..])).code();
    }
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(fault) => return output::usage(&fault).code(),
    };
    let session = match settings::Settings::read(&cli.globals).map(Session::new) {
        Ok(session) => session,
        Err(failure) => return output::plain_failure(&failure).code(),
    };
    // One thread is enough to wait with, and starts fastest.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(fault) => return output::plain_failure(&Failure::io("the runtime did not start", &fault)).code(),
    };
    let list = list_of(&cli.noun, session.settings.agent);
    let ended = runtime.block_on(dispatch(cli.noun, &session)).map_err(|failure| failure.among(list));
    // A read of standard input that never returns must not keep the process.
    runtime.shutdown_background();
    match ended {
        Ok(exit) => exit.code(),
        Err(failure) => session.out.failure(&failure).code(),
    }
}

/// Where the names that a command takes are to be seen.
fn list_of(noun: &Noun, of_an_agent: bool) -> &'static str {
    match noun {
        Noun::Sandbox { .. } | Noun::Network { verb: network::Verb::Forward { .. } } => "perigee sandbox list",
        Noun::Network { .. } => "perigee network list",
        Noun::Vm { .. } if of_an_agent => "perigee --agent vm list",
        Noun::Vm { .. } => "perigee vm list",
        Noun::Volume { .. } => failure::VOLUMES,
        Noun::Image { .. } => "perigee image list",
        _ => "",
    }
}

async fn dispatch(noun: Noun, session: &Session) -> Result<Exit, Failure> {
    if session.settings.agent && !matches!(noun, Noun::Vm { .. }) {
        return Err(Failure::usage("An agent knows the virtual machines of its host, and nothing else")
            .hint("perigee --agent vm list"));
    }
    match noun {
        Noun::Sandbox { verb } => sandbox::run(verb, session).await,
        Noun::Vm { verb } => vm::run(verb, session).await,
        Noun::Volume { verb } => volume::run(verb, session).await,
        Noun::Host { verb } => host::run(verb, session).await,
        Noun::Image { verb } => image::run(verb, session).await,
        Noun::Network { verb } => network::run(verb, session).await,
        Noun::Task { verb } => task::run(verb, session).await,
        Noun::Execution { verb } => execution::run(verb, session).await,
        Noun::Metrics { verb } => metrics::run(verb, session).await,
        Noun::Event { verb } => event::run(verb, session).await,
        Noun::Up(options) => up::run(&options, session).await,
        Noun::Down(options) => down::run(&options, session).await,
        Noun::Doctor => doctor::run(session).await,
        Noun::Version => version::run(session).await,
        Noun::Api(options) => api::run(&options, session).await,
        Noun::Completion { shell } => complete::completion(shell, session),
        Noun::Man { dir } => complete::man(&dir, session),
        Noun::Help { words } => complete::help(&words, session),
    }
}
