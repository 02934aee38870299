//! `perigee network …`: how guests are reached.

use crate::cell::Cell;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::listing;
use crate::names::{Kind, resolve};
use crate::rows::words;
use crate::session::Session;
use crate::table::{Column, Shown, column, wide};
use crate::units::show_bytes;
use clap::Subcommand;
use perigee_api::{ForwardRequest, ForwardView, Page, SandboxPlanView, SandboxView};
use perigee_client::ListQuery;
use perigee_model::Forward;
use serde::Serialize;
use std::time::Duration;

/// A host that is there has heard of it by then.
pub const HOST_WITHIN: Duration = Duration::from_secs(15);

/// What to do with networks.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Ports of a host that lead to a sandbox
    #[command(after_help = "Example:\n  perigee network forward add web 8080:80\n  perigee network forward list")]
    Forward {
        /// What to do.
        #[command(subcommand)]
        verb: ForwardVerb,
    },
}

/// What to do with forwards.
#[derive(Debug, Subcommand)]
pub enum ForwardVerb {
    /// Lead a port of a sandbox's host to the sandbox
    #[command(
        after_help = "Example:\n  perigee network forward add web 8080:80\n  perigee network forward add names udp/5353:53\n\nThe sandbox needs a card: create it with --egress, none at least. The port leads there from all of the\nhost's addresses but the loopback ones, until it is removed or the sandbox is deleted."
    )]
    Add {
        /// Name, id or the beginning of an id
        sandbox: String,
        /// The host's port and the sandbox's, like 8080:80, 8080 when both are the same, or udp/5353:53
        #[arg(value_name = "PORTS")]
        forward: Forward,
        /// Say which rules its host would have, and do nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// List forwards
    #[command(
        visible_alias = "ls",
        after_help = "Example:\n  perigee network forward list\n  perigee network forward list web -o json"
    )]
    List {
        /// Only of this sandbox: its name
        sandbox: Option<String>,
    },
    /// Let a port lead to a sandbox no more; connections that came by it end
    #[command(visible_alias = "rm", after_help = "Example:\n  perigee network forward remove web 8080")]
    Remove {
        /// Name, id or the beginning of an id
        sandbox: String,
        /// The host's port, like 8080 or udp/5353
        #[arg(value_name = "PORT")]
        forward: Forward,
    },
}

/// A forward, with the sandbox it leads to.
#[derive(Debug, Serialize)]
pub struct ForwardLine {
    sandbox: String,
    sandbox_id: String,
    address: Option<String>,
    host: Option<String>,
    #[serde(flatten)]
    forward: ForwardView,
}

impl Shown for ForwardLine {
    const COLUMNS: &'static [Column] = &[
        column("PORT"),
        column("HOST"),
        column("SANDBOX"),
        column("TO"),
        column("UP"),
        wide("ADDRESS"),
        wide("SANDBOX_ID"),
    ];
    fn cells(&self) -> Vec<Cell> {
        let ForwardView { protocol, host_port, guest_port, up } = &self.forward;
        vec![
            words(&format!("{protocol}/{host_port}")),
            Cell::text(self.host.as_ref()),
            words(&self.sandbox),
            Cell::Number(i64::from(*guest_port)),
            words(if *up { "yes" } else { "no" }),
            Cell::text(self.address.as_ref()),
            words(&self.sandbox_id),
        ]
    }
    fn name(&self) -> String {
        format!("{}/{}", self.forward.protocol, self.forward.host_port)
    }
}

/// Does it.
pub async fn run(verb: Verb, session: &Session) -> Result<Exit, Failure> {
    let Verb::Forward { verb } = verb;
    match verb {
        ForwardVerb::Add { sandbox, forward, dry_run } => add(session, &sandbox, forward, dry_run).await,
        ForwardVerb::List { sandbox } => list(session, sandbox).await,
        ForwardVerb::Remove { sandbox, forward } => remove(session, &sandbox, forward).await,
    }
}

/// Leads a port to a sandbox, or says what that would be.
pub async fn add(session: &Session, sandbox: &str, forward: Forward, dry_run: bool) -> Result<Exit, Failure> {
    let id = resolve(session, Kind::Sandbox, sandbox).await?;
    let request = ForwardRequest {
        host_port: forward.host_port.into(),
        guest_port: Some(forward.guest_port.into()),
        protocol: Some(forward.protocol.to_string()),
    };
    if dry_run {
        return planned(session, &session.client()?.plan_forward(&id, &request).await?);
    }
    let sandbox = session.client()?.add_forward(&id, &request, Some(HOST_WITHIN)).await?;
    heard(session, &sandbox);
    let added = |line: &ForwardLine| {
        (line.forward.protocol.as_str(), line.forward.host_port)
            == (forward.protocol.to_string().as_str(), forward.host_port)
    };
    match lines(sandbox).find(added) {
        Some(line) => session.out.object(&line)?,
        None => return Err(Failure::new(Exit::FAILURE, "the forward was removed at once")),
    }
    Ok(Exit::OK)
}

async fn remove(session: &Session, sandbox: &str, forward: Forward) -> Result<Exit, Failure> {
    let id = resolve(session, Kind::Sandbox, sandbox).await?;
    let (protocol, wait) = (forward.protocol.to_string(), Some(HOST_WITHIN));
    let sandbox = session.client()?.remove_forward(&id, (&protocol, forward.host_port), wait).await?;
    heard(session, &sandbox);
    Ok(Exit::OK)
}

async fn list(session: &Session, sandbox: Option<String>) -> Result<Exit, Failure> {
    let client = session.client()?;
    let query = ListQuery::default().filter("name", sandbox);
    let hint = "No forwards; make one: perigee network forward add SANDBOX 8080:80";
    let page = async |query: &ListQuery| {
        let page = client.sandboxes(query).await?;
        let items = page.items.into_iter().flat_map(lines).collect();
        Ok(Page { items, next_page_token: page.next_page_token })
    };
    listing::all(session, query, None, hint, page).await
}

fn lines(sandbox: SandboxView) -> impl Iterator<Item = ForwardLine> {
    let SandboxView { name, id, address, host, forwards, .. } = sandbox;
    forwards.into_iter().map(move |forward| ForwardLine {
        sandbox: name.clone(),
        sandbox_id: id.clone(),
        address: address.clone(),
        host: host.clone(),
        forward,
    })
}

/// Says so when the sandbox's host has not done yet what was asked for.
pub fn heard(session: &Session, sandbox: &SandboxView) {
    if !sandbox.caught_up {
        session.out.note("perigee: its host has not done this yet: it will, as soon as it can");
    }
}

/// What would be done, in words, and the rules as nft reads them.
pub fn planned(session: &Session, plan: &SandboxPlanView) -> Result<Exit, Failure> {
    let sandbox = &plan.sandbox;
    let place = plan.host.as_ref().map_or("wait for room".to_owned(), |host| format!("be on {host}"));
    let mut lines = vec![
        format!("{} from {} would {place}", sandbox.name, sandbox.image),
        format!("  {} CPUs, {} memory", sandbox.cpus, show_bytes(sandbox.memory_bytes)),
        match &sandbox.egress {
            Some(places) => format!("  a card that reaches {}", places.join(" ")),
            None => "  no card".to_owned(),
        },
    ];
    lines.extend(
        sandbox.forwards.iter().map(|one| format!("  {}/{} to its {}", one.protocol, one.host_port, one.guest_port)),
    );
    lines.extend(plan.placement.iter().map(|host| format!("  {}: {}", host.host, host.reason)));
    if let Some(rules) = &plan.rules {
        lines.push(format!("\n{}", rules.trim_end()));
    }
    session.out.text(&(lines.join("\n") + "\n"))?;
    Ok(Exit::OK)
}
