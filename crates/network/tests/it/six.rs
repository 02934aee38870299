//! IPv6 of guests that have a policy of it: what they may put on the wire, and where it comes out.

use crate::card::Card;
use crate::frames::{BROADCAST, MacBytes, ethernet, icmp6, ipv6, mac, neighbour, solicited, udp, udp6};
use crate::world::{GATEWAY, HOST6, PATIENCE, WORLD, WORLD6, Wire, World, datagram, guest, has, list6, member6, until};
use perigee_network::{Egress, Egress6, Plan, Resolved};
use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

const ME: u8 = 2;
const NEIGHBOUR: u8 = 3;
const SOLICITATION: u8 = 135;
const ANNOUNCEMENT: u8 = 136;
/// Options of both: the hardware address of who asks, and of who is asked for.
const SOURCE: u8 = 1;
const TARGET: u8 = 2;

fn address(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

struct Scene {
    world: World,
    plan: Plan,
    card: Card,
    neighbour: Card,
    out: Wire,
    host: Wire,
}

impl Scene {
    /// Two guests that may reach all of the world, by both families.
    fn new() -> Self {
        let world = World::new();
        let one = |last| member6(last, Egress::All, Egress::All);
        let plan = world.plan(vec![one(ME), one(NEIGHBOUR)]);
        world.bring_about(&plan);
        let (card, neighbour) = (world.card(&plan, guest(ME)), world.card(&plan, guest(NEIGHBOUR)));
        let (out, host) = (Wire::tap(&world.out, "out"), Wire::tap(&world.host, plan.names().bridge().as_str()));
        Self { world, plan, card, neighbour, out, host }
    }

    fn six(&self, last: u8) -> Ipv6Addr {
        self.plan.six(self.plan.at(guest(last)).unwrap()).unwrap()
    }

    /// Sends a frame, then one that arrives; what came before that one, at each place.
    fn send(&self, frame: &[u8]) -> [(&'static str, Vec<Vec<u8>>); 4] {
        self.card.send(frame);
        self.card.send(&datagram(ME, WORLD, 9, "marker"));
        let (mut out, mut bridge) = (self.out.until("marker"), self.host.until("marker"));
        // The world and the host speak with one another there, and the host says there which groups it is in.
        out.retain(|frame| has(frame, "probe"));
        bridge.retain(|frame| frame[6..12] != mac(GATEWAY));
        [
            ("out", out),
            ("to the host", bridge),
            ("to the neighbour", self.neighbour.drain()),
            ("back", self.card.drain()),
        ]
    }

    /// Each of these frames ends before it is anywhere, and is counted.
    fn ends(&self, rows: &[(&str, Vec<u8>)]) {
        let table = self.plan.names().table();
        let of = |family| self.world.counted(&format!("list table {family} {table}"));
        let dropped = || ["bridge", "inet"].map(of).iter().sum::<u64>();
        for (what, frame) in rows {
            let before = dropped();
            for (place, seen) in self.send(frame) {
                // What leads to the neighbour by way of the gateway is its own and good until there.
                let is_good = place == "to the host" && ["by way of", "DHCPv6"].iter().any(|good| what.contains(good));
                assert!(seen.is_empty() || is_good, "{what} came {place}: {seen:02x?}");
            }
            until(what, || dropped() > before);
        }
    }
}

fn all_nodes() -> (MacBytes, Ipv6Addr) {
    ([0x33, 0x33, 0, 0, 0, 1], address("ff02::1"))
}

/// What its card would have made of its hardware address.
fn own_making() -> Ipv6Addr {
    address("fe80::5054:ff:fe10:2")
}

#[test]
fn only_its_own_ipv6_address_leaves_a_guest() {
    let scene = Scene::new();
    let (me, other, gateway) = (mac(guest(ME)), mac(guest(NEIGHBOUR)), mac(GATEWAY));
    let (mine, theirs, router) = (scene.six(ME), scene.six(NEIGHBOUR), scene.plan.gateway6().unwrap());
    let (all_card, all) = all_nodes();
    let packet = |to: MacBytes, from: MacBytes, source: Ipv6Addr, target: Ipv6Addr| {
        ethernet(to, from, 0x86dd, &udp6((source, 68), (target, 67), b"probe"))
    };
    // Behind a header of its own: hop-by-hop options, then the next protocol.
    let behind = |next: u8, body: &[u8]| ipv6(mine, WORLD6, 0, &[&[next, 0, 1, 4, 0, 0, 0, 0][..], body].concat());
    let route = [&[17, 2, 0, 1, 0, 0, 0, 0][..], &theirs.octets(), &udp(1, 9, b"probe")].concat();
    let probe = udp6((mine, 1), (WORLD6, 9), b"probe");
    scene.ends(&[
        ("another's hardware address", packet(gateway, other, mine, WORLD6)),
        ("a new hardware address", packet(gateway, [2, 0, 0, 0, 0, 9], mine, WORLD6)),
        ("another's address", packet(gateway, me, theirs, WORLD6)),
        ("the gateway's address", packet(gateway, me, router, WORLD6)),
        ("a public address", packet(gateway, me, address("2606:4700::1111"), WORLD6)),
        ("an address of its own making", packet(gateway, me, own_making(), WORLD6)),
        ("another one of its network", packet(gateway, me, address("fd70:a1b:2c3d::2"), WORLD6)),
        ("no address", packet(gateway, me, Ipv6Addr::UNSPECIFIED, WORLD6)),
        ("IPv4 in its clothes", packet(gateway, me, address("::ffff:172.16.0.2"), WORLD6)),
        ("to all on the network", packet(all_card, me, mine, all)),
        ("to all, in a frame to all", packet(BROADCAST, me, mine, all)),
        ("to a group, at the gateway's card", packet(gateway, me, mine, address("ff02::fb"))),
        ("straight to the neighbour", packet(other, me, mine, theirs)),
        ("by way of the gateway to the neighbour", packet(gateway, me, mine, theirs)),
        ("a server's DHCPv6", ethernet(gateway, me, 0x86dd, &udp6((mine, 547), (theirs, 546), b"probe"))),
        ("an announcement behind a header", {
            let said = icmp6(mine, WORLD6, ANNOUNCEMENT, &neighbour(0x60, theirs, TARGET, me));
            ethernet(gateway, me, 0x86dd, &behind(58, &said[40..]))
        }),
        ("a route of its own", ethernet(gateway, me, 0x86dd, &ipv6(mine, WORLD6, 43, &route))),
        ("IPv6 as IPv4", ethernet(gateway, me, 0x0800, &probe)),
        ("a VLAN", ethernet(gateway, me, 0x8100, &[&[0x20, 5, 0x86, 0xdd][..], &probe].concat())),
        ("cut short", ethernet(gateway, me, 0x86dd, &probe[..20])),
    ]);
    // What is not dropped comes out: the same packet, with everything right.
    let [(_, out), ..] = scene.send(&packet(gateway, me, mine, WORLD6));
    let [frame] = out.as_slice() else { panic!("{out:02x?}") };
    assert_eq!(frame[14 + 8..14 + 24], HOST6.octets(), "it comes from the host's address");
}

#[test]
fn a_guest_announces_nothing_and_redirects_nobody() {
    let scene = Scene::new();
    let (me, gateway, (all_card, all)) = (mac(guest(ME)), mac(GATEWAY), all_nodes());
    let (mine, theirs, router) = (scene.six(ME), scene.six(NEIGHBOUR), scene.plan.gateway6().unwrap());
    let icmp = |to: MacBytes, source, target, kind, rest: &[u8]| {
        ethernet(to, me, 0x86dd, &icmp6(source, target, kind, &[rest, b"probe"].concat()))
    };
    let announced = |to: MacBytes, target, whose| {
        ethernet(to, me, 0x86dd, &icmp6(mine, target, ANNOUNCEMENT, &neighbour(0x60, whose, TARGET, me)))
    };
    let advert = [&[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0][..], b"probe"].concat();
    scene.ends(&[
        ("a router's advertisement", icmp(all_card, mine, all, 134, &advert)),
        ("a router's advertisement of its own link", icmp(all_card, own_making(), all, 134, &advert)),
        ("a router's advertisement to the gateway", icmp(gateway, mine, router, 134, &advert)),
        ("a router that is asked for", icmp([0x33, 0x33, 0, 0, 0, 2], mine, address("ff02::2"), 133, &[0; 4])),
        ("a redirect", icmp(gateway, mine, router, 137, &[0; 36])),
        ("a report of groups", icmp([0x33, 0x33, 0, 0, 0, 0x16], mine, address("ff02::16"), 143, &[0; 4])),
        ("a query of groups", icmp(all_card, mine, all, 130, &[0; 20])),
        ("a request for a node's names", icmp(gateway, mine, router, 139, &[0; 12])),
        ("an echo's answer", icmp(gateway, mine, WORLD6, 129, &[0; 4])),
        ("the gateway's announcement", announced(gateway, router, router)),
        ("the neighbour's", announced(gateway, router, theirs)),
        ("its own, to all", announced(all_card, all, mine)),
        ("its own, to the gateway", announced(gateway, router, mine)),
    ]);
}

#[test]
fn a_guest_asks_for_the_gateway_alone_and_in_its_own_name() {
    let scene = Scene::new();
    let (me, other, gateway) = (mac(guest(ME)), mac(guest(NEIGHBOUR)), mac(GATEWAY));
    let (mine, theirs, router) = (scene.six(ME), scene.six(NEIGHBOUR), scene.plan.gateway6().unwrap());
    let (all_card, all) = all_nodes();
    let (card, group) = solicited(router);
    let asked = |to: MacBytes, source, target, rest: &[u8]| {
        ethernet(to, me, 0x86dd, &icmp6(source, target, SOLICITATION, rest))
    };
    let asks = |target, mac| neighbour(0, target, SOURCE, mac);
    let (their_card, their_group) = solicited(theirs);
    let (my_card, my_group) = solicited(mine);
    let without_option = [&[0; 4][..], &mine.octets()].concat();
    let two_options = [asks(router, me), vec![SOURCE, 1], other.to_vec()].concat();
    scene.ends(&[
        ("who has the neighbour's", asked(their_card, mine, their_group, &asks(theirs, me))),
        ("who has its own, as if it had none", asked(my_card, Ipv6Addr::UNSPECIFIED, my_group, &without_option)),
        ("the gateway is asked for the neighbour's", asked(gateway, mine, router, &asks(theirs, me))),
        ("in the neighbour's name", asked(card, theirs, group, &asks(router, me))),
        ("in a name of its own making", asked(card, own_making(), group, &asks(router, me))),
        ("with another's hardware address within", asked(card, mine, group, &asks(router, other))),
        ("with the other option", asked(card, mine, group, &neighbour(0, router, TARGET, me))),
        ("with two options", asked(card, mine, group, &two_options)),
        ("from beyond the link", {
            let mut frame = asked(card, mine, group, &asks(router, me));
            frame[14 + 7] = 64;
            frame
        }),
        ("to all nodes", asked(all_card, mine, all, &asks(router, me))),
    ]);
}

#[test]
fn what_ipv6_needs_comes_through() {
    let scene = Scene::new();
    let (me, mine, router) = (mac(guest(ME)), scene.six(ME), scene.plan.gateway6().unwrap());
    let (card, group) = solicited(router);
    for (to, at) in [(card, group), (mac(GATEWAY), router)] {
        let asked = icmp6(mine, at, SOLICITATION, &neighbour(0, router, SOURCE, me));
        scene.card.send(&ethernet(to, me, 0x86dd, &asked));
        let answer = scene.card.receive(PATIENCE).expect("the gateway's announcement");
        assert_eq!((&answer[0..6], answer[14 + 40]), (&me[..], ANNOUNCEMENT));
        assert_eq!(answer[14 + 48..14 + 64], router.octets());
        if at == group {
            assert_eq!(answer[14 + 66..14 + 72], mac(GATEWAY));
        }
    }
    assert!(scene.neighbour.drain().is_empty(), "nobody else hears of it");
    let echo = icmp6(mine, WORLD6, 128, b"\0\x01\0\x01are you there");
    scene.card.send(&ethernet(mac(GATEWAY), me, 0x86dd, &echo));
    let answer = scene.card.receive(PATIENCE).expect("an answer");
    assert!(has(&answer, "are you there"));
    assert_eq!(answer[14 + 8..14 + 40], [WORLD6.octets(), mine.octets()].concat());
}

#[test]
fn who_has_no_policy_of_ipv6_has_none_beside_who_has() {
    let world = World::new();
    let plan = world.plan(vec![member6(ME, Egress::All, Egress::All), crate::world::member(NEIGHBOUR, Egress::All)]);
    world.bring_about(&plan);
    let card = world.card(&plan, guest(NEIGHBOUR));
    let out = Wire::tap(&world.out, "out");
    let (from, router) = (plan.subnet().six_of(guest(NEIGHBOUR)).unwrap(), plan.gateway6().unwrap());
    let own = mac(guest(NEIGHBOUR));
    card.send(&ethernet(mac(GATEWAY), own, 0x86dd, &udp6((from, 1), (WORLD6, 9), b"probe")));
    let (to, group) = solicited(router);
    let asked = icmp6(from, group, SOLICITATION, &neighbour(0, router, SOURCE, own));
    card.send(&ethernet(to, own, 0x86dd, &asked));
    card.send(&datagram(NEIGHBOUR, WORLD, 9, "marker"));
    assert!(!out.until("marker").iter().any(|frame| has(frame, "probe")));
    assert!(card.drain().is_empty());
}

#[test]
fn policies_of_ipv6_let_through_what_they_name() {
    let world = World::new();
    let plan = |mine: Egress6| world.plan(vec![member6(ME, Egress::None, mine), member6(3, Egress::All, Egress::All)]);
    let first = plan(Egress::None);
    world.bring_about(&first);
    let cards = [world.card(&first, guest(ME)), world.card(&first, guest(3))];
    let out = Wire::tap(&world.out, "out");
    let mine = first.six(first.at(guest(ME)).unwrap()).unwrap();
    let [public, private, metadata, translated] =
        ["2606:4700::1111", "fd12::9", "fd00:ec2::254", "64:ff9b::a09:909"].map(address);
    let everywhere = [(WORLD6, 7), (WORLD6, 9), (public, 7), (private, 7), (metadata, 7), (translated, 7)];
    let rows: &[(Egress6, &[(Ipv6Addr, u16)])] = &[
        (Egress::None, &[]),
        (Egress::All, &[(WORLD6, 7), (WORLD6, 9), (public, 7)]),
        (list6("::/0"), &[(WORLD6, 7), (WORLD6, 9), (public, 7)]),
        (list6("2606:2800::/32:udp/7"), &[(WORLD6, 7)]),
        (list6("2606:2800::/32:7"), &[]),
        (list6("2606:4700::1111 [2606:2800::34]:udp/8-10"), &[(WORLD6, 9), (public, 7)]),
        (list6("fd12::/16:udp/7"), &[(private, 7)]),
        (list6("::/0:udp/7 fd12::9"), &[(WORLD6, 7), (public, 7), (private, 7)]),
        (list6("example.com"), &[]),
    ];
    for (egress, open) in rows {
        let plan = plan(egress.clone());
        world.with(|host| async move { host.judge(&plan, Resolved::default()).await }).unwrap();
        for (to, port) in everywhere {
            let before = world.drops6(&first, ME);
            let probe = ethernet(mac(GATEWAY), mac(guest(ME)), 0x86dd, &udp6((mine, 4000), (to, port), b"probe"));
            cards[0].send(&probe);
            cards[1].send(&datagram(3, WORLD, 9, "marker"));
            let came = out.until("marker").iter().any(|frame| has(frame, "probe"));
            assert_eq!(came, open.contains(&(to, port)), "{egress:?}: {to} port {port}");
            if !came {
                until("it is dropped", || world.drops6(&first, ME) > before);
            }
        }
    }
}

#[test]
fn a_guest_reaches_neither_the_host_nor_another_guest_by_ipv6() {
    let world = World::new();
    let one = |last| member6(last, Egress::All, Egress::All);
    let plan = world.plan(vec![one(ME), one(NEIGHBOUR)]);
    world.bring_about(&plan);
    let [machine, other] = [ME, NEIGHBOUR].map(|last| world.machine(&plan, last));
    let _heard = world.host.run(|| UdpSocket::bind("[::]:7").unwrap());
    let _listeners = [&world.host, &other.ns].map(|ns| ns.run(|| TcpListener::bind("[::]:80").unwrap()));
    let table = plan.names().table();
    let dropped = |chain: &str| world.counted(&format!("list chain inet {table} {chain}"));
    let asker = machine.ns.run(|| UdpSocket::bind("[::]:0").unwrap());
    for (to, chain) in [
        (plan.gateway6().unwrap(), "to_host"),
        (HOST6, "to_host"),
        (plan.six(plan.at(guest(NEIGHBOUR)).unwrap()).unwrap(), "from_guest"),
    ] {
        // Of what it believes to be on its own network it would ask for the card itself, and hear nothing.
        if chain == "from_guest" {
            machine.ns.ip(&format!("-6 route replace {to}/128 via {} dev eth0", plan.gateway6().unwrap()));
        }
        for port in [7, 53, 80] {
            let before = dropped(chain);
            asker.send_to(b"probe", (to, port)).unwrap();
            until("it is dropped", || dropped(chain) > before);
        }
        assert!(
            crate::world::call(&machine.ns, SocketAddr::from((to, 80)), || dropped(chain)).is_none(),
            "{to} was reached"
        );
    }
}

#[test]
fn a_connection_by_ipv6_ends_when_its_policy_is_taken_back() {
    let world = World::new();
    let plan = |egress6| world.plan(vec![member6(ME, Egress::None, egress6)]);
    let open = plan(list6("[2606:2800::34]:443"));
    world.bring_about(&open);
    let machine = world.machine(&open, ME);
    let listener = world.out.run(|| TcpListener::bind("[::]:443").unwrap());
    let mut guest_end = machine.ns.run(|| TcpStream::connect_timeout(&(WORLD6, 443).into(), PATIENCE).unwrap());
    let (mut far_end, from) = listener.accept().unwrap();
    assert_eq!(from.ip(), HOST6, "the world sees the host's address alone");
    let mut bytes = [0; 4];
    guest_end.write_all(b"ping").unwrap();
    far_end.read_exact(&mut bytes).unwrap();
    let closed = plan(Egress::None);
    world.bring_about(&closed);
    guest_end.write_all(b"more").unwrap();
    until("its segments are dropped", || world.drops6(&closed, ME) > 0);
    far_end.set_nonblocking(true).unwrap();
    assert_eq!(far_end.read(&mut bytes).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    world.bring_about(&open);
    far_end.set_nonblocking(false).unwrap();
    far_end.set_read_timeout(Some(PATIENCE)).unwrap();
    far_end.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"more");
}
