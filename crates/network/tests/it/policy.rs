//! What a policy lets through, by what arrives.

use crate::card::Card;
use crate::frames::{ethernet, ipv4, mac, ping};
use crate::world::{GATEWAY, HOST, WORLD, Wire, World, datagram, guest, has, list, member, until};
use perigee_network::{CONNECTIONS_MAX, Egress, Plan, Ports, Protocol, Resolved};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};

const ME: u8 = 2;
const OTHER: u8 = 3;
const PUBLIC: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 8);
const PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);
const HOME: Ipv4Addr = Ipv4Addr::new(192, 168, 9, 9);
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

fn plan(world: &World, mine: Egress) -> Plan {
    world.plan(vec![member(ME, mine), member(OTHER, Egress::All)])
}

/// Whether a frame of a guest's arrives in the world; the other guest's frame behind it does.
fn arrives(out: &Wire, cards: &[Card; 2], frame: &[u8]) -> bool {
    cards[0].send(frame);
    cards[1].send(&datagram(OTHER, WORLD, 9, "marker"));
    out.until("marker").iter().any(|frame| has(frame, "probe"))
}

#[test]
fn policies_let_through_what_they_name() {
    let world = World::new();
    let first = plan(&world, Egress::None);
    world.bring_about(&first);
    let cards = [world.card(&first, guest(ME)), world.card(&first, guest(OTHER))];
    let out = Wire::tap(&world.out, "out");
    let everywhere = [(WORLD, 7), (WORLD, 9), (PUBLIC, 7), (PRIVATE, 7), (HOME, 7), (METADATA, 7)];
    let rows: &[(Egress, &[(Ipv4Addr, u16)])] = &[
        (Egress::None, &[]),
        (Egress::All, &[(WORLD, 7), (WORLD, 9), (PUBLIC, 7)]),
        (list("0.0.0.0/0"), &[(WORLD, 7), (WORLD, 9), (PUBLIC, 7)]),
        (list("93.184.216.0/24:udp/7"), &[(WORLD, 7)]),
        (list("93.184.216.0/24:7"), &[]),
        (list("8.8.8.8 93.184.216.34:udp/8-10,udp/1"), &[(WORLD, 9), (PUBLIC, 7)]),
        (list("10.9.0.0/16:udp/7"), &[(PRIVATE, 7)]),
        (list("0.0.0.0/0:udp/7 192.168.9.9"), &[(WORLD, 7), (PUBLIC, 7), (HOME, 7)]),
        (list("example.com"), &[]),
    ];
    for (egress, open) in rows {
        let plan = plan(&world, egress.clone());
        world.with(|host| async move { host.judge(&plan, Resolved::default()).await }).unwrap();
        for (to, port) in everywhere {
            let before = world.drops(&first, ME);
            let came = arrives(&out, &cards, &datagram(ME, to, port, "probe"));
            assert_eq!(came, open.contains(&(to, port)), "{egress:?}: {to} port {port}");
            if !came {
                until("it is dropped", || world.drops(&first, ME) > before);
            }
        }
    }
}

#[test]
fn a_guest_does_not_reach_the_host_or_another_guest() {
    let world = World::new();
    let mut mine = member(ME, Egress::All);
    let first = world.plan(vec![mine.clone(), member(OTHER, Egress::All)]);
    world.bring_about(&first);
    let (card, other) = (world.card(&first, guest(ME)), world.card(&first, guest(OTHER)));
    let heard = world.host.run(|| UdpSocket::bind("0.0.0.0:7").unwrap());
    heard.set_read_timeout(Some(crate::world::PATIENCE)).unwrap();
    let table = first.names().table();
    let dropped = |chain: &str| world.counted(&format!("list chain inet {table} {chain}"));
    for to in [GATEWAY, HOST] {
        let before = dropped("to_host");
        card.send(&datagram(ME, to, 7, "probe"));
        until("it is dropped", || dropped("to_host") > before);
    }
    let before = dropped("to_host");
    let echo = ipv4(guest(ME), GATEWAY, 1, &ping(b"probe"));
    card.send(&ethernet(mac(GATEWAY), mac(guest(ME)), 0x0800, &echo));
    until("a ping is dropped", || dropped("to_host") > before);
    // By way of the gateway: its frame is good, but it leads to another guest.
    let before = dropped("from_guest");
    card.send(&datagram(ME, guest(OTHER), 7, "probe"));
    until("it is dropped", || dropped("from_guest") > before);
    assert!(other.drain().is_empty() && card.drain().is_empty());
    // What the plan allows is heard, and is the first that was.
    mine.host = vec![Ports::new(Protocol::Udp, 7..=7).unwrap()];
    world.bring_about(&world.plan(vec![mine, member(OTHER, Egress::All)]));
    card.send(&datagram(ME, HOST, 7, "not there"));
    card.send(&datagram(ME, GATEWAY, 7, "allowed"));
    let mut bytes = [0; 100];
    let (length, from) = heard.recv_from(&mut bytes).unwrap();
    assert_eq!((&bytes[..length], from.ip()), (&b"allowed"[..], guest(ME).into()));
}

#[test]
fn one_guest_does_not_fill_the_hosts_table() {
    let world = World::new();
    let plan = plan(&world, Egress::All);
    world.bring_about(&plan);
    let (card, other) = (world.card(&plan, guest(ME)), world.card(&plan, guest(OTHER)));
    let listed = || world.host.tool("nft", &format!("list chain inet {} from_guest", plan.names().table()));
    let refused = || {
        let line = listed().lines().find(|line| line.contains("ct count")).unwrap().to_owned();
        line.split("packets ").nth(1).unwrap().split(' ').next().unwrap().parse::<u32>().unwrap()
    };
    let echo = |text: &str| {
        let packet = ipv4(guest(ME), WORLD, 1, &ping(text.as_bytes()));
        card.send(&ethernet(mac(GATEWAY), mac(guest(ME)), 0x0800, &packet));
        until("an answer", || card.drain().iter().any(|frame| has(frame, text)));
    };
    echo("up");
    for port in 1..CONNECTIONS_MAX as u16 {
        card.send(&from_port(20_000 + port, "probe"));
    }
    assert_eq!(refused(), 0);
    for port in 0..100 {
        card.send(&from_port(10_000 + port, "one more"));
    }
    until("one more is refused", || refused() > 0);
    // What is up goes on, and the other guest notices nothing.
    let out = Wire::tap(&world.out, "out");
    echo("still up");
    other.send(&datagram(OTHER, WORLD, 9, "not my table"));
    out.until("not my table");
}

fn from_port(port: u16, text: &str) -> Vec<u8> {
    let packet = ipv4(guest(ME), WORLD, 17, &crate::frames::udp(port, 9, text.as_bytes()));
    ethernet(mac(GATEWAY), mac(guest(ME)), 0x0800, &packet)
}

/// Rules are replaced all the time while a guest sends where it may not, and where it may.
#[test]
fn no_frame_slips_through_while_rules_are_replaced() {
    let world = World::new();
    let plans = ["10.9.9.9", "93.184.216.34:udp/9 1.1.1.1"].map(|open| plan(&world, list(open)));
    world.bring_about(&plans[0]);
    let card = world.card(&plans[0], guest(ME));
    let out = Wire::tap(&world.out, "out");
    let over = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut sent = 0;
            while !over.load(Ordering::Relaxed) {
                card.send(&datagram(ME, PUBLIC, 7, "probe"));
                sent += 1;
            }
            sent
        });
        world.with(|host| async move {
            for round in 0..100 {
                host.judge(&plans[round % 2], Resolved::default()).await.unwrap();
            }
        });
        over.store(true, Ordering::Relaxed);
        sender.join().unwrap()
    });
    println!("{sent} frames in 100 replacements");
    assert!(sent > 100);
    // The last plan in force lets this through.
    card.send(&datagram(ME, WORLD, 9, "marker"));
    assert!(!out.until("marker").iter().any(|frame| has(frame, "probe")));
}

#[test]
fn a_connection_ends_when_its_policy_is_taken_back() {
    use std::io::{Read as _, Write as _};
    let world = World::new();
    let open = plan(&world, list("93.184.216.34:443"));
    world.bring_about(&open);
    let machine = world.machine(&open, ME);
    let listener = world.out.run(|| TcpListener::bind("0.0.0.0:443").unwrap());
    let mut guest_end =
        machine.ns.run(|| TcpStream::connect_timeout(&(WORLD, 443).into(), crate::world::PATIENCE).unwrap());
    let (mut far_end, from) = listener.accept().unwrap();
    assert_eq!(from.ip(), HOST, "the world sees the host's address alone");
    let mut bytes = [0; 4];
    guest_end.write_all(b"ping").unwrap();
    far_end.read_exact(&mut bytes).unwrap();
    far_end.write_all(b"pong").unwrap();
    guest_end.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"pong");

    let closed = plan(&world, list("8.8.8.8"));
    world.bring_about(&closed);
    guest_end.write_all(b"more").unwrap();
    until("its segments are dropped", || world.drops(&closed, ME) > 0);
    far_end.set_nonblocking(true).unwrap();
    assert_eq!(far_end.read(&mut bytes).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    // Given back, the connection goes on where it was.
    world.bring_about(&open);
    far_end.set_nonblocking(false).unwrap();
    far_end.set_read_timeout(Some(crate::world::PATIENCE)).unwrap();
    far_end.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"more");
}
