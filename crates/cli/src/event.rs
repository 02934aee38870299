//! `perigee event …`: the audit log.

use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::Session;
use clap::Subcommand;

/// Events asked for at once.
const PAGE: usize = 1000;

/// What to do with events.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List events, the oldest first
    #[command(visible_alias = "ls", after_help = "Example:\n  perigee event list --after 120 -o jsonl")]
    List {
        /// Only those after the one with this number
        #[arg(long, value_name = "SEQ", default_value_t = 0)]
        after: i64,
        /// At most this many
        #[arg(long)]
        limit: Option<usize>,
    },
}

/// Does it.
pub async fn run(verb: Verb, session: &Session) -> Result<Exit, Failure> {
    let Verb::List { mut after, limit } = verb;
    let client = session.client()?;
    let mut left = limit.unwrap_or(usize::MAX);
    let mut listing = session.out.listing();
    while left > 0 {
        let asked = left.min(PAGE);
        let mut page = client.events(after, u32::try_from(asked).unwrap_or(u32::MAX)).await?.items;
        page.truncate(left);
        let Some(last) = page.last().map(|e| e.seq).filter(|seq| *seq > after) else { break };
        after = last;
        left -= page.len();
        let full = page.len() == asked;
        listing.page(page)?;
        if !full {
            break;
        }
    }
    listing.end("No events.")?;
    Ok(Exit::OK)
}
