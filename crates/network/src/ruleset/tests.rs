use super::*;
use crate::{Forward, Owner, Subnet};
use expect_test::{Expect, expect};
use perigee_model::{GuestId, InstanceId};
use uuid::Uuid;

fn member(last: u8, egress: Egress) -> Member {
    Member {
        guest: GuestId::new(Uuid::from_u128(u128::from(last))),
        address: Ipv4Addr::new(172, 16, 0, last),
        owner: Owner { uid: 64_000, gid: 64_000 },
        up: true,
        egress,
        egress6: None,
        host: vec![],
        forwards: vec![],
    }
}

fn list(openings: &str) -> Egress {
    Egress::List(openings.split(' ').map(|opening| opening.parse().unwrap()).collect())
}

fn plan(members: Vec<Member>) -> Plan {
    let instance = InstanceId::from_bits(0x0a1b_2c3d);
    let subnet = Subnet::choose(None, &[]).unwrap().with6(Subnet::choose6(&instance, &[]).unwrap());
    Plan::new(&instance, subnet, members).unwrap()
}

/// A guest that reaches nothing by IPv4, and this by IPv6.
fn member6(last: u8, openings: &str) -> Member {
    let words: Vec<_> = openings.split(' ').map(str::to_owned).collect();
    Member { egress6: Some(Egress::parse(&words).unwrap()), ..member(last, Egress::None) }
}

/// The lines of one chain or set.
#[track_caller]
fn check(members: Vec<Member>, held: &[Held], block: &str, expected: Expect) {
    let text = Ruleset::tables(&plan(members), Resolved { held, answered: true });
    let lines = text.lines().skip_while(|line| line.trim() != format!("{block} {{")).skip(1);
    let lines: Vec<_> = lines.take_while(|line| line.trim() != "}").map(str::trim).collect();
    assert!(!lines.is_empty(), "no {block} in {text}");
    expected.assert_eq(&(lines.join("\n") + "\n"));
}

fn forward(protocol: Protocol, host_port: u16, guest_port: u16) -> Forward {
    Forward { protocol, host_port, guest_port }
}

#[test]
fn the_whole_of_a_small_plan() {
    let mut one = member(2, list("10.1.0.0/16:5432 1.1.1.1:udp/53,853 *.example.com:443"));
    one.host = vec![Ports::new(Protocol::Tcp, 3128..=3128).unwrap()];
    one.forwards = vec![forward(Protocol::Tcp, 8080, 80)];
    let address = Ipv4Addr::new(93, 184, 216, 34);
    let number = one.names().next().unwrap();
    let held = Held { guest: one.address, number, address: address.into(), fresh_secs: 60, met_secs: 3600 };
    let plan = plan(vec![one, member(3, Egress::None)]);
    expect_test::expect_file!["small.nft"]
        .assert_eq(Ruleset::of(&plan, Resolved { held: &[held], answered: true }).text());
}

#[test]
fn nothing_reaches_nothing() {
    check(
        vec![member(2, Egress::None)],
        &[],
        "chain from_172_16_0_2",
        expect![[r#"
        counter drop
    "#]],
    );
    check(
        vec![member(2, Egress::None)],
        &[],
        "chain to_172_16_0_2",
        expect![[r#"
        counter drop
    "#]],
    );
}

#[test]
fn all_is_the_public_internet() {
    check(
        vec![member(2, Egress::All)],
        &[],
        "chain from_172_16_0_2",
        expect![[r#"
        ip daddr @closed counter drop
        meta nfproto ipv4 accept
        counter drop
    "#]],
    );
    check(
        vec![member(2, Egress::All), member(3, Egress::None)],
        &[],
        "set askers",
        expect![[r#"
        type ipv4_addr
        elements = { 172.16.0.2 }
    "#]],
    );
}

#[test]
fn a_private_network_is_open_only_to_who_names_it() {
    check(
        vec![member(2, list("0.0.0.0/0"))],
        &[],
        "chain from_172_16_0_2",
        expect![[r#"
        ip daddr @closed counter drop
        ip daddr 0.0.0.0/0 accept
        counter drop
    "#]],
    );
    let both = list("0.0.0.0/0:443 10.1.0.0/16 172.0.0.0/8");
    check(
        vec![member(2, both)],
        &[],
        "chain from_172_16_0_2",
        expect![[r#"
        ip daddr 10.1.0.0/16 accept
        ip daddr @closed counter drop
        ip daddr 0.0.0.0/0 tcp dport 443 accept
        ip daddr 172.0.0.0/8 accept
        counter drop
    "#]],
    );
}

#[test]
fn names_have_a_set_for_each_choice_of_ports() {
    let egress = || list("a.com:443 b.com c.com:443,udp/443");
    check(
        vec![member(2, egress())],
        &[],
        "chain from_172_16_0_2",
        expect![[r#"
        ip daddr @closed counter drop
        ct state new ip daddr @fresh_172_16_0_2_a91a2480 tcp dport 443 accept
        ct state established ip daddr @met_172_16_0_2_a91a2480 tcp dport 443 accept
        ct state new ip daddr @fresh_172_16_0_2_ae446138 accept
        ct state established ip daddr @met_172_16_0_2_ae446138 accept
        ct state new ip daddr @fresh_172_16_0_2_e8a46d39 tcp dport 443 accept
        ct state new ip daddr @fresh_172_16_0_2_e8a46d39 udp dport 443 accept
        ct state established ip daddr @met_172_16_0_2_e8a46d39 tcp dport 443 accept
        ct state established ip daddr @met_172_16_0_2_e8a46d39 udp dport 443 accept
        counter drop
    "#]],
    );
    let one = member(2, egress());
    let numbers: Vec<_> = one.names().collect();
    let at = |last: u8, number: usize, fresh_secs| Held {
        guest: Ipv4Addr::new(172, 16, 0, last),
        number: numbers[number],
        address: Ipv4Addr::new(1, 1, 1, number as u8).into(),
        fresh_secs,
        met_secs: 9,
    };
    let held = [at(2, 0, 5), at(2, 1, 0), at(3, 0, 5)];
    let set = |kind: &str, number: usize| format!("set {kind}_172_16_0_2_{:08x}", numbers[number]);
    check(
        vec![one.clone()],
        &held,
        &set("fresh", 0),
        expect![[r#"
        type ipv4_addr
        flags timeout
        elements = { 1.1.1.0 timeout 5s }
    "#]],
    );
    check(
        vec![one.clone()],
        &held,
        &set("fresh", 1),
        expect![[r#"
        type ipv4_addr
        flags timeout
    "#]],
    );
    check(
        vec![one],
        &held,
        &set("met", 1),
        expect![[r#"
        type ipv4_addr
        flags timeout
        elements = { 1.1.1.1 timeout 9s }
    "#]],
    );
}

#[test]
fn without_anybody_who_answers_names_nobody_may_ask() {
    let text = Ruleset::tables(&plan(vec![member(2, Egress::All)]), Resolved::default());
    assert!(text.contains("set askers {\n        type ipv4_addr\n    }"), "{text}");
}

#[test]
fn forwards_open_their_own_ports_both_ways() {
    let mut one = member(2, Egress::None);
    one.forwards =
        vec![forward(Protocol::Tcp, 80, 8080), forward(Protocol::Tcp, 81, 8081), forward(Protocol::Udp, 53, 53)];
    check(
        vec![one.clone()],
        &[],
        "chain forwards",
        expect![[r#"
        tcp dport 80 dnat ip to 172.16.0.2:8080
        tcp dport 81 dnat ip to 172.16.0.2:8081
        udp dport 53 dnat ip to 172.16.0.2:53
    "#]],
    );
    check(
        vec![one.clone()],
        &[],
        "chain from_172_16_0_2",
        expect![[r#"
        ct direction reply ct state established tcp sport 8080-8081 accept
        ct direction reply ct state established udp sport 53 accept
        counter drop
    "#]],
    );
    check(
        vec![one],
        &[],
        "chain to_172_16_0_2",
        expect![[r#"
        ct state related ct status dnat accept
        ct status dnat ct direction original tcp dport 8080-8081 accept
        ct status dnat ct direction original udp dport 53 accept
        counter drop
    "#]],
    );
}

#[test]
fn an_answer_is_put_in_its_sets() {
    let held = Held {
        guest: Ipv4Addr::new(172, 16, 0, 2),
        number: 1,
        address: Ipv4Addr::new(1, 1, 1, 1).into(),
        fresh_secs: 30,
        met_secs: 86_400,
    };
    expect![[r#"
        add element inet perigee_0a1b2c3d fresh_172_16_0_2_00000001 { 1.1.1.1 timeout 1s }
        delete element inet perigee_0a1b2c3d fresh_172_16_0_2_00000001 { 1.1.1.1 }
        add element inet perigee_0a1b2c3d fresh_172_16_0_2_00000001 { 1.1.1.1 timeout 30s }
        add element inet perigee_0a1b2c3d met_172_16_0_2_00000001 { 1.1.1.1 timeout 1s }
        delete element inet perigee_0a1b2c3d met_172_16_0_2_00000001 { 1.1.1.1 }
        add element inet perigee_0a1b2c3d met_172_16_0_2_00000001 { 1.1.1.1 timeout 86400s }
    "#]]
    .assert_eq(Ruleset::opened(plan(vec![]).names(), &[held]).text());
}

#[test]
fn a_set_is_known_by_its_name() {
    let guest = Ipv4Addr::new(172, 16, 0, 2);
    for six in ["", "6"] {
        assert_eq!(set_of(&set_name("fresh", six, guest, 0x1f)), Some((guest, 0x1f, true)));
        assert_eq!(set_of(&set_name("met", six, guest, u32::MAX)), Some((guest, u32::MAX, false)));
    }
    for other in ["closed6", "closed", "askers", "fresh", "fresh_1_2_3_4", "old_1_2_3_4_0000001f", "met_1_2_3_4_xyz"] {
        assert_eq!(set_of(other), None, "{other}");
    }
}

#[test]
fn no_order_and_no_twins_matter() {
    let members = || [member(2, Egress::All), member(9, Egress::None)];
    let mut turned = members();
    turned.reverse();
    assert_eq!(
        Ruleset::of(&plan(members().into()), Resolved::default()),
        Ruleset::of(&plan(turned.into()), Resolved::default())
    );
}

#[test]
fn ipv6_is_there_only_for_who_has_a_policy_of_it() {
    let without = Ruleset::tables(&plan(vec![member(2, Egress::All)]), Resolved { held: &[], answered: true });
    assert!(!without.contains("ip6") && !without.contains("icmpv6"), "{without}");
    let mut one = member6(2, "fd12:3456::/32:5432 [2606:4700::1111]:udp/53,853 *.example.com:443 ::/0:80");
    one.egress = list("*.example.com:443");
    let number = one.names6().next().unwrap();
    let held = |address: &str, met_secs| Held {
        guest: one.address,
        number,
        address: address.parse().unwrap(),
        fresh_secs: 60,
        met_secs,
    };
    let held = [held("93.184.216.34", 3600), held("2606:2800::1", 7200)];
    let plan = plan(vec![one, member6(3, "all"), member(4, Egress::None)]);
    let text = Ruleset::of(&plan, Resolved { held: &held, answered: true });
    expect_test::expect_file!["six.nft"].assert_eq(text.text());
    expect![[r#"
        add element inet perigee_0a1b2c3d fresh6_172_16_0_2_0663821b { 2606:2800::1 timeout 1s }
        delete element inet perigee_0a1b2c3d fresh6_172_16_0_2_0663821b { 2606:2800::1 }
        add element inet perigee_0a1b2c3d fresh6_172_16_0_2_0663821b { 2606:2800::1 timeout 60s }
        add element inet perigee_0a1b2c3d met6_172_16_0_2_0663821b { 2606:2800::1 timeout 1s }
        delete element inet perigee_0a1b2c3d met6_172_16_0_2_0663821b { 2606:2800::1 }
        add element inet perigee_0a1b2c3d met6_172_16_0_2_0663821b { 2606:2800::1 timeout 7200s }
    "#]]
    .assert_eq(Ruleset::opened(plan.names(), &held[1..]).text());
}

#[test]
fn a_private_network_of_ipv6_is_open_only_to_who_names_it() {
    check(
        vec![member6(2, "::/0:443 fd12:3456::/32 fc00::/6")],
        &[],
        "chain from6_172_16_0_2",
        expect![[r#"
        ip6 daddr fd12:3456::/32 accept
        ip6 daddr @closed6 counter drop
        ip6 daddr ::/0 tcp dport 443 accept
        ip6 daddr fc00::/6 accept
        counter drop
    "#]],
    );
    check(
        vec![member6(2, "none")],
        &[],
        "chain to6_172_16_0_2",
        expect![[r#"
        counter drop
    "#]],
    );
}
