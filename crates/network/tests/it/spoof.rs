//! What a guest may put on the wire: frames as a hostile one would write them, and where they come out.

use crate::card::Card;
use crate::frames::{Arp, BROADCAST, MacBytes, ethernet, ipv4, mac, ping, udp};
use crate::world::{GATEWAY, HOST, WORLD, Wire, World, datagram, guest, has, member, until};
use perigee_network::{Egress, Plan};
use std::net::Ipv4Addr;

const ME: u8 = 2;
const NEIGHBOUR: u8 = 3;
const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const ALL: Ipv4Addr = Ipv4Addr::BROADCAST;

struct Scene {
    world: World,
    plan: Plan,
    card: Card,
    neighbour: Card,
    out: Wire,
    host: Wire,
}

impl Scene {
    /// Two guests that may reach all of the world; what the host's own programs would be given is watched at the
    /// bridge, behind its rules.
    fn new() -> Self {
        let world = World::new();
        let plan = world.plan(vec![member(ME, Egress::All), member(NEIGHBOUR, Egress::All)]);
        world.bring_about(&plan);
        let (card, neighbour) = (world.card(&plan, guest(ME)), world.card(&plan, guest(NEIGHBOUR)));
        let (out, host) = (Wire::tap(&world.out, "out"), Wire::tap(&world.host, plan.names().bridge().as_str()));
        Self { world, plan, card, neighbour, out, host }
    }

    /// Sends a frame, then one that arrives; what came before that one, at each place.
    fn send(&self, frame: &[u8]) -> Seen {
        self.card.send(frame);
        self.card.send(&datagram(ME, WORLD, 9, "marker"));
        let mut out = self.out.until("marker");
        // The world and the host speak with one another there.
        out.retain(|frame| has(frame, "probe"));
        Seen { out, bridge: self.host.until("marker"), neighbour: self.neighbour.drain(), back: self.card.drain() }
    }
}

struct Seen {
    out: Vec<Vec<u8>>,
    bridge: Vec<Vec<u8>>,
    neighbour: Vec<Vec<u8>>,
    back: Vec<Vec<u8>>,
}

fn packet(to: MacBytes, from: MacBytes, source: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    ethernet(to, from, 0x0800, &ipv4(source, target, 17, &udp(68, 67, b"probe")))
}

fn arp(operation: u16, from: (MacBytes, Ipv4Addr), to: (MacBytes, Ipv4Addr)) -> Vec<u8> {
    ethernet(BROADCAST, from.0, 0x0806, &Arp { operation, from, to }.body())
}

#[test]
fn only_its_own_address_leaves_a_guest() {
    let scene = Scene::new();
    let (me, other, gateway) = (mac(guest(ME)), mac(guest(NEIGHBOUR)), mac(GATEWAY));
    let nobody = [0; 6];
    let vlan = |id| [&[0x20, id, 0x08, 0][..], &ipv4(guest(ME), WORLD, 17, &udp(1, 2, b"probe"))].concat();
    let icmp6 = [&[0x60, 0, 0, 0, 0, 8, 58, 255][..], &[0xfe; 16], &[0xff; 16], b"probe..."].concat();
    let rows: &[(&str, Vec<u8>)] = &[
        ("another's hardware address", packet(gateway, other, guest(ME), WORLD)),
        ("a new hardware address", packet(gateway, [2, 0, 0, 0, 0, 9], guest(ME), WORLD)),
        ("another's address", packet(gateway, me, guest(NEIGHBOUR), WORLD)),
        ("the gateway's address", packet(gateway, me, GATEWAY, WORLD)),
        ("a public address", packet(gateway, me, Ipv4Addr::new(8, 8, 8, 8), WORLD)),
        ("no address", packet(BROADCAST, me, ANY, ALL)),
        ("to all on the network", packet(BROADCAST, me, guest(ME), ALL)),
        ("to a group", packet([1, 0, 0x5e, 0, 0, 0xfb], me, guest(ME), Ipv4Addr::new(224, 0, 0, 251))),
        ("straight to the neighbour", packet(other, me, guest(ME), guest(NEIGHBOUR))),
        ("a DHCP server's offer", ethernet(BROADCAST, me, 0x0800, &ipv4(guest(ME), ALL, 17, &udp(67, 68, b"probe")))),
        ("ARP as the gateway", arp(2, (me, GATEWAY), (other, guest(NEIGHBOUR)))),
        ("ARP as the neighbour", arp(2, (me, guest(NEIGHBOUR)), (gateway, GATEWAY))),
        ("ARP with another's hardware address within", {
            let body = Arp { operation: 2, from: (other, guest(ME)), to: (gateway, GATEWAY) }.body();
            ethernet(gateway, me, 0x0806, &body)
        }),
        ("ARP for the neighbour", arp(1, (me, guest(ME)), (nobody, guest(NEIGHBOUR)))),
        ("ARP about itself", arp(1, (me, guest(ME)), (nobody, guest(ME)))),
        ("reverse ARP", arp(3, (me, guest(ME)), (nobody, GATEWAY))),
        ("IPv6", ethernet([0x33, 0x33, 0, 0, 0, 1], me, 0x86dd, &icmp6)),
        ("a VLAN", ethernet(gateway, me, 0x8100, &vlan(5))),
        ("no VLAN, but a priority", ethernet(gateway, me, 0x8100, &vlan(0))),
        ("a provider's VLAN", ethernet(gateway, me, 0x88a8, &vlan(5))),
        ("spanning tree", ethernet([1, 0x80, 0xc2, 0, 0, 0], me, 0x0027, b"probe")),
        ("link aggregation", ethernet([1, 0x80, 0xc2, 0, 0, 2], me, 0x8809, b"probe")),
        ("a login to the port", ethernet([1, 0x80, 0xc2, 0, 0, 3], me, 0x888e, b"probe")),
        ("LLDP", ethernet([1, 0x80, 0xc2, 0, 0, 0x0e], me, 0x88cc, b"probe")),
        ("an unknown protocol", ethernet(gateway, me, 0x1234, b"probe")),
    ];
    let dropped = || scene.world.counted(&format!("list table bridge {}", scene.plan.names().table()));
    for (what, frame) in rows {
        let before = dropped();
        let seen = scene.send(frame);
        assert!(seen.out.is_empty(), "{what} came out: {:02x?}", seen.out);
        assert!(seen.bridge.is_empty(), "{what} came to the host: {:02x?}", seen.bridge);
        assert!(seen.neighbour.is_empty(), "{what} came to the neighbour: {:02x?}", seen.neighbour);
        assert!(seen.back.is_empty(), "{what} was answered: {:02x?}", seen.back);
        until(what, || dropped() > before);
    }
}

#[test]
fn what_a_guest_needs_comes_through() {
    let scene = Scene::new();
    let me = (mac(guest(ME)), guest(ME));
    let seen = scene.send(&arp(1, me, ([0; 6], GATEWAY)));
    let answer =
        ethernet(me.0, mac(GATEWAY), 0x0806, &Arp { operation: 2, from: (mac(GATEWAY), GATEWAY), to: me }.body());
    assert_eq!(seen.back, [answer], "the gateway is found");
    assert!(seen.neighbour.is_empty(), "and nobody else hears of it");
    let seen = scene.send(&datagram(ME, WORLD, 7, "a probe"));
    let [frame] = seen.out.as_slice() else { panic!("{:02x?}", seen.out) };
    assert!(has(frame, "a probe"));
    assert_eq!(frame[26..30], HOST.octets(), "it comes from the host's address");
    // The world answers a ping, and the answer finds the guest.
    let echo = ipv4(guest(ME), WORLD, 1, &ping(b"are you there"));
    scene.card.send(&ethernet(mac(GATEWAY), me.0, 0x0800, &echo));
    let answer = scene.card.receive(crate::world::PATIENCE).expect("an answer");
    assert!(has(&answer, "are you there"));
    assert_eq!(answer[0..6], me.0);
    assert_eq!(answer[26..34], [WORLD.octets(), guest(ME).octets()].concat());
}

#[test]
fn a_tap_off_its_bridge_leads_nowhere() {
    let scene = Scene::new();
    let tap = scene.plan.tap(scene.plan.at(guest(ME)).unwrap());
    // Somebody took it off its bridge, and routes back to it.
    scene.world.host.ip(&format!("link set dev {tap} nomaster"));
    let device = Wire::tap(&scene.world.out, "out");
    let hardware = scene.world.host.ip(&format!("-br link show {tap}"));
    let bytes: Vec<_> =
        hardware.split_whitespace().nth(2).unwrap().split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
    let before = packet(bytes.try_into().unwrap(), mac(guest(ME)), guest(ME), WORLD);
    scene.card.send(&before);
    scene.world.bring_about(&scene.plan);
    scene.card.send(&datagram(ME, WORLD, 9, "marker"));
    assert!(!device.until("marker").iter().any(|frame| has(frame, "probe")));
    // Put back on its bridge it is a guest's again: the plan said so.
    assert!(
        scene
            .world
            .host
            .ip(&format!("-o link show {tap}"))
            .contains(&format!("master {}", scene.plan.names().bridge()))
    );
}
