//! Guests that mean harm: typed errors in time, bounded memory, no panic.

use std::future::Future;
use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::SendResponse;
use perigee_guest::hello::HostHello;
use perigee_guest::{Channel, ChannelError, ChannelLimits, ErrorCode, Stream, record};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::port::{PATIENCE, entropy, shell};

const WITHIN: Duration = Duration::from_millis(700);

fn limits() -> ChannelLimits {
    ChannelLimits {
        reply_timeout: Duration::from_millis(500),
        file_timeout: Duration::from_millis(500),
        ping_interval: Duration::from_millis(300),
        ..ChannelLimits::default()
    }
}

/// Opens a channel to a guest that behaves as `guest` says on every connection.
async fn open_to<G, F>(guest: G) -> Result<Channel, ChannelError>
where
    G: Fn(DuplexStream) -> F + Send + Sync,
    F: Future<Output = ()> + Send + 'static,
{
    let dial = || {
        let (host, port) = tokio::io::duplex(64 * 1024);
        tokio::spawn(guest(port));
        async move { Ok::<_, io::Error>(Box::new(host) as Box<dyn Stream>) }
    };
    let began = Instant::now();
    let memory = resident();
    let mut entropy = entropy();
    let opened = Channel::open(&dial, &mut entropy, WITHIN, limits()).await;
    assert!(began.elapsed() < Duration::from_secs(5), "took {:?}", began.elapsed());
    assert!(resident() < memory + (32 << 20), "memory grew");
    opened
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

async fn hello_of(port: &mut DuplexStream) -> HostHello {
    let mut seen = Vec::new();
    loop {
        if let Some((hello, _)) = HostHello::find_last(&seen) {
            return hello;
        }
        let byte = port.read_u8().await;
        match byte {
            Ok(byte) => seen.push(byte),
            Err(_) => std::future::pending().await,
        }
    }
}

/// Answers the hello, then speaks HTTP/2 and lets `answer` misbehave from the second request on.
async fn after_hello<F>(mut port: DuplexStream, answer: impl Fn(SendResponse<Bytes>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let hello = hello_of(&mut port).await;
    let ok = format!("OK {} 1 c\n", hello.nonce);
    port.write_all(ok.as_bytes()).await.unwrap();
    let Ok(mut connection) = h2::server::handshake(port).await else {
        return;
    };
    let mut first = true;
    while let Some(Ok((_request, mut respond))) = connection.accept().await {
        if std::mem::take(&mut first) {
            let hello = r#"{"version":"0","boot_id":"b","clone_id":"c","kernel_release":"k","uptime_ms":1}"#;
            let mut body = respond.send_response(http::Response::new(()), false).unwrap();
            body.send_data(Bytes::from(hello), true).unwrap();
        } else {
            tokio::spawn(answer(respond));
        }
    }
}

fn exec_head() -> http::Response<()> {
    let head = http::Response::builder().header("x-stdin-offset", "0");
    head.body(()).unwrap()
}

#[tokio::test]
async fn silence() {
    let opened = open_to(|port| async move {
        let _port = port;
        std::future::pending::<()>().await;
    })
    .await;
    let Err(ChannelError::NoAnswer { attempts, .. }) = opened.as_ref().map(drop) else {
        panic!("{:?}", opened.err());
    };
    assert!(*attempts >= 3, "{attempts} attempts");
}

#[tokio::test]
async fn an_endless_flood_instead_of_an_answer() {
    for piece in ["garbage without end ", "OK 00112233445566778899aabbccddeeff 1 c\n", "OK ", "\n"] {
        let flood = piece.repeat(3000);
        let opened = open_to(|mut port| {
            let flood = flood.clone();
            async move { while port.write_all(flood.as_bytes()).await.is_ok() {} }
        })
        .await;
        assert!(matches!(opened, Err(ChannelError::NoAnswer { .. })));
    }
}

#[tokio::test]
async fn the_right_answer_and_then_garbage_or_silence() {
    let opened = open_to(|mut port| async move {
        let hello = hello_of(&mut port).await;
        let ok = format!("OK {} 1 c\n", hello.nonce);
        let _ = port.write_all(ok.as_bytes()).await;
        while port.write_all(&[0xff; 4096]).await.is_ok() {}
    })
    .await;
    assert!(matches!(opened, Err(ChannelError::NoAnswer { .. } | ChannelError::Closed(_))));
    let opened = open_to(|mut port| async move {
        let hello = hello_of(&mut port).await;
        let ok = format!("OK {} 1 c\n", hello.nonce);
        let _ = port.write_all(ok.as_bytes()).await;
        std::future::pending::<()>().await;
    })
    .await;
    assert!(matches!(opened, Err(ChannelError::TimedOut { .. })));
}

#[tokio::test]
async fn a_version_that_was_not_offered() {
    let opened = open_to(|mut port| async move {
        let hello = hello_of(&mut port).await;
        let ok = format!("OK {} 9 c\n", hello.nonce);
        let _ = port.write_all(ok.as_bytes()).await;
        std::future::pending::<()>().await;
    })
    .await;
    assert!(matches!(opened, Err(ChannelError::Protocol(_))));
}

#[tokio::test]
async fn records_that_lie() {
    let lies: [&[u8]; 5] = [
        &[1, 0xff, 0xff, 0xff, 0xff, 0],
        &[9, 0, 0, 0, 1, 0],
        &[3, 0, 0, 0, 2, b'{', b'!'],
        &[4, 0, 0, 0, 1, b'x'],
        &[1, 0, 0, 0, 0],
    ];
    for lie in lies {
        let channel = open_to(|port| {
            after_hello(port, move |mut respond| async move {
                let mut body = respond.send_response(exec_head(), false).unwrap();
                body.send_data(Bytes::from_static(lie), false).unwrap();
                std::future::pending::<()>().await;
            })
        })
        .await
        .unwrap();
        let mut execution = channel.exec(shell("true")).await.unwrap();
        let next = tokio::time::timeout(PATIENCE, execution.next()).await.unwrap();
        assert!(matches!(next, Err(ChannelError::Record(_) | ChannelError::Protocol(_))), "{next:?}");
    }
}

#[tokio::test]
async fn endless_output_stops_at_the_limit() {
    let channel = open_to(|port| {
        after_hello(port, |mut respond| async move {
            let mut body = respond.send_response(exec_head(), false).unwrap();
            let record = record::encode(1, &[7; 8000]).unwrap();
            loop {
                body.reserve_capacity(record.len());
                while body.capacity() < record.len() {
                    let granted = std::future::poll_fn(|cx| body.poll_capacity(cx)).await;
                    if !matches!(granted, Some(Ok(_))) {
                        return;
                    }
                }
                if body.send_data(record.clone(), false).is_err() {
                    return;
                }
            }
        })
    })
    .await
    .unwrap();
    let memory = resident();
    let mut start = shell("true");
    start.output_limit_bytes = 50_000_000;
    let mut execution = channel.exec(start).await.unwrap();
    let failed = loop {
        if let Err(error) = execution.next().await {
            break error;
        }
    };
    assert!(matches!(failed, ChannelError::OutputBeyondLimit { limit: 50_000_000 }));
    assert!(resident() < memory + (32 << 20), "memory grew");
}

#[tokio::test]
async fn a_request_without_an_answer_times_out() {
    let channel = open_to(|port| {
        after_hello(port, |respond| async move {
            let _respond = respond;
            std::future::pending::<()>().await;
        })
    })
    .await
    .unwrap();
    let began = Instant::now();
    let failed = channel.exec(shell("true")).await.err();
    assert!(matches!(failed, Some(ChannelError::TimedOut { .. })), "{failed:?}");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_refusal_that_shouts_is_cut_and_cleaned() {
    let channel = open_to(|port| {
        after_hello(port, |mut respond| async move {
            let head = http::Response::builder().status(500).body(()).unwrap();
            let mut body = respond.send_response(head, false).unwrap();
            let message = "\\u001b[2J".repeat(9000);
            let json = format!(r#"{{"code":"new_code","message":"{message}"}}"#);
            let _ = body.send_data(Bytes::from(json), true);
            std::future::pending::<()>().await;
        })
    })
    .await
    .unwrap();
    let failed = channel.exec(shell("true")).await.err();
    let Some(ChannelError::Refused(error)) = failed else {
        panic!("{failed:?}");
    };
    assert_eq!(error.code, ErrorCode::Other);
    assert!(error.message.len() <= 512 && !error.message.contains('\u{1b}'));
}

/// A guest whose kernel hangs while a command runs: pings notice.
#[tokio::test]
async fn a_guest_that_stops_while_a_command_runs() {
    let channel = open_to(|port| async move {
        let (inner, outer) = tokio::io::duplex(64 * 1024);
        let served = tokio::spawn(after_hello(inner, |mut respond| async move {
            let mut body = respond.send_response(exec_head(), false).unwrap();
            body.send_data(record::encode(1, b"last words").unwrap(), false).unwrap();
            std::future::pending::<()>().await;
        }));
        let (mut outer_read, mut outer_write) = tokio::io::split(outer);
        let (mut port_read, mut port_write) = tokio::io::split(port);
        tokio::spawn(async move { tokio::io::copy(&mut port_read, &mut outer_write).await });
        let mut seen = Vec::new();
        while !seen.windows(10).any(|word| word == b"last words") {
            let mut piece = [0; 1000];
            let count = outer_read.read(&mut piece).await.unwrap();
            seen.extend_from_slice(&piece[..count]);
            port_write.write_all(&piece[..count]).await.unwrap();
        }
        served.await.unwrap();
    })
    .await
    .unwrap();
    let mut execution = channel.exec(shell("true")).await.unwrap();
    execution.next().await.unwrap();
    let next = tokio::time::timeout(PATIENCE, execution.next()).await.unwrap();
    assert!(matches!(next, Err(ChannelError::Closed(_))), "{next:?}");
    assert!(channel.is_closed());
}
