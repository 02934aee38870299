//! `sandbox delete`, of one, of several and of all.

use crate::exit::Exit;
use crate::failure::Failure;
use crate::names::{Kind, resolve};
use crate::progress::{self, Line};
use crate::session::Session;
use futures::StreamExt;
use perigee_client::{Answer, ListQuery};

/// Deletes in flight at once.
const AT_ONCE: usize = 16;
/// Objects on one page here.
const PAGE: u32 = 1000;

/// Deletes the named sandboxes, or all.
pub async fn delete(
    session: &Session,
    names: Vec<String>,
    all: bool,
    yes: bool,
    no_wait: bool,
) -> Result<Exit, Failure> {
    if !all {
        return several(session, names, no_wait).await;
    }
    let ids = everything(session).await?;
    if ids.is_empty() {
        session.out.note("No sandboxes.");
        return Ok(Exit::OK);
    }
    let question = format!("Delete {} sandboxes?", ids.len());
    let asking = session.settings.stdin_terminal && session.settings.stderr_terminal;
    let agreed = yes || (asking && session.out.confirmed(&question));
    if !agreed {
        return Err(Failure::usage(format!("{} sandboxes were not deleted", ids.len()))
            .hint("perigee sandbox delete --all --yes"));
    }
    several(session, ids, no_wait).await
}

/// Deletes one sandbox and waits until nothing of it is left. One that is gone already is fine.
pub async fn remove(session: &Session, id: &str) -> Result<(), Failure> {
    let line = Line::begin(session, "deleting the sandbox");
    match remove_on(session, id, &line).await {
        Err(failure) if failure.exit == Exit::NOT_FOUND => Ok(()),
        other => other,
    }
}

/// Deletes every sandbox of the instance and waits; for `down --guests stop`.
pub async fn remove_all(session: &Session) -> Result<(), Failure> {
    let ids = everything(session).await?;
    if ids.is_empty() {
        return Ok(());
    }
    match several(session, ids, false).await? {
        Exit::OK => Ok(()),
        exit => Err(Failure::new(exit, "Some sandboxes were not deleted")),
    }
}

async fn remove_on(session: &Session, id: &str, line: &Line) -> Result<(), Failure> {
    match session.client()?.delete_sandbox(id, None).await? {
        Answer::Done(()) => Ok(()),
        Answer::Accepted(task) => progress::succeeded_on(session, *task, line).await.map(drop),
    }
}

async fn several(session: &Session, names: Vec<String>, no_wait: bool) -> Result<Exit, Failure> {
    let count = names.len();
    let line = Line::begin(session, &format!("deleting {count}"));
    let one = async |name: String| {
        let id = match resolve(session, Kind::Sandbox, &name).await {
            Ok(id) => id,
            Err(failure) => return (name, Err(failure)),
        };
        let done = if no_wait { submit(session, &id).await } else { remove_on(session, &id, &line).await };
        (name, done)
    };
    let mut ends = futures::stream::iter(names).map(one).buffer_unordered(AT_ONCE);
    let mut failures = Vec::new();
    let mut done = 0;
    while let Some((name, end)) = ends.next().await {
        match end {
            Ok(()) => {
                done += 1;
                line.say(&format!("deleted {done} of {count}"));
            }
            // One Ctrl-C ends the waiting for all.
            Err(failure) if failure.exit == Exit::INTERRUPTED => return Err(failure),
            Err(failure) => failures.push((name, failure)),
        }
    }
    drop(ends);
    drop(line);
    judged(session, done, failures)
}

/// All, none or some.
fn judged(session: &Session, done: usize, mut failures: Vec<(String, Failure)>) -> Result<Exit, Failure> {
    let Some((name, last)) = failures.pop() else { return Ok(Exit::OK) };
    if done == 0 && failures.is_empty() {
        return Err(last);
    }
    failures.push((name, last));
    let exit = if done == 0 { failures[0].1.exit } else { Exit::PARTIAL };
    let total = done + failures.len();
    let mut failure = Failure::new(exit, format!("{} of {total} sandboxes were not deleted", failures.len()));
    for (name, one) in &failures {
        let code = one.code.as_deref().unwrap_or_default();
        failure.causes.push(format!("{name}: {} {code}", one.what).trim_end().to_owned());
    }
    session.out.note(&format!("{done} of {total} were deleted"));
    Err(failure.hint("perigee sandbox list"))
}

async fn submit(session: &Session, id: &str) -> Result<(), Failure> {
    match session.client()?.delete_sandbox(id, None).await? {
        Answer::Done(()) => Ok(()),
        Answer::Accepted(task) => session.out.text(&format!("{}\n", task.id)),
    }
}

/// The ids of all sandboxes.
async fn everything(session: &Session) -> Result<Vec<String>, Failure> {
    let client = session.client()?;
    let mut query = ListQuery { limit: Some(PAGE), ..ListQuery::default() };
    let mut ids = Vec::new();
    loop {
        let page = client.sandboxes(&query).await?;
        let there = page.items.into_iter().filter(|s| s.status != "deleted");
        ids.extend(there.map(|s| s.id));
        if page.next_page_token.is_none() || page.next_page_token == query.page_token {
            return Ok(ids);
        }
        query.page_token = page.next_page_token;
    }
}
