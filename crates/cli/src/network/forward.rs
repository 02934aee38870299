//! `perigee network forward …`: how guests are reached.

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
use perigee_api::{DiskPlanView, ForwardRequest, ForwardView, Page, SandboxPlanView, SandboxView};
use perigee_client::ListQuery;
use perigee_model::Forward;
use serde::Serialize;
use std::time::Duration;

/// A host that is there has heard of it by then.
pub const HOST_WITHIN: Duration = Duration::from_secs(15);

/// What to do with forwards.
#[derive(Debug, Subcommand)]
pub enum ForwardVerb {
    /// Lead a port of a guest's host to the guest
    #[command(
        after_help = "Example:\n  perigee network forward add web 8080:80\n  perigee network forward add names udp/5353:53\n\nThe guest needs a card: create it with --egress, none at least. The port leads there from all of the\nhost's addresses but the loopback ones, until it is removed or the guest is deleted."
    )]
    Add {
        /// Name, id or the beginning of an id
        guest: String,
        /// The host's port and the guest's, like 8080:80, 8080 when both are the same, or udp/5353:53
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
        /// Only of this guest: its name
        guest: Option<String>,
    },
    /// Let a port lead to a guest no more; connections that came by it end
    #[command(visible_alias = "rm", after_help = "Example:\n  perigee network forward remove web 8080")]
    Remove {
        /// Name, id or the beginning of an id
        guest: String,
        /// The host's port, like 8080 or udp/5353
        #[arg(value_name = "PORT")]
        forward: Forward,
    },
}

/// A forward, with the guest it leads to.
#[derive(Debug, Serialize)]
pub struct ForwardLine {
    guest: String,
    guest_id: String,
    address: Option<String>,
    host: Option<String>,
    #[serde(flatten)]
    forward: ForwardView,
}

impl Shown for ForwardLine {
    const COLUMNS: &'static [Column] = &[
        column("PORT"),
        column("HOST"),
        column("GUEST"),
        column("TO"),
        column("UP"),
        wide("ADDRESS"),
        wide("GUEST_ID"),
    ];
    fn cells(&self) -> Vec<Cell> {
        let ForwardView { protocol, host_port, guest_port, up } = &self.forward;
        vec![
            words(&format!("{protocol}/{host_port}")),
            Cell::text(self.host.as_ref()),
            words(&self.guest),
            Cell::Number(i64::from(*guest_port)),
            words(if *up { "yes" } else { "no" }),
            Cell::text(self.address.as_ref()),
            words(&self.guest_id),
        ]
    }
    fn name(&self) -> String {
        format!("{}/{}", self.forward.protocol, self.forward.host_port)
    }
}

/// Does it.
pub async fn run(verb: ForwardVerb, session: &Session) -> Result<Exit, Failure> {
    match verb {
        ForwardVerb::Add { guest, forward, dry_run } => add(session, &guest, forward, dry_run).await,
        ForwardVerb::List { guest } => list(session, guest).await,
        ForwardVerb::Remove { guest, forward } => remove(session, &guest, forward).await,
    }
}

/// Leads a port to a guest, or says what that would be.
pub async fn add(session: &Session, guest: &str, forward: Forward, dry_run: bool) -> Result<Exit, Failure> {
    let id = resolve(session, Kind::Vm, guest).await?;
    let request = ForwardRequest {
        host_port: forward.host_port.into(),
        guest_port: Some(forward.guest_port.into()),
        protocol: Some(forward.protocol.to_string()),
    };
    if dry_run {
        return planned(session, &session.client()?.plan_forward(&id, &request).await?);
    }
    let guest = session.client()?.add_forward(&id, &request, Some(HOST_WITHIN)).await?;
    heard(session, &guest);
    let added = |line: &ForwardLine| {
        (line.forward.protocol.as_str(), line.forward.host_port)
            == (forward.protocol.to_string().as_str(), forward.host_port)
    };
    match lines(guest).find(added) {
        Some(line) => session.out.object(&line)?,
        None => return Err(Failure::new(Exit::FAILURE, "the forward was removed at once")),
    }
    Ok(Exit::OK)
}

async fn remove(session: &Session, guest: &str, forward: Forward) -> Result<Exit, Failure> {
    let id = resolve(session, Kind::Vm, guest).await?;
    let (protocol, wait) = (forward.protocol.to_string(), Some(HOST_WITHIN));
    let guest = session.client()?.remove_forward(&id, (&protocol, forward.host_port), wait).await?;
    heard(session, &guest);
    Ok(Exit::OK)
}

async fn list(session: &Session, guest: Option<String>) -> Result<Exit, Failure> {
    let client = session.client()?;
    let query = ListQuery::default().filter("name", guest);
    let hint = "No forwards; make one: perigee network forward add GUEST 8080:80";
    let page = async |query: &ListQuery| {
        let page = client.vms(query).await?;
        let items = page.items.into_iter().flat_map(|vm| lines(vm.guest)).collect();
        Ok(Page { items, next_page_token: page.next_page_token })
    };
    listing::all(session, query, None, hint, page).await
}

fn lines(guest: SandboxView) -> impl Iterator<Item = ForwardLine> {
    let SandboxView { name, id, address, host, forwards, .. } = guest;
    forwards.into_iter().map(move |forward| ForwardLine {
        guest: name.clone(),
        guest_id: id.clone(),
        address: address.clone(),
        host: host.clone(),
        forward,
    })
}

/// Says so when the guest's host has not done yet what was asked for.
pub fn heard(session: &Session, guest: &SandboxView) {
    if !guest.caught_up {
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
    ];
    lines.extend(disks(plan));
    lines.push(match &sandbox.egress {
        Some(places) => format!("  a card that reaches {}", places.join(" ")),
        None => "  no card".to_owned(),
    });
    lines.extend(sandbox.egress6.as_ref().map(|places| format!("  IPv6 on it, that reaches {}", places.join(" "))));
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

/// Its disks in words; a VM's are told when it is made.
fn disks(plan: &SandboxPlanView) -> Vec<String> {
    let told = |disk: &DiskPlanView| {
        format!("  a disk of its own, from its image's of {}, that goes with it", show_bytes(disk.image_bytes))
    };
    match (plan.sandbox.kind.as_str(), plan.disks.is_empty()) {
        ("sandbox", true) => vec!["  no disk: its files are in its memory".to_owned()],
        _ => plan.disks.iter().map(told).collect(),
    }
}
