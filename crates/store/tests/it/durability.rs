//! What was acknowledged survives `kill -9`, and no batch is torn.

use crate::samples::*;
use crate::sqlite;
use perigee_store::{Noun, Record};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

const ROUNDS: u64 = 24;
const PLACE: &str = "PERIGEE_TEST_DURABILITY";

/// This test binary again, running one test of it that `$variable` turns into a child.
pub fn again(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]);
    command
}

/// The child: commits pairs of guests for ever from several tasks and prints what is acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Some(place) = std::env::var_os(PLACE) else { return };
    let first: u64 = std::env::var("PERIGEE_TEST_FIRST").unwrap().parse().unwrap();
    let store = sqlite::open(&PathBuf::from(place)).await;
    let tasks: Vec<_> = (0..4_u64)
        .map(|lane| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for n in (first + lane..).step_by(4) {
                    let pair = [(2 * n, format!("a-{n}")), (2 * n + 1, format!("b-{n}"))];
                    let mut batch = batch(pair.map(|(id, called)| Record::Guest(guest(id, &called))));
                    batch.events.push(event(n, &n.to_string()));
                    store.commit(batch).await.unwrap();
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "\nack {n}").unwrap();
                    out.flush().unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// Kills its child however the test ends.
struct Killed(Child);
impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn acknowledged_commits_survive_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("perigee.db");
    let mut acknowledged = BTreeSet::new();
    let mut first = 0;
    for round in 0..ROUNDS {
        let spawned = again("durability::child")
            .env(PLACE, &path)
            .env("PERIGEE_TEST_FIRST", first.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut child = Killed(spawned);
        let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok).filter_map(|l| l.strip_prefix("ack ")?.parse::<u64>().ok());
        // The child goes on while it is killed: the moment is wherever it happens to be.
        let before = acknowledged.len();
        acknowledged.extend(lines.by_ref().take(1 + usize::try_from(round * 37 % 101).unwrap()));
        assert!(acknowledged.len() > before, "the child wrote nothing");
        child.0.kill().unwrap();
        acknowledged.extend(lines);
        drop(child);

        let store = sqlite::open(&path).await;
        let guests = store.all(Noun::Guest).await.unwrap();
        let mut pairs = BTreeSet::new();
        let mut halves = BTreeSet::new();
        for record in guests {
            let Record::Guest(guest) = record else { panic!() };
            let n: u64 = guest.name.as_str()[2..].parse().unwrap();
            if !halves.insert(n) {
                halves.remove(&n);
                pairs.insert(n);
            }
        }
        assert!(halves.is_empty(), "round {round}: torn batches {halves:?}");
        let lost: Vec<_> = acknowledged.difference(&pairs).collect();
        assert!(lost.is_empty(), "round {round}: lost {lost:?}");
        let events = store.events(0, u32::MAX).await.unwrap();
        let told: BTreeSet<u64> = events.iter().map(|(_, e)| e.detail.parse().unwrap()).collect();
        assert_eq!(told, pairs, "round {round}");
        assert_eq!(events.len(), pairs.len());
        first = pairs.last().unwrap() + 4;
        store.close().await;
    }
    println!("{} commits acknowledged over {ROUNDS} kills, none lost", acknowledged.len());
}
