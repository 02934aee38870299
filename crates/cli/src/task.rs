//! `perigee task …`: units of work in the queue.

use crate::exit::Exit;
use crate::failure::Failure;
use crate::names::{Kind, resolve};
use crate::session::Session;
use crate::units::parse_duration;
use crate::{listing, progress};
use clap::Subcommand;
use perigee_client::ListQuery;
use std::time::Duration;

/// What to do with tasks.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List tasks
    #[command(visible_alias = "ls", after_help = "Example:\n  perigee task list --state failed -o wide")]
    List {
        /// pending, running, succeeded, failed, cancelled or dead
        #[arg(long)]
        state: Option<String>,
        /// vm:create, vm:delete, vm:execute, image:build or image:import
        #[arg(long)]
        kind: Option<String>,
        /// At most this many
        #[arg(long)]
        limit: Option<usize>,
    },
    /// Show one task
    #[command(after_help = "Example:\n  perigee task get 0199c0de-7abc -o json")]
    Get {
        /// Id or the beginning of one
        id: String,
    },
    /// Wait for a task's end; fails as the task failed
    #[command(after_help = "Example:\n  perigee task wait 0199c0de-7abc --timeout 2m")]
    Wait {
        /// Id or the beginning of one
        id: String,
        /// Exit code 6 when it takes longer
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        timeout: Option<Duration>,
    },
    /// Give a task up
    #[command(after_help = "Example:\n  perigee task cancel 0199c0de-7abc")]
    Cancel {
        /// Id or the beginning of one
        id: String,
    },
}

/// Does it.
pub async fn run(verb: Verb, session: &Session) -> Result<Exit, Failure> {
    let client = session.client()?;
    match verb {
        Verb::List { state, kind, limit } => {
            let query = ListQuery::default().filter("state", state).filter("kind", kind);
            return listing::all(session, query, limit, "No tasks.", async |q| client.tasks(q).await).await;
        }
        Verb::Get { id } => {
            let id = resolve(session, Kind::Task, &id).await?;
            session.out.object(&client.task(&id, None).await?)?;
        }
        Verb::Wait { id, timeout } => {
            let id = resolve(session, Kind::Task, &id).await?;
            let task = client.task(&id, None).await?;
            let what = task.kind.clone();
            let task = progress::ended_within(session, task, &what, timeout).await?;
            session.out.object(&task)?;
            if task.state != "succeeded" {
                return Err(Failure::task(&task));
            }
        }
        Verb::Cancel { id } => {
            let id = resolve(session, Kind::Task, &id).await?;
            session.out.object(&client.cancel_task(&id).await?)?;
        }
    }
    Ok(Exit::OK)
}
