//! `kill -9` of the agent between any two steps.

use crate::*;
use std::time::Duration;

/// After so many passes of the scheduler, or after so much time.
#[derive(Clone, Copy, Debug)]
enum Moment {
    Passes(u32),
    After(Duration),
}

async fn reach(moment: Moment) {
    match moment {
        Moment::Passes(passes) => {
            for _ in 0..passes {
                tokio::task::yield_now().await;
            }
        }
        Moment::After(time) => tokio::time::sleep(time).await,
    }
}

fn moments() -> Vec<Moment> {
    let passes = (0..40).map(Moment::Passes);
    let early = (0..40).map(|ms| Moment::After(Duration::from_millis(ms)));
    let later = (0..30).map(|n| Moment::After(Duration::from_millis(40 + n * 97)));
    passes.chain(early).chain(later).collect()
}

/// Create, run, delete, with a crash at one moment after one of the orders.
async fn story(crash_after: usize, moment: Moment) {
    let rig = Rig::new();
    let (id, e) = (guest_id(1), execution_id(1));
    let mut agent = rig.start();
    rig.plane.until("a link", |s| !s.hellos.is_empty()).await;
    for step in 0..3 {
        match step {
            0 => rig.plane.want(wanted(id, 1, Power::Running)),
            1 => {
                rig.plane.send(FromServer::Execute(Box::new(execute(e, id, &["tick", "2"]))));
            }
            _ => rig.plane.want(wanted(id, 2, Power::Absent)),
        }
        if step == crash_after {
            reach(moment).await;
            rig.crash(agent).await;
            agent = rig.start();
            // What was never heard is said again, as the control plane does.
            rig.plane.until("another link", |s| s.hellos.len() == 2).await;
            if step == 1 {
                rig.plane.send(FromServer::Execute(Box::new(execute(e, id, &["tick", "2"]))));
            }
        }
        match step {
            0 => rig.plane.until_phase(id, Phase::Running).await,
            1 => rig.plane.until("an end", |s| s.ends.contains_key(&e)).await,
            _ => rig.plane.until_phase(id, Phase::Gone).await,
        }
    }
    let context = format!("crash after order {crash_after}, {moment:?}");
    assert_eq!(rig.fake.with(|s| s.starts[&id]), 1, "booted twice: {context}");
    let starts = rig.fake.with(|s| s.exec_starts.get(&e.uuid()).copied().unwrap_or(0));
    let end = rig.plane.with(|s| s.ends[&e].clone());
    match end.outcome {
        Outcome::Exited { code: 0 } => {
            assert_eq!(starts, 1, "{context}");
            assert_eq!(end.stdout.head, b"tick 1\ntick 2\n", "{context}");
        }
        // Killed between its document and the guest: not known, so not run.
        Outcome::Lost => assert!(crash_after == 1 && starts == 0, "{context}: {end:?}"),
        other => panic!("{context}: {other:?}"),
    }
    rig.is_clean().await;
    drop(agent);
}

#[tokio::test(start_paused = true)]
async fn a_create_survives_a_crash_at_any_moment() {
    for moment in moments() {
        story(0, moment).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_execution_survives_a_crash_at_any_moment() {
    for moment in moments() {
        story(1, moment).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_delete_survives_a_crash_at_any_moment() {
    for moment in moments() {
        story(2, moment).await;
    }
}

#[tokio::test(start_paused = true)]
async fn ten_crashes_in_a_row_change_nothing() {
    let rig = Rig::new();
    let (id, e) = (guest_id(1), execution_id(1));
    let mut agent = rig.start();
    rig.plane.want(wanted(id, 1, Power::Running));
    rig.plane.until_phase(id, Phase::Running).await;
    rig.plane.send(FromServer::Execute(Box::new(execute(e, id, &["tick", "20"]))));
    for n in 0..10u64 {
        tokio::time::sleep(Duration::from_millis(700 + 131 * n)).await;
        rig.crash(agent).await;
        agent = rig.start();
    }
    rig.plane.until("an end", |s| s.ends.contains_key(&e)).await;
    let end = rig.plane.with(|s| s.ends[&e].clone());
    let lines: String = (1..=20).map(|i| format!("tick {i}\n")).collect();
    assert_eq!((end.outcome, end.stdout.head), (Outcome::Exited { code: 0 }, lines.into_bytes()));
    assert_eq!(rig.fake.with(|s| (s.starts[&id], s.exec_starts[&e.uuid()])), (1, 1));
    drop(agent);
}
