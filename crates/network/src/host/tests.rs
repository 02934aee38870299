//! What is done, from what should be and what is.

use super::found::{Bridge, Found, Tap};
use super::*;
use crate::plan::tests::member;
use crate::{Egress, Member, Subnet, mac_of};
use expect_test::{Expect, expect};
use std::net::{IpAddr, Ipv4Addr};

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 16, 0, last)
}

fn plan(lasts: &[u8]) -> Plan {
    crate::plan::tests::plan(lasts.iter().map(|last| member((*last).into(), *last, &[])).collect())
}

/// The same, where those that are listed here have IPv6, too.
fn plan6(lasts: &[u8], with: &[u8]) -> Plan {
    let instance = InstanceId::from_bits(7);
    let subnet = plan(&[]).subnet().with6(Subnet::choose6(&instance, &[]).unwrap());
    let one = |last: &u8| {
        let egress6 = with.contains(last).then_some(Egress::None);
        Member { egress6, ..member((*last).into(), *last, &[]) }
    };
    Plan::new(&instance, subnet, lasts.iter().map(one).collect()).unwrap()
}

/// The kernel as it is when a plan has been brought about.
fn done(plan: &Plan) -> Found {
    let gateway = plan.subnet().gateway();
    let tap = |member: &Member| Tap {
        index: u32::from(member.address.octets()[3]),
        on: Some(1),
        apart: true,
        up: member.up,
        owner: Some(member.owner),
        known: [member.mac()].into(),
    };
    let bridge = Bridge {
        index: 1,
        mac: Some(mac_of(gateway)),
        up: true,
        six: plan.block6().is_some(),
        addresses: found::wanted(plan).into_iter().collect(),
        neighbours: plan
            .members()
            .flat_map(|member| plan.addresses_of(member).map(|address| (address, member.mac())))
            .collect(),
    };
    let taps = plan.members().map(|member| (plan.tap(member), tap(member))).collect();
    let forwarding6 = plan.block6().is_some();
    Found { forwarding: true, forwarding6, rules: true, bridge: Some(bridge), taps }
}

/// Names of guests' devices as `tap2`.
fn words(step: &Step) -> String {
    let tap = |name: &DeviceName| format!("tap{}", name.as_str()[9..].trim_start_matches('0'));
    match step {
        Step::TakeTaps(names) => format!("take {}", names.iter().map(tap).collect::<Vec<_>>().join(" ")),
        Step::TakeBridge => "take the bridge".to_owned(),
        Step::Forget(address) => format!("forget {address}"),
        Step::Forward => "forward".to_owned(),
        Step::Forward6 => "forward IPv6".to_owned(),
        Step::Speak6 => "the bridge speaks IPv6".to_owned(),
        Step::Hush6 => "the bridge speaks no IPv6".to_owned(),
        Step::MakeBridge(_) => "make the bridge".to_owned(),
        Step::Address(address, _) => format!("address {address}"),
        Step::RaiseBridge => "raise the bridge".to_owned(),
        Step::Rules(ruleset) if ruleset.text().contains("chain") => "rules".to_owned(),
        Step::Rules(_) => "no rules".to_owned(),
        Step::MakeTap(name, owner) => format!("make {} for {}", tap(name), owner.uid),
        Step::Attach(name) => format!("attach {}", tap(name)),
        Step::Know(name, mac) => format!("{} is behind {}", mac, tap(name)),
        Step::Meet(address, mac) => format!("{address} is {mac}"),
        Step::Raise(name) => format!("raise {}", tap(name)),
        Step::Lower(name) => format!("lower {}", tap(name)),
    }
}

fn check(plan: Option<&Plan>, found: &Found, expected: Expect) {
    let names = Names::of(&InstanceId::from_bits(7));
    let steps: Vec<_> =
        steps(plan.map(|plan| (plan, crate::Resolved::default())), &names, found).iter().map(words).collect();
    expected.assert_eq(&steps.join("\n"));
}

#[test]
fn from_nothing_and_back() {
    check(
        Some(&plan(&[2])),
        &Found::default(),
        expect![[r#"
        forward
        make the bridge
        address 172.16.0.1
        raise the bridge
        rules
        make tap2 for 1
        attach tap2
        52:54:00:10:00:02 is behind tap2
        172.16.0.2 is 52:54:00:10:00:02
        raise tap2"#]],
    );
    check(
        None,
        &done(&plan(&[2, 3])),
        expect![[r#"
        take tap2 tap3
        take the bridge
        no rules"#]],
    );
    check(None, &Found::default(), expect![[""]]);
}

#[test]
fn where_all_is_done_only_the_rules_are_said_again() {
    check(Some(&plan(&[2, 3])), &done(&plan(&[2, 3])), expect!["rules"]);
}

#[test]
fn ipv6_comes_with_the_first_that_has_it_and_goes_with_the_last() {
    check(
        Some(&plan6(&[2], &[2])),
        &Found::default(),
        expect![[r#"
            forward
            forward IPv6
            make the bridge
            address 172.16.0.1
            raise the bridge
            the bridge speaks IPv6
            address fd70:0:7::ac10:1
            rules
            make tap2 for 1
            attach tap2
            52:54:00:10:00:02 is behind tap2
            172.16.0.2 is 52:54:00:10:00:02
            fd70:0:7::ac10:2 is 52:54:00:10:00:02
            raise tap2"#]],
    );
    check(Some(&plan6(&[2, 3], &[3])), &done(&plan6(&[2, 3], &[3])), expect!["rules"]);
    let mut found = done(&plan6(&[2, 3], &[]));
    found.forwarding6 = true;
    check(
        Some(&plan6(&[2, 3], &[3])),
        &found,
        expect![[r#"
            the bridge speaks IPv6
            address fd70:0:7::ac10:1
            rules
            fd70:0:7::ac10:3 is 52:54:00:10:00:03"#]],
    );
    check(
        Some(&plan6(&[2, 3], &[2])),
        &done(&plan6(&[2, 3], &[2, 3])),
        expect![[r#"
            forget fd70:0:7::ac10:3
            rules"#]],
    );
    check(
        Some(&plan6(&[2, 3], &[])),
        &done(&plan6(&[2, 3], &[2, 3])),
        expect![[r#"
            the bridge speaks no IPv6
            rules"#]],
    );
    let mut found = done(&plan6(&[2], &[2]));
    found.bridge.as_mut().unwrap().up = false;
    check(
        Some(&plan6(&[2], &[2])),
        &found,
        expect![[r#"
            raise the bridge
            the bridge speaks IPv6
            address fd70:0:7::ac10:1
            rules
            fd70:0:7::ac10:2 is 52:54:00:10:00:02"#]],
    );
}

#[test]
fn one_goes_and_one_comes() {
    check(
        Some(&plan(&[3])),
        &done(&plan(&[2])),
        expect![[r#"
        take tap2
        forget 172.16.0.2
        rules
        make tap3 for 1
        attach tap3
        52:54:00:10:00:03 is behind tap3
        172.16.0.3 is 52:54:00:10:00:03
        raise tap3"#]],
    );
}

#[test]
fn a_bridge_of_another_subnet_is_made_anew() {
    let mut found = done(&plan(&[2]));
    let bridge = found.bridge.as_mut().unwrap();
    bridge.mac = Some(mac_of(Ipv4Addr::new(172, 16, 1, 1)));
    bridge.addresses = [(IpAddr::from([172, 16, 1, 1]), 24)].into();
    check(
        Some(&plan(&[2])),
        &found,
        expect![[r#"
        take the bridge
        make the bridge
        address 172.16.0.1
        raise the bridge
        rules
        attach tap2
        52:54:00:10:00:02 is behind tap2
        172.16.0.2 is 52:54:00:10:00:02"#]],
    );
}

#[test]
fn what_somebody_changed_is_put_right() {
    let tap = |change: fn(&mut Tap)| {
        let mut found = done(&plan(&[2]));
        found.taps.values_mut().for_each(change);
        found
    };
    check(
        Some(&plan(&[2])),
        &tap(|tap| tap.apart = false),
        expect![[r#"
        rules
        attach tap2"#]],
    );
    check(
        Some(&plan(&[2])),
        &tap(|tap| tap.on = Some(9)),
        expect![[r#"
            rules
            attach tap2
            52:54:00:10:00:02 is behind tap2"#]],
    );
    check(
        Some(&plan(&[2])),
        &tap(|tap| tap.up = false),
        expect![[r#"
        rules
        raise tap2"#]],
    );
    check(
        Some(&plan(&[2])),
        &tap(|tap| tap.owner = None),
        expect![[r#"
        take tap2
        rules
        make tap2 for 1
        attach tap2
        52:54:00:10:00:02 is behind tap2
        raise tap2"#]],
    );
    check(
        Some(&plan(&[2])),
        &tap(|tap| tap.known = [mac_of(address(9))].into()),
        expect![[r#"
        take tap2
        rules
        make tap2 for 1
        attach tap2
        52:54:00:10:00:02 is behind tap2
        raise tap2"#]],
    );
}

#[test]
fn a_guest_that_is_not_ready_is_not_on_the_network() {
    let mut later: Vec<_> = plan(&[2]).members().cloned().collect();
    later[0].up = false;
    let later = Plan::new(&InstanceId::from_bits(7), plan(&[]).subnet(), later).unwrap();
    check(
        Some(&later),
        &done(&plan(&[2])),
        expect![[r#"
        rules
        lower tap2"#]],
    );
    check(Some(&later), &done(&later), expect!["rules"]);
}
