//! What is made, and that nothing of it is left.

use crate::card::Card;
use crate::world::{World, guest, list, member};
use perigee_network::{Egress, Member, Resolved, Ruleset};
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
    some[0].host = vec![perigee_network::Ports::new(perigee_network::Protocol::Tcp, 3128..=3130).unwrap()];
    some[1].forwards =
        vec![perigee_network::Forward { protocol: perigee_network::Protocol::Tcp, host_port: 8080, guest_port: 80 }];
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
