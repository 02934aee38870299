//! `perigee host …`: machines that run guests.

use crate::cell::Cell;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::listing;
use crate::names::{Kind, resolve};
use crate::session::Session;
use crate::table::{Column, Shown, column};
use crate::units::parse_duration;
use clap::Subcommand;
use perigee_api::{JoinTokenRequest, JoinTokenView};
use perigee_client::ListQuery;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What to do with hosts.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List hosts
    #[command(visible_alias = "ls", after_help = "Example:\n  perigee host list -o wide")]
    List {
        /// At most this many
        #[arg(long)]
        limit: Option<usize>,
    },
    /// Show one host
    #[command(after_help = "Example:\n  perigee host get web-1 -o yaml")]
    Get {
        /// Name, id or the beginning of an id
        name: String,
    },
    /// Make a token with which one more machine joins
    #[command(after_help = "Example:\n  perigee host token --file join.token --ttl 10m")]
    Token {
        /// Write the token into a new file (mode 0600) instead of printing it
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// How long it is good [default: 1h, also the longest]
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        ttl: Option<Duration>,
    },
    /// Revoke hosts: their agents are refused from then on
    #[command(visible_alias = "rm", after_help = "Example:\n  perigee host delete web-1")]
    Delete {
        /// Name, id or the beginning of an id
        name: String,
    },
}

/// Does it.
pub async fn run(verb: Verb, session: &Session) -> Result<Exit, Failure> {
    let client = session.client()?;
    match verb {
        Verb::List { limit } => {
            let hint = "No hosts; join one: perigee host token";
            return listing::all(session, ListQuery::default(), limit, hint, async |q| client.hosts(q).await).await;
        }
        Verb::Get { name } => {
            let id = resolve(session, Kind::Host, &name).await?;
            session.out.object(&client.host(&id).await?)?;
        }
        Verb::Token { file, ttl } => {
            let ttl_ms = ttl.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
            let token = client.create_join_token(&JoinTokenRequest { ttl_ms }).await?;
            match file {
                Some(file) => keep(session, &file, &token)?,
                None => session.out.object(&token)?,
            }
        }
        Verb::Delete { name } => {
            let id = resolve(session, Kind::Host, &name).await?;
            client.revoke_host(&id).await?;
            session.out.note(&format!("{name} is revoked"));
        }
    }
    Ok(Exit::OK)
}

fn keep(session: &Session, file: &Path, token: &JoinTokenView) -> Result<(), Failure> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    opened
        .and_then(|mut f| writeln!(f, "{}", token.token))
        .map_err(|e| Failure::io(format!("{} cannot be written", file.display()), &e))?;
    session.out.note("On the machine that joins:");
    session.out.note(&format!("  perigee-agent join {} --token-file {}", token.url, file.display()));
    Ok(())
}

impl Shown for JoinTokenView {
    const COLUMNS: &'static [Column] = &[column("TOKEN"), column("URL"), column("EXPIRES")];
    fn cells(&self) -> Vec<Cell> {
        vec![Cell::Text(self.token.clone()), Cell::Text(self.url.clone()), Cell::Time(self.expires_at.clone())]
    }
    fn name(&self) -> String {
        self.token.clone()
    }
}
