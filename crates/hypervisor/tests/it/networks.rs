//! The cases of the contract for drivers that make networks.

use crate::contract::Lab;
use perigee_hypervisor::{HypervisorError, NetworkPlan, Networks};
use perigee_model::{Name, NetworkId, NetworkKind};
use uuid::Uuid;

pub fn plan(number: u128, name: &str, kind: NetworkKind, subnet: &str) -> NetworkPlan {
    let id = NetworkId::new(Uuid::from_u128(number << 64 | number));
    let bridge = (kind == NetworkKind::Bridged).then(|| "br0".to_owned());
    NetworkPlan { id, name: Name::parse(name).unwrap(), kind, subnet: subnet.parse().ok(), bridge }
}

async fn names(networks: &dyn Networks) -> Vec<String> {
    let mut names: Vec<_> = networks.networks().await.unwrap().into_iter().map(|found| found.name).collect();
    names.sort();
    names
}

pub async fn a_network_comes_and_goes(lab: &dyn Lab) {
    let driver = lab.driver();
    assert_eq!(driver.abilities().networks, driver.networks().is_some());
    let Some(networks) = driver.networks() else { return };
    let lan = plan(1, "lan", NetworkKind::Isolated, "10.98.0.0/24");
    assert!(networks.definition(&lan).unwrap().contains("lan"));
    assert_eq!(names(networks).await, Vec::<String>::new(), "only said");
    let made = networks.establish(&lan).await.unwrap();
    assert_eq!((made.uuid, made.blocks.clone()), (lan.id.uuid(), vec![lan.subnet.unwrap()]));
    assert!(made.bridge.is_some());
    let other = plan(2, "lan", NetworkKind::Nat, "10.97.0.0/24");
    let taken = networks.establish(&other).await;
    assert!(matches!(taken, Err(HypervisorError::Refused(_))), "{taken:?}");
    // Asked for anew, by another life of the agent, it is as it was.
    let again =
        lab.driver().networks().unwrap().establish(&plan(1, "lan", NetworkKind::Isolated, "10.96.0.0/24")).await;
    assert_eq!(again.unwrap(), made);
    networks.dismantle(other.id).await.expect("nothing is fine");
    assert_eq!(names(networks).await, ["lan"]);
    networks.dismantle(lan.id).await.unwrap();
    networks.dismantle(lan.id).await.expect("twice is fine");
    assert_eq!(names(networks).await, Vec::<String>::new());
}

pub async fn a_network_that_a_guest_is_on_stays(lab: &dyn Lab) {
    let before = lab.traces();
    let (driver, mut plan_of_guest) = (lab.driver(), lab.plan());
    let Some(networks) = driver.networks() else { return };
    let lan = plan(1, "lan", NetworkKind::Isolated, "10.98.0.0/24");
    networks.establish(&lan).await.unwrap();
    let vm = plan_of_guest.vm.get_or_insert_with(|| crate::libvirt::spec(&perigee_clock::Clock::simulated(1)));
    vm.network = Some(lan.name.clone());
    driver.start(&plan_of_guest).await.unwrap();
    let kept = networks.dismantle(lan.id).await;
    assert!(matches!(kept, Err(HypervisorError::InUse(_))), "{kept:?}");
    assert_eq!(names(networks).await, ["lan"]);
    driver.destroy(plan_of_guest.guest).await.unwrap();
    networks.dismantle(lan.id).await.unwrap();
    assert_eq!(names(networks).await, Vec::<String>::new());
    assert_eq!(lab.traces(), before);
}
