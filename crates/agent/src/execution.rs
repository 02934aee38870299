//! Executions: one command's run in a guest, never twice.
//!
//! Owns: the document, output and end of every execution on this host, its attachment to the guest,
//! and who follows it.
//! Refuses: starting a known id again. What was handed to a guest is only ever attached to; what
//! the guest does not know any more is `lost`.
//!
//! ```text
//! accepted ──journal: sent──▶ attached ◀──▶ session away
//!     │                          │ end · unknown · guest gone
//!     └── not startable ──▶ ended: journal ▶ report until taken ▶ kept 1 h ▶ removed
//! ```

mod end;
mod follow;
mod input;
mod run;
mod stop;

pub(crate) use follow::{follow, read_output};
pub(crate) use stop::{cancel, signal};

use crate::journal::{self, Keep};
use crate::spool::Stream;
use crate::world::World;
use bytes::Bytes;
use perigee_agent_api::{Execute, ExecutionEnd, ExecutionReport};
use perigee_model::limits::EXECUTIONS_PER_GUEST_MAX;
use perigee_model::{ExecutionId, GuestId, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

const SHELF: &str = "executions";
/// Output and documents are kept this long after the end.
const KEPT: Duration = Duration::from_secs(3600);
/// Chunks of standard input on their way to the guest.
const STDIN_CHUNKS: usize = 4;

/// What the agent knows about an execution. Written before it is handed to the guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Document {
    execute: Execute,
    /// The guest may have heard of it: from now on it is only attached to.
    sent: bool,
    started_at: Option<Timestamp>,
    end: Option<ExecutionEnd>,
    /// The control plane has the end.
    taken: bool,
}

impl Document {
    fn report(&self) -> ExecutionReport {
        ExecutionReport {
            execution: self.execute.execution,
            guest: self.execute.guest,
            started_at: self.started_at,
            end: self.end.clone(),
        }
    }
}

/// What a follower sees.
#[derive(Clone, Default)]
struct Progress {
    sent: bool,
    started: bool,
    stdout: u64,
    stderr: u64,
    ended: Option<Arc<ExecutionReport>>,
}

impl Progress {
    fn kept(&self, stream: Stream) -> u64 {
        match stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        }
    }
}

/// An execution whose end is not taken yet.
pub(crate) struct Live {
    pub id: ExecutionId,
    pub guest: GuestId,
    progress: watch::Sender<Progress>,
    stdin: Mutex<Option<mpsc::Sender<Bytes>>>,
    cancelled: CancellationToken,
}

impl Live {
    fn new(execute: &Execute, stdin: Option<mpsc::Sender<Bytes>>) -> Arc<Self> {
        Arc::new(Self {
            id: execute.execution,
            guest: execute.guest,
            progress: watch::Sender::new(Progress::default()),
            stdin: Mutex::new(stdin),
            cancelled: CancellationToken::new(),
        })
    }
    /// Standard input, for the first who asks.
    pub(crate) fn take_stdin(&self) -> Option<mpsc::Sender<Bytes>> {
        self.stdin.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
    fn has_ended(&self) -> bool {
        self.progress.borrow().ended.is_some()
    }
    /// Resolves when it ended. May be dropped.
    async fn ended(&self) {
        let mut progress = self.progress.subscribe();
        if progress.wait_for(|p| p.ended.is_some()).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[derive(Clone)]
enum Entry {
    Live(Arc<Live>),
    /// Ended and taken; the rest is in the journal.
    Taken(Timestamp),
}

/// Every execution this host knows.
#[derive(Default)]
pub(crate) struct Executions(Mutex<BTreeMap<ExecutionId, Entry>>);

impl Executions {
    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<ExecutionId, Entry>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
    fn live(&self, id: ExecutionId) -> Option<Arc<Live>> {
        self.with(|all| match all.get(&id) {
            Some(Entry::Live(live)) => Some(live.clone()),
            Some(Entry::Taken(_)) | None => None,
        })
    }
    /// Executions whose end the control plane has not taken.
    pub(crate) fn untaken(&self) -> Vec<ExecutionId> {
        let live = |(id, entry): (&ExecutionId, &Entry)| matches!(entry, Entry::Live(_)).then_some(*id);
        self.with(|all| all.iter().filter_map(live).collect())
    }
}

/// Starts an execution, or finds the one with this id. `None`: it ended and was taken.
pub(crate) fn begin(world: &Arc<World>, execute: Execute) -> Option<Arc<Live>> {
    let (live, stdin) = world.executions.with(|all| {
        match all.get(&execute.execution) {
            Some(Entry::Live(live)) => return (Some(live.clone()), None),
            Some(Entry::Taken(_)) => return (None, None),
            None => {}
        }
        let (tell, told) = mpsc::channel(STDIN_CHUNKS);
        let live = Live::new(&execute, execute.stdin.then_some(tell));
        let running = |e: &&Entry| matches!(e, Entry::Live(l) if l.guest == execute.guest && !l.has_ended());
        let room = all.values().filter(running).count() < EXECUTIONS_PER_GUEST_MAX;
        all.insert(execute.execution, Entry::Live(live.clone()));
        (Some(live), Some((told, room)))
    });
    let live = live?;
    if let Some((stdin, room)) = stdin {
        let document = Document { execute, sent: false, started_at: None, end: None, taken: false };
        let task = run::Run::new(world.clone(), live.clone(), document, Some(stdin));
        world.nursery.spawn(task.run(room));
    }
    Some(live)
}

/// Takes up what a former life of the agent left.
pub(crate) async fn inherit(world: &Arc<World>) -> Result<(), journal::JournalError> {
    for key in world.journal.list(SHELF).await? {
        let read = journal::read::<Document>(world.journal.as_ref(), SHELF, &key).await;
        let Ok(Some(document)) = read else {
            warn!(%key, "an execution's document cannot be read");
            continue;
        };
        let id = document.execute.execution;
        let entry = match &document.end {
            Some(end) if document.taken => Entry::Taken(end.at),
            Some(_) => {
                let live = Live::new(&document.execute, None);
                live.progress.send_replace(run::progress_of(world, &document));
                world.outbox.execution(document.report());
                Entry::Live(live)
            }
            None => {
                let live = Live::new(&document.execute, None);
                let task = run::Run::new(world.clone(), live.clone(), document, None);
                world.nursery.spawn(task.run(true));
                Entry::Live(live)
            }
        };
        world.executions.with(|all| all.insert(id, entry));
    }
    for id in world.spool.list().unwrap_or_default() {
        if world.executions.with(|all| !all.contains_key(&id)) {
            remove_output(world, id);
        }
    }
    Ok(())
}

/// The control plane has the end.
pub(crate) fn taken(world: &Arc<World>, id: ExecutionId) {
    let Some(live) = world.executions.live(id) else { return };
    let Some(report) = live.progress.borrow().ended.clone() else { return };
    let Some(at) = report.end.as_ref().map(|end| end.at) else { return };
    let world = world.clone();
    world.clone().nursery.spawn(async move {
        let key = id.to_string();
        if let Ok(Some(mut document)) = journal::read::<Document>(world.journal.as_ref(), SHELF, &key).await {
            document.taken = true;
            let _ = journal::write(world.journal.as_ref(), SHELF, &key, &document, Keep::Process).await;
        }
        world.outbox.drop_execution(id);
        world.executions.with(|all| all.insert(id, Entry::Taken(at)));
    });
}

/// Removes what was kept long enough.
pub(crate) async fn sweep(world: &Arc<World>) {
    let now = world.clock.now();
    for (id, entry) in world.executions.with(|all| all.clone()) {
        let (at, taken) = match &entry {
            Entry::Taken(at) => (Some(*at), true),
            Entry::Live(live) => {
                let ended = live.progress.borrow().ended.clone();
                (ended.and_then(|r| r.end.as_ref().map(|e| e.at)), false)
            }
        };
        if at.is_none_or(|at| now.since(at) < KEPT) {
            continue;
        }
        remove_output(world, id);
        if taken && world.journal.remove(SHELF, &id.to_string()).await.is_ok() {
            world.executions.with(|all| all.remove(&id));
        }
    }
}

fn remove_output(world: &World, id: ExecutionId) {
    if let Err(e) = world.spool.remove(id) {
        warn!(execution = %id, error = %e, "output was not removed");
    }
}
