//! Sandboxes with a card, on a host in a network namespace of its own with a world behind it.

use super::Instance;
use super::instance::programs;
use super::ns::Ns;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

pub const WORLD: &str = "93.184.216.34";
/// Where the world reaches the host.
pub const UPLINK: &str = "93.184.216.1";
const PRIVATE: &str = "10.9.9.9";
/// Here, where the control plane is, and there: of each test its own, since they run beside each other.
fn link() -> [Ipv4Addr; 2] {
    let place = (std::process::id() % (1 << 14)) << 2;
    [1, 2].map(|last| Ipv4Addr::from_bits(Ipv4Addr::new(10, 78, 0, 0).to_bits() + place + last))
}

/// The host, its agent, and the world behind it, which says hello at port 80.
pub struct Host<'a> {
    pub space: Ns,
    pub world: Ns,
    instance: &'a Instance,
    agent: Child,
    /// Of the agent.
    settings: Vec<(&'static str, PathBuf)>,
}

impl<'a> Host<'a> {
    pub fn join(instance: &'a Instance) -> Self {
        Self::join_with(instance, |_| Vec::new())
    }

    /// The same, with these settings of the agent, made in the host.
    pub fn join_with(instance: &'a Instance, settings: impl FnOnce(&Ns) -> Vec<(&'static str, PathBuf)>) -> Self {
        let ([here, there], space, world) = (link(), Ns::new(), Ns::new());
        Ns::of_this_thread().cable(&format!("pgc{}", std::process::id()), &space, "control");
        Ns::of_this_thread().ip(&format!("addr add {here}/30 dev pgc{}", std::process::id()));
        space.ip(&format!("addr add {there}/30 dev control"));
        space.cable("uplink", &world, "out");
        space.ip(&format!("addr add {UPLINK}/24 dev uplink"));
        space.ip(&format!("route add default via {WORLD}"));
        world.ip(&format!("addr add {WORLD}/24 dev out"));
        world.ip(&format!("addr add {PRIVATE}/32 dev out"));
        let listener = world.run(|| TcpListener::bind("[::]:80").unwrap());
        std::thread::spawn(move || {
            // A caller that is gone hears nothing.
            listener.incoming().flatten().for_each(|mut caller| _ = caller.write_all(b"hello\n"));
        });
        instance.perigee(&["up", "--detach", "--agents", &format!("{here}:0")]).fine();
        instance.base();
        instance.perigee(&["host", "token", "--file", instance.path().join("join.token").to_str().unwrap()]).fine();
        let settings = settings(&space);
        let agent = start(&space, instance, &settings);
        Self { space, world, instance, agent, settings }
    }

    pub fn name(&self) -> String {
        self.instance.until("the host's link", || {
            let hosts = self.instance.json(&["host", "list"]);
            let other = hosts.as_array()?.iter().find(|host| host["name"].as_str().unwrap().ends_with("-2"))?.clone();
            (other["status"] == "connected").then(|| other["name"].as_str().unwrap().to_owned())
        })
    }

    /// kill -9, and another.
    pub fn restart(&mut self) {
        kill(Pid::from_raw(self.agent.id() as i32), Signal::SIGKILL).unwrap();
        self.agent.wait().unwrap();
        self.agent = start(&self.space, self.instance, &self.settings);
    }

    /// What a sandbox hears at port 80 of an address.
    fn heard(&self, sandbox: &str, address: &str) -> String {
        let call = format!("busybox nc -w 3 {address} 80 </dev/null 2>/dev/null; true");
        self.instance.exec(sandbox, &["sh", "-c", &call]).fine()
    }
}

fn start(space: &Ns, instance: &Instance, settings: &[(&'static str, PathBuf)]) -> Child {
    let endpoints = std::fs::read_to_string(instance.path().join("endpoints.json")).unwrap();
    let endpoints: serde_json::Value = serde_json::from_str(&endpoints).unwrap();
    let (program, dir): (PathBuf, PathBuf) = (programs().join("perigee-agent"), instance.path().join("second"));
    let mut command = Command::new(program);
    command.envs(settings.iter().map(|(name, value)| (name, value)));
    command.args(["run", "--data-dir"]).arg(dir).args(["--server", endpoints["agents"].as_str().unwrap()]);
    command.arg("--token-file").arg(instance.path().join("join.token"));
    for port in ["--health", "--metrics", "--local"] {
        command.args([port, "127.0.0.1:0"]);
    }
    // What others change of its network is seen soon.
    command.args(["--look-ms", "500"]);
    let log = std::fs::File::options().create(true).append(true).open(instance.path().join("second.log")).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    space.run(|| command.spawn().unwrap())
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.agent.id() as i32), Signal::SIGTERM);
        let _ = self.agent.wait();
    }
}

#[test]
fn real_a_sandbox_reaches_what_its_owner_opens() {
    let instance = Instance::empty();
    let mut host = Host::join(&instance);
    let before = host.space.inventory();
    let name = host.name();
    let create = |sandbox: &str, egress: &[&str]| {
        let words: Vec<&str> = egress.iter().flat_map(|place| ["--egress", *place]).collect();
        let fixed = ["sandbox", "create", "--name", sandbox, "--image", "base", "--host", &name, "-q"];
        instance.perigee(&[&fixed[..], &words].concat())
    };
    for bad in ["localhost", "127.0.0.1", "a.com:0", "all;drop"] {
        let refused = create("bad", &[bad]);
        assert!(refused.code == 2 && refused.err.contains("PRG-1002"), "{bad}: {}", refused.err);
    }
    create("web", &["93.184.216.34:80"]).fine();
    let web = instance.json(&["sandbox", "get", "web"]);
    assert_eq!((&web["egress"][0], &web["address"]), (&"93.184.216.34/32:tcp/80".into(), &"172.16.0.2".into()));
    assert_eq!(host.heard("web", WORLD), "hello\n");
    assert_eq!(host.heard("web", PRIVATE), "", "private networks are closed");
    create("all", &["all"]).fine();
    assert_eq!((host.heard("all", WORLD).as_str(), host.heard("all", PRIVATE).as_str()), ("hello\n", ""));
    create("shut", &["none"]).fine();
    assert_eq!(host.heard("shut", WORLD), "");
    create("bare", &[]).fine();
    assert_eq!(instance.exec("bare", &["sh", "-c", "ls /sys/class/net"]).fine(), "lo\n", "no card was asked for");

    others_meddle(&host);

    // A new life of the agent: who lives keeps its card, and who comes has another.
    host.restart();
    host.name();
    instance.until("a word of it", || (instance.sandbox("web")?["status"] == "running").then_some(()));
    assert_eq!(host.heard("web", WORLD), "hello\n");
    create("late", &["all"]).fine();
    let addresses =
        ["web", "all", "shut", "late"].map(|sandbox| instance.sandbox(sandbox).unwrap()["address"].to_string());
    assert_eq!(addresses.iter().collect::<std::collections::BTreeSet<_>>().len(), 4, "{addresses:?}");

    for sandbox in ["web", "all", "shut", "bare", "late"] {
        instance.perigee(&["sandbox", "delete", sandbox]).fine();
    }
    assert_eq!(host.space.inventory(), before, "nothing stays behind");
}

/// Somebody loads a firewall anew, or sweeps away what is not his: it is made good, and said.
fn others_meddle(host: &Host<'_>) {
    let rules = || host.space.tool("nft", "list ruleset").matches("chain ").count();
    let (before, said) = (rules(), || std::fs::read_to_string(host.instance.path().join("second.log")).unwrap());
    assert!(before > 0 && !said().contains("somebody else changed"), "{}", said());
    let warned = |what: &str| said().lines().any(|line| line.contains("somebody else changed") && line.contains(what));
    // Rules that go just before they are said again, as they are now and then, are missed by nobody.
    host.instance.until("a word of it", || {
        host.space.tool("nft", "flush ruleset");
        host.instance.until("its rules", || (rules() == before).then_some(()));
        warned("the rules were gone").then_some(())
    });
    assert_eq!((host.heard("web", WORLD).as_str(), host.heard("web", PRIVATE).as_str()), ("hello\n", ""));
    host.instance.until("a number of it", || {
        let told = host.instance.json(&["metrics", "query", "perigee_network_mended_total > 0"]);
        (told.as_array()?.len() == 1).then_some(())
    });
    let links = host.space.ip("-o link show type tun");
    let tap = links.split(": ").nth(1).unwrap();
    host.space.ip(&format!("link set {tap} down"));
    host.instance.until("a word of it", || warned(&format!("{tap} was down")).then_some(()));
    host.instance.until("its card", || {
        let shown = host.space.ip(&format!("-o link show {tap}"));
        shown.contains(",UP").then_some(())
    });
}

const WORLD6: &str = "2606:2800::34";
const OTHER6: &str = "2606:2800::35";
const UPLINK6: &str = "2606:2800::1";

#[test]
fn real_a_sandbox_reaches_what_its_owner_opens_by_ipv6() {
    let instance = Instance::empty();
    let mut host = Host::join(&instance);
    host.space.ip(&format!("addr add {UPLINK6}/64 dev uplink nodad"));
    for address in [WORLD6, OTHER6, "fd12::9"] {
        host.world.ip(&format!("addr add {address}/64 dev out nodad"));
    }
    host.space.ip(&format!("-6 route add default via {WORLD6}"));
    // What the host itself would answer there.
    let own = host.space.run(|| TcpListener::bind("[::]:80").unwrap());
    std::thread::spawn(move || own.incoming().flatten().for_each(|mut caller| _ = caller.write_all(b"host\n")));
    let before = host.space.inventory();
    let name = host.name();
    let create = |sandbox: &str, words: &[&str]| {
        let fixed = ["sandbox", "create", "--name", sandbox, "--image", "base", "--host", &name, "-q"];
        instance.perigee(&[&fixed[..], words].concat())
    };
    for bad in ["1.1.1.1", "fe80::1", "[fd00:ec2::254]:80", "all;drop"] {
        let refused = create("bad", &["--egress", "none", "--egress6", bad]);
        assert!(refused.code == 2 && refused.err.contains("PRG-1002"), "{bad}: {}", refused.err);
    }
    let place = format!("[{WORLD6}]:80");
    let planned = create("six", &["--egress", "none", "--egress6", &place, "--dry-run"]).fine();
    assert!(planned.contains(&format!("ip6 daddr {WORLD6} tcp dport 80 accept")), "{planned}");
    create("six", &["--egress", "none", "--egress6", &place]).fine();
    create("all", &["--egress", "all", "--egress6", "all"]).fine();
    create("four", &["--egress", "all"]).fine();
    let address6 = |sandbox: &str| instance.json(&["sandbox", "get", sandbox])["address6"].as_str().unwrap().to_owned();
    let (mine, theirs) = (address6("six"), address6("all"));

    assert_eq!(host.heard("six", WORLD6), "hello\n");
    assert_eq!((host.heard("six", OTHER6), host.heard("six", WORLD)), (String::new(), String::new()));
    assert_eq!((host.heard("all", OTHER6).as_str(), host.heard("all", "fd12::9").as_str()), ("hello\n", ""));
    let gateway = host.space.ip("-6 -o addr show scope global").lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let device = words.next()?;
        device.starts_with("pg").then(|| words.nth(1).unwrap().split('/').next().unwrap().to_owned())
    });
    for own in [UPLINK6, &gateway.unwrap()] {
        assert_eq!(host.heard("all", own), "", "{own} is the host's");
    }
    neighbours(&host, &mine, &theirs);
    let cards = instance.exec("four", &["sh", "-c", "busybox ip -o -6 addr show dev eth0"]).fine();
    assert_eq!((cards.as_str(), host.heard("four", WORLD6).as_str()), ("", ""), "it has no IPv6 at all");
    let late = instance.perigee(&["sandbox", "update", "four", "--egress6", "all"]);
    assert!(late.code == 2 && late.err.contains("it has no IPv6"), "{}", late.err);

    // A new life of the agent changes nothing; another policy holds at once.
    host.restart();
    host.name();
    instance.until("a word of it", || (instance.sandbox("six")?["status"] == "running").then_some(()));
    assert_eq!((host.heard("six", WORLD6), address6("six")), ("hello\n".to_owned(), mine));
    instance.perigee(&["sandbox", "update", "six", "--egress6", OTHER6]).fine();
    assert_eq!((host.heard("six", WORLD6).as_str(), host.heard("six", OTHER6).as_str()), ("", "hello\n"));
    instance.perigee(&["sandbox", "update", "six", "--egress6", "none"]).fine();
    assert_eq!((host.heard("six", WORLD6).as_str(), host.heard("six", OTHER6).as_str()), ("", ""));
    for sandbox in ["six", "all", "four"] {
        instance.perigee(&["sandbox", "delete", sandbox]).fine();
    }
    assert_eq!(host.space.inventory(), before, "nothing stays behind");
}

/// Two on one network: neither reaches the other, nor speaks in its name.
fn neighbours(host: &Host<'_>, mine: &str, theirs: &str) {
    let serve = "mkdir /www; echo hello >/www/index.html; busybox httpd -p 80 -h /www";
    host.instance.exec("six", &["sh", "-c", serve]).fine();
    let page = |sandbox: &str| {
        let call =
            format!("printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 3 {mine} 80 2>/dev/null; true");
        host.instance.exec(sandbox, &["sh", "-c", &call]).fine()
    };
    assert!(page("six").contains("hello"), "negative control: {}", page("six"));
    assert_eq!(page("all"), "", "a neighbour is not reached");
    let gateway = format!("{}:1", theirs.rsplit_once(':').unwrap().0);
    let call = |from: &str| {
        let route = format!("busybox ip -6 route replace {WORLD6}/128 via {gateway} dev eth0 src {from}");
        let call = format!("{route} && busybox nc -w 3 {WORLD6} 80 </dev/null 2>/dev/null; true");
        host.instance.exec("all", &["sh", "-c", &call]).fine()
    };
    assert_eq!(call(theirs), "hello\n", "negative control");
    for spoofed in [mine, "2606:4700::1111"] {
        host.instance.exec("all", &["sh", "-c", &format!("busybox ip addr add {spoofed}/128 dev eth0")]).fine();
        assert_eq!(call(spoofed), "", "{spoofed} is not its own");
    }
}

/// Five hundred come and go, with a card and a forward each.
#[test]
#[ignore = "soak"]
fn real_cards_come_and_go_and_nothing_stays_behind() {
    let instance = Instance::empty();
    let host = Host::join(&instance);
    let name = host.name();
    let files = || {
        let found = std::process::Command::new("find").arg(instance.path().join("second/guests")).output().unwrap();
        String::from_utf8(found.stdout).unwrap()
    };
    let cycle = |number: usize| {
        let fixed = ["sandbox", "create", "--image", "base", "--egress", "93.184.216.34:80", "-q"];
        instance.perigee(&[&fixed[..], &["--host", &name, "--name", "one"]].concat()).fine();
        instance.perigee(&["network", "forward", "add", "one", "8080:80"]).fine();
        assert_eq!(host.heard("one", WORLD), "hello\n", "cycle {number}");
        instance.perigee(&["sandbox", "delete", "one"]).fine();
    };
    cycle(0);
    let before = (host.space.inventory(), files(), instance.pids("qemu-system-x86_64"));
    (1..=500).for_each(cycle);
    assert_eq!((host.space.inventory(), files(), instance.pids("qemu-system-x86_64")), before);
}
