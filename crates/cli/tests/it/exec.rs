//! Commands in guests: streams, exit codes, signals.

use crate::canned::{answers, execution, id};
use crate::fake::{Fake, Ran};
use futures::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use perigee_api::ExecutionView;
use perigee_api::problem::ProblemView;
use perigee_api::stream::{ExecControl, ExecEvent, ExecOpen, STDERR, STDIN, STDOUT};
use std::io::Read;
use std::process::{Child, Stdio};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// The guest's side: what it does is named by the first argument.
pub async fn play(upgraded: Upgraded) {
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
    let Some(Ok(Message::Text(open))) = socket.next().await else { return };
    let open: ExecOpen = serde_json::from_str(open.as_str()).unwrap();
    say(&mut socket, &ExecEvent::Started { execution_id: id(0xe1) }).await;
    let mut end = execution();
    match open.request.argv[0].as_str() {
        "both" => {
            write(&mut socket, STDOUT, b"out\n").await;
            write(&mut socket, STDERR, b"err\n").await;
        }
        "flood" => {
            for _ in 0..200 {
                write(&mut socket, STDOUT, &[0xff; 32 << 10]).await;
            }
            end.exit_code = Some(0);
        }
        "cat" => end.exit_code = Some(cat(&mut socket, open.stdin).await),
        "signalled" => end.exit_code = Some(128 + until_signal(&mut socket).await),
        "deaf" => {
            write(&mut socket, STDOUT, b"ready\n").await;
            while socket.next().await.is_some_and(|m| m.is_ok()) {}
            return;
        }
        "lost" => {
            end.exit_code = None;
            end.state = "lost".to_owned();
            end.problem = Some(ProblemView { code: "PRG-7002".to_owned(), detail: "the guest restarted".to_owned() });
        }
        "missing" => {
            end.exit_code = Some(127);
            end.state = "failed_to_start".to_owned();
            end.problem =
                Some(ProblemView { code: "PRG-1002".to_owned(), detail: "missing: no such program".to_owned() });
        }
        _ => return,
    }
    say(&mut socket, &ExecEvent::Ended(Box::new(end))).await;
    let _ = socket.close(None).await;
    // A socket closed on unread input would be reset, and the output before it lost.
    while socket.next().await.is_some_and(|m| m.is_ok()) {}
}

async fn say(socket: &mut Socket, event: &ExecEvent) {
    // A client that left hears nothing.
    let _ = socket.send(Message::text(serde_json::to_string(event).unwrap())).await;
}

async fn write(socket: &mut Socket, kind: u8, bytes: &[u8]) {
    let _ = socket.send(Message::binary([&[kind], bytes].concat())).await;
}

async fn cat(socket: &mut Socket, stdin: bool) -> i32 {
    if !stdin {
        return 0;
    }
    loop {
        match socket.next().await {
            Some(Ok(Message::Binary(bytes))) if bytes[0] == STDIN => write(socket, STDOUT, &bytes[1..]).await,
            Some(Ok(Message::Text(text))) => {
                assert_eq!(serde_json::from_str::<ExecControl>(text.as_str()).unwrap(), ExecControl::StdinEnd(true));
                return 0;
            }
            _ => return 1,
        }
    }
}

async fn until_signal(socket: &mut Socket) -> i32 {
    write(socket, STDOUT, b"ready\n").await;
    loop {
        if let Some(Ok(Message::Text(text))) = socket.next().await
            && let Ok(ExecControl::Signal(number)) = serde_json::from_str(text.as_str())
        {
            return number;
        }
    }
}

#[test]
fn the_commands_code_and_streams_are_ours() {
    let fake = Fake::start(answers);
    let ran = fake.run(&["sandbox", "exec", "web", "--env", "A=1", "--timeout", "5s", "--", "both"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (7, "out\n", "err\n"));
    assert_eq!(fake.seen()[0].header("authorization"), "Bearer secret-token");
}

#[test]
fn run_creates_and_deletes_around_it() {
    let fake = Fake::start(answers);
    let ran = fake.run(&["sandbox", "run", "--image", "base", "--", "both"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (7, "out\n", "err\n"));
    let task = format!("GET /api/v1/tasks/{}", id(0xd1));
    let own = format!("/api/v1/sandboxes/{}", id(0xa1));
    let told =
        ["POST /api/v1/sandboxes".to_owned(), task.clone(), format!("GET {own}/exec"), format!("DELETE {own}"), task];
    assert_eq!(fake.lines(), told);
    let ran = fake.run(&["sandbox", "run", "--keep", "--", "both"]);
    assert!(ran.code == 7 && ran.err.contains("perigee: kept"), "{ran:?}");
    assert_eq!(fake.lines().iter().filter(|l| l.starts_with("DELETE")).count(), 1);
}

#[test]
fn input_goes_in_and_bytes_come_out_unchanged() {
    let fake = Fake::start(answers);
    let input: Vec<u8> = (0..200_000_u32).map(|i| b"abc\n"[(i % 4) as usize]).collect();
    let ran = fake.run_with_input(&["sandbox", "exec", "web", "--", "cat"], &input);
    assert_eq!((ran.code, ran.out.len()), (0, input.len()), "{}", ran.err);
    assert_eq!(ran.out.as_bytes(), input);
    let output = fake.command(&["sandbox", "exec", "web", "--", "flood"]).stdin(Stdio::null()).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 200 * (32 << 10)));
    assert!(output.stdout.iter().all(|b| *b == 0xff));
}

#[test]
fn what_did_not_end_well_is_told() {
    let fake = Fake::start(answers);
    let ran = fake.run(&["sandbox", "exec", "web", "--", "lost"]);
    assert!(ran.code == 125 && ran.err.contains("PRG-7002") && ran.out.is_empty(), "{ran:?}");
    let ran = fake.run(&["sandbox", "exec", "web", "--", "missing"]);
    assert!(ran.code == 127 && ran.err.contains("no such program"), "{ran:?}");
    let ran = fake.run(&["sandbox", "exec", "web", "--", "cut-off"]);
    assert!(ran.code == 125 && ran.err.starts_with("error: "), "{ran:?}");
}

/// Waits until the command in the guest said it is there.
fn started(fake: &Fake, arguments: &[&str]) -> Child {
    let mut command = fake.command(arguments);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(&said, b"ready\n");
    child
}

fn interrupt(child: &Child) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
}

#[test]
fn the_first_ctrl_c_is_the_commands() {
    let fake = Fake::start(answers);
    let child = started(&fake, &["sandbox", "run", "--", "signalled"]);
    interrupt(&child);
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.err.as_str()), (130, ""), "128 + 2, from the command");
    assert!(fake.lines().iter().any(|l| l.starts_with("DELETE")));
}

#[test]
fn the_second_ctrl_c_leaves_and_deletes() {
    let fake = Fake::start(answers);
    let mut child = started(&fake, &["sandbox", "run", "--", "deaf"]);
    let began = std::time::Instant::now();
    while child.try_wait().unwrap().is_none() {
        interrupt(&child);
        assert!(began.elapsed().as_secs() < 20);
        std::thread::yield_now();
    }
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert!(ran.code == 130 && ran.err.contains("Interrupted"), "{ran:?}");
    assert!(fake.lines().iter().any(|l| l.starts_with("DELETE")), "{:?}", fake.lines());
}

#[test]
fn outcomes_are_the_apis() {
    // Guards the canned object: an `exited` execution carries its code.
    let ExecutionView { state, exit_code, .. } = execution();
    assert_eq!((state.as_str(), exit_code), ("exited", Some(7)));
}
