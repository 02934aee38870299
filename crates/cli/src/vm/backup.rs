//! `perigee vm backup …`: a virtual machine's disk, kept away from it.

use super::line::VmLine;
use super::shown;
use crate::cell::Cell;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::names::{Kind, resolve};
use crate::rows::{moment, words};
use crate::sandbox::millis;
use crate::session::Session;
use crate::table::{Column, Shown, column, wide};
use crate::units::parse_duration;
use crate::{listing, progress};
use clap::{Args, Subcommand};
use perigee_api::{BackupRequest, BackupScheduleRequest, BackupView, RestoreRequest, VerifyRequest};
use perigee_client::{Answer, ListQuery};
use std::time::Duration;

/// What to do with backups.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Back a virtual machine up as it is now; it goes on
    #[command(
        after_help = "Example:\n  perigee vm backup create db\n  perigee vm backup create db before-move --encrypt\n\nThe disk of a machine that runs is kept as a power cut would leave it. After the first backup, one of a\nmachine that runs reads only what was written since."
    )]
    Create {
        /// Which machine: name, id or the beginning of an id
        vm: String,
        /// What the backup is called [default: the machine's name and the time]
        name: Option<String>,
        /// Encrypt it where it is kept
        #[arg(long)]
        encrypt: bool,
        /// For people
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        /// Print the task's id instead of waiting
        #[arg(long)]
        no_wait: bool,
    },
    /// List backups, of one virtual machine or of all
    #[command(visible_alias = "ls", after_help = "Example:\n  perigee vm backup list db -o wide")]
    List {
        /// Only of this machine, which may be gone: its name then, or its id
        vm: Option<String>,
        /// At most this many
        #[arg(long)]
        limit: Option<usize>,
    },
    /// Show one backup
    #[command(after_help = "Example:\n  perigee vm backup get db-20261122-051209 -o yaml")]
    Get {
        /// Its name or id
        backup: String,
    },
    /// Make a virtual machine from a backup: what it was, with the disk it had
    #[command(
        after_help = "Example:\n  perigee vm backup restore db-20261122-051209\n  perigee vm backup restore db-20261122-051209 --name db-2 --host web-1"
    )]
    Restore {
        /// Its name or id
        backup: String,
        /// The new machine's name [default: that of the one that was backed up]
        #[arg(long)]
        name: Option<String>,
        /// Only on this host
        #[arg(long)]
        host: Option<String>,
        /// Print the task's id instead of waiting
        #[arg(long)]
        no_wait: bool,
    },
    /// Look at all bytes of a backup; with --boot, also whether it boots
    #[command(
        after_help = "Example:\n  perigee vm backup verify db-20261122-051209\n  perigee vm backup verify db-20261122-051209 --boot\n\nWith --boot a machine without a network is made from it, has to show a sign of life within ten minutes\n(perigee-guest's hello, or a login prompt on its serial port), and is removed again."
    )]
    Verify {
        /// Its name or id
        backup: String,
        /// Make a machine from it, see it come up, and remove it
        #[arg(long)]
        boot: bool,
        /// Print the task's id instead of waiting
        #[arg(long)]
        no_wait: bool,
    },
    /// Have a virtual machine backed up again and again, or no more
    #[command(
        after_help = "Example:\n  perigee vm backup schedule db --every 24h --at 3h --keep 7\n  perigee vm backup schedule db --off\n\nTimes are UTC. Those that it made are let go of when --keep newer ones are there; yours stay."
    )]
    Schedule(ScheduleOptions),
    /// Delete a backup
    #[command(visible_alias = "rm", after_help = "Example:\n  perigee vm backup delete db-20261122-051209 --yes")]
    Delete {
        /// Its name or id
        backup: String,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

/// When a machine is backed up.
#[derive(Debug, Args)]
pub struct ScheduleOptions {
    /// Which machine: name, id or the beginning of an id
    vm: String,
    /// So often
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, required_unless_present = "off")]
    every: Option<Duration>,
    /// So long after midnight UTC, or after each full --every
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    at: Option<Duration>,
    /// So many are kept
    #[arg(long, default_value_t = 7)]
    keep: u32,
    /// Encrypt them where they are kept
    #[arg(long)]
    encrypt: bool,
    /// No more
    #[arg(long, conflicts_with_all = ["every", "at", "encrypt"])]
    off: bool,
}

/// Does it.
pub async fn run(verb: Verb, session: &Session) -> Result<Exit, Failure> {
    match verb {
        Verb::Create { vm, name, encrypt, description, no_wait } => {
            let request = BackupRequest { name, description, encrypt: encrypt.then_some(true) };
            let made = create(session, &vm, &request, no_wait).await;
            made.map_err(|failure| failure.of_name_taken(|| format!("perigee vm backup list {vm}")))
        }
        Verb::List { vm, limit } => {
            let client = session.client()?;
            let hint = "No backups; make one: perigee vm backup create VM";
            let query = ListQuery::default().filter("vm", vm);
            listing::all(session, query, limit, hint, async |query| client.backups(query).await).await
        }
        Verb::Get { backup } => {
            session.out.object(&session.client()?.backup(&backup).await?)?;
            Ok(Exit::OK)
        }
        Verb::Restore { backup, name, host, no_wait } => {
            let request = RestoreRequest { name, host };
            let answer = session.client()?.restore_backup(&backup, &request, None).await?;
            shown(session, answer, no_wait, &format!("making a machine from {backup}")).await
        }
        Verb::Verify { backup, boot, no_wait } => {
            let answer = session.client()?.verify_backup(&backup, &VerifyRequest { boot }, None).await?;
            done(session, answer, no_wait, &format!("looking at {backup}")).await
        }
        Verb::Schedule(options) => schedule(session, &options).await,
        Verb::Delete { backup, yes } => delete(session, &backup, yes).await,
    }
}

async fn create(session: &Session, vm: &str, request: &BackupRequest, no_wait: bool) -> Result<Exit, Failure> {
    let id = resolve(session, Kind::Vm, vm).await?;
    let answer = session.client()?.create_backup(&id, request, None).await?;
    done(session, answer, no_wait, &format!("backing {vm} up")).await
}

/// Waits for the work and shows the backup.
async fn done(session: &Session, answer: Answer<BackupView>, no_wait: bool, doing: &str) -> Result<Exit, Failure> {
    let made = match answer {
        Answer::Done(made) => made,
        Answer::Accepted(task) if no_wait => {
            session.out.text(&format!("{}\n", task.id))?;
            return Ok(Exit::OK);
        }
        Answer::Accepted(task) => {
            let backup = task.backup_id.clone().unwrap_or_default();
            progress::succeeded(session, *task, doing).await?;
            session.client()?.backup(&backup).await?
        }
    };
    session.out.object(&made)?;
    Ok(Exit::OK)
}

async fn schedule(session: &Session, options: &ScheduleOptions) -> Result<Exit, Failure> {
    let id = resolve(session, Kind::Vm, &options.vm).await?;
    let client = session.client()?;
    let Some(every) = options.every.filter(|_| !options.off) else {
        client.schedule_backups(&id, None).await?;
        return Ok(Exit::OK);
    };
    let request = BackupScheduleRequest {
        every_ms: millis(every),
        offset_ms: options.at.map_or(0, millis),
        keep: options.keep,
        encrypt: options.encrypt,
    };
    client.schedule_backups(&id, Some(&request)).await?;
    session.out.object(&VmLine::Ours(Box::new(client.vm(&id).await?.object)))?;
    Ok(Exit::OK)
}

async fn delete(session: &Session, backup: &str, yes: bool) -> Result<Exit, Failure> {
    let asking = session.settings.stdin_terminal && session.settings.stderr_terminal;
    if !(yes || asking && session.out.confirmed(&format!("Delete the backup {backup}?"))) {
        let hint = format!("perigee vm backup delete {backup} --yes");
        return Err(Failure::usage(format!("{backup} was not deleted")).hint(hint));
    }
    session.client()?.delete_backup(backup).await?;
    Ok(Exit::OK)
}

impl Shown for BackupView {
    const COLUMNS: &'static [Column] = &[
        column("NAME"),
        column("VM"),
        column("STATUS"),
        column("DISK"),
        column("READ"),
        column("KEPT"),
        column("TAKEN"),
        wide("ENCRYPTED"),
        wide("SCHEDULED"),
        wide("QUIESCED"),
        wide("VERIFIED"),
        wide("BOOTED"),
        wide("DESCRIPTION"),
        wide("CREATED"),
        wide("ID"),
    ];
    fn cells(&self) -> Vec<Cell> {
        let bytes = |bytes: Option<u64>| bytes.map_or(Cell::Missing, Cell::Bytes);
        let flag = |flag: bool| words(if flag { "yes" } else { "no" });
        vec![
            words(&self.name),
            words(&self.vm),
            words(&self.status),
            bytes(self.disk_bytes),
            bytes(self.read_bytes),
            bytes(self.kept_bytes),
            Cell::time(self.taken_at.as_ref()),
            flag(self.encrypted),
            flag(self.scheduled),
            self.quiesced.map_or(Cell::Missing, flag),
            Cell::time(self.verified_at.as_ref()),
            self.booted_after_ms.map_or(Cell::Missing, Cell::Millis),
            words(&self.description),
            moment(&self.created_at),
            words(&self.id),
        ]
    }
    fn name(&self) -> String {
        self.name.clone()
    }
}
