//! Streams on a daemon that lies, floods and dies.

use crate::hostile::{Call, REMOTE, heard, packet, reply, welcome};
use perigee_libvirt::{Broken, Connection, Domain, Endpoint, Error, Settings, Stream};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use uuid::Uuid;

const DEADLINE: Duration = Duration::from_secs(10);
const CONSOLE: u32 = 201;
const OK: u32 = 0;
const ERROR: u32 = 1;
const CONTINUE: u32 = 2;

/// A daemon's two connections: calls, and an opened console.
struct House {
    libvirt: Connection,
    stream: Stream,
    calls: UnixStream,
    console: UnixStream,
    opened: Call,
    _folder: tempfile::TempDir,
}

fn domain() -> Domain {
    Domain { name: "web".into(), uuid: Uuid::from_u128(7), id: Some(1) }
}

/// Opens one; `and` follows the answer in the same breath.
async fn house(and: impl FnOnce(&Call) -> Vec<u8>) -> House {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sock");
    let listener = UnixListener::bind(&path).unwrap();
    let daemon = async {
        let (mut calls, _) = listener.accept().await.unwrap();
        welcome(&mut calls).await;
        let (mut console, _) = listener.accept().await.unwrap();
        for answer in [&[0, 0, 0, 1, 0, 0, 0, 0][..], &[]] {
            let call = heard(&mut console).await.unwrap();
            console.write_all(&reply(&call, answer)).await.unwrap();
        }
        let opened = heard(&mut console).await.unwrap();
        assert_eq!(opened.procedure, CONSOLE);
        let answer = [reply(&opened, &[]), and(&opened)].concat();
        console.write_all(&answer).await.unwrap();
        (calls, console, opened)
    };
    let client = async {
        let settings = Settings { deadline: Duration::from_secs(3), ..Settings::default() };
        let libvirt = Connection::open_with(&Endpoint::Unix(path.clone()), None, 0, &settings).await.unwrap();
        let stream = libvirt.open_console(&domain(), Some("serial0"), 1).await.unwrap();
        (libvirt, stream)
    };
    let ((calls, console, opened), (libvirt, stream)) = tokio::join!(daemon, client);
    House { libvirt, stream, calls, console, opened, _folder: folder }
}

fn piece(call: &Call, status: u32, bytes: &[u8]) -> Vec<u8> {
    packet([REMOTE, 1, call.procedure, 3, call.serial, status], bytes)
}

fn broken(error: &std::io::Error) -> Option<&Broken> {
    match error.get_ref()?.downcast_ref::<Error>()? {
        Error::Broken(why) => Some(why),
        _ => None,
    }
}

async fn to_end(stream: &mut Stream) -> (Vec<u8>, Result<usize, std::io::Error>) {
    let mut bytes = Vec::new();
    let ended = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut bytes)).await.unwrap();
    (bytes, ended)
}

#[tokio::test]
async fn bytes_flow_both_ways_and_either_side_ends() {
    let hello = |call: &Call| [piece(call, CONTINUE, b"lo"), piece(call, CONTINUE, b"gin:")].concat();
    let House { mut stream, mut console, opened, .. } = house(hello).await;
    assert_eq!(opened.payload[..4], [0, 0, 0, 3], "the domain's name first");
    let mut said = [0; 6];
    stream.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"login:");
    stream.write_all(b"root\n").await.unwrap();
    let typed = heard(&mut console).await.unwrap();
    assert_eq!((typed.serial, typed.status, &typed.payload[..]), (opened.serial, CONTINUE, &b"root\n"[..]));

    stream.shutdown().await.unwrap();
    assert!(stream.write_all(b"more").await.is_err(), "written after the end");
    let end = heard(&mut console).await.unwrap();
    assert_eq!((end.serial, end.status, end.payload.len()), (opened.serial, OK, 0));
    // What was on its way still comes.
    console.write_all(&[piece(&opened, CONTINUE, b"bye"), piece(&opened, OK, &[])].concat()).await.unwrap();
    let (rest, ended) = to_end(&mut stream).await;
    assert_eq!((&rest[..], ended.unwrap()), (&b"bye"[..], 3));
    drop(stream);
    assert!(heard(&mut console).await.is_none(), "an abort after the end");
}

#[tokio::test]
async fn the_daemons_end_is_the_end_of_reading() {
    let House { mut stream, mut console, opened, .. } = house(|call| piece(call, CONTINUE, &[])).await;
    let (rest, ended) = to_end(&mut stream).await;
    assert_eq!((rest.len(), ended.unwrap()), (0, 0));
    stream.shutdown().await.unwrap();
    let end = heard(&mut console).await.unwrap();
    assert_eq!((end.serial, end.status), (opened.serial, OK));
}

#[tokio::test]
async fn a_dropped_stream_is_aborted() {
    let House { stream, mut console, opened, libvirt, calls: _calls, .. } = house(|_| vec![]).await;
    drop(stream);
    let abort = heard(&mut console).await.unwrap();
    assert_eq!((abort.serial, abort.status, abort.payload.len()), (opened.serial, ERROR, 0));
    // What is on its way is let come; only with the answer the connection ends.
    console.write_all(&piece(&opened, CONTINUE, b"more")).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(200), heard(&mut console)).await;
    assert!(early.is_err(), "it hung up, or spoke again, before the abort was answered");
    console.write_all(&piece(&opened, OK, &[])).await.unwrap();
    assert!(heard(&mut console).await.is_none());
    assert!(libvirt.broken().is_none());
}

#[tokio::test]
async fn an_error_in_the_middle_comes_after_what_was_said_before() {
    let fails = |call: &Call| {
        let mut payload = [0, 0, 0, 38, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 4].to_vec();
        payload.extend(b"gone");
        [piece(call, CONTINUE, b"last words"), piece(call, ERROR, &payload)].concat()
    };
    let House { mut stream, .. } = house(fails).await;
    let (said, ended) = to_end(&mut stream).await;
    assert_eq!(said, b"last words");
    let error = ended.unwrap_err();
    let told = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
    assert!(matches!(told, Some(Error::Libvirt { code: 38, message, .. }) if message == "gone"), "{error:?}");
    assert_eq!(stream.read(&mut [0; 9]).await.unwrap(), 0);
    let late = stream.write_all(b"x").await.unwrap_err();
    assert_eq!(late.kind(), std::io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn impossible_packets_end_the_stream_and_not_the_calls() {
    type Lie = fn(&Call) -> Vec<u8>;
    let lies: [(&str, Lie); 8] = [
        ("a stream nobody opened", |call| packet([REMOTE, 1, CONSOLE, 3, call.serial + 1, CONTINUE], b"x")),
        ("another procedure", |call| packet([REMOTE, 1, CONSOLE + 1, 3, call.serial, CONTINUE], b"x")),
        ("an end twice", |call| piece(call, CONTINUE, &[]).repeat(2)),
        ("data after the end", |call| [piece(call, CONTINUE, &[]), piece(call, CONTINUE, b"x")].concat()),
        ("data after the last word", |call| [piece(call, OK, &[]), piece(call, CONTINUE, b"x")].concat()),
        ("a last word with a tail", |call| piece(call, OK, b"x")),
        ("more than a piece", |call| piece(call, CONTINUE, &vec![1; 256 * 1024 + 1])),
        ("an answer that goes on", |call| packet([REMOTE, 1, CONSOLE, 1, call.serial, CONTINUE], &[])),
    ];
    for (name, lie) in lies {
        let House { mut stream, libvirt, mut console, calls: _calls, .. } = house(lie).await;
        let hung_up = tokio::time::timeout(DEADLINE, heard(&mut console)).await;
        assert!(matches!(hung_up, Ok(None)), "{name}: not hung up");
        if let (_, Err(error)) = to_end(&mut stream).await {
            assert!(matches!(broken(&error), Some(Broken::Protocol(_))), "{name}: {error:?}");
        }
        assert!(stream.write_all(b"x").await.is_err(), "{name}");
        assert!(libvirt.broken().is_none(), "{name}");
    }
}

#[tokio::test]
async fn a_stream_packet_where_none_is_open_breaks_the_connection() {
    let House { libvirt, mut calls, opened, .. } = house(|_| vec![]).await;
    let lie = async {
        heard(&mut calls).await.unwrap();
        calls.write_all(&piece(&opened, CONTINUE, b"x")).await.unwrap();
    };
    let (said, ()) = tokio::join!(libvirt.hostname(), lie);
    assert!(matches!(said, Err(Error::Broken(Broken::Protocol(_)))), "{said:?}");
}

#[tokio::test]
async fn endless_data_waits_for_the_reader_and_calls_go_on() {
    let House { mut stream, libvirt, mut calls, mut console, opened, .. } = house(|_| vec![]).await;
    let full = piece(&opened, CONTINUE, &vec![b'x'; 256 * 1024]);
    let mut sent = 0;
    // Until nothing more is taken: a socket's buffers and some packets, not what is offered.
    let mut at = 0;
    while sent < 64 << 20 {
        match tokio::time::timeout(Duration::from_millis(300), console.write(&full[at..])).await {
            Ok(written) => {
                let written = written.unwrap();
                sent += written;
                at = (at + written) % full.len();
            }
            Err(_) => break,
        }
    }
    assert!((1 << 20..4 << 20).contains(&sent), "{sent} bytes were taken");
    let answer = async {
        let call = heard(&mut calls).await.unwrap();
        calls.write_all(&reply(&call, &1_000_000u64.to_be_bytes())).await.unwrap();
    };
    let (version, ()) = tokio::join!(libvirt.version(), answer);
    assert_eq!(version.unwrap().major, 1);
    // Read at last, none is missing.
    let mut read = vec![0; 1 << 20];
    tokio::time::timeout(DEADLINE, stream.read_exact(&mut read)).await.unwrap().unwrap();
    assert!(read.iter().all(|byte| *byte == b'x'));
}

#[tokio::test]
async fn writing_waits_for_a_daemon_that_does_not_read_and_leaving_does_not() {
    let House { mut stream, mut console, opened, .. } = house(|_| vec![]).await;
    let much = vec![b'y'; 64 << 20];
    let stuck = tokio::time::timeout(Duration::from_millis(300), stream.write_all(&much)).await;
    assert!(stuck.is_err(), "64 MiB were taken");
    drop(stream);
    // The connection ends though nothing is ever read from it: at last it cannot be written to either.
    let end = async {
        while console.write_all(&piece(&opened, CONTINUE, b"x")).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, end).await.unwrap();
}

#[tokio::test]
async fn a_daemon_that_dies_is_an_error_and_not_an_end() {
    let House { mut stream, console, .. } = house(|call| piece(call, CONTINUE, b"half")).await;
    drop(console);
    let (said, ended) = to_end(&mut stream).await;
    assert_eq!(said, b"half");
    assert!(matches!(broken(&ended.unwrap_err()), Some(Broken::HungUp)));
}

#[tokio::test]
async fn a_connection_that_was_handed_its_socket_opens_no_stream() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let settings = Settings::default();
    let (connection, ()) = tokio::join!(Connection::over(ours, None, 0, &settings), welcome(&mut theirs));
    let refused = connection.unwrap().open_console(&domain(), None, 0).await;
    assert!(matches!(refused, Err(Error::NoRoute)), "{:?}", refused.map(|_| ()));
}
