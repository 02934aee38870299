//! Sandboxes on a network: their own card, and no way but what their policy opens.

use crate::cases::{open, run};
use crate::contract::Lab;
use crate::ns::Ns;
use crate::real::RealLab;
use perigee_hypervisor::{Hypervisor, HypervisorError, Nic, Plan, Session};
use perigee_model::GuestId;
use perigee_network::{Egress, Lasting, Member, Network, Opening, Owner, Subnet, mac_of};
use std::future::Future;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use uuid::Uuid;

const WORLD: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 34);
const PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);

/// A host with a world behind it, in which each address greets whoever calls port 80.
struct World {
    host: Ns,
    out: Ns,
}

impl World {
    fn new() -> Self {
        let (host, out) = (Ns::new(), Ns::new());
        host.cable("uplink", &out, "out");
        host.ip("addr add 93.184.216.1/24 dev uplink");
        host.ip(&format!("route add default via {WORLD}"));
        out.ip(&format!("addr add {WORLD}/24 dev out"));
        out.ip(&format!("addr add {PRIVATE}/32 dev out"));
        let listener = out.run(|| TcpListener::bind("0.0.0.0:80").unwrap());
        std::thread::spawn(move || {
            // A caller that is gone hears nothing.
            listener.incoming().flatten().for_each(|mut caller| _ = caller.write_all(b"hello\n"));
        });
        Self { host, out }
    }

    /// On threads of the host's namespace, as an agent runs.
    fn as_host<F: Future<Output = ()> + Send + 'static>(&self, act: F) {
        self.host.run(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(runtime.spawn(act)).unwrap();
        });
    }
}

fn member(guest: GuestId, address: Ipv4Addr, open: &[&str]) -> Member {
    let open = open.iter().map(|opening| opening.parse::<Opening>().unwrap());
    Member {
        guest,
        address,
        owner: Owner { uid: 0, gid: 0 },
        up: true,
        egress: Egress::List(open.collect()),
        egress6: None,
        host: vec![],
        forwards: vec![],
    }
}

/// What the guest hears at port 80 of an address.
async fn heard(session: &dyn Session, id: u128, address: Ipv4Addr) -> String {
    let call = format!("busybox nc -w 3 {address} 80 </dev/null 2>/dev/null");
    run(session, Uuid::from_u128(id), &["/bin/sh", "-c", &call]).await.0
}

#[test]
fn real_sandbox_reaches_what_its_policy_opens() {
    let world = World::new();
    world.as_host(async {
        let lab = RealLab::new().await;
        let driver = lab.microvm();
        let network = Network::open(&lab.own, vec![], Lasting::default()).unwrap();
        let subnet = Subnet::choose(None, &network.host().taken().await.unwrap()).unwrap();
        let address = subnet.free(&[].into(), None).unwrap();
        let plan = lab.plan();
        let policy = |open: &[&str]| {
            perigee_network::Plan::new(&lab.own, subnet, vec![member(plan.guest, address, open)]).unwrap()
        };
        let first = policy(&["93.184.216.34:80"]);
        let nic = Nic {
            tap: first.tap(first.at(address).unwrap()).to_string(),
            mac: mac_of(address),
            address,
            network_bits: subnet.block().bits(),
            gateway: subnet.gateway(),
            names: Some(subnet.gateway()),
            six: None,
        };
        let plan = Plan { nic: Some(nic), ..plan };
        assert!(matches!(driver.start(&plan).await, Err(HypervisorError::Os { .. })), "its TAP is not there");
        assert_eq!(lab.traces(), Vec::<String>::new());

        network.bring_about(first).await.unwrap();
        driver.start(&plan).await.unwrap();
        let session = open(&lab, &driver, plan.guest).await;
        let (card, _) =
            run(&*session, Uuid::from_u128(1), &["/bin/sh", "-c", "busybox ip -o addr; cat /etc/resolv.conf"]).await;
        assert!(card.contains("inet 172.16.0.2/24") && card.contains("nameserver 172.16.0.1"), "{card}");
        assert_eq!(heard(&*session, 2, WORLD).await, "hello\n");
        assert_eq!(heard(&*session, 3, PRIVATE).await, "");
        network.bring_about(policy(&["10.9.9.9:80"])).await.unwrap();
        assert_eq!(heard(&*session, 4, WORLD).await, "");
        assert_eq!(heard(&*session, 5, PRIVATE).await, "hello\n");
        driver.destroy(plan.guest).await.unwrap();
        network.take_away().await.unwrap();
        assert_eq!(lab.traces(), Vec::<String>::new());
    });
    assert!(!world.host.ip("-o link").contains("pg"));
    drop(world.out);
}
