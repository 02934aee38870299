//! What is made, and that nothing of it is left.

use crate::card::Card;
use crate::world::{HOST6, WORLD, WORLD6, World, guest, list, list6, member, member6};
use perigee_network::{
    Block, Egress, Forward, Held, Member, Opening, Place, Plan, Ports, Protocol, Resolved, Ruleset, Subnet,
};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

fn two_hundred() -> Vec<Member> {
    let policies = [Egress::None, Egress::All, list("1.1.1.1:443 10.1.0.0/16 pypi.org:443 *.debian.org:80,443")];
    (2..202).map(|last| member(last, policies[usize::from(last) % 3].clone())).collect()
}

#[test]
fn two_hundred_guests_come_and_go_without_rest() {
    let world = World::new();
    let before = world.host.inventory();
    let plan = world.plan(two_hundred());
    let again = &plan.clone();
    let begun = Instant::now();
    world.bring_about(&plan);
    let made = begun.elapsed();
    let taps = world.host.ip("-o link show type tun").lines().count();
    assert_eq!(taps, 200);
    let steps = world.with(|host| async move { host.bring_about(&plan, Resolved::default()).await }).unwrap();
    assert_eq!(steps.len(), 1, "only the rules are said again: {steps:?}");
    let begun = Instant::now();
    world.with(|host| async move { host.judge(again, Resolved::default()).await }).unwrap();
    println!("the rules of 200 guests replaced in {:?}", begun.elapsed());
    let begun = Instant::now();
    world.with(|host| async move { host.take_away().await }).unwrap();
    println!("200 TAPs made in {made:?}, taken away in {:?}", begun.elapsed());
    assert_eq!(world.host.inventory(), before);
}

#[test]
fn what_is_listed_is_what_was_said() {
    let world = World::new();
    let mut some =
        vec![member(2, Egress::All), member(3, Egress::None), member(9, list("1.1.1.1:443 a.com:80,443 0.0.0.0/0"))];
    some[0].host = vec![Ports::new(Protocol::Tcp, 3128..=3130).unwrap()];
    some[0].egress6 = Some(Egress::All);
    some[1].egress6 = Some(Egress::None);
    some[2].egress6 = Some(list6("fd12::/16:5432 [2606:4700::1111]:udp/53 a.com:80,443 ::/0"));
    some[1].forwards = vec![Forward { protocol: Protocol::Tcp, host_port: 8080, guest_port: 80 }];
    let plan = world.plan(some);
    world.bring_about(&plan);
    let table = plan.names().table();
    let listed = ["bridge", "inet"].map(|family| world.host.tool("nft", &format!("-s list table {family} {table}")));
    let words = |text: &str| {
        text.split_whitespace().collect::<Vec<_>>().join(" ").replace(" counter packets 0 bytes 0", " counter")
    };
    let (said, listed) = (words(&Ruleset::tables(&plan, Resolved::default())), words(&listed.concat()));
    assert_eq!(said, listed);
}

#[test]
fn a_tap_is_opened_by_its_owner_alone() {
    let world = World::new();
    let plan = world.plan(vec![member(2, Egress::None)]);
    world.bring_about(&plan);
    let tap = plan.tap(plan.at(guest(2)).unwrap());
    let shown = world.host.ip(&format!("-d -o link show {tap}"));
    for word in ["tun type tap", "user 64000", "group 64000", "isolated on", "learning off", " flood off", "persist on"]
    {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    drop(Card::open(&world.host, tap.as_str()));
}

#[test]
fn there_is_no_ipv6() {
    let world = World::new();
    let plan = world.plan(vec![member(2, Egress::All)]);
    world.bring_about(&plan);
    let _card = world.card(&plan, guest(2));
    for device in [plan.names().bridge(), plan.tap(plan.at(guest(2)).unwrap())] {
        assert_eq!(world.host.ip(&format!("-6 addr show dev {device}")), "", "{device}");
    }
    assert!(world.host.ip("-6 addr show dev uplink").contains("fe80::"), "negative control");
}

#[test]
fn ipv6_comes_with_who_has_it_and_goes_with_the_last() {
    let world = World::new();
    let [with, without] = [Some(Egress::All), None]
        .map(|egress6| world.plan(vec![Member { egress6, ..member(2, Egress::All) }, member(3, Egress::All)]));
    let bridge = with.names().bridge();
    let addresses = |device: &str| {
        let shown = world.host.ip(&format!("-6 -o addr show dev {device}"));
        let words = shown.lines().map(|line| line.split_whitespace().nth(3).unwrap().to_owned());
        words.collect::<Vec<_>>()
    };
    let switch = |device: &str, what: &str| {
        let path = format!("/proc/sys/net/ipv6/conf/{device}/{what}");
        world.host.run(|| std::fs::read_to_string(path).unwrap().trim().to_owned())
    };
    assert_eq!((switch("all", "forwarding"), switch("uplink", "accept_ra")), ("0".into(), "1".into()));
    for _ in 0..2 {
        world.bring_about(&with);
        assert_eq!(addresses(bridge.as_str()), ["fd70:a1b:2c3d::ac10:1/64"], "and none that it made itself");
        for member in with.members() {
            assert_eq!(addresses(with.tap(member).as_str()), [""; 0]);
        }
        world.bring_about(&without);
        assert_eq!(addresses(bridge.as_str()), [""; 0]);
        assert!(!world.host.tool("nft", "list ruleset").contains("ip6 "));
    }
    // The host goes on to hear of its own routers.
    assert_eq!((switch("all", "forwarding"), switch("uplink", "accept_ra")), ("1".into(), "2".into()));
    assert!(addresses("uplink").contains(&format!("{HOST6}/64")));
    // Somebody's hand in it is made good.
    world.bring_about(&with);
    world.host.ip(&format!("link set dev {bridge} down"));
    let again = with.clone();
    let steps = world.with(|host| async move { host.bring_about(&again, Resolved::default()).await }).unwrap();
    assert!(steps.iter().any(|step| step.to_string() == "the bridge spoke no IPv6"), "{steps:?}");
    assert_eq!(addresses(bridge.as_str()), ["fd70:a1b:2c3d::ac10:1/64"]);
    let again = with.clone();
    let steps = world.with(|host| async move { host.bring_about(&again, Resolved::default()).await }).unwrap();
    assert_eq!(steps.len(), 1, "only the rules are said again: {steps:?}");
}

#[test]
fn a_subnet_is_chosen_beside_what_the_host_has() {
    let world = World::new();
    world.host.ip("addr add 172.16.0.77/30 dev uplink");
    world.host.ip("route add blackhole 172.16.1.0/24");
    let free =
        |world: &World| world.with(|host| async move { Subnet::choose(None, &host.taken().await.unwrap()).unwrap() });
    let subnet = free(&world);
    assert_eq!(subnet.block().to_string(), "172.16.2.0/24");
    let plan = Plan::new(&world.instance, subnet, vec![]).unwrap();
    world.bring_about(&plan);
    assert_eq!(free(&world), subnet, "what is our own is not in our way");
    let mut other = World::of(world.host.clone());
    other.instance = perigee_model::InstanceId::from_bits(9);
    assert_eq!(free(&other).block().to_string(), "172.16.3.0/24", "but in another's");
    let free6 = || {
        let taken = world.with(|host| async move { host.taken6().await.unwrap() });
        Subnet::choose6(&world.instance, &taken).unwrap().to_string()
    };
    assert_eq!(free6(), "fd70:a1b:2c3d::/64");
    world.host.ip("-6 addr add fd70:a1b:2c3d::7/127 dev uplink nodad");
    assert_eq!(free6(), "fd70:a1b:2c3d:1::/64");
    world.bring_about(&world.plan(vec![member6(2, Egress::None, Egress::None)]));
    assert_eq!(free6(), "fd70:a1b:2c3d:1::/64", "what is our own is not in our way, what is another's is");
}

/// Whatever a policy may say, `nft` takes it.
#[test]
fn every_plan_is_a_ruleset() {
    let place = prop_oneof![
        "[a-c]\\.(com|org)",
        "\\*\\.[a-c]\\.com",
        any::<(u32, u8)>()
            .prop_map(|(first, bits)| { Block::around(Ipv4Addr::from_bits(first), bits % 33).to_string() })
    ];
    let ports = prop::collection::vec((any::<bool>(), 1u16..2000, 0u16..100), 0..4);
    let opening = (place, ports).prop_filter_map("closed to all", |(place, ports)| {
        let range =
            |(udp, first, more)| Ports::new(if udp { Protocol::Udp } else { Protocol::Tcp }, first..=first + more);
        let place = place.parse().map(Place::Block).or_else(|_| place.parse().map(Place::Domain)).unwrap();
        Opening::new(place, ports.into_iter().filter_map(range).collect()).ok()
    });
    let place6 = prop_oneof![
        "[a-c]\\.com(:443)?",
        any::<(u128, u8)>().prop_map(|(first, bits)| Block::around(Ipv6Addr::from_bits(first), bits % 129).to_string()),
        any::<(u128, u8)>().prop_map(|(first, bits)| {
            let global = first >> 3 | 1 << 125;
            format!("{}:1-9,udp/53", Block::around(Ipv6Addr::from_bits(global), bits % 129))
        }),
    ];
    let opening6 = place6.prop_filter_map("closed to all", |text| text.parse::<Opening<Ipv6Addr>>().ok());
    let six = prop::option::of(prop::collection::vec(opening6, 0..6));
    let guest = (prop::collection::vec(opening, 0..6), six, prop::collection::vec(1u16..100, 0..3));
    let world = World::new();
    let mut runner =
        TestRunner::new_with_rng(ProptestConfig::with_cases(64), TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let taken = runner.run(&prop::collection::vec(guest, 1..4), |guests| {
        type Parts = (Vec<Opening>, Option<Vec<Opening<Ipv6Addr>>>, Vec<u16>);
        let one = |(index, (list, six, ports)): (usize, Parts)| {
            let host: Vec<_> = ports.iter().filter_map(|port| Ports::new(Protocol::Tcp, *port..=port + 50)).collect();
            let host_port = |at: usize| 8000 + (index * 10 + at) as u16;
            let forward = |(at, port)| Forward { protocol: Protocol::Udp, host_port: host_port(at), guest_port: port };
            let forwards = ports.into_iter().enumerate().map(forward).collect();
            let egress6 = six.map(Egress::List);
            Member { host, forwards, egress6, ..member(2 + index as u8, Egress::List(list)) }
        };
        let plan = world.plan(guests.into_iter().enumerate().map(one).collect());
        let names = |member: &Member| {
            let four = member.names().map(|number| (number, IpAddr::V4(WORLD)));
            four.chain(member.names6().map(|number| (number, IpAddr::V6(WORLD6)))).collect::<Vec<_>>()
        };
        let one = |guest, (number, address)| Held { guest, number, address, fresh_secs: 9, met_secs: 99 };
        let of = |member: &Member| names(member).into_iter().map(|name| one(member.address, name)).collect::<Vec<_>>();
        let held: Vec<_> = plan.members().flat_map(of).collect();
        let judged = world.with(|host| async {
            let host = host;
            host.judge(&plan, Resolved { held: &held, answered: true }).await
        });
        judged.map_err(|error| TestCaseError::fail(error.to_string()))
    });
    taken.unwrap();
}
