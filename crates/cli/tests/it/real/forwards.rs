//! What is changed of a sandbox's network while it runs: ports of its host that lead to it, and its policy.

use super::Instance;
use super::cards::{Host, UPLINK, WORLD};
use super::instance::{Said, in_time};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// For a connection that somebody answers.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the world gets at a port of the host; `None` when nobody answers.
pub fn page(host: &Host<'_>, port: u16) -> Option<String> {
    let address: SocketAddr = format!("{UPLINK}:{port}").parse().unwrap();
    host.world.run(|| {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.rsplit("\r\n\r\n").next().map(str::to_owned)
    })
}

/// A sandbox with a card and a web server on port 80 of it.
fn served(instance: &Instance, host: &str, sandbox: &str) {
    let fixed = ["sandbox", "create", "--image", "base", "--egress", "none", "-q"];
    instance.perigee(&[&fixed[..], &["--host", host, "--name", sandbox]].concat()).fine();
    let serve = format!("mkdir /www; echo I am {sandbox} >/www/index.html; busybox httpd -p 80 -h /www");
    instance.exec(sandbox, &["sh", "-c", &serve]).fine();
}

fn forward(instance: &Instance, words: &[&str]) -> Said {
    instance.perigee(&[&["network", "forward"], words].concat())
}

#[test]
fn real_a_port_of_the_host_leads_to_a_sandbox() {
    let instance = Instance::empty();
    let mut host = Host::join(&instance);
    let before = host.space.inventory();
    let name = host.name();
    served(&instance, &name, "web");
    assert_eq!(page(&host, 8080), None);
    dry(&instance, &host, &name);
    let said = forward(&instance, &["add", "web", "8080:80"]).fine();
    assert!(said.contains("tcp/8080") && said.contains("yes"), "{said}");
    assert_eq!(page(&host, 8080).as_deref(), Some("I am web\n"));
    forward(&instance, &["add", "web", "8080:80"]).fine();

    refused(&instance, &host, &name);

    // A new life of the agent: it is reached all the while, and after.
    host.restart();
    assert_eq!(page(&host, 8080).as_deref(), Some("I am web\n"));
    host.name();
    let led = in_time(|| (instance.sandbox("web")?["forwards"][0]["up"] == true).then_some(()));
    assert!(led.is_some());
    assert_eq!(page(&host, 8080).as_deref(), Some("I am web\n"));
    let listed = instance.json(&["network", "forward", "list", "web"]);
    assert_eq!((&listed[0]["host_port"], &listed[0]["guest"]), (&8080.into(), &"web".into()));

    forward(&instance, &["remove", "web", "8080"]).fine();
    assert_eq!(page(&host, 8080), None);
    let gone = forward(&instance, &["remove", "web", "8080"]);
    assert!(gone.code == 3 && gone.err.contains("PRG-3011"), "{}: {}", gone.code, gone.err);
    // What is deleted lets go of its ports, and another may have them.
    instance.perigee(&["sandbox", "forward", "web", "8080:80"]).fine();
    instance.perigee(&["sandbox", "delete", "web"]).fine();
    forward(&instance, &["add", "other", "8080:80"]).fine();
    assert_eq!(page(&host, 8080).as_deref(), Some("I am other\n"));
    for sandbox in ["other", "bare"] {
        instance.perigee(&["sandbox", "delete", sandbox]).fine();
    }
    assert_eq!(host.space.inventory(), before, "nothing stays behind");
}

/// What would be done is shown, and not done.
fn dry(instance: &Instance, host: &Host<'_>, name: &str) {
    let before = host.space.inventory();
    let said = forward(instance, &["add", "web", "8080:80", "--dry-run"]).fine();
    assert!(said.contains("tcp dport 8080 dnat ip to 172.16.0.2:80"), "{said}");
    let create = ["sandbox", "create", "--name", "later", "--host", name, "--egress", "10.1.0.0/16:5432", "--dry-run"];
    let said = instance.perigee(&create).fine();
    for line in ["chain from_172_16_0_3 {", "ip daddr 10.1.0.0/16 tcp dport 5432 accept", "chosen"] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let said = instance.perigee(&["sandbox", "create", "--host", name, "--dry-run"]).fine();
    assert!(said.contains("no card") && !said.contains("table"), "{said}");
    assert!(said.contains("no disk: its files are in its memory"), "{said}");
    assert_eq!((page(host, 8080), instance.sandbox("later")), (None, None));
    assert_eq!(host.space.inventory(), before);
}

/// Ports that nobody can have, while 8080 leads to `web`.
fn refused(instance: &Instance, host: &Host<'_>, name: &str) {
    served(instance, name, "other");
    instance.perigee(&["sandbox", "create", "--name", "bare", "--host", name, "-q"]).fine();
    let _own = host.space.run(|| TcpListener::bind("0.0.0.0:9090").unwrap());
    let _loopback = host.space.run(|| TcpListener::bind("127.0.0.1:9091").unwrap());
    for (sandbox, ports, code, why) in [
        ("other", "8080", 5, "PRG-4011"),
        ("web", "8080:81", 5, "PRG-4011"),
        ("other", "9090:80", 5, "PRG-4011"),
        ("bare", "8081:80", 2, "PRG-1002"),
        ("web", "0:80", 2, "8080:80"),
        ("web", "sctp/9", 2, "8080:80"),
        ("nobody", "8081", 3, "PRG-3002"),
    ] {
        let said = forward(instance, &["add", sandbox, ports]);
        assert!(said.code == code && said.err.contains(why), "{sandbox} {ports}: {} {}", said.code, said.err);
    }
    let other = instance.sandbox("other").unwrap();
    assert_eq!((&other["forwards"], &other["problem"]), (&serde_json::Value::Null, &serde_json::Value::Null));
    // What listens on the loopback device only is in nobody's way.
    forward(instance, &["add", "other", "9091:80"]).fine();
    assert_eq!(page(host, 9091).as_deref(), Some("I am other\n"));
    forward(instance, &["remove", "other", "9091"]).fine();
}

/// Lines that callers send to port 81 of the world, each answered with itself; and how many callers there were.
fn echo(host: &Host<'_>) -> Receiver<(usize, String)> {
    let listener = host.world.run(|| TcpListener::bind("0.0.0.0:81").unwrap());
    let (heard, lines) = channel();
    std::thread::spawn(move || {
        for (caller, stream) in listener.incoming().flatten().enumerate() {
            let heard = heard.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(&stream).lines().map_while(Result::ok) {
                    _ = (&stream).write_all(format!("{line}\n").as_bytes());
                    _ = heard.send((caller, line));
                }
            });
        }
    });
    lines
}

#[test]
fn real_a_policy_changes_while_its_guest_runs() {
    let instance = Instance::empty();
    let mut host = Host::join(&instance);
    let name = host.name();
    let lines = echo(&host);
    let open = format!("{WORLD}:81");
    instance
        .perigee(&["sandbox", "create", "--name", "web", "--image", "base", "--host", &name, "--egress", &open, "-q"])
        .fine();
    let call = format!("mkfifo /in; (exec 3<>/in; busybox nc {WORLD} 81 </in >/out 2>&1) >/dev/null 2>&1 &");
    instance.exec("web", &["sh", "-c", &call]).fine();
    let say = |word: &str| drop(instance.exec("web", &["sh", "-c", &format!("echo {word} >/in")]).fine());
    let next = || lines.recv_timeout(PATIENCE).ok();
    let update = |places: &[&str]| {
        let words: Vec<&str> = places.iter().flat_map(|place| ["--egress", *place]).collect();
        instance.perigee(&[&["sandbox", "update", "web"], &words[..]].concat())
    };
    let heard = |address: &str| {
        let call = format!("busybox nc -w 3 {address} 80 </dev/null 2>/dev/null; true");
        instance.exec("web", &["sh", "-c", &call]).fine()
    };
    say("one");
    assert_eq!(next(), Some((0, "one".to_owned())));
    assert_eq!(heard(WORLD), "");
    for bad in ["localhost", "169.254.169.254", "all;drop"] {
        let said = update(&[bad]);
        assert!(said.code == 2 && said.err.contains("PRG-1002"), "{bad}: {}", said.err);
    }
    // More is open at once, and what was open goes on.
    update(&[&open, &format!("{WORLD}:80")]).fine();
    assert_eq!(heard(WORLD), "hello\n");
    say("two");
    assert_eq!(next(), Some((0, "two".to_owned())), "the same connection");
    // It holds in a new life of the agent.
    host.restart();
    host.name();
    instance.until("a word of it", || (instance.sandbox("web")?["status"] == "running").then_some(()));
    assert_eq!(heard(WORLD), "hello\n");
    // What is taken back ends what was up.
    update(&[&format!("{WORLD}:80")]).fine();
    assert_eq!(heard(WORLD), "hello\n");
    say("three");
    let rules = || host.space.tool("nft", "list ruleset");
    let dropped = |rules: &str| {
        let own = rules.split("chain from_172_16_0_2").nth(1).unwrap_or_default().split('}').next().unwrap_or_default();
        let last = own.lines().rev().find(|line| line.contains("counter packets")).unwrap_or_default();
        !last.contains("packets 0 ")
    };
    instance.until("it is dropped", || dropped(&rules()).then_some(()));
    assert_eq!(lines.try_recv().ok(), None);
    let bare = ["sandbox", "create", "--name", "bare", "--host", &name, "-q"];
    instance.perigee(&bare).fine();
    let said = instance.perigee(&["sandbox", "update", "bare", "--egress", "all"]);
    assert!(said.code == 2 && said.err.contains("no card"), "{}", said.err);
    for sandbox in ["web", "bare"] {
        instance.perigee(&["sandbox", "delete", sandbox]).fine();
    }
}
