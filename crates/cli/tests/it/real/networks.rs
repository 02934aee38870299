//! Networks on a real libvirtd, on a host in a network namespace of its own with a world behind it: what is on
//! each, what it reaches, and that nothing is left.

use super::cards::{UPLINK, WORLD};
use super::ground::Ground;
use super::libvirtd::Daemon;
use super::ns::Ns;
use serde_json::Value;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};

/// Plays on the daemon's own network; the world behind it says hello at port 80.
fn on_a_host(play: impl FnOnce(&Ground) + Send) {
    // Its image is fetched from the world as it is; then both programs move to the daemon's network.
    let ground = Ground::beside(Daemon::start());
    ground.fine(&["down"]);
    let (host, world) = (Ns::of_process(ground.daemon.pid()), Ns::new());
    host.ip("link set lo up");
    host.cable("uplink", &world, "out");
    host.ip(&format!("addr add {UPLINK}/24 dev uplink"));
    host.ip(&format!("route add default via {WORLD}"));
    host.ip("route add 10.50.0.0/16 dev uplink");
    world.ip(&format!("addr add {WORLD}/24 dev out"));
    // The world has no way back to guests: what it hears from comes from the host's address.
    let listener = world.run(|| TcpListener::bind("0.0.0.0:80").unwrap());
    std::thread::spawn(move || {
        // A caller that is gone hears nothing.
        listener.incoming().flatten().for_each(|mut caller| _ = caller.write_all(b"hello\n"));
    });
    let links = host.ip("-o -br link");
    host.run(|| {
        ground.up();
        play(&ground);
        assert_eq!(host.ip("-o -br link"), links, "nothing stays behind");
        ground.fine(&["down"]);
    });
}

impl Ground {
    fn refuses_network(&self, arguments: &[&str], code: &str, word: &str) {
        let said = self.instance.perigee(&[&["network"], arguments].concat());
        assert!(said.code != 0 && said.err.contains(code) && said.err.contains(word), "{arguments:?}: {}", said.err);
    }
    fn network(&self, name: &str) -> Value {
        self.instance.json(&["network", "get", name])
    }
    /// A VM on that network, with the address that it has there.
    fn vm_on(&self, name: &str, network: &str) -> Ipv4Addr {
        self.fine(&["vm", "create", name, "--memory", "256MiB", "--network", network, "-q"]);
        self.address(name)
    }
    fn address(&self, name: &str) -> Ipv4Addr {
        self.instance.until(&format!("an address of {name}"), || {
            let vm = self.instance.json(&["vm", "get", name]);
            vm["addresses"].as_array()?.first()?.as_str()?.parse().ok()
        })
    }
    fn sh(&self, name: &str, doing: &str) -> String {
        self.fine(&["vm", "exec", name, "--", "sh", "-c", doing]).trim().to_owned()
    }
    fn hears(&self, name: &str) -> String {
        self.sh(name, &format!("busybox nc -w 3 {WORLD} 80 </dev/null 2>/dev/null; true"))
    }
    fn net_list(&self) -> String {
        self.daemon.virsh(&["net-list", "--all", "--name"])
    }
}

#[test]
fn real_a_network_leads_where_it_says_and_leaves_nothing() {
    on_a_host(|ground| {
        ground.daemon.define_network("theirs", "10.99.0");
        ground.refuses_network(&["create", "theirs"], "PRG-4001", "theirs");
        ground.refuses_network(&["create", "x", "--subnet", "10.50.1.0/24"], "PRG-4029", "uplink");
        ground.refuses_network(&["create", "x", "--subnet", "10.99.0.0/16"], "PRG-4029", "theirs");
        ground.refuses_network(&["create", "x", "--subnet", "8.8.8.0/24"], "PRG-1002", "private");
        ground.refuses_network(&["create", "x", "--kind", "bridged", "--bridge", "br7"], "PRG-3027", "br7");
        let planned = ground.fine(&["network", "create", "lab", "--dry-run"]);
        assert!(planned.contains("172.16.0.0/24") && planned.contains("<forward mode=\"nat\"/>"), "{planned}");
        ground.refuses_network(&["get", "lab"], "PRG-3026", "");

        ground.fine(&["network", "create", "lab", "--description", "for tests"]);
        let lab = ground.network("lab");
        assert_eq!((&lab["subnet"], &lab["status"]), (&"172.16.0.0/24".into(), &"ready".into()), "{lab}");
        let address = ground.vm_on("web", "lab");
        assert_eq!(address.octets()[..3], [172, 16, 0]);
        assert_eq!(ground.hears("web"), "hello", "out through the host");
        assert_eq!(ground.network("lab")["vms"], serde_json::json!(["web"]));
        ground.refuses_network(&["delete", "lab", "--yes"], "PRG-4027", "web");
        ground.fine(&["vm", "delete", "web", "--yes"]);
        ground.fine(&["network", "delete", "lab", "--yes"]);
        assert_eq!(ground.net_list(), "theirs");

        ground.fine(&["network", "create", "cell", "--kind", "isolated", "--subnet", "10.20.0.0/24"]);
        assert_eq!(ground.vm_on("box", "cell").octets()[..3], [10, 20, 0]);
        assert_eq!(ground.sh("box", "busybox ping -c 1 -W 3 10.20.0.1 >/dev/null && echo near"), "near");
        assert_eq!(ground.sh("box", "ip route | grep default; true"), "", "it is told of no way out");
        assert_eq!(ground.hears("box"), "");
        ground.sh("box", "ip route add default via 10.20.0.1");
        assert_eq!(ground.hears("box"), "", "and there is none");
        let near = format!("busybox ping -c 1 -W 3 {UPLINK} >/dev/null && echo near");
        assert_eq!(ground.sh("box", &near), "near", "but its host, at each of the host's addresses");
        ground.fine(&["vm", "delete", "box", "--yes"]);
        ground.fine(&["network", "delete", "cell", "--yes"]);
        assert_eq!(ground.net_list(), "theirs");
    });
}

#[test]
fn real_a_vm_on_a_bridge_is_found_by_arp() {
    on_a_host(|ground| {
        let host = Ns::of_this_thread();
        host.ip("link add br0 type bridge");
        host.ip("addr add 10.66.0.1/24 dev br0");
        host.ip("link set br0 up");
        ground.fine(&["network", "create", "lan", "--kind", "bridged", "--bridge", "br0"]);
        let lan = ground.network("lan");
        assert_eq!((&lan["bridge"], lan.get("subnet")), (&"br0".into(), None), "{lan}");
        ground.fine(&["vm", "create", "db", "--memory", "256MiB", "--network", "lan", "-q"]);
        ground.sh(
            "db",
            "busybox killall udhcpc; ifconfig eth0 10.66.0.7 netmask 255.255.255.0 up; \
             for look in $(seq 20); do busybox ping -c 1 -W 1 10.66.0.1 && break; done",
        );
        assert_eq!(ground.address("db"), Ipv4Addr::new(10, 66, 0, 7));
        ground.fine(&["vm", "delete", "db", "--yes"]);
        ground.fine(&["network", "delete", "lan", "--yes"]);
        assert_eq!(ground.net_list(), "");
        host.ip("link del br0");
    });
}
