//! `perigee vm snapshot …`: points in a virtual machine's life that it can go back to.

use super::{ended, shown};
use crate::cell::Cell;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::names::{Kind, resolve};
use crate::rows::{moment, words};
use crate::session::Session;
use crate::table::{Column, Shown, column, wide};
use crate::{listing, progress};
use clap::{Args, Subcommand};
use perigee_api::{SnapshotRequest, SnapshotView};
use perigee_client::{Answer, ListQuery};

/// What to do with snapshots.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Keep a virtual machine as it is now; it goes on
    #[command(
        after_help = "Example:\n  perigee vm snapshot create db before-upgrade\n  perigee vm snapshot create db warm --memory --description caches-full\n\nThe disk of a machine that runs is kept as a power cut would leave it; with --memory the machine stands\nwhile its memory is written, and goes on where it was when it is put back."
    )]
    Create {
        /// Which machine: name, id or the beginning of an id
        vm: String,
        /// What the snapshot is called
        name: String,
        /// Keep its memory, too; it must run
        #[arg(long)]
        memory: bool,
        /// For people
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        /// Print the task's id instead of waiting
        #[arg(long)]
        no_wait: bool,
    },
    /// List a virtual machine's snapshots
    #[command(visible_alias = "ls", after_help = "Example:\n  perigee vm snapshot list db -o wide")]
    List {
        /// Which machine: name, id or the beginning of an id
        vm: String,
    },
    /// Show one snapshot
    #[command(after_help = "Example:\n  perigee vm snapshot get db before-upgrade -o yaml")]
    Get(Which),
    /// Put a virtual machine back to a snapshot; what it is now is lost
    #[command(
        after_help = "Example:\n  perigee vm snapshot revert db before-upgrade --yes\n\nWithout memory in the snapshot, a machine that runs is ended and boots from the disk as it was."
    )]
    Revert {
        /// Which
        #[command(flatten)]
        which: Which,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
        /// Print the task's id instead of waiting
        #[arg(long)]
        no_wait: bool,
    },
    /// Delete a snapshot; the virtual machine goes on as it is
    #[command(visible_alias = "rm", after_help = "Example:\n  perigee vm snapshot delete db before-upgrade")]
    Delete {
        /// Which
        #[command(flatten)]
        which: Which,
        /// Print the task's id instead of waiting
        #[arg(long)]
        no_wait: bool,
    },
}

/// Which snapshot of which machine.
#[derive(Clone, Debug, Args)]
pub struct Which {
    /// Which machine: name, id or the beginning of an id
    vm: String,
    /// The snapshot's name or id
    name: String,
}

/// Does it.
pub async fn run(verb: Verb, session: &Session) -> Result<Exit, Failure> {
    match verb {
        Verb::Create { vm, name, memory, description, no_wait } => {
            let request = SnapshotRequest { name, description, memory: memory.then_some(true) };
            let made = create(session, &vm, request, no_wait).await;
            // The name that is taken is a snapshot's, not a machine's.
            made.map_err(|failure| failure.of_name_taken(|| format!("perigee vm snapshot list {vm}")))
        }
        Verb::List { vm } => {
            let id = resolve(session, Kind::Vm, &vm).await?;
            let client = session.client()?;
            let hint = format!("No snapshots; make one: perigee vm snapshot create {vm} NAME");
            listing::all(session, ListQuery::default(), None, &hint, async |_| client.snapshots(&id).await).await
        }
        Verb::Get(which) => {
            let id = resolve(session, Kind::Vm, &which.vm).await?;
            session.out.object(&session.client()?.snapshot(&id, &which.name).await?)?;
            Ok(Exit::OK)
        }
        Verb::Revert { which, yes, no_wait } => revert(session, &which, yes, no_wait).await,
        Verb::Delete { which: Which { vm, name }, no_wait } => {
            let id = resolve(session, Kind::Vm, &vm).await?;
            let answer = session.client()?.delete_snapshot(&id, &name, None).await?;
            ended(session, answer, no_wait, &format!("deleting the snapshot {name} of {vm}")).await
        }
    }
}

async fn create(session: &Session, vm: &str, request: SnapshotRequest, no_wait: bool) -> Result<Exit, Failure> {
    let id = resolve(session, Kind::Vm, vm).await?;
    let client = session.client()?;
    let made = match client.create_snapshot(&id, &request, None).await? {
        Answer::Done(made) => made,
        Answer::Accepted(task) if no_wait => {
            session.out.text(&format!("{}\n", task.id))?;
            return Ok(Exit::OK);
        }
        Answer::Accepted(task) => {
            progress::succeeded(session, *task, &format!("keeping {vm} as {}", request.name)).await?;
            client.snapshot(&id, &request.name).await?
        }
    };
    session.out.object(&made)?;
    Ok(Exit::OK)
}

async fn revert(session: &Session, which: &Which, yes: bool, no_wait: bool) -> Result<Exit, Failure> {
    let Which { vm, name } = which;
    let id = resolve(session, Kind::Vm, vm).await?;
    let asking = session.settings.stdin_terminal && session.settings.stderr_terminal;
    let question = format!("Put {vm} back to {name}, and lose what it is now?");
    if !(yes || asking && session.out.confirmed(&question)) {
        let hint = format!("perigee vm snapshot revert {vm} {name} --yes");
        return Err(Failure::usage(format!("{vm} was not put back")).hint(hint));
    }
    let answer = session.client()?.revert_snapshot(&id, name, None).await?;
    shown(session, answer, no_wait, &format!("putting {vm} back to {name}")).await
}

impl Shown for SnapshotView {
    const COLUMNS: &'static [Column] = &[
        column("NAME"),
        column("STATUS"),
        column("MEMORY"),
        column("TAKEN"),
        column("DESCRIPTION"),
        wide("VM"),
        wide("CREATED"),
        wide("ID"),
    ];
    fn cells(&self) -> Vec<Cell> {
        vec![
            words(&self.name),
            words(&self.status),
            self.memory_bytes.map_or(Cell::Missing, Cell::Bytes),
            Cell::time(self.taken_at.as_ref()),
            words(&self.description),
            words(&self.vm),
            moment(&self.created_at),
            words(&self.id),
        ]
    }
    fn name(&self) -> String {
        self.name.clone()
    }
}
