//! The writer: one task, one connection, one order.
//!
//! Owns: every write. Whatever waits when the writer becomes free goes into one transaction: one
//! fsync for many. If a piece of it is refused, the transaction is done again with a savepoint for
//! each piece, so that a refused batch leaves nothing behind and spoils no other. Nobody is
//! answered before the transaction is durable.
//! Refuses: everything after a failed read or write of the file. What the disk holds then is not
//! known, and a kernel does not report the same failure twice, so nothing is acknowledged again.
//!
//! ```text
//!   take what waits ─▶ BEGIN ─▶ steps* ─▶ COMMIT ─▶ answer all
//!                        │         └── one refused ─▶ BEGIN ─▶ (SAVEPOINT ─ steps ─ RELEASE | ROLLBACK TO)* ─▶ COMMIT
//!                        └── fell, nothing written ─▶ each alone ─▶ answer each
//! ```
//!
//! On a full disk a delete gives the reserve up; until there is room for it again, only deletes
//! are written.

use super::engine::{Engine, Link};
use super::fault::{Fault, engine as engine_fault};
use super::reserve::Reserve;
use super::steps::{Step, Untouched, Work};
use crate::StoreError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Pieces of work in one transaction.
const GROUP_MAX: usize = 128;
/// Pieces of work that may wait before callers do.
pub(super) const QUEUE_MAX: usize = 1024;
/// A server that has not answered a transaction by then is taken for gone.
const SERVER_TIMEOUT: Duration = Duration::from_secs(30);

/// What the writer is asked for.
pub(super) enum Order {
    /// Write this; the answer is the number of rows touched.
    Write(Work, Reply),
    /// Write what waits, close, answer.
    Stop(oneshot::Sender<()>),
}

pub(super) type Reply = oneshot::Sender<Result<u64, StoreError>>;
type Job = (Work, Reply);

/// Whether one refused piece of work of a group spoils the others.
#[derive(Clone, Copy)]
enum Apart {
    No,
    BySavepoints,
}

/// The writing end of a store.
pub(super) struct Writer {
    engine: Engine,
    link: Option<Link>,
    reserve: Option<Reserve>,
    dead: Option<Fault>,
    is_dead: Arc<AtomicBool>,
}

impl Writer {
    /// Starts it on an open connection. It ends with `Stop`, or when nobody can ask it any more.
    pub fn start(engine: Engine, link: Link, reserve: Option<Reserve>) -> (mpsc::Sender<Order>, Arc<AtomicBool>) {
        let (orders, inbox) = mpsc::channel(QUEUE_MAX);
        let is_dead = Arc::new(AtomicBool::new(false));
        let writer = Self { engine, link: Some(link), reserve, dead: None, is_dead: Arc::clone(&is_dead) };
        tokio::spawn(writer.run(inbox));
        (orders, is_dead)
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<Order>) {
        let mut stop = None;
        while let Some(first) = inbox.recv().await {
            let mut group = Vec::new();
            let mut next = Some(first);
            while let Some(order) = next {
                match order {
                    Order::Write(work, reply) => group.push((work, reply)),
                    Order::Stop(done) => {
                        inbox.close();
                        stop = Some(done);
                    }
                }
                next = if group.len() < GROUP_MAX { inbox.try_recv().ok() } else { None };
            }
            self.write(group).await;
        }
        if let Some(link) = self.link.take() {
            link.close().await;
        }
        if let Some(done) = stop {
            // Whoever asked may have gone away.
            let _ = done.send(());
        }
    }

    async fn write(&mut self, group: Vec<Job>) {
        if let [(work, _)] = group.as_slice() {
            let outcome = self.alone(work).await;
            answer(group, vec![outcome]);
            return;
        }
        if self.is_starved() {
            return self.each_alone(group).await;
        }
        match self.together(&group).await {
            Ok(outcomes) => answer(group, outcomes),
            Err(fault) if fault.is_clean() => self.each_alone(group).await,
            Err(fault) => {
                let outcomes = group.iter().map(|_| Err(fault.for_caller())).collect();
                answer(group, outcomes);
            }
        }
    }

    async fn each_alone(&mut self, group: Vec<Job>) {
        for (work, reply) in group {
            let outcome = self.alone(&work).await;
            answer(vec![(work, reply)], vec![outcome]);
        }
    }

    /// Whether the disk has no room for the reserve: what room there is belongs to deletes.
    fn is_starved(&self) -> bool {
        self.reserve.as_ref().is_some_and(|reserve| !reserve.fill())
    }

    /// One transaction for many. Refusals are rare: savepoints are set only once there was one.
    async fn together(&mut self, group: &[Job]) -> Result<Vec<Result<u64, StoreError>>, Fault> {
        let works: Vec<&Work> = group.iter().map(|(work, _)| work).collect();
        match self.transaction(&works, Apart::No).await {
            Err(Fault::Refused(_)) => self.transaction(&works, Apart::BySavepoints).await,
            outcome => outcome,
        }
    }

    /// One transaction for one; a delete may use the reserve.
    async fn alone(&mut self, work: &Work) -> Result<u64, StoreError> {
        let starved = self.is_starved();
        if starved && !work.frees {
            return Err(StoreError::DiskFull);
        }
        let mut outcome = self.transaction(&[work], Apart::No).await;
        if work.frees && matches!(outcome, Err(Fault::Full)) {
            tracing::warn!("the disk is full: the store gives up its reserve to delete");
            self.reserve.as_ref().map(Reserve::give_up);
            self.shorten_log().await;
            outcome = self.transaction(&[work], Apart::No).await;
        }
        if starved && outcome.is_ok() {
            self.shorten_log().await;
        }
        match outcome {
            Ok(mut outcomes) => outcomes.pop().unwrap_or(Ok(0)),
            Err(Fault::Refused(refusal)) => Err(refusal),
            Err(fault) => Err(fault.for_caller()),
        }
    }

    /// Folds SQLite's log into the database and gives its space back to the disk.
    async fn shorten_log(&mut self) {
        let Some(link @ Link::Sqlite(_)) = self.link.as_mut() else { return };
        if let Err(error) = link.script("PRAGMA wal_checkpoint(TRUNCATE)").await {
            tracing::warn!(%error, "the store's log could not be shortened");
        }
    }

    async fn transaction(&mut self, works: &[&Work], apart: Apart) -> Result<Vec<Result<u64, StoreError>>, Fault> {
        if let Some(Fault::Fatal(cause)) = &self.dead {
            return Err(Fault::Fatal(Arc::clone(cause)));
        }
        let mut link = match self.link.take() {
            Some(link) => link,
            None => self.engine.connect().await?,
        };
        let writing = attempt(&mut link, self.engine.begin(), works, apart);
        let outcome = match self.engine {
            Engine::Sqlite(_) => writing.await,
            Engine::Postgres(_) => match tokio::time::timeout(SERVER_TIMEOUT, writing).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Fault::Lost(Arc::new(sqlx::Error::PoolTimedOut))),
            },
        };
        match &outcome {
            Err(Fault::Lost(error)) => {
                tracing::warn!(%error, "the store's connection is lost");
            }
            Err(Fault::Fatal(error)) => {
                tracing::error!(%error, "the store cannot trust its file any more: no commit is acknowledged from now on");
                self.dead = Some(Fault::Fatal(Arc::clone(error)));
                self.is_dead.store(true, Ordering::SeqCst);
                self.link = Some(link);
            }
            Ok(_) | Err(Fault::Refused(_) | Fault::Unique(_) | Fault::Full | Fault::Statement(_)) => {
                self.link = Some(link);
            }
        }
        outcome
    }
}

/// Begins, writes, commits; on any fault rolls back.
async fn attempt(
    link: &mut Link,
    begin: &'static str,
    works: &[&Work],
    apart: Apart,
) -> Result<Vec<Result<u64, StoreError>>, Fault> {
    link.script(begin).await?;
    let outcome = match apart {
        Apart::No => one_by_one(link, works).await,
        Apart::BySavepoints => under_savepoints(link, works).await,
    };
    let outcome = match outcome {
        Ok(outcomes) => link.script("COMMIT").await.map(|()| outcomes).map_err(Fault::from),
        Err(fault) => Err(fault),
    };
    if outcome.as_ref().is_err_and(Fault::is_clean) {
        // SQLite has rolled back by itself on some errors; then this says so, and that is fine.
        let _ = link.script("ROLLBACK").await;
    }
    outcome
}

async fn one_by_one(link: &mut Link, works: &[&Work]) -> Result<Vec<Result<u64, StoreError>>, Fault> {
    let mut outcomes = Vec::with_capacity(works.len());
    for work in works {
        outcomes.push(Ok(all_steps(link, &work.steps).await?));
    }
    Ok(outcomes)
}

async fn under_savepoints(link: &mut Link, works: &[&Work]) -> Result<Vec<Result<u64, StoreError>>, Fault> {
    let mut outcomes = Vec::with_capacity(works.len());
    for work in works {
        link.script("SAVEPOINT piece").await?;
        match all_steps(link, &work.steps).await {
            Ok(rows) => {
                link.script("RELEASE SAVEPOINT piece").await?;
                outcomes.push(Ok(rows));
            }
            Err(Fault::Refused(refusal)) => {
                link.script("ROLLBACK TO SAVEPOINT piece; RELEASE SAVEPOINT piece").await?;
                outcomes.push(Err(refusal));
            }
            Err(fault) => return Err(fault),
        }
    }
    Ok(outcomes)
}

async fn all_steps(link: &mut Link, steps: &[Step]) -> Result<u64, Fault> {
    let mut rows = 0;
    for step in steps {
        let touched = match link.execute(&step.text, &step.values).await.map_err(Fault::from) {
            Ok(touched) => touched,
            Err(Fault::Unique(error)) => {
                return Err(match &step.name {
                    Some(name) => Fault::Refused(StoreError::NameTaken { name: name.clone() }),
                    None => Fault::Statement(error),
                });
            }
            Err(fault) => return Err(fault),
        };
        if touched == 0 {
            match &step.untouched {
                Untouched::Fine => {}
                Untouched::Stale(noun, id) => {
                    return Err(Fault::Refused(StoreError::Stale { noun: *noun, id: id.clone() }));
                }
                Untouched::KeyUsed => return Err(Fault::Refused(StoreError::KeyUsed)),
            }
        }
        rows += touched;
    }
    Ok(rows)
}

fn answer(group: Vec<Job>, outcomes: Vec<Result<u64, StoreError>>) {
    for ((_, reply), outcome) in group.into_iter().zip(outcomes) {
        // A caller that no longer waits finds the outcome in the store.
        let _ = reply.send(outcome);
    }
}

/// The answer of a store whose writer has ended.
pub(super) fn closed() -> StoreError {
    engine_fault("the store is closed")
}
