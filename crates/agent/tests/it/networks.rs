//! Networks of VMs: made beside what is there, refused, removed, through a crash; and said before they are made.

use crate::simulated::Machine;
use crate::vms::{machine, vm};
use crate::*;
use perigee_model::{Name, NetworkId, NetworkKind};

fn network(n: u128) -> NetworkId {
    NetworkId::new(Uuid::from_u128(0x4000 + n))
}

fn wish(n: u128, generation: u64, name: &str, subnet: &str) -> DesiredNetwork {
    DesiredNetwork {
        network: network(n),
        generation,
        name: Name::parse(name).unwrap(),
        kind: NetworkKind::Nat,
        subnet: subnet.parse().ok(),
        bridge: None,
        absent: false,
    }
}

impl Rig {
    async fn network(&self, wish: DesiredNetwork) -> NetworkStage {
        let end = |s: &plane::State| {
            let mut told = s.networks.get(&wish.network).into_iter().flatten();
            told.find(|(of, stage)| *of == wish.generation && !matches!(stage, NetworkStage::Trying { .. })).cloned()
        };
        self.plane.with(|s| drop(s.networks.remove(&wish.network)));
        self.plane.send(FromServer::Network(wish.clone()));
        self.plane.until("a report on the network", |s| end(s).is_some()).await;
        self.plane.with(|s| end(s)).unwrap().1
    }
    async fn refused(&self, wish: DesiredNetwork) -> String {
        match self.network(wish).await {
            NetworkStage::Failed(problem) => problem.code,
            other => panic!("{other:?}"),
        }
    }
}

fn made(stage: &NetworkStage) -> String {
    match stage {
        NetworkStage::Made { subnet: Some(subnet), bridge: Some(_) } => subnet.to_string(),
        other => panic!("{other:?}"),
    }
}

async fn linked() -> (Machine, Rig, Running) {
    let (machine, rig) = machine();
    let agent = rig.start();
    rig.plane.until("a link", |s| !s.hellos.is_empty()).await;
    (machine, rig, agent)
}

#[tokio::test(start_paused = true)]
async fn networks_are_made_beside_each_other() {
    let (machine, rig, agent) = linked().await;
    machine.host.define_network(Uuid::from_u128(7), "theirs", vec!["172.16.0.0/23".parse().unwrap()]);
    assert_eq!(made(&rig.network(wish(1, 1, "a", "")).await), "172.16.2.0/24");
    // Two at once do not choose the same.
    rig.plane.send(FromServer::Network(wish(2, 1, "b", "")));
    assert_eq!(made(&rig.network(wish(3, 1, "c", "")).await), "172.16.4.0/24");
    assert_eq!(made(&rig.network(wish(2, 1, "b", "")).await), "172.16.3.0/24", "asked again, said again");
    assert_eq!(rig.refused(wish(4, 1, "d", "172.16.4.128/25")).await, "PRG-4029");
    assert_eq!(rig.refused(wish(4, 2, "theirs", "10.1.0.0/24")).await, "PRG-4001");
    assert_eq!(made(&rig.network(wish(4, 3, "d", "10.1.0.0/24")).await), "10.1.0.0/24");
    // The next life of the agent finds what there is.
    rig.crash(agent).await;
    let _agent = rig.start();
    rig.plane.until("another link", |s| s.hellos.len() == 2).await;
    assert_eq!(made(&rig.network(wish(1, 1, "a", "")).await), "172.16.2.0/24");
    for (n, name) in [(1, "a"), (2, "b"), (3, "c"), (4, "d")] {
        let gone = DesiredNetwork { absent: true, ..wish(n, 9, name, "") };
        assert_eq!(rig.network(gone).await, NetworkStage::Gone);
    }
    assert_eq!(machine.host.networks(), ["theirs"]);
}

#[tokio::test(start_paused = true)]
async fn a_network_that_a_vm_is_on_stays() {
    let (machine, rig, _agent) = linked().await;
    made(&rig.network(wish(1, 1, "lab", "")).await);
    let order = vm(1, |vm| vm.network = Name::parse("lab").ok());
    rig.plane.want(order.clone());
    rig.plane.until_phase(order.id, Phase::Running).await;
    assert_eq!(rig.refused(DesiredNetwork { absent: true, ..wish(1, 2, "lab", "") }).await, "PRG-4027");
    assert_eq!(machine.host.networks(), ["lab"]);
}

#[tokio::test(start_paused = true)]
async fn what_would_be_made_is_said_and_not_made() {
    let (machine, rig, _agent) = linked().await;
    let said = async |wish: DesiredNetwork| {
        let (_tx, mut rx) = rig.plane.tunnel(Purpose::PlanNetwork(wish));
        let mut bytes = Vec::new();
        loop {
            match rx.recv().await {
                Some(TunnelFrame::Data(piece)) => bytes.extend(piece),
                Some(TunnelFrame::End) => return Ok(PlannedNetwork::read(&bytes).unwrap()),
                Some(TunnelFrame::Failed(problem)) => return Err(problem.code),
                other => panic!("{other:?}"),
            }
        }
    };
    let planned = said(wish(1, 1, "lab", "")).await.unwrap();
    assert_eq!((planned.subnet, planned.definition.contains("lab")), ("172.16.0.0/24".parse().ok(), true));
    machine.host.define_network(Uuid::from_u128(7), "theirs", vec!["10.0.0.0/8".parse().unwrap()]);
    assert_eq!(said(wish(1, 1, "lab", "10.1.0.0/24")).await.unwrap_err(), "PRG-4029");
    assert_eq!(machine.host.networks(), ["theirs"]);
}
