//! How fast commits are, and that many committers share an fsync.

use crate::contract::Shared;
use crate::samples::*;
use crate::sqlite;
use perigee_store::Record;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Commits per second and the 50th and 99th percentile of one commit.
async fn pace(store: &Shared, committers: u64, each: u64, first: u64) -> (f64, Duration, Duration) {
    let started = Instant::now();
    let tasks: Vec<_> = (0..committers)
        .map(|c| {
            let store = Arc::clone(store);
            tokio::spawn(async move {
                let mut took = Vec::new();
                for n in 0..each {
                    let id = first + c * each + n;
                    let mut batch = batch([Record::Guest(guest(id, &format!("g-{id}"))), Record::Task(task(id))]);
                    batch.events.push(event(id, "created"));
                    batch.idempotency = Some(idempotency(&id.to_string()));
                    let began = Instant::now();
                    store.commit(batch).await.unwrap();
                    took.push(began.elapsed());
                }
                took
            })
        })
        .collect();
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await.unwrap());
    }
    #[allow(clippy::cast_precision_loss, reason = "a count of commits")]
    let rate = took.len() as f64 / started.elapsed().as_secs_f64();
    took.sort_unstable();
    (rate, took[took.len() / 2], took[took.len() * 99 / 100])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures for a minute: PERIGEE_TEST_PACE=<folder> says on which disk"]
async fn commits_per_second() {
    let place = std::env::var_os("PERIGEE_TEST_PACE").map(PathBuf::from);
    let folder = place.as_ref().map_or_else(tempfile::tempdir, tempfile::tempdir_in).unwrap();
    let store = sqlite::open(&folder.path().join("perigee.db")).await;
    let mut first = 0;
    for committers in [1, 8, 64] {
        let each = 8000 / committers.min(8);
        let (rate, p50, p99) = pace(&store, committers, each, first).await;
        println!("{committers:>3} committers: {rate:>7.0}/s  p50 {p50:?}  p99 {p99:?}");
        first += committers * each;
    }
    store.close().await;
}

/// Counts transactions in the log: a frame that ends one carries the database's size, see
/// <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_committers_share_a_transaction() {
    const FRAME: usize = 24 + 4096;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("perigee.db");
    let transactions = || {
        let log = std::fs::read(folder.path().join("perigee.db-wal")).unwrap();
        log[32..].chunks_exact(FRAME).filter(|frame| frame[4..8] != [0; 4]).count()
    };
    let store = sqlite::open(&path).await;
    let before = transactions();
    pace(&store, 1, 8, 0).await;
    assert_eq!(transactions() - before, 8, "one waits for the other");
    let before = transactions();
    pace(&store, 64, 1, 100).await;
    let shared = transactions() - before;
    assert!(shared <= 32, "64 commits in {shared} transactions");
}
