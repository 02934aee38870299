//! Commands: how they end, what they read and write.

use std::time::{Duration, Instant};

use perigee_guest::{ChannelError, ErrorCode, ExecEvent, ExecOutcome, ExecStart};

use crate::port::{Plug, hear, new_id, run, shell, until};

#[tokio::test]
async fn hello_says_who_answers() {
    let plug = Plug::with_guest(true);
    let channel = plug.open().await;
    assert_eq!(channel.hello().clone_id, "clone-1");
    assert_eq!(channel.hello().version, env!("CARGO_PKG_VERSION"));
    assert_eq!(channel.version(), 1);
    assert!(!channel.is_closed());
}

#[tokio::test]
async fn outcomes() {
    let plug = Plug::with_guest(true);
    let channel = plug.open().await;
    let heard = run(&channel, shell("echo out; echo err >&2; exit 7")).await;
    assert_eq!(heard.stdout, b"out\n");
    assert_eq!(heard.stderr, b"err\n");
    assert_eq!(heard.code(), 7);
    let end = heard.end.unwrap();
    assert_eq!((end.stdout_bytes, end.stderr_bytes), (4, 4));
    assert!(!end.stdout_truncated);

    let heard = run(&channel, shell("kill -TERM $$")).await;
    let outcome = heard.end.unwrap().outcome;
    assert_eq!(outcome, ExecOutcome::Signaled { signal: 15 });

    let heard = run(&channel, ExecStart::new(new_id(), ["/no/such"])).await;
    let ExecOutcome::FailedToStart { errno, .. } = heard.end.unwrap().outcome else {
        panic!("it started");
    };
    assert_eq!(errno, 2);

    let mut start = shell("exit 0");
    start.user = Some("nobody-at-all".to_owned());
    let heard = run(&channel, start).await;
    let ExecOutcome::FailedToStart { message, .. } = heard.end.unwrap().outcome else {
        panic!("it started");
    };
    assert!(message.contains("nobody-at-all"), "{message}");

    let nothing: [&str; 0] = [];
    let refused = channel.exec(ExecStart::new(new_id(), nothing)).await.err();
    let Some(ChannelError::Refused(refused)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(refused.code, ErrorCode::Invalid);
}

#[tokio::test]
async fn a_timeout_kills_the_whole_group() {
    let plug = Plug::with_guest(true);
    let channel = plug.open().await;
    let mut start = shell("sleep 600 & echo $!; wait");
    start.timeout_ms = Some(300);
    let heard = run(&channel, start).await;
    assert_eq!(heard.end.unwrap().outcome, ExecOutcome::TimedOut);
    let child = String::from_utf8(heard.stdout).unwrap();
    let stat = format!("/proc/{}/stat", child.trim());
    until("the child is dead", || {
        let stat = std::fs::read_to_string(&stat).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    })
    .await;
}

#[tokio::test]
async fn environment_directory_and_user() {
    let plug = Plug::with_guest(true);
    let channel = plug.open().await;
    let mut start = shell("pwd; echo $GREETING; echo $PATH; env | wc -l; id -u");
    start.cwd = Some("/tmp".to_owned());
    start.env.insert("GREETING".to_owned(), "hi there".to_owned());
    let root = nix::unistd::geteuid().is_root();
    if root {
        start.user = Some("nobody".to_owned());
    }
    let heard = run(&channel, start).await;
    let stdout = String::from_utf8(heard.stdout).unwrap();
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(&lines[..2], ["/tmp", "hi there"]);
    assert!(lines[2].contains("/usr/bin"));
    // PATH, HOME, GREETING, and PWD from the shell itself; perhaps _ from dash.
    assert!(["4", "5"].contains(&lines[3].trim()), "{stdout}");
    if root {
        assert_ne!(lines[4], "0");
    }
}

#[tokio::test]
async fn stdin_arrives_and_ends() {
    let plug = Plug::with_guest(true);
    let channel = plug.open().await;
    let mut start = shell("cat");
    start.stdin = true;
    let (mut stdin, mut output) = channel.exec(start).await.unwrap().into_parts();
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let bytes = sent.clone();
    let writing = tokio::spawn(async move {
        stdin.write(&bytes).await.unwrap();
        assert_eq!(stdin.offset(), bytes.len() as u64);
        stdin.finish().await.unwrap();
    });
    let mut heard = Vec::new();
    loop {
        match output.next().await.unwrap() {
            ExecEvent::Stdout(bytes) => heard.extend_from_slice(&bytes),
            ExecEvent::End(end) => {
                assert_eq!(end.outcome, ExecOutcome::Exited { code: 0 });
                break;
            }
            _ => {}
        }
    }
    writing.await.unwrap();
    assert!(heard == sent);
}

#[tokio::test]
async fn large_output_on_both_streams_and_the_limit() {
    let plug = Plug::with_guest(true);
    let channel = plug.open().await;
    let both = "head -c 6000000 /dev/zero & head -c 5000000 /dev/zero >&2; wait";
    let heard = run(&channel, shell(both)).await;
    assert_eq!(heard.stdout.len(), 6_000_000);
    assert_eq!(heard.stderr.len(), 5_000_000);

    let mut start = shell("head -c 3000000 /dev/zero; echo end >&2");
    start.output_limit_bytes = 100_000;
    let heard = run(&channel, start).await;
    assert_eq!(heard.stdout.len(), 100_000);
    let end = heard.end.unwrap();
    assert_eq!(end.stdout_bytes, 3_000_000);
    assert!(end.stdout_truncated && !end.stderr_truncated);
}

/// A caller that does not read stops the process, not the channel; and nothing is lost.
#[tokio::test]
async fn a_slow_caller_holds_the_process_back() {
    let plug = Plug::with_guest(true);
    let channel = plug.open().await;
    let folder = tempfile::tempdir().unwrap();
    let done = folder.path().join("done");
    let script = format!("head -c 4000000 /dev/zero; touch {}", done.display());
    let mut start = shell(&script);
    start.stdin = false;
    let mut slow = channel.exec(start).await.unwrap();
    for _ in 0..20 {
        let quick = run(&channel, shell("echo quick")).await;
        assert_eq!(quick.stdout, b"quick\n");
    }
    assert!(!done.exists(), "4 MB went somewhere unbounded");
    let heard = hear(&mut slow).await;
    assert_eq!(heard.stdout.len(), 4_000_000);
    assert!(done.exists());
}

#[tokio::test]
async fn children_that_hold_pipes_do_not_hold_the_end() {
    let plug = Plug::with_guest(true);
    let channel = plug.open().await;
    let began = Instant::now();
    let heard = run(&channel, shell("sleep 600 & echo $!; exit 3")).await;
    assert_eq!(heard.code(), 3);
    assert!(began.elapsed() < Duration::from_secs(10));
    let child: i32 = String::from_utf8(heard.stdout).unwrap().trim().parse().unwrap();
    // It lives on, without us.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn fifty_at_once() {
    let plug = Plug::with_guest(true);
    let channel = plug.open().await;
    let runs = (0..50).map(|number| {
        let channel = channel.clone();
        tokio::spawn(async move {
            let heard = run(&channel, shell(&format!("echo {number}; exit {number}"))).await;
            assert_eq!(heard.stdout, format!("{number}\n").into_bytes());
            assert_eq!(heard.code(), number);
        })
    });
    for run in futures::future::join_all(runs).await {
        run.unwrap();
    }
}

#[tokio::test]
async fn signals_and_acknowledgements() {
    let plug = Plug::with_guest(true);
    let channel = plug.open().await;
    let start = shell("trap 'exit 9' USR1; echo ready; while :; do sleep 0.01; done");
    let id = start.id;
    let mut execution = channel.exec(start).await.unwrap();
    loop {
        if let ExecEvent::Stdout(_) = execution.next().await.unwrap() {
            break;
        }
    }
    let running = channel.acknowledge(id).await;
    let Err(ChannelError::Refused(refused)) = running else {
        panic!("{running:?}");
    };
    assert_eq!(refused.code, ErrorCode::StillRunning);
    channel.signal(id, 10).await.unwrap();
    assert_eq!(hear(&mut execution).await.code(), 9);
    let ended = channel.signal(id, 10).await;
    assert!(matches!(ended, Err(ChannelError::Refused(e)) if e.code == ErrorCode::NotRunning));
    channel.acknowledge(id).await.unwrap();
    assert!(matches!(channel.acknowledge(id).await, Err(ChannelError::Lost)));
}

#[tokio::test]
async fn at_most_256_unacknowledged() {
    let plug = Plug::with_guest(true);
    let channel = plug.open().await;
    let mut first = None;
    for _ in 0..256 {
        let start = ExecStart::new(new_id(), ["/no/such/program"]);
        first.get_or_insert(start.id);
        run(&channel, start).await;
    }
    let refused = channel.exec(shell("true")).await.err();
    assert!(matches!(&refused, Some(ChannelError::Refused(e)) if e.code == ErrorCode::TooManyExecutions));
    channel.acknowledge(first.unwrap()).await.unwrap();
    assert_eq!(run(&channel, shell("true")).await.code(), 0);
}
