//! `perigee sandbox …`: guests made to run commands.

use crate::exit::Exit;
use crate::failure::Failure;
use crate::names::{Kind, resolve};
use crate::session::Session;
use crate::units::{parse_bytes, parse_duration, parse_pair};
use crate::vm::merge_patch;
use crate::{copy, listing, network, progress, removal, running};
use clap::{Args, Subcommand};
use perigee_api::stream::ExecOpen;
use perigee_api::{ExecuteRequest, SandboxPatch, SandboxRequest, TaskView};
use perigee_client::{Answer, ListQuery};
use perigee_model::Forward;
use std::time::Duration;

/// What to do with sandboxes.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a sandbox, run a command in it, and delete it
    #[command(
        after_help = "Example:\n  perigee sandbox run --image base -- sh -c 'uname -r; exit 7'\n\nEnds with the command's own code; 125 when Perigee failed. Ctrl-C goes to the command; the second\none deletes the sandbox."
    )]
    Run {
        /// The guest
        #[command(flatten)]
        guest: GuestOptions,
        /// The command
        #[command(flatten)]
        command: CommandOptions,
        /// Do not delete it afterwards
        #[arg(long)]
        keep: bool,
    },
    /// Make a sandbox and wait until it runs
    #[command(
        after_help = "Example:\n  perigee sandbox create --name web --memory 512MiB --ttl 2h\n  perigee sandbox create --egress '*.debian.org:443' --dry-run"
    )]
    Create {
        /// The guest
        #[command(flatten)]
        guest: GuestOptions,
        /// Print the task's id instead of waiting
        #[arg(long)]
        no_wait: bool,
        /// Say what would be done, with the rules that its host would have, and do nothing
        #[arg(long, conflicts_with = "no_wait")]
        dry_run: bool,
    },
    /// List sandboxes
    #[command(visible_alias = "ls", after_help = "Example:\n  perigee sandbox list --status running -o wide")]
    List {
        /// Only with this status
        #[arg(long)]
        status: Option<String>,
        /// Only with this label
        #[arg(long, value_name = "KEY=VALUE")]
        label: Option<String>,
        /// Only with this name
        #[arg(long)]
        name: Option<String>,
        /// At most this many
        #[arg(long)]
        limit: Option<usize>,
    },
    /// Show one sandbox
    #[command(after_help = "Example:\n  perigee sandbox get web -o json")]
    Get {
        /// Name, id or the beginning of an id
        name: String,
    },
    /// Run a command in a sandbox
    #[command(
        after_help = "Example:\n  perigee sandbox exec web -- ls -l /\n  echo hello | perigee sandbox exec web -- cat\n\nEnds with the command's own code; 125 when Perigee failed."
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
    /// Delete sandboxes
    #[command(
        visible_alias = "rm",
        after_help = "Example:\n  perigee sandbox delete web\n  perigee sandbox delete --all --yes"
    )]
    Delete {
        /// Names, ids or beginnings of ids
        #[arg(required_unless_present = "all")]
        names: Vec<String>,
        /// Every sandbox
        #[arg(long, conflicts_with = "names")]
        all: bool,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
        /// Print the tasks' ids instead of waiting
        #[arg(long)]
        no_wait: bool,
    },
    /// Change a running sandbox
    #[command(
        after_help = "Example:\n  perigee sandbox update web --egress '*.debian.org:443' --egress 10.1.0.0/16:5432\n  perigee sandbox update web --egress none\n\n--egress replaces the whole list, at once: connections that both lists allow go on, others end."
    )]
    Update {
        /// Name, id or the beginning of an id
        name: String,
        /// What changes
        #[command(flatten)]
        change: UpdateOptions,
    },
    /// Lead a port of its host to a sandbox, as network forward add does
    #[command(after_help = "Example:\n  perigee sandbox forward web 8080:80")]
    Forward {
        /// Name, id or the beginning of an id
        name: String,
        /// The host's port and the sandbox's, like 8080:80, 8080 when both are the same, or udp/5353:53
        #[arg(value_name = "PORTS")]
        forward: Forward,
    },
    /// Copy a file into or out of a sandbox
    #[command(
        after_help = "Example:\n  perigee sandbox cp ./job.sh web:/root/job.sh\n  perigee sandbox cp web:/etc/os-release -"
    )]
    Cp {
        /// A local file, NAME:/path, or - for standard input
        source: String,
        /// NAME:/path, a local file or directory, or - for standard output
        destination: String,
    },
}

/// What changes.
#[derive(Clone, Debug, Default, Args)]
#[group(required = true, multiple = true)]
pub struct UpdateOptions {
    /// What may be reached by its card from now on: none, all, or a place like example.com:443; may be repeated
    #[arg(long, value_name = "PLACE")]
    egress: Vec<String>,
    /// What may be reached by its IPv6 from now on: none, all, or a place; may be repeated
    #[arg(long, value_name = "PLACE")]
    egress6: Vec<String>,
    /// Set a label
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    label: Vec<(String, String)>,
    /// Remove a label
    #[arg(long, value_name = "KEY")]
    remove_label: Vec<String>,
}

/// What kind of guest.
#[derive(Clone, Debug, Default, Args)]
pub struct GuestOptions {
    /// Name or id of an image [default: base]
    #[arg(long)]
    image: Option<String>,
    /// Name of the sandbox [default: made up]
    #[arg(long)]
    name: Option<String>,
    /// Virtual CPUs [default: 1]
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// Memory, like 512MiB [default: 256MiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    memory: Option<u64>,
    /// Life, like 1h30m; 0 lives until deleted [default: 1h]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
    /// Environment of every command in it
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    env: Vec<(String, String)>,
    /// A card, and what may be reached by it: none, all, or a place like example.com:443; may be repeated
    /// [default: no card]
    #[arg(long, value_name = "PLACE")]
    egress: Vec<String>,
    /// IPv6 on that card, and what may be reached by it: none, all, or a place like example.com:443,
    /// 2001:db8::/32:443 or [2001:db8::7]:443; may be repeated [default: no IPv6]
    #[arg(long, value_name = "PLACE", requires = "egress")]
    egress6: Vec<String>,
    /// A mark
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    label: Vec<(String, String)>,
    /// Only this host will do
    #[arg(long)]
    host: Option<String>,
}

/// What to run and how.
#[derive(Clone, Debug, Default, Args)]
pub struct CommandOptions {
    /// Send standard input even from a terminal
    #[arg(short, long)]
    interactive: bool,
    /// End the command after this long
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Working directory in the guest [default: /]
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// User in the guest [default: root]
    #[arg(long)]
    user: Option<String>,
    /// Program and arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    argv: Vec<String>,
}

/// Does it.
pub async fn run(verb: Verb, session: &Session) -> Result<Exit, Failure> {
    match verb {
        Verb::Run { guest, command, keep } => running::run(session, &guest.request(), &command, keep).await,
        Verb::Create { guest, dry_run: true, .. } => {
            let plan = session.client()?.plan_sandbox(&guest.request()).await?;
            network::planned(session, &plan)
        }
        Verb::Create { guest, no_wait, dry_run: false } => create(session, guest, no_wait).await,
        Verb::List { status, label, name, limit } => {
            let query = ListQuery::default().filter("status", status).filter("label", label).filter("name", name);
            let client = session.client()?;
            let hint = "No sandboxes; make one: perigee sandbox create";
            listing::all(session, query, limit, hint, async |q| client.sandboxes(q).await).await
        }
        Verb::Get { name } => {
            let id = resolve(session, Kind::Sandbox, &name).await?;
            session.out.object(&session.client()?.sandbox(&id).await?.object)?;
            Ok(Exit::OK)
        }
        Verb::Exec { name, command, env } => running::exec(session, Kind::Sandbox, &name, &command, env).await,
        Verb::Delete { names, all, yes, no_wait } => removal::delete(session, names, all, yes, no_wait).await,
        Verb::Update { name, change } => update(session, &name, change).await,
        Verb::Forward { name, forward } => network::add(session, &name, forward, false).await,
        Verb::Cp { source, destination } => copy::run(session, &source, &destination).await,
    }
}

async fn create(session: &Session, guest: GuestOptions, no_wait: bool) -> Result<Exit, Failure> {
    let client = session.client()?;
    let sandbox = match client.create_sandbox(&guest.request(), None).await? {
        Answer::Done(sandbox) => sandbox,
        Answer::Accepted(task) if no_wait => {
            session.out.text(&format!("{}\n", task.id))?;
            return Ok(Exit::OK);
        }
        Answer::Accepted(task) => {
            let task = progress::succeeded(session, *task, "starting a sandbox").await?;
            client.sandbox(subject(&task)?).await?.object
        }
    };
    session.out.object(&sandbox)?;
    Ok(Exit::OK)
}

async fn update(session: &Session, name: &str, change: UpdateOptions) -> Result<Exit, Failure> {
    let id = resolve(session, Kind::Sandbox, name).await?;
    let egress = (!change.egress.is_empty()).then_some(change.egress);
    let egress6 = (!change.egress6.is_empty()).then_some(change.egress6);
    let patch = SandboxPatch { labels: merge_patch(change.label, change.remove_label), egress, egress6 };
    // Whatever it is now: one that boots would have another tag before it is asked.
    let sandbox = session.client()?.patch_sandbox(&id, "*", &patch, Some(network::HOST_WITHIN)).await?;
    network::heard(session, &sandbox);
    session.out.object(&sandbox)?;
    Ok(Exit::OK)
}

/// The guest that a task is about.
pub fn subject(task: &TaskView) -> Result<&str, Failure> {
    let missing = || Failure::new(Exit::FAILURE, format!("The task {} does not say which guest it is about", task.id));
    task.sandbox_id.as_deref().ok_or_else(missing)
}

impl GuestOptions {
    fn request(self) -> SandboxRequest {
        SandboxRequest {
            name: self.name,
            kind: None,
            image: self.image,
            cpus: self.cpus,
            memory_bytes: self.memory,
            ttl_ms: self.ttl.map(millis),
            env: self.env.into_iter().collect(),
            labels: self.label.into_iter().collect(),
            host: self.host,
            priority: None,
            egress: (!self.egress.is_empty()).then_some(self.egress),
            egress6: (!self.egress6.is_empty()).then_some(self.egress6),
        }
    }
}

impl CommandOptions {
    /// The first message of the exec stream.
    pub fn open(&self, env: Vec<(String, String)>, stdin_terminal: bool) -> ExecOpen {
        ExecOpen {
            request: ExecuteRequest {
                argv: self.argv.clone(),
                env: env.into_iter().collect(),
                cwd: self.cwd.clone(),
                user: self.user.clone(),
                timeout_ms: self.timeout.map(millis),
                output_limit_bytes: None,
                priority: None,
            },
            stdin: self.interactive || !stdin_terminal,
        }
    }
}

/// Whole milliseconds.
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
