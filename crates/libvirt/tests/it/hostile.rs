//! A daemon that lies, stalls, floods and dies, on the other end of a socket pair.

use perigee_libvirt::xdr::Encoder;
use perigee_libvirt::{Broken, Connection, Endpoint, Error, EventKind, Notice, Settings, Watch, Wish};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

pub const REMOTE: u32 = 0x2000_8086;
const KEEPALIVE: u32 = 0x6b65_6570;

pub struct Call {
    program: u32,
    pub procedure: u32,
    pub serial: u32,
    pub status: u32,
    pub payload: Vec<u8>,
}

/// The next call; `None` when the client hung up.
pub async fn heard(stream: &mut UnixStream) -> Option<Call> {
    let length = stream.read_u32().await.ok()? as usize;
    let mut rest = vec![0; length - 4];
    stream.read_exact(&mut rest).await.ok()?;
    let word = |at: usize| u32::from_be_bytes(rest[at * 4..at * 4 + 4].try_into().unwrap());
    Some(Call { program: word(0), procedure: word(2), serial: word(4), status: word(5), payload: rest[24..].to_vec() })
}

pub fn packet(header: [u32; 6], payload: &[u8]) -> Vec<u8> {
    let words = [28 + payload.len() as u32].into_iter().chain(header);
    words.flat_map(u32::to_be_bytes).chain(payload.iter().copied()).collect()
}

pub fn reply(call: &Call, payload: &[u8]) -> Vec<u8> {
    packet([REMOTE, 1, call.procedure, 1, call.serial, 0], payload)
}

/// There is no such domain.
fn refusal(call: &Call) -> Vec<u8> {
    let mut payload = Encoder::default();
    payload.i32(42);
    payload.i32(10);
    payload.optional_string(Some("Domain not found"));
    packet([REMOTE, 1, call.procedure, 1, call.serial, 1], &payload.finish().unwrap())
}

/// Opens as libvirtd would: no authentication, keepalive spoken.
pub async fn welcome(stream: &mut UnixStream) {
    for answer in [&[0, 0, 0, 1, 0, 0, 0, 0][..], &[], &[0, 0, 0, 1]] {
        let call = heard(stream).await.unwrap();
        stream.write_all(&reply(&call, answer)).await.unwrap();
    }
}

async fn pair(settings: &Settings) -> (Connection, UnixStream) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let (connection, ()) =
        tokio::join!(Connection::over(ours, Some("test:///default"), 0, settings), welcome(&mut theirs));
    (connection.unwrap(), theirs)
}

fn patient() -> Settings {
    Settings { deadline: Duration::from_secs(5), ..Settings::default() }
}

/// What the client makes of one answer to `hostname`.
async fn after(answer: impl FnOnce(&Call) -> Vec<u8>) -> (Result<String, Error>, Connection) {
    let (connection, mut daemon) = pair(&patient()).await;
    let lie = async {
        let call = heard(&mut daemon).await.unwrap();
        daemon.write_all(&answer(&call)).await.unwrap();
    };
    let (said, ()) = tokio::join!(connection.hostname(), lie);
    (said, connection)
}

#[tokio::test]
async fn impossible_packets_end_the_connection() {
    let header = |call: &Call| [REMOTE, 1, call.procedure, 1, call.serial, 0];
    type Lie = Box<dyn Fn(&Call) -> Vec<u8>>;
    let with = move |at: usize, value: u32| -> Lie {
        Box::new(move |call| {
            let mut header = header(call);
            header[at] = value;
            packet(header, &[])
        })
    };
    let lies: [(&str, Lie); 9] = [
        ("four GiB", Box::new(|_| u32::MAX.to_be_bytes().to_vec())),
        ("shorter than a header", Box::new(|_| 3u32.to_be_bytes().to_vec())),
        ("another program", with(0, 0x2000_8087)),
        ("another version", with(1, 2)),
        ("another procedure", with(2, 4)),
        ("a type that is none", with(3, 9)),
        ("a serial nobody has", with(4, 4_000)),
        ("a status that is none", with(5, 7)),
        ("garbage", Box::new(|_| vec![0x5a; 400])),
    ];
    for (name, lie) in lies {
        let (said, connection) = after(lie).await;
        assert!(matches!(said, Err(Error::Broken(Broken::Protocol(_)))), "{name}: {said:?}");
        let later = connection.version().await;
        assert!(matches!(later, Err(Error::Broken(Broken::Protocol(_)))), "{name}: {later:?}");
    }
}

#[tokio::test]
async fn a_malformed_answer_fails_its_call_alone() {
    let cases: [(&str, Vec<u8>); 4] = [
        ("a string of four GiB", vec![255; 4]),
        ("a string that ends early", vec![0, 0, 0, 9, b'a', 0, 0, 0]),
        ("something left over", vec![0; 12]),
        ("nothing", vec![]),
    ];
    for (name, payload) in cases {
        let (said, connection) = after(|call| reply(call, &payload)).await;
        assert!(matches!(said, Err(Error::Reply { .. })), "{name}: {said:?}");
        assert!(connection.broken().is_none(), "{name}");
    }
}

#[tokio::test]
async fn libvirts_own_error_is_passed_on() {
    let (said, _) = after(refusal).await;
    let Err(Error::Libvirt { code: 42, domain: 10, message }) = said else { panic!("{said:?}") };
    assert_eq!(message, "Domain not found");
}

#[tokio::test]
async fn a_claimed_length_costs_nothing_and_hanging_up_fails_who_waits() {
    let (connection, mut daemon) = pair(&patient()).await;
    let lie = async {
        let call = heard(&mut daemon).await.unwrap();
        // 32 MiB announced, a few bytes sent.
        let mut begun = reply(&call, &[1, 2, 3, 4]);
        begun[..4].copy_from_slice(&(32u32 << 20).to_be_bytes());
        daemon.write_all(&begun).await.unwrap();
        drop(daemon);
    };
    let (first, second, ()) = tokio::join!(connection.hostname(), connection.version(), lie);
    assert!(matches!(first, Err(Error::Broken(_))), "{first:?}");
    assert!(matches!(second, Err(Error::Broken(_))), "{second:?}");
}

#[tokio::test]
async fn other_authentication_than_none_is_refused() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let ask = async {
        let call = heard(&mut theirs).await.unwrap();
        theirs.write_all(&reply(&call, &[0, 0, 0, 1, 0, 0, 0, 2])).await.unwrap();
    };
    let settings = patient();
    let (said, ()) = tokio::join!(Connection::over(ours, None, 0, &settings), ask);
    assert!(matches!(&said, Err(Error::Authentication { offered }) if *offered == [2]), "{said:?}");
}

#[tokio::test]
async fn a_late_answer_is_discarded_and_its_slot_comes_back() {
    let settings = Settings { in_flight: 1, ..patient() };
    let (connection, mut daemon) = pair(&settings).await;
    let hasty = connection.within(Duration::from_millis(30));
    let first = hasty.hostname().await;
    assert!(matches!(first, Err(Error::Deadline { .. })), "{first:?}");
    let second = hasty.version().await;
    assert!(matches!(second, Err(Error::Deadline { .. })), "the slot is still taken: {second:?}");
    let late = heard(&mut daemon).await.unwrap();
    assert_eq!(late.procedure, 59);
    daemon.write_all(&reply(&late, &[0, 0, 0, 1, b'x', 0, 0, 0])).await.unwrap();
    let answer = async {
        let call = heard(&mut daemon).await.unwrap();
        assert_eq!(call.procedure, 157, "the call that had no slot was never sent");
        daemon.write_all(&reply(&call, &11_003_000u64.to_be_bytes())).await.unwrap();
    };
    let (third, ()) = tokio::join!(connection.library_version(), answer);
    assert_eq!(third.unwrap().to_string(), "11.3.0");
}

#[tokio::test]
async fn four_calls_are_in_flight_and_no_fifth() {
    let (connection, mut daemon) = pair(&patient()).await;
    let calls: Vec<_> = (0..6)
        .map(|_| {
            let connection = connection.clone();
            tokio::spawn(async move { connection.library_version().await })
        })
        .collect();
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(heard(&mut daemon).await.unwrap());
    }
    let fifth = tokio::time::timeout(Duration::from_millis(50), heard(&mut daemon)).await;
    assert!(fifth.is_err(), "a fifth call was sent");
    // Answered in another order than asked.
    for _ in 0..6 {
        let call = match held.pop() {
            Some(call) => call,
            None => heard(&mut daemon).await.unwrap(),
        };
        daemon.write_all(&reply(&call, &1_002_003u64.to_be_bytes())).await.unwrap();
    }
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().to_string(), "1.2.3");
    }
}

#[tokio::test]
async fn pings_are_answered_and_silence_is_noticed() {
    let settings = Settings { ping_every: Duration::from_millis(20), pings_unheard_max: 3, ..patient() };
    let (connection, mut daemon) = pair(&settings).await;
    daemon.write_all(&packet([KEEPALIVE, 1, 1, 2, 0, 0], &[])).await.unwrap();
    let mut heard_of = Vec::new();
    while let Some(call) = heard(&mut daemon).await {
        assert_eq!(call.program, KEEPALIVE);
        heard_of.push(call.procedure);
    }
    assert!(heard_of.contains(&2), "our ping was not answered: {heard_of:?}");
    assert!(heard_of.iter().filter(|procedure| **procedure == 1).count() >= 3, "{heard_of:?}");
    assert!(matches!(connection.broken(), Some(Broken::Silent(3))), "{:?}", connection.broken());
}

#[tokio::test]
async fn a_flood_of_events_is_bounded_and_admitted() {
    let (connection, mut daemon) = pair(&patient()).await;
    let register = async {
        let call = heard(&mut daemon).await.unwrap();
        daemon.write_all(&reply(&call, &[0, 0, 0, 5])).await.unwrap();
    };
    let (events, ()) = tokio::join!(connection.events(&[EventKind::Reboot], None), register);
    let mut events = events.unwrap();
    let event = |callback: i32| {
        let mut payload = Encoder::default();
        payload.i32(callback);
        payload.string("web");
        payload.fixed(&[7; 16]);
        payload.i32(1);
        packet([REMOTE, 1, 319, 2, 0, 0], &payload.finish().unwrap())
    };
    let flood = event(5).repeat(5_000);
    let too_large = packet([REMOTE, 1, 319, 2, 0, 0], &vec![0; 100_000]);
    let answer = async {
        daemon.write_all(&flood).await.unwrap();
        daemon.write_all(&too_large).await.unwrap();
        let call = heard(&mut daemon).await.unwrap();
        daemon.write_all(&reply(&call, &1_000_000u64.to_be_bytes())).await.unwrap();
    };
    let (version, ()) = tokio::join!(connection.version(), answer);
    assert_eq!(version.unwrap().major, 1);
    let Ok(Notice::Missed(missed)) = events.next().await else { panic!("nothing was missed") };
    assert!(missed > 4_000, "{missed}");
    let Ok(Notice::Event(first)) = events.next().await else { panic!("no event") };
    assert_eq!(first.domain.name, "web");
    drop(daemon);
    let end = loop {
        match events.next().await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(end, Error::Broken(Broken::HungUp)), "{end:?}");
}

#[tokio::test]
async fn the_socket_is_closed_with_the_last_handle() {
    let (connection, mut daemon) = pair(&patient()).await;
    let clone = connection.clone();
    drop(connection);
    assert!(clone.broken().is_none());
    drop(clone);
    assert!(heard(&mut daemon).await.is_none());
}

#[tokio::test]
async fn a_watch_comes_back_after_the_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sock");
    let (endpoint, deadline) = (Endpoint::Unix(path.clone()), Duration::from_secs(1));
    let mut watch = Watch::new(Wish { endpoint, uri: "test:///default".into(), deadline });
    for _ in 0..4 {
        let away = watch.glance().await;
        assert!(matches!(away, Err(Error::Unreachable { .. })), "{away:?}");
    }
    let listener = UnixListener::bind(&path).unwrap();
    let serve = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            welcome(&mut stream).await;
            // One answer for each connection, then it dies.
            let call = heard(&mut stream).await.unwrap();
            assert_eq!(call.procedure, 344);
            stream.write_all(&reply(&call, &[0; 4])).await.unwrap();
        }
    };
    let watching = async {
        let mut answers = 0;
        while answers < 2 {
            answers += usize::from(watch.glance().await.is_ok());
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = serve => {}
        done = tokio::time::timeout(Duration::from_secs(10), watching) => done.unwrap(),
    }
}

/// A domain as libvirt writes it.
fn domain(to: &mut Encoder, number: u8) {
    to.string(&format!("guest-{number}"));
    to.fixed(&[number; 16]);
    to.i32(number.into());
}

#[tokio::test]
async fn a_domain_that_goes_between_two_questions_is_told_without_its_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sock");
    let listener = UnixListener::bind(&path).unwrap();
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        welcome(&mut stream).await;
        let call = heard(&mut stream).await.unwrap();
        let mut both = Encoder::default();
        both.u32(2);
        for number in [1, 2] {
            domain(&mut both, number);
            both.u32(0);
        }
        stream.write_all(&reply(&call, &both.finish().unwrap())).await.unwrap();
        for _ in 0..2 {
            let call = heard(&mut stream).await.unwrap();
            assert_eq!(call.procedure, 16);
            let mut first = Encoder::default();
            domain(&mut first, 1);
            let answer = if call.payload == first.finish().unwrap() {
                let mut info = Encoder::default();
                info.u32(1);
                [4096, 2048].into_iter().for_each(|kib| info.u64(kib));
                info.u32(3);
                info.u64(7);
                reply(&call, &info.finish().unwrap())
            } else {
                refusal(&call)
            };
            stream.write_all(&answer).await.unwrap();
        }
        stream
    };
    let wish = Wish { endpoint: Endpoint::Unix(path), uri: "test:///default".into(), deadline: patient().deadline };
    let mut watch = Watch::new(wish);
    let (told, _open) = tokio::join!(watch.glance(), serve);
    let told = told.unwrap();
    let info = told[0].info.unwrap();
    assert_eq!((info.vcpus, info.cpu_ns, info.memory_bytes, info.memory_max_bytes), (3, 7, 2048 << 10, 4096 << 10));
    assert_eq!((told[1].stats.domain.name.as_str(), told[1].info), ("guest-2", None));
}
