//! `perigee execution …`: commands that ran in guests, and their output.

use crate::exit::Exit;
use crate::failure::Failure;
use crate::names::{Kind, resolve};
use crate::session::Session;
use crate::{copy, listing};
use clap::{Subcommand, ValueEnum};
use perigee_client::ListQuery;

/// What to do with executions.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List executions
    #[command(visible_alias = "ls", after_help = "Example:\n  perigee execution list --limit 10")]
    List {
        /// At most this many
        #[arg(long)]
        limit: Option<usize>,
    },
    /// Show one execution
    #[command(after_help = "Example:\n  perigee execution get 0199c0de-7abc -o json")]
    Get {
        /// Id or the beginning of one
        id: String,
    },
    /// Print what a command wrote, byte for byte
    #[command(after_help = "Example:\n  perigee execution output 0199c0de-7abc --stream stderr")]
    Output {
        /// Id or the beginning of one
        id: String,
        /// Which of the two
        #[arg(long, value_enum, default_value = "stdout")]
        stream: Stream,
    },
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Stream {
    /// Standard output
    Stdout,
    /// Standard error
    Stderr,
}

/// Does it.
pub async fn run(verb: Verb, session: &Session) -> Result<Exit, Failure> {
    let client = session.client()?;
    match verb {
        Verb::List { limit } => {
            let hint = "No executions; run something: perigee sandbox run -- uname -r";
            let query = ListQuery::default();
            return listing::all(session, query, limit, hint, async |q| client.executions(q).await).await;
        }
        Verb::Get { id } => {
            let id = resolve(session, Kind::Execution, &id).await?;
            session.out.object(&client.execution(&id).await?)?;
        }
        Verb::Output { id, stream } => {
            let id = resolve(session, Kind::Execution, &id).await?;
            let stream = if stream == Stream::Stdout { "stdout" } else { "stderr" };
            copy::pour(client.execution_output(&id, stream).await?, session).await?;
        }
    }
    Ok(Exit::OK)
}
