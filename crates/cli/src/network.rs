//! `perigee network …`: networks that virtual machines are on, and how guests are reached.

mod forward;

pub use forward::{HOST_WITHIN, add, heard, planned};

use crate::cell::Cell;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::names::{Kind, resolve};
use crate::rows::{moment, words};
use crate::session::Session;
use crate::table::{Column, Shown, column, wide};
use crate::{listing, progress};
use clap::{Args, Subcommand, ValueEnum};
use forward::ForwardVerb;
use perigee_api::{NetworkPlanView, NetworkRequest, NetworkView, TaskView};
use perigee_client::{Answer, ListQuery};

/// What to do with networks.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a network for virtual machines of one host
    #[command(
        after_help = "Example:\n  perigee network create lab\n  perigee network create lab --kind isolated --subnet 10.20.0.0/24\n  perigee network create lan --kind bridged --bridge br0 --host rack-7\n\nA virtual machine on it is made by: perigee vm create NAME --network lab"
    )]
    Create(CreateOptions),
    /// List networks
    #[command(visible_alias = "ls", after_help = "Example:\n  perigee network list -o wide")]
    List {
        /// At most this many
        #[arg(long)]
        limit: Option<usize>,
    },
    /// Show one network
    #[command(after_help = "Example:\n  perigee network get lab -o yaml")]
    Get {
        /// Name, id or the beginning of an id
        name: String,
    },
    /// Delete a network that no virtual machine is on
    #[command(visible_alias = "rm", after_help = "Example:\n  perigee network delete lab --yes")]
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
    /// Ports of a host that lead to a guest: a sandbox or a virtual machine
    #[command(after_help = "Example:\n  perigee network forward add web 8080:80\n  perigee network forward list")]
    Forward {
        /// What to do.
        #[command(subcommand)]
        verb: ForwardVerb,
    },
}

/// Where a network leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum NetworkKind {
    /// Out through the host's address; nobody outside reaches in
    Nat,
    /// To the other machines on it and the host, no further
    Isolated,
    /// Onto a bridge that the host has
    Bridged,
}

/// What to make.
#[derive(Clone, Debug, Args)]
pub struct CreateOptions {
    /// What it is called, here and in its host's libvirt
    name: String,
    /// Where it leads
    #[arg(long, value_enum, default_value = "nat")]
    kind: NetworkKind,
    /// Its addresses, like 10.20.0.0/24; the host's is the first [default: free ones]
    #[arg(long, value_name = "BLOCK")]
    subnet: Option<String>,
    /// The host's bridge that a bridged one is on
    #[arg(long, value_name = "BRIDGE")]
    bridge: Option<String>,
    /// On this host [default: the only one that can have it]
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// What it is for
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// Say what its host would make, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the task's id instead of waiting
    #[arg(long)]
    no_wait: bool,
}

/// Does it.
pub async fn run(verb: Verb, session: &Session) -> Result<Exit, Failure> {
    match verb {
        Verb::Create(options) => create(session, options).await,
        Verb::List { limit } => {
            let client = session.client()?;
            let hint = "No networks; make one: perigee network create NAME";
            let page = async |query: &ListQuery| client.networks(query).await;
            listing::all(session, ListQuery::default(), limit, hint, page).await
        }
        Verb::Get { name } => {
            let id = resolve(session, Kind::Network, &name).await?;
            session.out.object(&session.client()?.network(&id).await?)?;
            Ok(Exit::OK)
        }
        Verb::Delete { name, yes, no_wait } => delete(session, &name, yes, no_wait).await,
        Verb::Forward { verb } => forward::run(verb, session).await,
    }
}

async fn create(session: &Session, options: CreateOptions) -> Result<Exit, Failure> {
    let CreateOptions { name, kind, subnet, bridge, host, description, dry_run, no_wait } = options;
    let kind = match kind {
        NetworkKind::Nat => "nat",
        NetworkKind::Isolated => "isolated",
        NetworkKind::Bridged => "bridged",
    };
    let request = NetworkRequest { name, kind: Some(kind.to_owned()), subnet, bridge, host, description };
    let client = session.client()?;
    if dry_run {
        session.out.text(&told(&client.plan_network(&request).await?))?;
        return Ok(Exit::OK);
    }
    let network = match client.create_network(&request, None).await? {
        Answer::Done(network) => network,
        Answer::Accepted(task) if no_wait => {
            session.out.text(&format!("{}\n", task.id))?;
            return Ok(Exit::OK);
        }
        Answer::Accepted(task) => of_task(session, *task, &format!("making {}", request.name)).await?,
    };
    session.out.object(&network)?;
    Ok(Exit::OK)
}

/// The plan in words, and as libvirt would be given it.
fn told(plan: &NetworkPlanView) -> String {
    let NetworkView { name, kind, host, subnet, bridge, .. } = &plan.network;
    let with = match (subnet, bridge) {
        (Some(subnet), _) => format!(" with {subnet}"),
        (None, Some(bridge)) => format!(" on its bridge {bridge}"),
        (None, None) => String::new(),
    };
    format!("{name} ({kind}) would be made on {host}{with}\n\n{}\n", plan.definition.trim_end())
}

async fn delete(session: &Session, name: &str, yes: bool, no_wait: bool) -> Result<Exit, Failure> {
    let id = resolve(session, Kind::Network, name).await?;
    let asking = session.settings.stdin_terminal && session.settings.stderr_terminal;
    if !(yes || (asking && session.out.confirmed(&format!("Delete {name}?")))) {
        let hint = format!("perigee network delete {name} --yes");
        return Err(Failure::usage(format!("{name} was not deleted")).hint(hint));
    }
    match session.client()?.delete_network(&id, None).await? {
        Answer::Done(()) => {}
        Answer::Accepted(task) if no_wait => session.out.text(&format!("{}\n", task.id))?,
        Answer::Accepted(task) => drop(progress::succeeded(session, *task, &format!("deleting {name}")).await?),
    }
    Ok(Exit::OK)
}

/// The network that a task is about, when the task is done.
async fn of_task(session: &Session, task: TaskView, what: &str) -> Result<NetworkView, Failure> {
    let task = progress::succeeded(session, task, what).await?;
    let none = || Failure::new(Exit::FAILURE, format!("The task {} does not say which network it is about", task.id));
    Ok(session.client()?.network(task.network_id.as_deref().ok_or_else(none)?).await?)
}

impl Shown for NetworkView {
    const COLUMNS: &'static [Column] = &[
        column("NAME"),
        column("STATUS"),
        column("KIND"),
        column("SUBNET"),
        column("HOST"),
        column("VMS"),
        column("CREATED"),
        wide("BRIDGE"),
        wide("DESCRIPTION"),
        wide("OWNER"),
        wide("ID"),
    ];
    fn cells(&self) -> Vec<Cell> {
        let vms = Some(self.vms.join(" ")).filter(|names| !names.is_empty());
        let description = Some(self.description.lines().collect::<Vec<_>>().join(" ")).filter(|text| !text.is_empty());
        vec![
            words(&self.name),
            words(&self.status),
            words(&self.kind),
            Cell::text(self.subnet.as_ref()),
            words(&self.host),
            Cell::text(vms.as_ref()),
            moment(&self.created_at),
            Cell::text(self.bridge.as_ref()),
            Cell::text(description.as_ref()),
            words(&self.owner),
            words(&self.id),
        ]
    }
    fn name(&self) -> String {
        self.name.clone()
    }
}
