//! `sandbox run` and `sandbox exec`: a command in a guest, its exit code ours.

use crate::exit::Exit;
use crate::failure::Failure;
use crate::live::{self, Ending};
use crate::names::{Kind, resolve};
use crate::progress;
use crate::removal::remove;
use crate::sandbox::{CommandOptions, subject};
use crate::session::Session;
use perigee_api::SandboxRequest;
use perigee_client::Answer;

/// Makes a sandbox, runs the command in it, and deletes it whatever happened.
pub async fn run(
    session: &Session,
    guest: &SandboxRequest,
    command: &CommandOptions,
    keep: bool,
) -> Result<Exit, Failure> {
    let (id, made) = begin(session, guest).await.map_err(ours)?;
    let outcome = match made {
        Ok(()) => converse(session, &id, command, Vec::new()).await,
        Err(failure) => Err(failure),
    };
    if keep {
        session.out.note(&format!("perigee: kept; perigee sandbox delete {id}"));
    } else if let Err(failure) = remove(session, &id).await {
        session.out.warning(&format!("perigee: the sandbox was not deleted: {}", failure.what));
        session.out.warning(&format!("  try: perigee sandbox delete {id}"));
    }
    outcome.map_err(ours)
}

/// Runs a command in a guest that is there.
pub async fn exec(
    session: &Session,
    kind: Kind,
    name: &str,
    command: &CommandOptions,
    env: Vec<(String, String)>,
) -> Result<Exit, Failure> {
    let id = resolve(session, kind, name).await.map_err(ours)?;
    converse(session, &id, command, env).await.map_err(ours)
}

/// The id of a sandbox, and whether it came up; it must be deleted even if it did not.
async fn begin(session: &Session, guest: &SandboxRequest) -> Result<(String, Result<(), Failure>), Failure> {
    match session.client()?.create_sandbox(guest, None).await? {
        Answer::Done(sandbox) => Ok((sandbox.id, Ok(()))),
        Answer::Accepted(task) => {
            let id = subject(&task)?.to_owned();
            let made = progress::succeeded(session, *task, "starting a sandbox").await.map(drop);
            let made = made.map_err(|failure| match failure.exit {
                Exit::INTERRUPTED => Failure::new(Exit::INTERRUPTED, "Interrupted before the command began"),
                _ => failure,
            });
            Ok((id, made))
        }
    }
}

async fn converse(
    session: &Session,
    id: &str,
    command: &CommandOptions,
    env: Vec<(String, String)>,
) -> Result<Exit, Failure> {
    let open = command.open(env, session.settings.stdin_terminal);
    match live::converse(session, id, &open).await? {
        Ending::Ended(view) => live::exit_of(session, &view),
        Ending::Left(None) => Err(Failure::new(Exit::INTERRUPTED, "Interrupted before the command began")),
        Ending::Left(Some(execution)) => {
            Err(Failure::new(Exit::INTERRUPTED, "Interrupted; the command was left alone")
                .hint(format!("perigee execution get {execution}")))
        }
    }
}

/// Perigee's own failures around a command are 125; who was interrupted knows it.
fn ours(failure: Failure) -> Failure {
    if failure.exit == Exit::INTERRUPTED { failure } else { failure.exiting(Exit::RUN_FAILED) }
}
