//! Executions outlive sessions: idempotent start, attach by offset, lost.

use perigee_guest::{Channel, ChannelError, ExecEvent};

use crate::port::{Dice, Heard, PATIENCE, Plug, hear, run, shell};

#[tokio::test]
async fn a_start_with_a_known_id_attaches() {
    let plug = Plug::with_guest(true);
    let channel = plug.open().await;
    let folder = tempfile::tempdir().unwrap();
    let count = folder.path().join("count");
    let start = shell(&format!("echo run >> {}; echo hello", count.display()));
    let first = run(&channel, start.clone()).await;
    let mut again = start.clone();
    again.stdout_offset = 2;
    let second = run(&channel, again).await;
    assert_eq!(first.stdout, b"hello\n");
    assert_eq!(second.stdout, b"llo\n");
    assert_eq!(first.end, second.end);
    assert_eq!(std::fs::read_to_string(&count).unwrap(), "run\n");
    channel.acknowledge(start.id).await.unwrap();
    let mut attach = start;
    attach.attach_only = true;
    assert!(matches!(channel.exec(attach).await.err(), Some(ChannelError::Lost)));
}

#[tokio::test]
async fn offsets_that_are_gone_or_never_were() {
    let plug = Plug::with_guest(true);
    let channel = plug.open().await;
    let start = shell("head -c 3000000 /dev/zero");
    run(&channel, start.clone()).await;
    let gone = channel.exec(start.clone()).await.err();
    assert!(matches!(gone, Some(ChannelError::OffsetGone(_))), "{gone:?}");
    let mut ahead = start;
    ahead.stdout_offset = 3_000_001;
    let ahead = channel.exec(ahead).await.err();
    assert!(matches!(ahead, Some(ChannelError::Refused(_))), "{ahead:?}");
}

/// Kills the session again and again in the middle of output; every byte arrives exactly once.
#[tokio::test]
async fn every_byte_once_across_killed_sessions() {
    for shows_hang_up in [true, false] {
        let plug = Plug::with_guest(shows_hang_up);
        let script = "i=0; while [ $i -lt 40000 ]; do echo line $i of the long output; i=$((i+1)); done";
        let mut start = shell(script);
        let mut dice = Dice(7);
        let mut heard = Heard::default();
        let mut sessions = 0;
        while heard.end.is_none() {
            let channel = plug.open().await;
            sessions += 1;
            start.stdout_offset = heard.stdout.len() as u64;
            start.attach_only = sessions > 1;
            let mut execution = channel.exec(start.clone()).await.unwrap();
            for _ in 0..1 + dice.below(40) {
                let event = tokio::time::timeout(PATIENCE, execution.next()).await.unwrap();
                heard.take(event.unwrap());
                if heard.end.is_some() {
                    break;
                }
            }
        }
        let wanted: String = (0..40000).map(|number| format!("line {number} of the long output\n")).collect();
        assert!(heard.stdout == wanted.as_bytes(), "{sessions} sessions");
        assert!(sessions > 3, "{sessions} sessions");
    }
}

/// Stdin goes on where the guest says it stopped.
#[tokio::test]
async fn stdin_goes_on_in_the_next_session() {
    let plug = Plug::with_guest(true);
    let mut start = shell("cat");
    start.stdin = true;
    let text = b"one two three";
    let first = plug.open().await;
    let mut execution = first.exec(start.clone()).await.unwrap();
    execution.stdin.write(&text[..7]).await.unwrap();
    let mut heard = Heard::default();
    while heard.stdout.len() < 7 {
        heard.take(execution.next().await.unwrap());
    }
    drop((execution, first));
    let second = plug.open().await;
    start.attach_only = true;
    start.stdout_offset = 7;
    let mut execution = second.exec(start).await.unwrap();
    assert_eq!(execution.stdin.offset(), 7);
    execution.stdin.write(&text[7..]).await.unwrap();
    execution.stdin.finish().await.unwrap();
    heard.stdout.extend(hear(&mut execution).await.stdout);
    assert_eq!(heard.stdout, text);
}

#[tokio::test]
async fn the_newest_reader_wins() {
    let plug = Plug::with_guest(true);
    let channel = plug.open().await;
    let mut start = shell("read line; echo got $line");
    start.stdin = true;
    let mut first = channel.exec(start.clone()).await.unwrap();
    let started = first.next().await.unwrap();
    assert!(matches!(started, ExecEvent::Started(_)));
    let mut second = channel.exec(start).await.unwrap();
    let superseded = tokio::time::timeout(PATIENCE, first.next()).await.unwrap();
    assert!(matches!(superseded, Err(ChannelError::Closed(_))), "{superseded:?}");
    second.stdin.write(b"it\n").await.unwrap();
    second.stdin.finish().await.unwrap();
    assert_eq!(hear(&mut second).await.stdout, b"got it\n");
    fn cheap_to_clone<T: Clone + Send + Sync>(_: &T) {}
    cheap_to_clone::<Channel>(&channel);
}
