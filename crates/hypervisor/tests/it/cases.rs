//! The cases of the contract.

use crate::contract::Lab;
use bytes::Bytes;
use perigee_guest::protocol::ExecOutcome;
use perigee_hypervisor::usage::RunState;
use perigee_hypervisor::{
    ExecEnd, ExecEvent, ExecStart, ExecStream, FileSource, GuestEvent, Hypervisor, HypervisorError, Pace, Plan, Seat,
    Session,
};
use perigee_model::{GuestId, PartRole, Resources};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::sync::{broadcast, mpsc};
use uuid::Uuid;

/// Ids of executions in these tests; a guest knows its own only.
const FIRST: Uuid = Uuid::from_u128(1);
const SECOND: Uuid = Uuid::from_u128(2);

pub async fn open(lab: &dyn Lab, driver: &dyn Hypervisor, guest: GuestId) -> Arc<dyn Session> {
    driver.channel().unwrap().open(guest, lab.hello_within()).await.unwrap()
}

/// Everything an execution does from here on.
pub async fn drain(stream: &mut dyn ExecStream) -> (Vec<u8>, ExecEnd) {
    let mut output = Vec::new();
    loop {
        match stream.next().await.unwrap().unwrap() {
            ExecEvent::Started => {}
            ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes) => output.extend_from_slice(&bytes),
            ExecEvent::End(end) => {
                assert!(stream.next().await.is_none(), "the end is the last event");
                return (output, end);
            }
        }
    }
}

pub async fn run(session: &dyn Session, id: Uuid, argv: &[&str]) -> (String, ExecOutcome) {
    let mut stream = session.exec(ExecStart::new(id, argv.iter().copied())).await.unwrap();
    let (output, end) = drain(&mut *stream).await;
    (String::from_utf8(output).unwrap(), end.outcome)
}

/// Waits until that guest is told to have ended: how, and whether by itself.
pub async fn ended(events: &mut broadcast::Receiver<GuestEvent>, wanted: GuestId) -> (String, bool) {
    let told = async {
        loop {
            match events.recv().await.unwrap() {
                GuestEvent::Ended { guest, text, clean } if guest == wanted => return (text, clean),
                GuestEvent::Ended { .. } | GuestEvent::Changed { .. } => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), told).await.expect("its end is told")
}

pub fn exited(code: i32) -> ExecOutcome {
    ExecOutcome::Exited { code }
}

pub async fn starting_twice_is_one_guest(lab: &dyn Lab) {
    let (driver, plan) = (lab.driver(), lab.plan());
    assert!(driver.inventory().await.unwrap().is_empty());
    let first = driver.start(&plan).await.unwrap();
    assert!(first.alive && first.guest == plan.guest);
    assert_eq!(driver.start(&plan).await.unwrap(), first);
    assert_eq!(lab.driver().start(&plan).await.unwrap(), first, "another agent finds it up, too");
    assert_eq!(driver.inventory().await.unwrap(), [first]);
    driver.destroy(plan.guest).await.unwrap();
}

pub async fn destroying_leaves_nothing(lab: &dyn Lab) {
    let before = lab.traces();
    let (driver, plan) = (lab.driver(), lab.plan());
    let mut events = driver.events();
    driver.destroy(plan.guest).await.expect("destroying nothing is fine");
    driver.start(&plan).await.unwrap();
    assert_ne!(lab.traces(), before, "a running guest leaves traces, or this test sees nothing");
    driver.destroy(plan.guest).await.unwrap();
    assert_eq!(lab.traces(), before);
    driver.destroy(plan.guest).await.expect("twice is fine");
    assert!(driver.inventory().await.unwrap().is_empty());
    let opened = driver.channel().unwrap().open(plan.guest, Duration::from_secs(1)).await;
    assert!(matches!(opened, Err(HypervisorError::NotRunning)));
    assert!(events.try_recv().is_err(), "an end that was asked for is no news");
}

pub async fn the_next_agent_adopts(lab: &dyn Lab) {
    let before = lab.traces();
    let plan = lab.plan();
    let started = {
        let driver = lab.driver();
        let started = driver.start(&plan).await.unwrap();
        let session = open(lab, &*driver, plan.guest).await;
        assert_eq!(run(&*session, FIRST, &["echo", "before"]).await, ("before\n".to_owned(), exited(0)));
        started
    };
    let next = lab.driver();
    assert_eq!(next.inventory().await.unwrap(), [started]);
    let session = open(lab, &*next, plan.guest).await;
    assert_eq!(run(&*session, SECOND, &["echo", "after"]).await, ("after\n".to_owned(), exited(0)));
    let mut events = next.events();
    lab.kill(&next.inventory().await.unwrap()[0]).await;
    assert!(!ended(&mut events, plan.guest).await.1, "an adopted guest is watched");
    next.destroy(plan.guest).await.unwrap();
    assert_eq!(lab.traces(), before);
}

pub async fn a_killed_vmm_is_told_and_cleaned_up(lab: &dyn Lab) {
    let before = lab.traces();
    let (driver, plan) = (lab.driver(), lab.plan());
    let mut events = driver.events();
    let started = driver.start(&plan).await.unwrap();
    let session = open(lab, &*driver, plan.guest).await;
    lab.kill(&started).await;
    let (text, clean) = ended(&mut events, plan.guest).await;
    assert!(text.contains(lab.killed_says()) && !clean, "{text} {clean}");
    session.closed().await;
    let found = driver.inventory().await.unwrap();
    assert!(found.len() == 1 && !found[0].alive && found[0].pid.is_none(), "{found:?}");
    let opened = driver.channel().unwrap().open(plan.guest, Duration::from_secs(1)).await;
    assert!(matches!(opened, Err(HypervisorError::NotRunning)));
    let again = driver.start(&plan).await.unwrap();
    assert!(again.alive && again.pid != started.pid, "a start clears what is left and starts");
    driver.destroy(plan.guest).await.unwrap();
    assert_eq!(lab.traces(), before);
}

pub async fn instances_do_not_see_each_other(lab: &dyn Lab) {
    let before = lab.traces();
    let (own, foreign, plan) = (lab.driver(), lab.foreign_driver(), lab.plan());
    let mut events = own.events();
    let started = foreign.start(&plan).await.unwrap();
    assert!(own.inventory().await.unwrap().is_empty());
    own.destroy(plan.guest).await.unwrap();
    let opened = own.channel().unwrap().open(plan.guest, Duration::from_secs(1)).await;
    assert!(matches!(opened, Err(HypervisorError::NotRunning)));
    assert_eq!(foreign.inventory().await.unwrap(), [started]);
    open(lab, &*foreign, plan.guest).await;
    foreign.destroy(plan.guest).await.unwrap();
    assert!(events.try_recv().is_err());
    assert_eq!(lab.traces(), before);
}

pub async fn bad_plans_are_refused_and_leave_nothing(lab: &dyn Lab) {
    let before = lab.traces();
    let driver = lab.driver();
    let good = lab.plan();
    let sized = |cpus, memory_bytes| Plan { resources: Resources { cpus, memory_bytes }, ..lab.plan() };
    let no_kernel: Vec<_> = good.parts.iter().filter(|(role, _)| *role != PartRole::Kernel).cloned().collect();
    let plans = [
        sized(0, 256 << 20),
        sized(10_000, 256 << 20),
        sized(1, 0),
        sized(1, (256 << 20) + 1),
        Plan { parts: Vec::new(), ..lab.plan() },
        Plan { parts: no_kernel, ..lab.plan() },
    ];
    for plan in plans {
        let refused = driver.start(&plan).await;
        assert!(matches!(refused, Err(HypervisorError::BadPlan(_))), "{plan:?}: {refused:?}");
    }
    assert!(driver.inventory().await.unwrap().is_empty());
    assert_eq!(lab.traces(), before);
}

pub async fn commands_run_once_and_can_be_attached_to(lab: &dyn Lab) {
    let (driver, plan) = (lab.driver(), lab.plan());
    driver.start(&plan).await.unwrap();
    let session = open(lab, &*driver, plan.guest).await;
    assert!(!session.hello().kernel_release.is_empty());
    assert_eq!(run(&*session, FIRST, &["echo", "one", "two"]).await, ("one two\n".to_owned(), exited(0)));
    assert_eq!(
        run(&*session, FIRST, &["false"]).await,
        ("one two\n".to_owned(), exited(0)),
        "a known id is attached to"
    );
    let rest = ExecStart { stdout_offset: 4, attach_only: true, ..ExecStart::new(FIRST, ["echo"]) };
    let (output, end) = drain(&mut *session.exec(rest).await.unwrap()).await;
    assert_eq!((output.as_slice(), end.stdout_bytes), (&b"two\n"[..], 8));
    let unknown = ExecStart { attach_only: true, ..ExecStart::new(SECOND, ["true"]) };
    assert!(matches!(session.exec(unknown).await.err(), Some(HypervisorError::UnknownExecution)));
    assert_eq!(run(&*session, SECOND, &["sh", "-c", "exit 7"]).await, (String::new(), exited(7)));
    let missing = run(&*session, Uuid::from_u128(3), &["no-such-program"]).await.1;
    assert!(matches!(missing, ExecOutcome::FailedToStart { errno: 2, .. }), "{missing:?}");
    session.acknowledge(FIRST).await.unwrap();
    session.acknowledge(FIRST).await.expect("twice is fine");
    assert_eq!(run(&*session, FIRST, &["echo", "new"]).await.0, "new\n", "it was forgotten");
    assert!(matches!(session.signal(Uuid::from_u128(9), 15).await, Err(HypervisorError::UnknownExecution)));
    driver.destroy(plan.guest).await.unwrap();
}

pub async fn input_reaches_a_command(lab: &dyn Lab) {
    let (driver, plan) = (lab.driver(), lab.plan());
    driver.start(&plan).await.unwrap();
    let session = open(lab, &*driver, plan.guest).await;
    let cat = |id| ExecStart { stdin: true, ..ExecStart::new(id, ["cat"]) };
    let mut stream = session.exec(cat(FIRST)).await.unwrap();
    let mut stdin = stream.stdin().unwrap();
    assert!(stream.stdin().is_none(), "taken once");
    assert_eq!(stdin.offset(), 0);
    let text = "line\n".repeat(20_000);
    let write = async {
        stdin.write(Bytes::from(text.clone())).await.unwrap();
        stdin.finish().await.unwrap();
    };
    let ((output, end), ()) = tokio::join!(drain(&mut *stream), write);
    assert_eq!(output.len(), text.len());
    assert!(output == text.as_bytes() && end.outcome == exited(0));
    let mut killed = session.exec(cat(SECOND)).await.unwrap();
    session.signal(SECOND, 9).await.unwrap();
    assert_eq!(drain(&mut *killed).await.1.outcome, ExecOutcome::Signaled { signal: 9 });
    driver.destroy(plan.guest).await.unwrap();
}

pub fn source(pieces: Vec<Bytes>) -> FileSource {
    let (sender, receiver) = mpsc::channel(pieces.len().max(1));
    for piece in pieces {
        sender.try_send(Ok(piece)).unwrap();
    }
    receiver
}

pub async fn files_go_in_and_come_out(lab: &dyn Lab) {
    let (driver, plan) = (lab.driver(), lab.plan());
    driver.start(&plan).await.unwrap();
    let session = open(lab, &*driver, plan.guest).await;
    let bytes: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
    let pieces = bytes.chunks(30_000).map(Bytes::copy_from_slice).collect();
    assert_eq!(session.put_file("/tmp/file", 0o600, source(pieces)).await.unwrap(), 100_000);
    let mut back = Vec::new();
    let mut pieces = session.get_file("/tmp/file").await.unwrap();
    while let Some(piece) = pieces.recv().await {
        back.extend_from_slice(&piece.unwrap());
    }
    assert!(back == bytes);
    let refused = |error: Option<HypervisorError>| match error {
        Some(HypervisorError::GuestRefused { code, .. }) => code,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(session.get_file("/tmp/none").await.err()), "not_found");
    assert_eq!(refused(session.put_file("relative", 0o600, source(Vec::new())).await.err()), "bad_path");
    let (sender, receiver) = mpsc::channel(2);
    sender.try_send(Ok(Bytes::from_static(b"half"))).unwrap();
    sender.try_send(Err(HypervisorError::Channel("the source broke".to_owned()))).unwrap();
    let broke = session.put_file("/tmp/half", 0o600, receiver).await;
    assert!(matches!(broke, Err(HypervisorError::Channel(text)) if text == "the source broke"));
    assert_eq!(refused(session.get_file("/tmp/half").await.err()), "not_found", "all of it or nothing");
    driver.destroy(plan.guest).await.unwrap();
}

pub async fn guests_run_in_parallel(lab: &dyn Lab) {
    let before = lab.traces();
    let driver = lab.driver();
    let plans = [lab.plan(), lab.plan()];
    let (first, second) = tokio::join!(driver.start(&plans[0]), driver.start(&plans[1]));
    assert_ne!(first.unwrap().pid, second.unwrap().pid);
    let (first, second) = tokio::join!(open(lab, &*driver, plans[0].guest), open(lab, &*driver, plans[1].guest));
    let said = tokio::join!(run(&*first, FIRST, &["echo", "one"]), run(&*second, FIRST, &["echo", "two"]));
    assert_eq!((said.0.0.as_str(), said.1.0.as_str()), ("one\n", "two\n"));
    driver.destroy(plans[0].guest).await.unwrap();
    assert_eq!(run(&*second, SECOND, &["echo", "still"]).await.0, "still\n");
    driver.destroy(plans[1].guest).await.unwrap();
    assert_eq!(lab.traces(), before);
}

pub async fn a_paused_guest_stands_still(lab: &dyn Lab) {
    let (driver, plan) = (lab.driver(), lab.plan());
    let pause = driver.pause().unwrap();
    assert!(matches!(pause.pause(plan.guest).await, Err(HypervisorError::NotRunning)));
    driver.start(&plan).await.unwrap();
    let session = open(lab, &*driver, plan.guest).await;
    let mut stream = session.exec(ExecStart::new(FIRST, lab.one_second())).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), ExecEvent::Started);
    pause.pause(plan.guest).await.unwrap();
    pause.pause(plan.guest).await.expect("twice is fine");
    let quiet = tokio::time::timeout(Duration::from_secs(2), stream.next()).await;
    assert!(quiet.is_err(), "nothing happens in a paused guest: {quiet:?}");
    assert!(driver.inventory().await.unwrap()[0].alive);
    pause.resume(plan.guest).await.unwrap();
    pause.resume(plan.guest).await.expect("twice is fine");
    assert_eq!(drain(&mut *stream).await.1.outcome, exited(0));
    driver.destroy(plan.guest).await.unwrap();
}

pub async fn a_steady_guest_boots(lab: &dyn Lab) {
    let (driver, plan) = (lab.driver(), Plan { pace: Pace::Steady, ..lab.plan() });
    driver.start(&plan).await.unwrap();
    let session = driver.channel().unwrap().open(plan.guest, Duration::from_secs(60)).await.unwrap();
    assert_eq!(run(&*session, FIRST, &["echo", "steady"]).await.0, "steady\n");
    driver.destroy(plan.guest).await.unwrap();
}

pub async fn what_guests_use_is_told(lab: &dyn Lab) {
    let (driver, plan) = (lab.driver(), lab.plan());
    let measure = driver.measure().unwrap();
    assert_eq!(measure.usages().await.unwrap(), []);
    driver.start(&plan).await.unwrap();
    let session = open(lab, &*driver, plan.guest).await;
    let told = measure.usages().await.unwrap();
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].id, told[0].ours, told[0].busy), (plan.guest.uuid(), true, false));
    assert_eq!(told[0].state, RunState::Running);
    run(&*session, FIRST, &["echo", "work"]).await;
    driver.pause().unwrap().pause(plan.guest).await.unwrap();
    assert_eq!(measure.usages().await.unwrap()[0].state, RunState::Paused);
    driver.pause().unwrap().resume(plan.guest).await.unwrap();

    // The next agent's driver tells the same life.
    let next = lab.driver();
    next.inventory().await.unwrap();
    let later = next.measure().unwrap().usages().await.unwrap();
    assert_eq!((later[0].life, &later[0].name), (told[0].life, &told[0].name));
    assert!(later[0].cpu_ns >= told[0].cpu_ns);
    driver.destroy(plan.guest).await.unwrap();
    assert_eq!(measure.usages().await.unwrap(), []);
}

pub async fn a_serial_port_has_one_sitter(lab: &dyn Lab) {
    let (driver, plan) = (lab.driver(), lab.plan());
    let Some(console) = driver.console() else {
        assert!(!driver.abilities().console);
        return;
    };
    assert!(driver.abilities().console);
    let nobody = console.sit(plan.guest, Seat::Serial).await;
    assert!(matches!(nobody, Err(HypervisorError::NotRunning)));
    driver.start(&plan).await.unwrap();
    open(lab, &*driver, plan.guest).await;
    let mut first = console.sit(plan.guest, Seat::Serial).await.unwrap();
    let mut second = console.sit(plan.guest, Seat::Serial).await.unwrap();
    let mut rest = Vec::new();
    // Sent away by an end or an error; the other one goes on until the guest does.
    let away = tokio::time::timeout(Duration::from_secs(30), first.read_to_end(&mut rest)).await;
    assert!(away.is_ok(), "the first is still there");
    let stays = tokio::time::timeout(Duration::from_millis(100), second.read_to_end(&mut rest)).await;
    assert!(stays.is_err(), "the second was sent away, too");
    driver.destroy(plan.guest).await.unwrap();
    let over = tokio::time::timeout(Duration::from_secs(30), second.read_to_end(&mut rest)).await;
    assert!(over.is_ok(), "the guest is gone and its port is not");
}
