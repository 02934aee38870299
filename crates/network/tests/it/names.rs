//! Names that a policy lists, asked by a guest and answered by a played resolver of the world.

use crate::card::Machine;
use crate::ns::Ns;
use crate::world::{GATEWAY, HOST, PATIENCE, WORLD, WORLD6, World, call, list, list6, member, member6, until};
use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use perigee_network::{Egress, Lasting, Network, Plan};
use std::future::Future;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Runtime;

const ME: u8 = 2;
const PUBLIC: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 8);

/// A network that is kept, on threads of the host's namespace.
struct Keeper {
    runtime: Option<Runtime>,
    network: Arc<Network>,
}

impl Keeper {
    fn start(world: &World, lasting: Lasting) -> Self {
        let upstreams = vec![SocketAddr::from((WORLD, 53))];
        world.host.run(|| {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
            let instance = world.instance.clone();
            let network = runtime.spawn(async move { Network::open(&instance, upstreams, lasting).unwrap() });
            let network = Arc::new(runtime.block_on(network).unwrap());
            Self { runtime: Some(runtime), network }
        })
    }

    fn run<R: Send + 'static, F: Future<Output = R> + Send + 'static>(&self, act: impl FnOnce(Arc<Network>) -> F) -> R {
        let runtime = self.runtime.as_ref().unwrap();
        runtime.block_on(runtime.spawn(act(self.network.clone()))).unwrap()
    }

    fn bring_about(&self, plan: &Plan) {
        let plan = plan.clone();
        self.run(|network| async move { network.bring_about(plan).await.map(drop) }).unwrap();
    }
}

impl Drop for Keeper {
    /// As if it were killed: nothing is put in order.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Short times, so that a test sees their end.
const SHORT: Lasting = Lasting {
    fresh_min: Duration::from_secs(1),
    fresh_max: Duration::from_secs(3600),
    slack: Duration::from_secs(1),
    met: Duration::from_secs(600),
};

/// The world's resolver: what each name is, and how many questions came.
#[derive(Clone)]
struct Upstream {
    asked: Arc<AtomicUsize>,
    addresses: Arc<Mutex<Vec<Ipv4Addr>>>,
    addresses6: Arc<Mutex<Vec<Ipv6Addr>>>,
    ttl_secs: u32,
}

impl Upstream {
    /// Answers every name with these addresses; `long.…` only by TCP.
    fn start(ns: &Ns, addresses: &[Ipv4Addr], ttl_secs: u32) -> Self {
        let addresses = Arc::new(Mutex::new(addresses.to_vec()));
        let upstream = Self { asked: Arc::default(), addresses, addresses6: Arc::default(), ttl_secs };
        let (udp, tcp) = ns.run(|| (UdpSocket::bind((WORLD, 53)).unwrap(), TcpListener::bind((WORLD, 53)).unwrap()));
        let by_udp = upstream.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 2048];
            while let Ok((length, from)) = udp.recv_from(&mut bytes) {
                let mut reply = by_udp.reply(&bytes[..length]);
                if reply.queries[0].name().to_ascii().starts_with("long.") {
                    reply = reply.truncate();
                }
                udp.send_to(&reply.to_vec().unwrap(), from).unwrap();
            }
        });
        let by_tcp = upstream.clone();
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let mut stream = stream.unwrap();
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut bytes = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut bytes).unwrap();
                stream.write_all(&framed(&by_tcp.reply(&bytes))).unwrap();
            }
        });
        upstream
    }

    fn reply(&self, bytes: &[u8]) -> Message {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let heard = Message::from_vec(bytes).unwrap();
        let mut reply = Message::response(heard.metadata.id, OpCode::Query);
        reply.queries.clone_from(&heard.queries);
        let (name, kind) = (heard.queries[0].name().clone(), heard.queries[0].query_type());
        let records = match kind {
            RecordType::A => self.addresses.lock().unwrap().iter().map(|address| RData::A(A(*address))).collect(),
            RecordType::AAAA => self.addresses6.lock().unwrap().iter().map(|six| RData::AAAA(AAAA(*six))).collect(),
            _ => vec![RData::TXT(TXT::new(vec!["a way out".to_owned()]))],
        };
        reply.add_answers(records.into_iter().map(|data| Record::from_rdata(name.clone(), self.ttl_secs, data)));
        reply
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn framed(message: &Message) -> Vec<u8> {
    let bytes = message.to_vec().unwrap();
    [&(bytes.len() as u16).to_be_bytes()[..], &bytes].concat()
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

/// A guest's question to the gateway, by UDP.
fn ask(machine: &Machine, name: &str, kind: RecordType) -> Message {
    let socket = machine.ns.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    socket.connect((GATEWAY, 53)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let question = question(name, kind);
    socket.send(&question.to_vec().unwrap()).unwrap();
    let mut bytes = [0; 2048];
    let length = socket.recv(&mut bytes).unwrap();
    let reply = Message::from_vec(&bytes[..length]).unwrap();
    assert_eq!(reply.metadata.id, question.metadata.id);
    reply
}

fn addresses(reply: &Message) -> Vec<Ipv4Addr> {
    let address = |record: &Record| if let RData::A(A(address)) = record.data { Some(address) } else { None };
    reply.answers.iter().filter_map(address).collect()
}

fn reaches(world: &World, plan: &Plan, machine: &Machine, to: (Ipv4Addr, u16)) -> Option<TcpStream> {
    call(&machine.ns, SocketAddr::from(to), || world.drops(plan, ME))
}

#[test]
fn a_listed_name_opens_what_it_means_and_nothing_else() {
    let world = World::new();
    let upstream = Upstream::start(&world.out, &[WORLD], 300);
    let listeners = [(WORLD, 443), (WORLD, 80), (PUBLIC, 443)]
        .map(|at| world.out.run(|| TcpListener::bind(SocketAddr::from(at)).unwrap()));
    let keeper = Keeper::start(&world, Lasting::default());
    let plan = world.plan(vec![member(ME, list("*.example.com:443"))]);
    keeper.bring_about(&plan);
    let machine = world.machine(&plan, ME);
    let reaches = |to: Ipv4Addr, port: u16| reaches(&world, &plan, &machine, (to, port)).is_some();

    assert!(!reaches(WORLD, 443), "before its name was asked for");
    let refused = ask(&machine, "example.org.", RecordType::A);
    assert_eq!((refused.metadata.response_code, upstream.asked()), (ResponseCode::Refused, 0));
    for kind in [RecordType::TXT, RecordType::AAAA, RecordType::NULL] {
        let empty = ask(&machine, "data.example.com.", kind);
        assert_eq!((empty.metadata.response_code, empty.answers.len()), (ResponseCode::NoError, 0));
    }
    assert_eq!(upstream.asked(), 0, "nothing of a guest's making went out");
    let told = ask(&machine, "www.Example.com.", RecordType::A);
    assert_eq!((addresses(&told), told.answers[0].ttl), (vec![WORLD], 300));
    assert!(reaches(WORLD, 443));
    assert!(!reaches(WORLD, 80), "another port");
    assert!(!reaches(PUBLIC, 443), "another address");
    // The world's resolver itself is out of reach.
    let outside = machine.ns.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    let before = world.drops(&plan, ME);
    outside.send_to(&question("data.example.com.", RecordType::TXT).to_vec().unwrap(), (WORLD, 53)).unwrap();
    until("it is dropped", || world.drops(&plan, ME) > before);
    assert_eq!(upstream.asked(), 1);
    drop(listeners);
}

#[test]
fn a_name_that_is_listed_for_ipv6_opens_its_addresses_of_that_alone() {
    let world = World::new();
    let upstream = Upstream::start(&world.out, &[WORLD], 300);
    let inside: [Ipv6Addr; 4] =
        ["fd12::9", "fd00:ec2::254", "64:ff9b::a09:909", "::ffff:10.9.9.9"].map(|text| text.parse().unwrap());
    upstream.addresses6.lock().unwrap().extend(inside.into_iter().chain([WORLD6]));
    let listener = world.out.run(|| TcpListener::bind("[::]:443").unwrap());
    let keeper = Keeper::start(&world, Lasting::default());
    let plan = world.plan(vec![member6(ME, list("example.org:443"), list6("*.example.com:443"))]);
    keeper.bring_about(&plan);
    let machine = world.machine(&plan, ME);
    let reaches = |to: Ipv6Addr, port| call(&machine.ns, SocketAddr::from((to, port)), || world.drops6(&plan, ME));
    assert!(reaches(WORLD6, 443).is_none(), "before its name was asked for");
    assert_eq!(ask(&machine, "example.org.", RecordType::AAAA).answers, [], "listed for IPv4 alone");
    assert_eq!(ask(&machine, "www.example.com.", RecordType::A).answers, [], "listed for IPv6 alone");
    assert_eq!(upstream.asked(), 0);
    let told = ask(&machine, "www.example.com.", RecordType::AAAA);
    let told: Vec<_> = told.answers.iter().map(|record| record.data.clone()).collect();
    assert_eq!(told, [RData::AAAA(AAAA(WORLD6))], "what is private is not told");
    drop(reaches(WORLD6, 443).expect("a connection"));
    assert!(reaches(WORLD6, 80).is_none(), "another port");
    assert!(reaches("2606:4700::1111".parse().unwrap(), 443).is_none(), "another address");
    assert!(reaches(inside[0], 443).is_none());
    // What was open outlives its keeper, and goes with its policy.
    drop(keeper);
    let next = Keeper::start(&world, Lasting::default());
    next.bring_about(&plan);
    drop(reaches(WORLD6, 443).expect("without being asked again"));
    assert_eq!(upstream.asked(), 1);
    next.bring_about(&world.plan(vec![member6(ME, list("example.org:443"), list6("other.example.com:443"))]));
    assert!(reaches(WORLD6, 443).is_none());
    drop(listener);
}

#[test]
fn an_answer_holds_as_long_as_it_was_told_and_its_connections_longer() {
    let world = World::new();
    let upstream = Upstream::start(&world.out, &[WORLD], 1);
    let listener = world.out.run(|| TcpListener::bind((WORLD, 443)).unwrap());
    let keeper = Keeper::start(&world, SHORT);
    let plan = world.plan(vec![member(ME, list("example.com"))]);
    keeper.bring_about(&plan);
    let machine = world.machine(&plan, ME);
    ask(&machine, "example.com.", RecordType::A);
    let mut up = reaches(&world, &plan, &machine, (WORLD, 443)).expect("a connection");
    let (mut far, _) = listener.accept().unwrap();
    // Whoever calls meanwhile is taken, and hung up on.
    std::thread::spawn(move || listener.incoming().for_each(drop));
    until("the answer is over", || reaches(&world, &plan, &machine, (WORLD, 443)).is_none());
    let mut bytes = [0; 5];
    up.write_all(b"still").unwrap();
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    far.read_exact(&mut bytes).unwrap();
    // Asked again, it is open again.
    ask(&machine, "example.com.", RecordType::A);
    assert!(reaches(&world, &plan, &machine, (WORLD, 443)).is_some());
    assert_eq!(upstream.asked(), 2);
    // Taken back, even what was up ends.
    let closed = world.plan(vec![member(ME, list("example.org"))]);
    keeper.bring_about(&closed);
    up.write_all(b"never").unwrap();
    until("it is dropped", || world.drops(&closed, ME) > 0);
    far.set_nonblocking(true).unwrap();
    assert_eq!(far.read(&mut bytes).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn what_was_open_outlives_its_keeper() {
    let world = World::new();
    let upstream = Upstream::start(&world.out, &[WORLD, PUBLIC], 300);
    let listener = world.out.run(|| TcpListener::bind((WORLD, 443)).unwrap());
    let plan = world.plan(vec![member(ME, list("example.com a.example.org:443"))]);
    let keeper = Keeper::start(&world, Lasting::default());
    keeper.bring_about(&plan);
    let machine = world.machine(&plan, ME);
    ask(&machine, "example.com.", RecordType::A);
    let mut up = reaches(&world, &plan, &machine, (WORLD, 443)).expect("a connection");
    let (mut far, _) = listener.accept().unwrap();
    drop(keeper);
    let next = Keeper::start(&world, Lasting::default());
    next.bring_about(&plan);
    up.write_all(b"still").unwrap();
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    far.read_exact(&mut [0; 5]).unwrap();
    assert!(reaches(&world, &plan, &machine, (WORLD, 443)).is_some(), "without being asked again");
    assert_eq!(upstream.asked(), 1);
    assert_eq!(addresses(&ask(&machine, "example.com.", RecordType::A)), [WORLD, PUBLIC], "and it answers");
    let fewer = world.plan(vec![member(ME, list("a.example.org:443"))]);
    next.bring_about(&fewer);
    assert!(reaches(&world, &fewer, &machine, (WORLD, 443)).is_none());
}

#[test]
fn a_name_does_not_open_what_is_private() {
    let world = World::new();
    let inside = [Ipv4Addr::new(10, 9, 9, 9), Ipv4Addr::new(169, 254, 169, 254), GATEWAY, Ipv4Addr::LOCALHOST];
    let upstream = Upstream::start(&world.out, &inside, 300);
    let keeper = Keeper::start(&world, Lasting::default());
    let plan = world.plan(vec![member(ME, list("example.com")), member(3, Egress::All)]);
    keeper.bring_about(&plan);
    for last in [ME, 3] {
        let machine = world.machine(&plan, last);
        assert_eq!(addresses(&ask(&machine, "example.com.", RecordType::A)), [Ipv4Addr::UNSPECIFIED; 0]);
        upstream.addresses.lock().unwrap().push(HOST);
        assert_eq!(addresses(&ask(&machine, "example.com.", RecordType::A)), [HOST], "negative control");
        upstream.addresses.lock().unwrap().pop();
    }
    assert_eq!(upstream.asked(), 4);
}

#[test]
fn long_answers_come_by_tcp_on_both_sides() {
    let world = World::new();
    let many: Vec<_> = (1..=40).map(|last| Ipv4Addr::new(8, 8, 4, last)).collect();
    let upstream = Upstream::start(&world.out, &many, 300);
    let keeper = Keeper::start(&world, Lasting::default());
    let plan = world.plan(vec![member(ME, Egress::All)]);
    keeper.bring_about(&plan);
    let machine = world.machine(&plan, ME);
    let told = ask(&machine, "long.example.com.", RecordType::A);
    assert_eq!((addresses(&told), upstream.asked()), (many[..16].to_vec(), 2));
    let mut stream = machine.ns.run(|| TcpStream::connect((GATEWAY, 53)).unwrap());
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for kind in [RecordType::A, RecordType::TXT] {
        stream.write_all(&framed(&question("long.example.com.", kind))).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut bytes = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut bytes).unwrap();
        let told = Message::from_vec(&bytes).unwrap();
        assert_eq!(told.answers.len(), if kind == RecordType::A { 16 } else { 1 });
    }
}

#[test]
fn nobody_else_is_asked_at_the_gateway() {
    let world = World::new();
    // A resolver of the host's own, on all of its addresses.
    let own = world.host.run(|| UdpSocket::bind("0.0.0.0:53").unwrap());
    own.set_nonblocking(true).unwrap();
    let keeper = Keeper::start(&world, Lasting::default());
    let plan = world.plan(vec![member(ME, list("example.com"))]);
    let wanted = plan.clone();
    let failed = keeper.run(|network| async move { network.bring_about(wanted).await.map(drop) });
    assert!(failed.unwrap_err().to_string().starts_with("cannot answer names at 172.16.0.1, port 53: "));
    let machine = world.machine(&plan, ME);
    let asker = machine.ns.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    let dropped = || world.counted(&format!("list chain inet {} to_host", plan.names().table()));
    let before = dropped();
    asker.send_to(b"any name", (GATEWAY, 53)).unwrap();
    until("it is dropped", || dropped() > before);
    assert!(own.recv(&mut [0; 10]).is_err());
    drop(own);
    keeper.bring_about(&plan);
    assert_eq!(ask(&machine, "example.org.", RecordType::A).metadata.response_code, ResponseCode::Refused);
}
