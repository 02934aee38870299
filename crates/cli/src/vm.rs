//! `perigee vm …`: full virtual machines. Those of a host's own libvirt are listed with ours, and not
//! touched unless they are taken over.

mod backup;
mod brought;
mod console;
mod create;
mod line;
mod snapshot;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::names::{Kind, resolve};
use crate::sandbox::{CommandOptions, millis};
use crate::session::Session;
use crate::units::{parse_bytes, parse_duration, parse_pair};
use crate::{network, progress, running};
use clap::{Args, Subcommand, ValueEnum};
use create::CreateOptions;
use line::VmLine;
use perigee_api::{AdoptRequest, StopRequest, TaskView, VmPatch, VmView};
use perigee_client::{Answer, ClientError, Switch};
use std::collections::BTreeMap;
use std::time::Duration;

/// What to do with virtual machines.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a virtual machine and wait until it runs
    #[command(
        after_help = "Example:\n  perigee vm create db --cpus 2 --memory 2GiB --disk 20GiB --network default\n  perigee vm create db --dry-run\n  perigee vm create web --image debian-12 --disk 20GiB --egress '*.debian.org:443'\n\nKeys and user-data come from files: --ssh-key @key.pub --user-data @cloud.yaml"
    )]
    Create(CreateOptions),
    /// List virtual machines: ours, and those of hosts' own libvirt
    #[command(visible_alias = "ls", after_help = "Example:\n  perigee vm list --host web-1 -o wide")]
    List {
        /// Only on this host
        #[arg(long)]
        host: Option<String>,
        /// Only with this status
        #[arg(long)]
        status: Option<String>,
        /// Only with this label
        #[arg(long, value_name = "KEY=VALUE")]
        label: Option<String>,
        /// At most this many
        #[arg(long)]
        limit: Option<usize>,
    },
    /// Show one virtual machine
    #[command(after_help = "Example:\n  perigee vm get db -o yaml")]
    Get {
        /// Name, id or the beginning of an id
        name: String,
    },
    /// Change a virtual machine; sizes hold from its next start on, what it may reach at once
    #[command(
        after_help = "Example:\n  perigee vm update db --memory 4GiB --label team=web\n  perigee vm restart db\n  perigee vm update web --egress none"
    )]
    Update {
        /// Name, id or the beginning of an id
        name: String,
        /// What changes
        #[command(flatten)]
        change: UpdateOptions,
    },
    /// Start a virtual machine; one that is paused goes on
    #[command(after_help = "Example:\n  perigee vm start db")]
    Start(SwitchOptions),
    /// Let a virtual machine turn itself off, then end it
    #[command(after_help = "Example:\n  perigee vm stop db\n  perigee vm stop db --force")]
    Stop(StopOptions),
    /// Stop a virtual machine and start it again
    #[command(after_help = "Example:\n  perigee vm restart db --grace 10s")]
    Restart(StopOptions),
    /// Stop a virtual machine's CPUs; it keeps its memory
    #[command(after_help = "Example:\n  perigee vm pause db")]
    Pause(SwitchOptions),
    /// Let a paused virtual machine go on
    #[command(after_help = "Example:\n  perigee vm resume db")]
    Resume(SwitchOptions),
    /// Run a command in a virtual machine that has perigee-guest in it
    #[command(
        after_help = "Example:\n  perigee vm exec db -- uname -r\n\nEnds with the command's own code; 125 when Perigee failed."
    )]
    Exec {
        /// Name, id or the beginning of an id
        name: String,
        /// The command
        #[command(flatten)]
        command: CommandOptions,
        /// Add to the command's environment
        #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
        env: Vec<(String, String)>,
    },
    /// Sit down at a virtual machine's serial port, or lead a VNC viewer to its screen
    #[command(
        after_help = "Example:\n  perigee vm console db\n  perigee vm console db --vnc 5901\n  printf 'reboot\\n' | perigee vm console db --linger 5s\n\nCtrl-] leaves. Whoever sat at the serial port before is sent away."
    )]
    Console(console::Options),
    /// Keep points in a virtual machine's life, and put it back to them
    #[command(
        subcommand,
        visible_alias = "snap",
        after_help = "Example:\n  perigee vm snapshot create db before-upgrade"
    )]
    Snapshot(snapshot::Verb),
    /// Back a virtual machine up, away from its host, and make it again from that
    #[command(
        subcommand,
        after_help = "Example:\n  perigee vm backup create db\n  perigee vm backup restore db-20261122-051209"
    )]
    Backup(backup::Verb),
    /// Delete a virtual machine, its disk and its snapshots; its backups stay
    #[command(visible_alias = "rm", after_help = "Example:\n  perigee vm delete db --yes")]
    Delete {
        /// Name, id or the beginning of an id
        name: String,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
        /// Print the task's id instead of waiting
        #[arg(long)]
        no_wait: bool,
    },
    /// Take over a virtual machine of a host's own libvirt; it goes on as it is
    #[command(after_help = "Example:\n  perigee vm adopt win10 --name office")]
    Adopt {
        /// Its name or id in libvirt
        name: String,
        /// Its name here [default: its own, in letters that a name may have]
        #[arg(long = "name", value_name = "NAME")]
        called: Option<String>,
    },
    /// Let a virtual machine go that was taken over; it stays as it is
    #[command(after_help = "Example:\n  perigee vm release office")]
    Release {
        /// Name, id or the beginning of an id
        name: String,
    },
}

/// When it ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Policy {
    /// Start it again
    Always,
    /// Start it again unless it turned itself off
    OnFailure,
    /// Leave it
    Never,
}

impl Policy {
    fn word(self) -> String {
        match self {
            Self::Always => "always",
            Self::OnFailure => "on_failure",
            Self::Never => "never",
        }
        .to_owned()
    }
}

/// What changes.
#[derive(Clone, Debug, Default, Args)]
#[group(required = true, multiple = true)]
pub struct UpdateOptions {
    /// Call it so from now on
    #[arg(long = "name", value_name = "NAME")]
    called: Option<String>,
    /// For people
    #[arg(long)]
    description: Option<String>,
    /// Set a label
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    label: Vec<(String, String)>,
    /// Remove a label
    #[arg(long, value_name = "KEY")]
    remove_label: Vec<String>,
    /// Keep something with it that is yours to read
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    metadata: Vec<(String, String)>,
    /// Keep that no longer
    #[arg(long, value_name = "KEY")]
    remove_metadata: Vec<String>,
    /// Virtual CPUs
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// Memory, like 2GiB
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    memory: Option<u64>,
    /// When it ends by itself
    #[arg(long, value_enum)]
    restart: Option<Policy>,
    /// When its host comes up, guests with a lower number are up before it
    #[arg(long, value_name = "N")]
    start_order: Option<u32>,
    /// What may be reached by its card from now on: none, all, or a place like example.com:443; may be repeated
    #[arg(long, value_name = "PLACE")]
    egress: Vec<String>,
}

/// Which machine's switch.
#[derive(Clone, Debug, Args)]
pub struct SwitchOptions {
    /// Name, id or the beginning of an id
    name: String,
    /// Print the task's id instead of waiting
    #[arg(long)]
    no_wait: bool,
}

/// How to stop which machine.
#[derive(Clone, Debug, Args)]
pub struct StopOptions {
    /// Which
    #[command(flatten)]
    which: SwitchOptions,
    /// So long it may take to turn itself off [default: 1m]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    grace: Option<Duration>,
    /// End it at once
    #[arg(long, conflicts_with = "grace")]
    force: bool,
}

impl StopOptions {
    fn request(&self) -> StopRequest {
        let grace = if self.force { Some(Duration::ZERO) } else { self.grace };
        StopRequest { grace_ms: grace.map(millis) }
    }
}

/// Does it.
pub async fn run(verb: Verb, session: &Session) -> Result<Exit, Failure> {
    match verb {
        Verb::Create(options) => create::run(session, options).await,
        Verb::List { host, status, label, limit } => line::list(session, host, status, label, limit).await,
        Verb::Get { name } => get(session, &name).await,
        Verb::Update { name, change } => update(session, &name, change).await,
        Verb::Start(which) => switch(session, which, Switch::Start, "starting").await,
        Verb::Stop(how) => {
            let to = Switch::Stop(how.request());
            switch(session, how.which, to, "stopping").await
        }
        Verb::Restart(how) => {
            let to = Switch::Restart(how.request());
            switch(session, how.which, to, "restarting").await
        }
        Verb::Pause(which) => switch(session, which, Switch::Pause, "pausing").await,
        Verb::Resume(which) => switch(session, which, Switch::Resume, "resuming").await,
        Verb::Exec { name, command, env } => running::exec(session, Kind::Vm, &name, &command, env).await,
        Verb::Console(options) => console::run(&options, session).await,
        Verb::Backup(verb) => backup::run(verb, session).await,
        Verb::Snapshot(verb) => snapshot::run(verb, session).await,
        Verb::Delete { name, yes, no_wait } => delete(session, &name, yes, no_wait).await,
        Verb::Adopt { name, called } => adopt(session, &name, called).await,
        Verb::Release { name } => release(session, &name).await,
    }
}

async fn get(session: &Session, name: &str) -> Result<Exit, Failure> {
    let id = resolve(session, Kind::Vm, name).await?;
    let client = session.client()?;
    let line = match client.vm(&id).await {
        Ok(ours) => VmLine::Ours(Box::new(ours.object)),
        Err(ClientError::Refused(problem)) if problem.status == 404 => {
            VmLine::Foreign(Box::new(client.foreign_vm(&id).await?))
        }
        Err(error) => return Err(error.into()),
    };
    session.out.object(&line)?;
    Ok(Exit::OK)
}

async fn update(session: &Session, name: &str, change: UpdateOptions) -> Result<Exit, Failure> {
    let id = resolve(session, Kind::Vm, name).await?;
    let client = session.client()?;
    let patch = VmPatch {
        name: change.called,
        description: change.description,
        labels: merge_patch(change.label, change.remove_label),
        metadata: merge_patch(change.metadata, change.remove_metadata),
        cpus: change.cpus,
        memory_bytes: change.memory,
        restart: change.restart.map(Policy::word),
        start_order: change.start_order,
        egress: (!change.egress.is_empty()).then_some(change.egress),
    };
    let wait = patch.egress.as_ref().map(|_| network::HOST_WITHIN);
    // Whatever it is now: one that boots would have another tag before it is asked.
    let vm = client.patch_vm(&id, "*", &patch, wait).await?;
    if wait.is_some() {
        network::heard(session, &vm.guest);
    }
    if vm.vm.as_ref().is_some_and(|part| part.restart_needed) {
        session.out.note(&format!("perigee: its new size holds from its next start on: perigee vm restart {name}"));
    }
    session.out.object(&VmLine::Ours(Box::new(vm)))?;
    Ok(Exit::OK)
}

/// Set and removed, as one merge patch.
pub fn merge_patch(set: Vec<(String, String)>, removed: Vec<String>) -> BTreeMap<String, Option<String>> {
    let set = set.into_iter().map(|(key, value)| (key, Some(value)));
    set.chain(removed.into_iter().map(|key| (key, None))).collect()
}

async fn switch(session: &Session, which: SwitchOptions, to: Switch, what: &str) -> Result<Exit, Failure> {
    let id = resolve(session, Kind::Vm, &which.name).await?;
    let answer = session.client()?.switch_vm(&id, &to, None).await?;
    shown(session, answer, which.no_wait, &format!("{what} {}", which.name)).await
}

/// Prints the machine when its task is done, or the task's id.
async fn shown(session: &Session, answer: Answer<VmView>, no_wait: bool, what: &str) -> Result<Exit, Failure> {
    let vm = match answer {
        Answer::Done(vm) => vm,
        Answer::Accepted(task) if no_wait => {
            session.out.text(&format!("{}\n", task.id))?;
            return Ok(Exit::OK);
        }
        Answer::Accepted(task) => of_task(session, *task, what).await?,
    };
    session.out.object(&VmLine::Ours(Box::new(vm)))?;
    Ok(Exit::OK)
}

/// The machine that a task is about, when the task is done.
async fn of_task(session: &Session, task: TaskView, what: &str) -> Result<VmView, Failure> {
    let task = progress::succeeded(session, task, what).await?;
    Ok(session.client()?.vm(crate::sandbox::subject(&task)?).await?.object)
}

async fn delete(session: &Session, name: &str, yes: bool, no_wait: bool) -> Result<Exit, Failure> {
    let id = resolve(session, Kind::Vm, name).await?;
    let asking = session.settings.stdin_terminal && session.settings.stderr_terminal;
    let agreed = yes || (asking && session.out.confirmed(&format!("Delete {name} and its disk?")));
    if !agreed {
        return Err(Failure::usage(format!("{name} was not deleted")).hint(format!("perigee vm delete {name} --yes")));
    }
    ended(session, session.client()?.delete_vm(&id, None).await?, no_wait, &format!("deleting {name}")).await
}

async fn release(session: &Session, name: &str) -> Result<Exit, Failure> {
    let id = resolve(session, Kind::Vm, name).await?;
    ended(session, session.client()?.release_vm(&id, None).await?, false, &format!("releasing {name}")).await
}

async fn ended(session: &Session, answer: Answer<()>, no_wait: bool, what: &str) -> Result<Exit, Failure> {
    match answer {
        Answer::Done(()) => {}
        Answer::Accepted(task) if no_wait => session.out.text(&format!("{}\n", task.id))?,
        Answer::Accepted(task) => drop(progress::succeeded(session, *task, what).await?),
    }
    Ok(Exit::OK)
}

async fn adopt(session: &Session, name: &str, called: Option<String>) -> Result<Exit, Failure> {
    let id = resolve(session, Kind::Vm, name).await?;
    let request = AdoptRequest { name: called };
    let answer = session.client()?.adopt_vm(&id, &request, None).await?;
    shown(session, answer, false, &format!("taking over {name}")).await
}
