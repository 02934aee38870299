//! Cards, leases, addresses.

use super::LibvirtLab;
use crate::cases::{open, run};
use crate::contract::Lab;
use crate::networks::plan;
use crate::ns::Ns;
use perigee_hypervisor::{Hypervisor, HypervisorError, Plan};
use perigee_model::{Name, NetworkId, NetworkKind};
use std::net::IpAddr;
use std::time::Duration;
use uuid::Uuid;

fn on(plan: Plan, network: &str) -> Plan {
    let mut plan = plan;
    plan.vm.as_mut().unwrap().network = Some(Name::parse(network).unwrap());
    plan
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_a_guest_on_a_network_has_an_address_that_is_told() {
    let lab = LibvirtLab::new().await;
    lab.daemon.define_network("lab", "10.99.0");
    let (driver, plan) = (lab.driver(), on(lab.plan(), "lab"));
    let addresses = driver.addresses().unwrap();
    assert!(matches!(addresses.addresses(plan.guest).await, Err(HypervisorError::NotRunning)));
    let unknown = driver.start(&on(lab.plan(), "none")).await;
    assert!(matches!(&unknown, Err(HypervisorError::BadPlan(text)) if text.contains("none")), "{unknown:?}");
    driver.start(&plan).await.unwrap();
    let session = open(&lab, &*driver, plan.guest).await;
    let told = async {
        loop {
            let told = addresses.addresses(plan.guest).await.unwrap();
            if !told.is_empty() {
                return told;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(60), told).await.expect("an address");
    let IpAddr::V4(address) = told[0] else { panic!("{told:?}") };
    assert_eq!(address.octets()[..3], [10, 99, 0]);
    let configured =
        "until ifconfig eth0 | grep -q 'inet addr'; do sleep 0.1; done; ifconfig eth0; route -n; cat /etc/resolv.conf";
    let (said, _) = run(&*session, Uuid::from_u128(1), &["sh", "-c", configured]).await;
    assert!(said.contains(&format!("addr:{address} ")) && said.contains("10.99.0.1"), "{said}");

    let mut clash = on(lab.plan(), "lab");
    clash.vm.as_mut().unwrap().mac = plan.vm.as_ref().unwrap().mac;
    let refused = driver.start(&clash).await;
    assert!(
        matches!(&refused, Err(HypervisorError::BadPlan(text)) if text.contains("hardware address")),
        "{refused:?}"
    );
    driver.destroy(plan.guest).await.unwrap();
    assert_eq!(lab.traces(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_networks_of_others_are_left_and_ours_come_up_again() {
    let lab = LibvirtLab::new().await;
    lab.daemon.define_network("theirs", "10.99.0");
    let ns = Ns::of_process(lab.daemon.pid());
    let before = ns.ip("-o -br link");
    let libvirt = lab.libvirt();
    let networks = libvirt.networks().unwrap();
    let found = networks.networks().await.unwrap();
    assert_eq!((found.len(), found[0].blocks.clone()), (1, vec!["10.99.0.0/24".parse().unwrap()]));
    let theirs = plan(1, "theirs", NetworkKind::Nat, "10.98.0.0/24");
    assert!(matches!(networks.establish(&theirs).await, Err(HypervisorError::Refused(_))));
    networks.dismantle(NetworkId::new(Uuid::from_u128(7))).await.unwrap();
    assert_eq!(lab.daemon.virsh(&["net-list", "--all", "--name"]), "theirs");

    let ours = plan(1, "ours", NetworkKind::Nat, "10.98.0.0/24");
    let made = networks.establish(&ours).await.unwrap();
    assert!(ns.ip("-o addr").contains("10.98.0.1/24"));
    // Down by somebody's hand, it is brought up; and it comes with libvirt.
    lab.daemon.virsh(&["net-destroy", "ours"]);
    assert_eq!(networks.establish(&ours).await.unwrap(), made);
    assert!(
        lab.daemon.virsh(&["net-info", "ours"]).lines().any(|line| line.split_whitespace().eq(["Autostart:", "yes"]))
    );
    // What libvirt cannot bring up leaves nothing: its address is the host's already.
    let clash = networks.establish(&plan(2, "clash", NetworkKind::Nat, "10.98.0.0/24")).await;
    assert!(matches!(&clash, Err(HypervisorError::Refused(text)) if text.contains("in use")), "{clash:?}");
    assert!(!lab.daemon.virsh(&["net-list", "--all", "--name"]).contains("clash"));
    // A domain that nobody of us knows is on it.
    lab.daemon.define("foreign");
    let card = "<interface type='network'><source network='ours'/></interface>";
    let file = lab.root.path().join("card.xml");
    std::fs::write(&file, card).unwrap();
    lab.daemon.virsh(&["attach-device", "foreign", file.to_str().unwrap(), "--config"]);
    let kept = networks.dismantle(ours.id).await;
    assert!(matches!(&kept, Err(HypervisorError::InUse(text)) if text.contains("foreign")), "{kept:?}");
    lab.daemon.virsh(&["undefine", "foreign"]);
    networks.dismantle(ours.id).await.unwrap();
    assert_eq!(lab.daemon.virsh(&["net-list", "--all", "--name"]), "theirs");
    assert_eq!(ns.ip("-o -br link"), before);
}

/// One that no DHCP server and no agent tells of is known by what the host hears it say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_an_address_that_a_guest_chose_is_known_by_arp() {
    let lab = LibvirtLab::new().await;
    let ns = Ns::of_process(lab.daemon.pid());
    ns.ip("link add br0 type bridge");
    ns.ip("addr add 10.66.0.1/24 dev br0");
    ns.ip("link set br0 up");
    let (driver, guest) = (lab.driver(), on(lab.plan(), "lan"));
    let networks = driver.networks().unwrap();
    let lan = plan(1, "lan", NetworkKind::Bridged, "");
    let made = networks.establish(&lan).await.unwrap();
    assert_eq!((made.blocks, made.bridge.as_deref()), (vec![], Some("br0")));
    driver.start(&guest).await.unwrap();
    let session = open(&lab, &*driver, guest.guest).await;
    let addresses = driver.addresses().unwrap();
    assert_eq!(addresses.addresses(guest.guest).await.unwrap(), Vec::<IpAddr>::new(), "it has said nothing");
    let doing = "busybox killall udhcpc; until [ -d /sys/class/net/eth0 ]; do sleep 0.1; done; \
        ifconfig eth0 169.254.7.7 netmask 255.255.0.0 up; ifconfig eth0:1 10.66.0.7 netmask 255.255.255.0 up; \
        for look in $(seq 20); do busybox ping -c 1 -W 1 10.66.0.1 && break; done";
    let (said, _) = run(&*session, Uuid::from_u128(1), &["sh", "-c", doing]).await;
    // One that the host is about to ask whether it is still there is no news for a moment.
    let told = async {
        loop {
            let told = addresses.addresses(guest.guest).await.unwrap();
            if !told.is_empty() {
                return told;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(60), told).await;
    let told = told.unwrap_or_else(|_| panic!("no address: {said} {}", ns.ip("neigh show")));
    assert_eq!(told, ["10.66.0.7".parse::<IpAddr>().unwrap()]);
    drop(session);
    driver.destroy(guest.guest).await.unwrap();
    networks.dismantle(lan.id).await.unwrap();
    assert!(ns.ip("-o -br link").contains("br0"), "it is the host's");
    assert_eq!(lab.daemon.virsh(&["net-list", "--all", "--name"]), "");
}
