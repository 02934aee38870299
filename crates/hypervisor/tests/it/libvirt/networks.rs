//! Cards, leases, addresses.

use super::LibvirtLab;
use crate::cases::{open, run};
use crate::contract::Lab;
use perigee_hypervisor::{HypervisorError, Plan};
use perigee_model::Name;
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
