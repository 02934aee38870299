//! The session layer: hosts that die, stale bytes, versions, closing.

use std::time::Duration;

use perigee_guest::hello::{HostHello, Nonce, VersionRange};
use perigee_guest::{Channel, ChannelError, ChannelLimits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::port::{Dice, PATIENCE, Plug, entropy, open, run, shell, until};

/// Relays one host to the port and cuts it after a number of bytes, in the middle of a frame.
async fn cut_relay(plug: &Plug, path: &std::path::Path, cut: usize) {
    let listener = UnixListener::bind(path).unwrap();
    let (mut host, _) = listener.accept().await.unwrap();
    let mut port = UnixStream::connect(plug.path()).await.unwrap();
    let (mut up, mut down) = ([0; 777], [0; 777]);
    let mut left = cut;
    while left > 0 {
        tokio::select! {
            count = host.read(&mut up) => {
                let count = count.unwrap_or(0).min(left);
                if count == 0 || port.write_all(&up[..count]).await.is_err() { return; }
                left -= count;
            }
            count = port.read(&mut down) => {
                let count = count.unwrap_or(0);
                if count == 0 || host.write_all(&down[..count]).await.is_err() { return; }
            }
        }
    }
}

async fn kill_hosts(shows_hang_up: bool, times: u64, seed: u64) {
    let plug = Plug::with_guest(shows_hang_up);
    let folder = tempfile::tempdir().unwrap();
    let mut dice = Dice(seed);
    for round in 0..times {
        let path = folder.path().join(format!("{round}"));
        let cut = 60 + dice.below(3000) as usize;
        let dial = perigee_guest::UnixDial { path: path.clone() };
        let dying = async {
            let mut entropy = entropy();
            let limits = ChannelLimits::default();
            let channel = Channel::open(&dial, &mut entropy, PATIENCE, limits).await?;
            let mut start = shell("cat; echo old session");
            start.stdin = true;
            let mut execution = channel.exec(start).await?;
            execution.stdin.write(&[b'x'; 20_000]).await?;
            while execution.next().await.is_ok() {}
            Ok::<_, ChannelError>(())
        };
        tokio::select! {
            () = cut_relay(&plug, &path, cut) => {}
            _ = dying => {}
        }
        let channel = plug.open().await;
        let word = format!("round {round}");
        let heard = run(&channel, shell(&format!("echo {word}"))).await;
        assert_eq!(heard.stdout, format!("{word}\n").into_bytes(), "cut at {cut}");
    }
}

#[tokio::test]
async fn hosts_that_die_mid_frame_while_the_guest_sees_it() {
    kill_hosts(true, 100, 11).await;
}

#[tokio::test]
async fn hosts_that_die_mid_frame_while_the_guest_misses_it() {
    kill_hosts(false, 100, 13).await;
}

#[tokio::test]
async fn a_stalled_session_does_not_keep_the_next_out() {
    let plug = Plug::with_guest(false);
    let first = plug.open().await;
    let mut start = shell("head -c 10000000 /dev/zero");
    start.stdin = true;
    let stalled = first.exec(start).await.unwrap();
    drop((stalled, first));
    let next = plug.open().await;
    assert_eq!(run(&next, shell("echo here")).await.stdout, b"here\n");
}

#[tokio::test]
async fn no_common_version_names_both_ranges() {
    let plug = Plug::with_guest(true);
    let ours = VersionRange { lowest: 4, highest: 6 };
    let limits = ChannelLimits { versions: ours, ..ChannelLimits::default() };
    let refused = open(&plug, PATIENCE, limits).await.err();
    let Some(ChannelError::Version { ours: said, theirs }) = &refused else {
        panic!("{refused:?}");
    };
    assert_eq!((said, theirs.to_string().as_str()), (&ours, "1-1"));
    // And the guest goes on with one it understands.
    assert_eq!(run(&plug.open().await, shell("exit 3")).await.code(), 3);
}

/// What an earlier host asked for stands on the port before the answer to this one.
async fn stale_ok_then_real(check_nonce: bool) -> Result<(), ChannelError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("port");
    let listener = UnixListener::bind(&path).unwrap();
    let plug = Plug::with_guest(true);
    let through = plug.path();
    let relay = tokio::spawn(async move {
        loop {
            let (mut host, _) = listener.accept().await.unwrap();
            let mut port = UnixStream::connect(&through).await.unwrap();
            // An answer to somebody else, and a frame of that session.
            let stale = format!("OK {} 1 clone-0\n\0\0\u{4}\u{8}\0\0\0\0\0\0\0\0\u{1}", Nonce([9; 16]));
            let _ = host.write_all(stale.as_bytes()).await;
            let _ = tokio::io::copy_bidirectional(&mut host, &mut port).await;
        }
    });
    let dial = perigee_guest::UnixDial { path };
    let limits = ChannelLimits::default();
    let within = Duration::from_secs(2);
    let mut entropy = entropy();
    let opened = if check_nonce {
        Channel::open(&dial, &mut entropy, within, limits).await
    } else {
        Channel::open_without_nonce_check(&dial, &mut entropy, within, limits).await
    };
    let outcome = match opened {
        Ok(channel) => {
            assert_eq!(run(&channel, shell("exit 5")).await.code(), 5);
            Ok(())
        }
        Err(error) => Err(error),
    };
    relay.abort();
    outcome
}

#[tokio::test]
async fn a_stale_ok_is_not_ours() {
    stale_ok_then_real(true).await.unwrap();
}

/// The control: without the nonce check the test above fails.
#[tokio::test]
async fn without_the_nonce_check_a_stale_ok_breaks_the_session() {
    assert!(stale_ok_then_real(false).await.is_err());
}

/// A file that contains a hello, uploaded: the guest must not take it for one.
#[tokio::test]
async fn a_hello_inside_a_session_is_data() {
    let plug = Plug::with_guest(true);
    let channel = plug.open().await;
    let hello = HostHello { nonce: Nonce([5; 16]), versions: VersionRange { lowest: 1, highest: 1 } };
    let mut start = shell("cat");
    start.stdin = true;
    let mut execution = channel.exec(start).await.unwrap();
    execution.stdin.write(hello.line().as_bytes()).await.unwrap();
    execution.stdin.finish().await.unwrap();
    let heard = crate::port::hear(&mut execution).await;
    assert_eq!(heard.stdout, hello.line().into_bytes());
    assert!(!channel.is_closed());
}

#[tokio::test]
async fn closing_ends_the_session_and_not_the_execution() {
    let plug = Plug::with_guest(false);
    let channel = plug.open().await;
    let mut start = shell("read line; echo got $line");
    start.stdin = true;
    let execution = channel.exec(start.clone()).await.unwrap();
    channel.close().await;
    assert!(channel.is_closed());
    channel.closed().await;
    assert!(channel.exec(shell("true")).await.is_err());
    drop(execution);
    // The guest is ready for a first hello, without zeros and without having seen a hang-up.
    let hello = HostHello { nonce: Nonce([3; 16]), versions: VersionRange { lowest: 1, highest: 1 } };
    let mut raw = UnixStream::connect(plug.path()).await.unwrap();
    raw.write_all(hello.line().as_bytes()).await.unwrap();
    expect_ok(&mut raw, hello.nonce).await;
    drop(raw);
    let channel = plug.open().await;
    start.attach_only = true;
    let mut execution = channel.exec(start).await.unwrap();
    execution.stdin.write(b"it\n").await.unwrap();
    assert_eq!(crate::port::hear(&mut execution).await.stdout, b"got it\n");
}

#[tokio::test]
async fn a_guest_that_goes_away_closes_the_channel() {
    let plug = Plug::with_guest(true);
    let channel = plug.open().await;
    let watched = channel.clone();
    let watching = tokio::spawn(async move { watched.closed().await });
    drop(plug);
    tokio::time::timeout(PATIENCE, watching).await.unwrap().unwrap();
    until("it says so", || channel.is_closed()).await;
}

/// A guest that missed the hang-up sits in the middle of a dead host's frame. The zeros complete
/// that frame and break its HTTP/2, and it finds the hello behind them without being asked again.
#[tokio::test]
async fn the_hello_that_breaks_a_dead_session_is_answered() {
    let plug = Plug::with_guest(false);
    let versions = VersionRange { lowest: 1, highest: 1 };
    let hello = |number: u8| HostHello { nonce: Nonce([number; 16]), versions };
    let mut dead = UnixStream::connect(plug.path()).await.unwrap();
    dead.write_all(hello(1).line().as_bytes()).await.unwrap();
    expect_ok(&mut dead, hello(1).nonce).await;
    dead.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\x40\0\0\0\0\0\0\x01half").await.unwrap();
    drop(dead);
    let mut next = UnixStream::connect(plug.path()).await.unwrap();
    next.write_all(&[0; 32 * 1024]).await.unwrap();
    next.write_all(hello(2).line().as_bytes()).await.unwrap();
    expect_ok(&mut next, hello(2).nonce).await;
}

async fn expect_ok(port: &mut UnixStream, nonce: Nonce) {
    let mut seeker = perigee_guest::hello::AnswerSeeker::new(nonce);
    let answered = async {
        loop {
            let byte = port.read_u8().await.unwrap();
            if seeker.push(&[byte]).is_some() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, answered).await.unwrap();
}
