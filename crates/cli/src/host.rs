//! `perigee host …`: machines that run guests.

use crate::args::Format;
use crate::cell::Cell;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::listing;
use crate::names::{Kind, resolve};
use crate::session::Session;
use crate::spark::{bar, sparkline};
use crate::table::{Column, Shown, column, wide};
use crate::top;
use crate::units::parse_duration;
use clap::Subcommand;
use perigee_api::prometheus::QueryData;
use perigee_api::{IngestTokenRequest, IngestTokenView, JoinTokenRequest, JoinTokenView};
use perigee_client::{ListQuery, QueryRange};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How much of the past `get` draws, and in how many cells.
const LATELY_MS: i64 = 900_000;
const LATELY_CELLS: i64 = 60;

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
    /// Watch what every host does now
    #[command(after_help = "Example:\n  perigee host top")]
    Top {
        /// Print it once and end
        #[arg(long)]
        once: bool,
    },
    /// Make a token with which one more machine joins, or with which another agent reports for one
    #[command(after_help = "Example:\n  perigee host token --file join.token --ttl 10m\n  \
                            perigee host token --ingest nas-1 --new --file nas-1.token")]
    Token {
        /// Write the token into a new file (mode 0600) instead of printing it
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// How long it is good [default: 1h; the longest is 1h, with --ingest 24h]
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        ttl: Option<Duration>,
        /// Make a token with which an agent that is not ours reports for this host over HTTP
        #[arg(long, value_name = "HOST")]
        ingest: Option<String>,
        /// Make the host if there is none of this name
        #[arg(long, requires = "ingest")]
        new: bool,
        /// End every earlier ingest token of the host and forget the key it signs with
        #[arg(long, requires = "ingest")]
        reset: bool,
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
            let host = client.host(&id).await?;
            session.out.object(&host)?;
            lately(session, &host.id).await?;
        }
        Verb::Top { once } => return top::run(session, once).await,
        Verb::Token { file, ttl, ingest: Some(host), new, reset } => {
            let request = IngestTokenRequest { ttl_ms: ttl.map(millis), create: new, reset };
            let token = client.create_ingest_token(&host, &request).await?;
            match file {
                Some(file) => keep(&file, &token.token)?,
                None => session.out.object(&token)?,
            }
        }
        Verb::Token { file, ttl, ingest: None, .. } => {
            let ttl_ms = ttl.map(millis);
            let token = client.create_join_token(&JoinTokenRequest { ttl_ms }).await?;
            match file {
                Some(file) => {
                    keep(&file, &token.token)?;
                    session.out.note("On the machine that joins:");
                    session.out.note(&format!("  perigee-agent join {} --token-file {}", token.url, file.display()));
                }
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

/// The last quarter of an hour as a picture, where a person looks.
async fn lately(session: &Session, id: &str) -> Result<(), Failure> {
    if !session.settings.stdout_terminal || !matches!(session.out.format, Format::Table | Format::Wide) {
        return Ok(());
    }
    let to_ms = session.clock.now().micros() / 1000;
    let range = QueryRange { from_ms: to_ms - LATELY_MS, to_ms, step_ms: LATELY_MS / LATELY_CELLS };
    let lines = [
        ("CPU", "perigee_host_cpu_usage_ratio"),
        ("MEMORY", "perigee_host_memory_used_bytes / perigee_host_memory_total_bytes"),
        // Of the machine that its VMs are on, where that is another.
        ("VMS CPU", "perigee_libvirt_node_cpu_usage_ratio"),
        ("VMS MEM", "perigee_libvirt_node_memory_used_bytes / perigee_libvirt_node_memory_total_bytes"),
    ];
    for (head, expr) in lines {
        let expr = expr.split(" / ").map(|name| format!("{name}{{host_id=\"{id}\"}}")).collect::<Vec<_>>().join(" / ");
        let QueryData::Matrix(series) = session.client()?.query_range(&expr, range).await? else { continue };
        let Some(values) = series.first().map(|one| &one.values) else { continue };
        let mut cells = vec![None; usize::try_from(LATELY_CELLS).unwrap_or(0) + 1];
        for (at, value) in values {
            #[expect(clippy::cast_possible_truncation, reason = "milliseconds")]
            let place = ((*at * 1000.0) as i64 - range.from_ms) / range.step_ms;
            if let Some(cell) = usize::try_from(place).ok().and_then(|place| cells.get_mut(place)) {
                *cell = value.parse::<f64>().ok();
            }
        }
        let now = cells.iter().rev().flatten().next().copied().unwrap_or(f64::NAN);
        let picture = sparkline(&cells, cells.len(), Some(0.0), Some(1.0));
        session.out.text(&format!("{head:<8}{} {:>4.0}%  15m {picture}\n", bar(now, 20), now * 100.0))?;
    }
    Ok(())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn keep(file: &Path, token: &str) -> Result<(), Failure> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    opened
        .and_then(|mut f| writeln!(f, "{token}"))
        .map_err(|e| Failure::io(format!("{} cannot be written", file.display()), &e))
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

impl Shown for IngestTokenView {
    const COLUMNS: &'static [Column] = &[column("TOKEN"), column("HOST"), column("EXPIRES"), wide("HOST_ID")];
    fn cells(&self) -> Vec<Cell> {
        vec![
            Cell::Text(self.token.clone()),
            Cell::Text(self.host.clone()),
            Cell::Time(self.expires_at.clone()),
            Cell::Text(self.host_id.clone()),
        ]
    }
    fn name(&self) -> String {
        self.token.clone()
    }
}
