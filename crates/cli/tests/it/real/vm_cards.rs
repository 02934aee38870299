//! VMs with a card on their host's own network, on a host in a network namespace with a libvirtd and a world behind it.

use super::Instance;
use super::cards::{Host, WORLD};
use super::forwards::page;
use super::libvirtd::Daemon;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Write as _;
use std::net::TcpListener;

const PRIVATE: &str = "10.9.9.9";
const GATEWAY: &str = "172.16.0.1";
const OPEN: &str = "93.184.216.34:80";

/// The host, with its libvirtd.
struct Place<'a> {
    host: Host<'a>,
    daemon: Daemon,
    instance: &'a Instance,
    /// The host's.
    name: String,
}

impl<'a> Place<'a> {
    fn of(instance: &'a Instance) -> Self {
        let mut daemon = None;
        let host = Host::join_with(instance, |space| {
            let socket = daemon.insert(space.run(Daemon::start_here)).socket();
            vec![("PERIGEE_LIBVIRT_SOCKET", socket), ("PERIGEE_VM_DIR", instance.path().join("vms"))]
        });
        let name = host.name();
        Self { host, daemon: daemon.unwrap(), instance, name }
    }
    fn fine(&self, arguments: &[&str]) -> String {
        self.instance.perigee(arguments).fine()
    }
    fn create(&self, vm: &str, egress: &str) {
        let fixed = ["vm", "create", vm, "--image", "base", "--memory", "192MiB", "-q"];
        self.fine(&[&fixed[..], &["--host", &self.name, "--egress", egress]].concat());
    }
    fn exec(&self, vm: &str, script: &str) -> String {
        self.fine(&["vm", "exec", vm, "--", "sh", "-c", script])
    }
    /// What a VM hears at port 80 of an address.
    fn heard(&self, vm: &str, address: &str) -> String {
        self.exec(vm, &format!("busybox nc -w 3 {address} 80 </dev/null 2>/dev/null; true"))
    }
    /// The same, of the world, with this address of its own.
    fn heard_as(&self, vm: &str, own: &str) -> String {
        self.exec(vm, &format!("busybox ip route replace {WORLD} via {GATEWAY} src {own}"));
        let heard = self.heard(vm, WORLD);
        self.exec(vm, &format!("busybox ip route del {WORLD}"));
        heard
    }
    /// It has a web server at port 80.
    fn serves(&self, vm: &str) {
        let serve = format!("mkdir -p /www; echo I am {vm} >/www/index.html; busybox httpd -p 80 -h /www");
        self.exec(vm, &serve);
    }
    fn vm(&self, vm: &str) -> serde_json::Value {
        self.instance.json(&["vm", "get", vm])
    }
    fn until(&self, vm: &str, status: &str) {
        self.instance.until(&format!("{vm} {status}"), || (self.vm(vm)["status"] == status).then_some(()));
    }
    fn taps(&self) -> usize {
        self.host.space.ip("-o link show type tun").lines().count()
    }
    fn rules(&self) -> String {
        self.host.space.tool("nft", "list ruleset")
    }
}

#[test]
fn real_a_vm_reaches_what_its_owner_opens() {
    let instance = Instance::empty();
    let mut place = Place::of(&instance);
    let before = place.host.space.inventory();
    planned(&place, &before);
    place.create("web", OPEN);
    place.create("other", "none");
    let web = place.vm("web");
    assert_eq!((&web["egress"][0], &web["address"]), (&"93.184.216.34/32:tcp/80".into(), &"172.16.0.2".into()));
    assert_eq!((&web["mac"], place.taps()), (&"52:54:00:10:00:02".into(), 2));
    assert_eq!(place.exec("web", "cat /etc/resolv.conf"), format!("nameserver {GATEWAY}\n"));
    only_what_is_open(&place);
    led_to(&place);

    // Taken back while it runs, and given again.
    place.fine(&["vm", "update", "web", "--egress", "none"]);
    assert_eq!(place.heard("web", WORLD), "");
    assert_eq!(page(&place.host, 8080).as_deref(), Some("I am web\n"));
    place.fine(&["vm", "update", "web", "--egress", OPEN]);
    assert_eq!(place.heard("web", WORLD), "hello\n");

    killed(&mut place);
    off_and_on(&mut place);

    for vm in ["web", "other"] {
        place.fine(&["vm", "delete", vm, "--yes"]);
    }
    assert_eq!(place.host.space.inventory(), before, "nothing stays behind");
    assert_eq!(place.daemon.virsh(&["list", "--all", "--name"]), "");
}

/// What would be done is shown, and not done; what cannot be is refused.
fn planned(place: &Place<'_>, before: &str) {
    let asked = ["vm", "create", "web", "--host", &place.name, "--egress", OPEN, "--disk", "1GiB", "--dry-run"];
    let said = place.fine(&asked);
    for line in ["a card that reaches 93.184.216.34/32:tcp/80", "a disk of 1GiB", "chain from_172_16_0_2 {"] {
        assert!(said.contains(line), "{line}: {said}");
    }
    for (more, why) in [(["--egress", "localhost"], "PRG-1002"), (["--network", "default"], "--egress")] {
        let said = place.instance.perigee(&[&["vm", "create", "bad", "--egress", "all"], &more[..]].concat());
        assert!(said.code == 2 && said.err.contains(why), "{more:?}: {}", said.err);
    }
    assert_eq!(place.host.space.inventory(), before);
}

/// Not the host, not the neighbour, not private networks, and not as somebody else.
fn only_what_is_open(place: &Place<'_>) {
    let own = place.host.space.run(|| TcpListener::bind("0.0.0.0:80").unwrap());
    std::thread::spawn(move || own.incoming().flatten().for_each(|mut caller| _ = caller.write_all(b"the host\n")));
    place.serves("web");
    place.serves("other");
    assert_eq!(place.heard("web", WORLD), "hello\n");
    assert_eq!(place.heard_as("web", "172.16.0.2"), "hello\n");
    for closed in [PRIVATE, GATEWAY, super::cards::UPLINK, "172.16.0.3"] {
        assert_eq!(place.heard("web", closed), "", "{closed}");
    }
    assert_eq!(place.heard("other", WORLD), "", "another policy");
    place.exec("web", "busybox ip addr add 172.16.0.3/24 dev eth0; busybox ip addr add 172.16.0.99/24 dev eth0");
    for stolen in ["172.16.0.3", "172.16.0.99"] {
        assert_eq!(place.heard_as("web", stolen), "", "{stolen}");
    }
    place.exec("web", "busybox ip addr del 172.16.0.3/24 dev eth0; busybox ip addr del 172.16.0.99/24 dev eth0");
    assert_eq!(place.heard("web", WORLD), "hello\n");
}

/// A port of the host leads to it.
fn led_to(place: &Place<'_>) {
    let add = |vm: &str, more: &[&str]| {
        place.instance.perigee(&[&["network", "forward", "add", vm, "8080:80"], more].concat())
    };
    let said = add("web", &["--dry-run"]).fine();
    assert!(said.contains("tcp dport 8080 dnat ip to 172.16.0.2:80"), "{said}");
    assert_eq!(page(&place.host, 8080), None);
    add("web", &[]).fine();
    assert_eq!(page(&place.host, 8080).as_deref(), Some("I am web\n"));
    let taken = add("other", &[]);
    assert!(taken.code == 5 && taken.err.contains("PRG-4011"), "{}", taken.err);
    let listed = place.instance.json(&["network", "forward", "list"]);
    assert_eq!((&listed[0]["guest"], &listed[0]["up"]), (&"web".into(), &true.into()));
}

/// The agent, libvirtd and QEMU, one after another.
fn killed(place: &mut Place<'_>) {
    place.host.restart();
    assert_eq!(page(&place.host, 8080).as_deref(), Some("I am web\n"), "all the while");
    place.host.name();
    place.until("web", "running");
    assert_eq!((place.heard("web", WORLD).as_str(), place.heard("other", WORLD).as_str()), ("hello\n", ""));

    // The agent comes up while libvirtd hangs: what lives is not known, and keeps its card.
    place.daemon.signal(Signal::SIGSTOP);
    place.host.restart();
    place.host.name();
    assert_eq!(page(&place.host, 8080).as_deref(), Some("I am web\n"), "nobody tells what lives here");
    let asked = place.instance.start(&["vm", "exec", "web", "--", "echo", "waited for"]);
    place.daemon.signal(Signal::SIGCONT);
    let said = asked.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "waited for\n", "{}", String::from_utf8_lossy(&said.stderr));
    place.until("web", "running");
    let Place { host, daemon, .. } = place;
    host.space.run(|| daemon.restart());
    place.until("web", "running");
    place.until("other", "running");
    assert_eq!((place.heard("web", WORLD).as_str(), place.heard("web", PRIVATE)), ("hello\n", String::new()));

    let old = place.instance.pids("qemu-system-x86_64");
    assert_eq!(old.len(), 2);
    old.iter().for_each(|pid| kill(Pid::from_raw(*pid), Signal::SIGKILL).unwrap());
    place.instance.until("others in their place", || {
        let new = place.instance.pids("qemu-system-x86_64");
        (new.len() == 2 && new.iter().all(|pid| !old.contains(pid))).then_some(())
    });
    for vm in ["web", "other"] {
        place.until(vm, "running");
        place.instance.until("its channel", || {
            (place.instance.perigee(&["vm", "exec", vm, "--", "true"]).code == 0).then_some(())
        });
        place.serves(vm);
    }
    let heard = ["web", "other"].map(|vm| [WORLD, GATEWAY, PRIVATE].map(|at| place.heard(vm, at)).concat());
    assert_eq!(heard, ["hello\n", ""]);
    assert_eq!(page(&place.host, 8080).as_deref(), Some("I am web\n"));
}

/// One that is off has no TAP and no rules, and comes back to its address, whatever came between.
fn off_and_on(place: &mut Place<'_>) {
    place.fine(&["vm", "stop", "web", "--force"]);
    assert_eq!((place.taps(), place.vm("web")["address"].clone()), (1, "172.16.0.2".into()));
    assert!(!place.rules().contains("172.16.0.2") && place.rules().contains("172.16.0.3"), "{}", place.rules());
    assert_eq!(page(&place.host, 8080), None);
    place.host.restart();
    place.host.name();
    place.fine(&["vm", "update", "web", "--egress", "all"]);
    place.fine(&["vm", "start", "web"]);
    place.until("web", "running");
    let web = place.vm("web");
    assert_eq!((&web["address"], &web["forwards"][0]["up"]), (&"172.16.0.2".into(), &true.into()));
    assert_eq!((place.heard("web", WORLD).as_str(), place.heard("web", PRIVATE).as_str()), ("hello\n", ""));
}
