//! The cards of a host, in a network namespace of its own.

use crate::ns::Ns;
use perigee_agent::{Cards, HostCards, Kept, Stage};
use perigee_hypervisor::Nic;
use perigee_model::{Egress, Forward, GuestId, InstanceId, Reach};
use std::net::TcpListener;
use uuid::Uuid;

/// How many come and go.
const CYCLES: u128 = 50;

fn guest(number: u128) -> GuestId {
    GuestId::new(Uuid::from_u128(number))
}

fn words(words: &str) -> Vec<String> {
    words.split_whitespace().map(str::to_owned).collect()
}

fn egress(policy: &str) -> Reach {
    Reach { egress: Egress::parse(&words(policy)).unwrap(), egress6: None }
}

/// The same of both families.
fn both(policy: &str, policy6: &str) -> Reach {
    Reach { egress6: Some(Egress::parse(&words(policy6)).unwrap()), ..egress(policy) }
}

fn forwards(words: &str) -> Vec<Forward> {
    words.split_whitespace().map(|word| word.parse().unwrap()).collect()
}

fn cards() -> HostCards {
    HostCards::new(InstanceId::from_bits(0xca4d))
}

#[test]
fn fifty_come_and_go_and_nothing_stays_behind() {
    let host = Ns::new();
    let before = host.inventory();
    host.block_on(|| async {
        let cards = cards();
        let policies = ["none", "all", "a.com:443 10.1.0.0/16 1.1.1.1:udp/53"].map(egress);
        let policies = [&policies[..], &[both("none", "a.com:443 2606:4700::/32")]].concat();
        // Three are there at a time.
        for number in 1..=CYCLES {
            let policy = &policies[(number % 4) as usize];
            cards.plug(guest(number), policy).await.unwrap();
            let port = format!("{}:80", 8000 + number);
            assert_eq!(cards.raise(guest(number), policy, &forwards(&port)).await.unwrap(), forwards(&port));
            if number > 2 {
                cards.unplug(guest(number - 2)).await.unwrap();
            }
        }
        for number in [CYCLES - 1, CYCLES] {
            cards.unplug(guest(number)).await.unwrap();
        }
    });
    assert_eq!(host.inventory(), before);
}

#[test]
fn a_port_has_one_owner() {
    let host = Ns::new();
    let _own = host.run(|| TcpListener::bind("0.0.0.0:9090").unwrap());
    host.block_on(|| async {
        let cards = cards();
        let none = egress("none");
        for number in [1, 2] {
            cards.plug(guest(number), &none).await.unwrap();
        }
        let led = async |number, words: &str| {
            let led = cards.raise(guest(number), &none, &forwards(words)).await.unwrap();
            led.iter().map(Forward::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(led(1, "8080:80 9090:80").await, "tcp/8080:80", "a program of the host has the other");
        assert_eq!(led(2, "8080:80 udp/8080:80").await, "udp/8080:80", "another guest has it");
        assert_eq!(led(1, "8081:80").await, "tcp/8081:80");
        assert_eq!(led(2, "8080:80 udp/8080:80").await, "tcp/8080:80 udp/8080:80", "it was let go");
    });
}

#[test]
fn a_new_life_takes_up_what_lives_and_a_plan_changes_nothing() {
    let host = Ns::new();
    let rules = || host.tool("nft", "-s list ruleset");
    let all = egress("all");
    let (nic, planned) = host.block_on(|| async {
        let cards = cards();
        let nic = cards.plug(guest(1), &all).await.unwrap();
        cards.raise(guest(1), &all, &forwards("8080:80")).await.unwrap();
        (nic, cards.plan(guest(2), &egress("none"), &forwards("81:80")).await.unwrap())
    });
    let before = rules();
    assert!(before.contains("tcp dport 8080 dnat ip to 172.16.0.2:80"), "{before}");
    assert!(planned.contains("tcp dport 81 dnat ip to 172.16.0.3:80") && !planned.contains("8080"), "{planned}");
    assert!(!before.contains("172.16.0.3"), "{before}");
    let again = host.block_on(|| async {
        let cards = cards();
        let address = nic.address;
        let kept =
            Kept { guest: guest(1), address, reach: all.clone(), forwards: forwards("8080:80"), stage: Stage::Up };
        cards.restore(vec![kept]).await.unwrap();
        (cards.look().await.unwrap(), cards.plug(guest(1), &all).await.unwrap().address)
    });
    assert_eq!(again, (String::new(), nic.address));
}

#[test]
fn ipv6_is_of_who_has_a_policy_of_it_and_outlives_an_agent() {
    let host = Ns::new();
    // Somebody else has the first that would be ours.
    host.ip("link add other type veth peer name end");
    host.ip("link set other up");
    host.ip("-6 route add fd70:0:ca4d::/64 dev other");
    let all = both("none", "all");
    let nics = host.block_on(|| async {
        let cards = cards();
        let none = cards.plug(guest(1), &egress("all")).await.unwrap();
        (none, cards.plug(guest(2), &all).await.unwrap())
    });
    let six = nics.1.six.unwrap();
    let said = format!("{}/{} {}", six.address, six.network_bits, six.gateway);
    assert_eq!((nics.0.six, said.as_str()), (None, "fd70:0:ca4d:1::ac10:3/64 fd70:0:ca4d:1::ac10:1"));
    // Meanwhile the other went: who lives keeps what it has.
    host.ip("link del other");
    let again = host.block_on(|| async {
        let cards = cards();
        let kept = |number, address, reach: &Reach| Kept {
            guest: guest(number),
            address,
            reach: reach.clone(),
            forwards: Vec::new(),
            stage: Stage::Up,
        };
        cards.restore(vec![kept(2, nics.1.address, &all)]).await.unwrap();
        let again = cards.plug(guest(2), &all).await.unwrap().six;
        let planned = cards.plan(guest(3), &both("none", "[2606:4700::1111]:443"), &[]).await.unwrap();
        assert!(planned.contains("ip6 daddr 2606:4700::1111 tcp dport 443 accept"), "{planned}");
        cards.unplug(guest(2)).await.unwrap();
        again
    });
    assert_eq!(again, Some(six));
}

#[test]
fn what_others_did_is_made_good_and_told() {
    let host = Ns::new();
    let all = egress("all");
    host.block_on(|| async {
        let cards = cards();
        let nic = cards.plug(guest(1), &all).await.unwrap();
        cards.raise(guest(1), &all, &[]).await.unwrap();
        assert_eq!(cards.look().await.unwrap(), "");
        host.tool("nft", "flush ruleset");
        host.ip(&format!("link set {} down", nic.tap));
        let told = cards.look().await.unwrap();
        assert!(told.contains("the rules were gone") && told.contains(&format!("{} was down", nic.tap)), "{told}");
        assert_eq!(cards.look().await.unwrap(), "");
        cards.unplug(guest(1)).await.unwrap();
    });
}

#[test]
fn who_is_off_has_no_card_and_keeps_its_address() {
    let host = Ns::new();
    let before = host.inventory();
    let none = egress("none");
    let kept = |number, nic: &Nic, stage| Kept {
        guest: guest(number),
        address: nic.address,
        reach: none.clone(),
        forwards: Vec::new(),
        stage,
    };
    let (one, two) = host.block_on(|| async {
        let cards = cards();
        let one = cards.plug(guest(1), &none).await.unwrap();
        let two = cards.plug(guest(2), &none).await.unwrap();
        cards.raise(guest(1), &none, &[]).await.unwrap();
        cards.rest(guest(1)).await.unwrap();
        assert!(!host.ip("-o link").contains(&one.tap));
        assert!(!host.tool("nft", "list ruleset").contains("172.16.0.2"), "nor rules");
        assert_eq!(cards.plug(guest(3), &none).await.unwrap().address.octets()[3], 4, "nobody else gets it");
        cards.unplug(guest(3)).await.unwrap();
        cards.rest(guest(2)).await.unwrap();
        assert_eq!(host.inventory(), before, "the last one takes the network with it");
        (one, two)
    });
    // A new life, after the host was off: both are off.
    host.block_on(|| async {
        let cards = cards();
        cards.restore(vec![kept(1, &one, Stage::Rests), kept(2, &two, Stage::Rests)]).await.unwrap();
        assert_eq!(host.inventory(), before);
        assert_eq!(cards.plug(guest(2), &none).await.unwrap(), two);
        assert_eq!(cards.plug(guest(1), &none).await.unwrap(), one);
    });
    // And one with the first of them up, and one that boots.
    host.block_on(|| async {
        let cards = cards();
        cards.restore(vec![kept(1, &one, Stage::Up), kept(2, &two, Stage::Plugged)]).await.unwrap();
        let links = host.ip("-o link");
        let is_up = |nic: &Nic| links.lines().any(|line| line.contains(&nic.tap) && line.contains(",UP"));
        assert_eq!((is_up(&one), is_up(&two)), (true, false), "{links}");
        for number in [1, 2] {
            cards.unplug(guest(number)).await.unwrap();
        }
    });
    assert_eq!(host.inventory(), before);
}

#[test]
fn where_somebody_else_is_by_now_addresses_are_given_anew() {
    let host = Ns::new();
    let none = egress("none");
    host.ip("link add other type bridge");
    host.ip("addr add 172.16.0.1/24 dev other");
    host.ip("link set other up");
    host.block_on(|| async {
        let cards = cards();
        let address = "172.16.0.2".parse().unwrap();
        let (reach, forwards) = (none.clone(), Vec::new());
        let kept = Kept { guest: guest(1), address, reach, forwards, stage: Stage::Rests };
        cards.restore(vec![kept]).await.unwrap();
        assert_eq!(cards.plug(guest(1), &none).await.unwrap().address.to_string(), "172.16.1.2");
        cards.unplug(guest(1)).await.unwrap();
    });
}
