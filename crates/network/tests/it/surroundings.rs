//! What a host is on beside our network.

use crate::ns::Ns;
use perigee_network::{Subnet, Surroundings};

#[test]
fn routes_of_all_tables_and_bridges_are_seen() {
    let (host, other) = (Ns::new(), Ns::new());
    host.cable("uplink", &other, "far");
    host.ip("addr add 10.1.0.2/24 dev uplink");
    host.ip("route add default via 10.1.0.1");
    host.ip("route add 10.50.0.0/16 dev uplink");
    host.ip("route add 10.60.0.0/16 dev uplink table 52");
    host.ip("route add blackhole 172.16.0.0/24");
    host.ip("link add br0 type bridge");
    let found = host.block_on(Surroundings::look).unwrap();
    let has = |block: &str, device: &str| found.routes.contains(&(block.parse().unwrap(), device.to_owned()));
    for block in ["10.1.0.0/24", "10.1.0.2/32", "10.50.0.0/16", "10.60.0.0/16"] {
        assert!(has(block, "uplink"), "{block}: {:?}", found.routes);
    }
    assert!(has("172.16.0.0/24", "") && has("127.0.0.0/8", "lo"), "{:?}", found.routes);
    assert!(found.routes.iter().all(|(block, _)| block.bits() > 0), "no default route: {:?}", found.routes);
    assert_eq!(found.bridges.iter().collect::<Vec<_>>(), ["br0"]);
    let taken: Vec<_> = found.routes.iter().map(|(block, _)| *block).collect();
    assert_eq!(Subnet::choose(None, &taken).unwrap().block().to_string(), "172.16.1.0/24");
}
