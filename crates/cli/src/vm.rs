//! `perigee vm …`: virtual machines. Those of a host's own libvirt are shown, not touched.

use crate::exit::Exit;
use crate::failure::Failure;
use crate::listing;
use crate::names::{Kind, resolve};
use crate::session::Session;
use clap::Subcommand;
use perigee_client::ListQuery;

/// What to do with virtual machines.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List virtual machines
    #[command(visible_alias = "ls", after_help = "Example:\n  perigee vm list --host web-1 -o wide")]
    List {
        /// Only on this host
        #[arg(long)]
        host: Option<String>,
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
}

/// Does it.
pub async fn run(verb: Verb, session: &Session) -> Result<Exit, Failure> {
    let client = session.client()?;
    match verb {
        Verb::List { host, limit } => {
            let query = ListQuery::default().filter("host", host);
            let hint = "No virtual machines; those of a host's libvirt appear here by themselves";
            return listing::all(session, query, limit, hint, async |q| client.foreign_vms(q).await).await;
        }
        Verb::Get { name } => {
            let id = resolve(session, Kind::Vm, &name).await?;
            session.out.object(&client.foreign_vm(&id).await?)?;
        }
    }
    Ok(Exit::OK)
}
