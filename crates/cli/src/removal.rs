//! `sandbox delete`, of one, of several and of all; and what `down --guests stop` does to VMs.

use crate::exit::Exit;
use crate::failure::Failure;
use crate::names::{Kind, resolve};
use crate::progress::{self, Line};
use crate::session::Session;
use futures::StreamExt;
use perigee_api::{Page, StopRequest, VmView};
use perigee_client::{Answer, ClientError, ListQuery, Switch};
use std::time::Duration;
use tokio::time::Instant;

/// Deletes in flight at once.
const AT_ONCE: usize = 16;
/// VMs that turn themselves off at once: each may take its time.
const STOPS_AT_ONCE: usize = 64;
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
        return several(session, names, no_wait, None).await;
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
    several(session, ids, no_wait, None).await
}

/// Deletes one sandbox and waits until nothing of it is left. One that is gone already is fine.
pub async fn remove(session: &Session, id: &str) -> Result<(), Failure> {
    let line = Line::begin(session, "deleting the sandbox");
    match remove_on(session, id, &line).await {
        Err(failure) if failure.exit == Exit::NOT_FOUND => Ok(()),
        other => other,
    }
}

/// When waiting for many ends, whatever they do.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    within: Duration,
    until: Instant,
}

impl Limit {
    /// So long from now.
    pub fn of(within: Duration) -> Self {
        Self { within, until: Instant::now() + within }
    }

    /// What it came to, or that it did not end in time.
    async fn keep<T>(self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::time::timeout_at(self.until, work).await.unwrap_or_else(|_| {
            let text = format!("did not end within {} s, and ends when its host can do it", self.within.as_secs());
            Err(Failure::new(Exit::TIMEOUT, text))
        })
    }
}

/// Deletes every sandbox of the instance and waits; for `down --guests stop`.
pub async fn remove_all(session: &Session, limit: Limit) -> Result<(), Failure> {
    let ids = everything(session).await?;
    if ids.is_empty() {
        return Ok(());
    }
    match several(session, ids, false, Some(limit)).await? {
        Exit::OK => Ok(()),
        exit => Err(Failure::new(exit, "Some sandboxes were not deleted")),
    }
}

/// Lets every VM of the instance turn itself off, and waits. They stay off until they are started.
pub async fn stop_vms(session: &Session, limit: Limit) -> Result<(), Failure> {
    let running = running_vms(session).await?;
    if running.is_empty() {
        return Ok(());
    }
    let line = Line::begin(session, &format!("stopping {} virtual machines", running.len()));
    let one = async |vm: VmView| {
        let stopped = async {
            let stop = Switch::Stop(StopRequest::default());
            match session.client()?.switch_vm(&vm.guest.id, &stop, None).await? {
                Answer::Done(_) => Ok(()),
                Answer::Accepted(task) => progress::succeeded_on(session, *task, &line).await.map(drop),
            }
        };
        let ended = limit.keep(stopped).await;
        (vm.guest.name, ended)
    };
    let ends: Vec<_> = futures::stream::iter(running).map(one).buffer_unordered(STOPS_AT_ONCE).collect().await;
    drop(line);
    let (done, failed): (Vec<_>, Vec<_>) = ends.into_iter().partition(|(_, end)| end.is_ok());
    let failures = failed.into_iter().filter_map(|(name, end)| end.err().map(|failure| (name, failure))).collect();
    match judged(session, done.len(), failures, &STOPPING)? {
        Exit::OK => Ok(()),
        exit => Err(Failure::new(exit, "Some virtual machines were not stopped")),
    }
}

async fn running_vms(session: &Session) -> Result<Vec<VmView>, Failure> {
    let client = session.client()?;
    let query = ListQuery { limit: Some(PAGE), ..ListQuery::default() }.filter("kind", Some("vm".to_owned()));
    let all = pages(query, async |query| client.vms(query).await).await?;
    let off = ["stopped", "failed", "deleted"];
    Ok(all.into_iter().filter(|vm| !off.contains(&vm.guest.status.as_str())).collect())
}

async fn remove_on(session: &Session, id: &str, line: &Line) -> Result<(), Failure> {
    match session.client()?.delete_sandbox(id, None).await? {
        Answer::Done(()) => Ok(()),
        Answer::Accepted(task) => progress::succeeded_on(session, *task, line).await.map(drop),
    }
}

async fn several(session: &Session, names: Vec<String>, no_wait: bool, limit: Option<Limit>) -> Result<Exit, Failure> {
    let count = names.len();
    let line = Line::begin(session, &format!("deleting {count}"));
    let one = async |name: String| {
        let id = match resolve(session, Kind::Sandbox, &name).await {
            Ok(id) => id,
            Err(failure) => return (name, Err(failure)),
        };
        let removed = async { if no_wait { submit(session, &id).await } else { remove_on(session, &id, &line).await } };
        let done = match limit {
            Some(limit) => limit.keep(removed).await,
            None => removed.await,
        };
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
    let doing = if limit.is_some() { &ENDING } else { &DELETING };
    judged(session, done, failures, doing)
}

/// What is done to many, in words.
struct Doing {
    nouns: &'static str,
    done: &'static str,
    look: &'static str,
    /// Whoever asks named each of them: a single failure speaks for itself.
    named: bool,
}

const DELETING: Doing = Doing { nouns: "sandboxes", done: "deleted", look: "perigee sandbox list", named: true };
const ENDING: Doing = Doing { named: false, ..DELETING };
const STOPPING: Doing =
    Doing { nouns: "virtual machines", done: "stopped", look: "perigee vm list -o wide", named: false };

/// All, none or some.
fn judged(
    session: &Session,
    done: usize,
    mut failures: Vec<(String, Failure)>,
    doing: &Doing,
) -> Result<Exit, Failure> {
    let Some((name, last)) = failures.pop() else { return Ok(Exit::OK) };
    if done == 0 && failures.is_empty() && doing.named {
        return Err(last);
    }
    failures.push((name, last));
    let exit = if done == 0 { failures[0].1.exit } else { Exit::PARTIAL };
    let total = done + failures.len();
    let mut failure =
        Failure::new(exit, format!("{} of {total} {} were not {}", failures.len(), doing.nouns, doing.done));
    for (name, one) in &failures {
        let code = one.code.as_deref().unwrap_or_default();
        failure.causes.push(format!("{name}: {} {code}", one.what).trim_end().to_owned());
    }
    session.out.note(&format!("{done} of {total} were {}", doing.done));
    Err(failure.hint(doing.look))
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
    let query = ListQuery { limit: Some(PAGE), ..ListQuery::default() };
    let all = pages(query, async |query| client.sandboxes(query).await).await?;
    Ok(all.into_iter().filter(|s| s.status != "deleted").map(|s| s.id).collect())
}

/// What is on all pages.
async fn pages<T>(
    mut query: ListQuery,
    page: impl AsyncFn(&ListQuery) -> Result<Page<T>, ClientError>,
) -> Result<Vec<T>, Failure> {
    let mut all = Vec::new();
    loop {
        let one = page(&query).await?;
        all.extend(one.items);
        if one.next_page_token.is_none() || one.next_page_token == query.page_token {
            return Ok(all);
        }
        query.page_token = one.next_page_token;
    }
}
