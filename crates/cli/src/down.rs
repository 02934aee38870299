//! `perigee down`: ends played hosts, agent and control plane of this machine's instance, and only
//! those.

use crate::exit::Exit;
use crate::failure::Failure;
use crate::instance::Program;
use crate::progress::Line;
use crate::removal::{Limit, remove_all, stop_vms};
use crate::session::Session;
use crate::units::parse_duration;
use clap::{Args, ValueEnum};
use nix::sys::signal::Signal;
use std::time::Duration;
use tokio::time::Instant;

/// A program drains for 30 s at most and then ends.
pub const END_WITHIN: Duration = Duration::from_secs(35);
/// A killed process is gone by then.
const KILLED_WITHIN: Duration = Duration::from_secs(5);

/// How to end.
#[derive(Debug, Args)]
pub struct Options {
    /// What becomes of the guests
    #[arg(long, value_enum, default_value = "keep")]
    guests: Guests,
    /// With `--guests stop`: so long all of them together may take
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "2m")]
    within: Duration,
    /// Kill what does not end by itself
    #[arg(long)]
    force: bool,
}

/// What becomes of the guests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Guests {
    /// They run on, and are found again by the next `up`
    Keep,
    /// Sandboxes are deleted, VMs turned off; they stay off until they are started
    Stop,
}

/// Ends all.
pub async fn run(options: &Options, session: &Session) -> Result<Exit, Failure> {
    let session = &Session::new(session.settings.local());
    if options.guests == Guests::Stop {
        stop_guests(session, options.within).await?;
    }
    end(session, options.force).await?;
    Ok(Exit::OK)
}

/// Ends every guest, or says which did not end in time.
async fn stop_guests(session: &Session, within: Duration) -> Result<(), Failure> {
    let root = session.settings.data_dir.as_path();
    for program in [Program::ControlPlane, Program::Agent] {
        if program.alive(root).await.is_none() {
            let text = format!("Guests can only be stopped while {} runs", program.name());
            return Err(Failure::new(Exit::UNREACHABLE, text).hint("perigee up --detach; perigee down --guests stop"));
        }
    }
    let limit = Limit::of(within);
    remove_all(session, limit).await?;
    stop_vms(session, limit).await
}

/// Who speaks to the control plane, then itself.
pub async fn end(session: &Session, force: bool) -> Result<(), Failure> {
    let root = session.settings.data_dir.as_path();
    let mut found = false;
    for program in [Program::Fleet, Program::Agent, Program::ControlPlane] {
        let recorded = program.recorded(root).filter(|e| program.is(root, e.pid));
        if let Some(endpoints) = recorded {
            found = true;
            end_one(session, program, endpoints.pid, force).await?;
        }
    }
    if !found {
        session.out.note(&format!("Nothing of {} is running.", root.display()));
    }
    Ok(())
}

async fn end_one(session: &Session, program: Program, pid: i32, force: bool) -> Result<(), Failure> {
    let root = session.settings.data_dir.as_path();
    let _line = Line::begin(session, &format!("ending {}", program.name()));
    program.signal(root, pid, Signal::SIGTERM);
    if program.gone(root, pid, Instant::now() + END_WITHIN).await {
        return Ok(());
    }
    let stuck = Failure::new(
        Exit::TIMEOUT,
        format!("{} (pid {pid}) did not end within {} s", program.name(), END_WITHIN.as_secs()),
    );
    if !force {
        return Err(stuck.cause(format!("see {}", program.log(root).display())).hint("perigee down --force"));
    }
    program.signal(root, pid, Signal::SIGKILL);
    if program.gone(root, pid, Instant::now() + KILLED_WITHIN).await { Ok(()) } else { Err(stuck) }
}
