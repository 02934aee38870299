//! Executions and files: streams, breaks, ends.

use crate::*;
use std::time::Duration;
use tokio::sync::mpsc;

async fn booted() -> (Rig, Running, GuestId) {
    let rig = Rig::new();
    let agent = rig.start();
    let id = guest_id(1);
    rig.plane.want(wanted(id, 1, Power::Running));
    rig.plane.until_phase(id, Phase::Running).await;
    (rig, agent, id)
}

/// Everything until the last frame: standard output and that frame.
async fn drain(mut rx: mpsc::Receiver<TunnelFrame>) -> (Vec<u8>, Option<TunnelFrame>) {
    let (mut out, mut last) = (vec![], None);
    while let Some(frame) = rx.recv().await {
        match frame {
            TunnelFrame::Stdout(bytes) | TunnelFrame::Data(bytes) => out.extend_from_slice(&bytes),
            TunnelFrame::Started => {}
            frame => last = Some(frame),
        }
    }
    (out, last)
}

fn outcome(frame: Option<TunnelFrame>) -> Outcome {
    match frame {
        Some(TunnelFrame::Ended(report)) => report.end.unwrap().outcome,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn followers_get_all_output_whenever_they_come() {
    let (rig, _agent, id) = booted().await;
    let e = execution_id(1);
    let order = execute(e, id, &["tick", "4"]);
    rig.plane.send(FromServer::Execute(Box::new(order.clone())));
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let (_, early) = rig.plane.tunnel(Purpose::Execute(order.clone()));
    let early = tokio::spawn(drain(early));
    let (_, leaves) = rig.plane.tunnel(Purpose::Execute(order.clone()));
    drop(leaves);
    let all = b"tick 1\ntick 2\ntick 3\ntick 4\n".to_vec();
    let (out, last) = early.await.unwrap();
    assert_eq!((out, outcome(last)), (all.clone(), Outcome::Exited { code: 0 }));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (_, late) = rig.plane.tunnel(Purpose::Execute(order));
    let (out, last) = drain(late).await;
    assert_eq!((out, outcome(last)), (all.clone(), Outcome::Exited { code: 0 }));
    let (_, read) = rig.plane.tunnel(Purpose::ReadOutput { execution: e });
    assert_eq!(drain(read).await, (all, Some(TunnelFrame::End)));
    assert_eq!(rig.fake.with(|s| s.exec_starts[&e.uuid()]), 1);
}

#[tokio::test(start_paused = true)]
async fn standard_input_flows_and_ends() {
    let (rig, _agent, id) = booted().await;
    let mut order = execute(execution_id(1), id, &["cat"]);
    order.stdin = true;
    let (tx, rx) = rig.plane.tunnel(Purpose::Execute(order));
    for chunk in [b"one ".to_vec(), b"two".to_vec()] {
        tx.send(TunnelFrame::Data(chunk)).await.unwrap();
    }
    tx.send(TunnelFrame::End).await.unwrap();
    let (out, last) = drain(rx).await;
    assert_eq!((out.as_slice(), outcome(last)), (b"one two".as_slice(), Outcome::Exited { code: 0 }));
}

#[tokio::test(start_paused = true)]
async fn standard_input_outlives_broken_sessions() {
    let (rig, _agent, id) = booted().await;
    let mut order = execute(execution_id(1), id, &["cat"]);
    order.stdin = true;
    let (tx, rx) = rig.plane.tunnel(Purpose::Execute(order));
    let rest = tokio::spawn(drain(rx));
    let mut said = Vec::new();
    for n in 0..6 {
        let chunk = format!("chunk {n}\n").into_bytes();
        said.extend(chunk.clone());
        tx.send(TunnelFrame::Data(chunk)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(if n % 2 == 0 { 0 } else { 700 })).await;
        rig.fake.cut(id);
    }
    tx.send(TunnelFrame::End).await.unwrap();
    let (out, last) = rest.await.unwrap();
    assert_eq!(
        (String::from_utf8(out).unwrap(), outcome(last)),
        (String::from_utf8(said).unwrap(), Outcome::Exited { code: 0 })
    );
}

#[tokio::test(start_paused = true)]
async fn a_broken_session_is_attached_again_without_a_lost_or_doubled_byte() {
    let (rig, _agent, id) = booted().await;
    let e = execution_id(1);
    let (_tx, rx) = rig.plane.tunnel(Purpose::Execute(execute(e, id, &["tick", "5"])));
    let rest = tokio::spawn(drain(rx));
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(1100)).await;
        rig.fake.cut(id);
    }
    let (out, last) = rest.await.unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), "tick 1\ntick 2\ntick 3\ntick 4\ntick 5\n");
    assert_eq!(outcome(last), Outcome::Exited { code: 0 });
    assert_eq!(rig.fake.with(|s| s.exec_starts[&e.uuid()]), 1);
    assert_eq!(rig.plane.with(|s| s.observed[&id].phase), Phase::Running);
}

#[tokio::test(start_paused = true)]
async fn cancelling_terminates_then_kills() {
    let (rig, _agent, id) = booted().await;
    let (mild, stubborn) = (execution_id(1), execution_id(2));
    rig.plane.send(FromServer::Execute(Box::new(execute(mild, id, &["tick", "100"]))));
    rig.plane.send(FromServer::Execute(Box::new(execute(stubborn, id, &["stubborn", "100"]))));
    tokio::time::sleep(Duration::from_millis(500)).await;
    for execution in [mild, stubborn] {
        rig.plane.send(FromServer::CancelExecution { execution });
    }
    rig.plane.until("both ends", |s| s.ends.len() == 2).await;
    let outcomes = rig.plane.with(|s| (s.ends[&mild].outcome.clone(), s.ends[&stubborn].outcome.clone()));
    assert_eq!(outcomes, (Outcome::Signaled { signal: 15 }, Outcome::Signaled { signal: 9 }));
}

#[tokio::test(start_paused = true)]
async fn executions_of_a_dead_guest_are_lost_and_those_without_a_guest_never_start() {
    let (rig, _agent, id) = booted().await;
    let (running, late, nowhere) = (execution_id(1), execution_id(2), execution_id(3));
    rig.plane.send(FromServer::Execute(Box::new(execute(running, id, &["tick", "100"]))));
    tokio::time::sleep(Duration::from_millis(500)).await;
    rig.fake.kill(id);
    rig.plane.until("lost", |s| s.ends.contains_key(&running)).await;
    rig.plane.send(FromServer::Execute(Box::new(execute(late, id, &["exit", "0"]))));
    rig.plane.send(FromServer::Execute(Box::new(execute(nowhere, guest_id(9), &["exit", "0"]))));
    rig.plane.until("all ends", |s| s.ends.len() == 3).await;
    rig.plane.with(|s| {
        assert_eq!(s.ends[&running].outcome, Outcome::Lost);
        assert_eq!(s.ends[&running].problem.as_ref().unwrap().code, "PRG-7002");
        for id in [late, nowhere] {
            assert!(matches!(s.ends[&id].outcome, Outcome::FailedToStart { .. }));
            assert_eq!(s.ends[&id].problem.as_ref().unwrap().code, "PRG-4002");
        }
    });
}

#[tokio::test(start_paused = true)]
async fn one_the_guest_forgot_is_lost_and_not_run_again() {
    let (rig, agent, id) = booted().await;
    let e = execution_id(1);
    rig.plane.send(FromServer::Execute(Box::new(execute(e, id, &["tick", "100"]))));
    tokio::time::sleep(Duration::from_secs(3)).await;
    rig.crash(agent).await;
    rig.fake.with(|s| s.guests.get_mut(&id).unwrap().execs.clear());
    let _agent = rig.start();
    rig.plane.until("lost", |s| s.ends.contains_key(&e)).await;
    assert_eq!(rig.plane.with(|s| s.ends[&e].outcome.clone()), Outcome::Lost);
    assert_eq!(rig.fake.with(|s| s.exec_starts[&e.uuid()]), 1);
    // The order comes again, late: still not run.
    rig.plane.send(FromServer::Execute(Box::new(execute(e, id, &["tick", "100"]))));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(rig.fake.with(|s| s.exec_starts[&e.uuid()]), 1);
}

#[tokio::test(start_paused = true)]
async fn output_beyond_the_limit_is_counted_and_dropped() {
    let (rig, _agent, id) = booted().await;
    let e = execution_id(1);
    let mut order = execute(e, id, &["echo", "0123456789"]);
    order.command.output_limit_bytes = Some(4);
    rig.plane.send(FromServer::Execute(Box::new(order)));
    rig.plane.until("an end", |s| s.ends.contains_key(&e)).await;
    let stdout = rig.plane.with(|s| s.ends[&e].stdout.clone());
    assert_eq!((stdout.head.as_slice(), stdout.bytes, stdout.truncated), (b"0123".as_slice(), 10, true));
}

#[tokio::test(start_paused = true)]
async fn files_go_in_and_out_whole() {
    let (rig, _agent, guest) = booted().await;
    let put = |path: &str| Purpose::PutFile { guest, path: path.into(), mode: 0o644 };
    let bytes: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
    let (tx, rx) = rig.plane.tunnel(put("/tmp/a"));
    for chunk in bytes.chunks(60_000) {
        tx.send(TunnelFrame::Data(chunk.to_vec())).await.unwrap();
    }
    tx.send(TunnelFrame::End).await.unwrap();
    assert_eq!(drain(rx).await.1, Some(TunnelFrame::End));
    let (_, rx) = rig.plane.tunnel(Purpose::GetFile { guest, path: "/tmp/a".into() });
    assert_eq!(drain(rx).await, (bytes, Some(TunnelFrame::End)));

    let (tx, rx) = rig.plane.tunnel(put("/tmp/half"));
    tx.send(TunnelFrame::Data(vec![1])).await.unwrap();
    drop(tx);
    assert!(matches!(drain(rx).await.1, Some(TunnelFrame::Failed(_))));
    assert!(!rig.fake.with(|s| s.files.contains_key("/tmp/half")), "half a file");

    let refused = |frame: Option<TunnelFrame>| match frame {
        Some(TunnelFrame::Failed(problem)) => problem.code,
        other => panic!("{other:?}"),
    };
    let cases = [
        (Purpose::GetFile { guest, path: "/nowhere".into() }, "PRG-3006"),
        (Purpose::GetFile { guest, path: "relative".into() }, "PRG-7007"),
        (put("relative"), "PRG-7007"),
        (Purpose::GetFile { guest: guest_id(9), path: "/a".into() }, "PRG-4002"),
        (Purpose::ReadOutput { execution: execution_id(77) }, "PRG-3005"),
    ];
    for (purpose, code) in cases {
        let (_tx, rx) = rig.plane.tunnel(purpose);
        assert_eq!(refused(drain(rx).await.1), code);
    }
}
