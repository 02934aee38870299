//! A second host in a network namespace of its own: it joins with a token, works, loses its link
//! for 20 s and comes back.

use super::Instance;
use super::instance::{PATIENCE, programs};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

struct Namespace {
    name: String,
    inner: String,
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().unwrap();
    assert!(status.success(), "ip {arguments:?}");
}

impl Namespace {
    /// A namespace with 10.77.9.2, reached from here through 10.77.9.1.
    fn new() -> Self {
        let name = format!("pg{}", std::process::id());
        let (outer, inner) = (format!("pgo{}", std::process::id()), format!("{name}b"));
        ip(&["netns", "add", &name]);
        ip(&["link", "add", &outer, "type", "veth", "peer", "name", &inner, "netns", &name]);
        ip(&["addr", "add", "10.77.9.1/24", "dev", &outer]);
        ip(&["link", "set", &outer, "up"]);
        ip(&["-n", &name, "addr", "add", "10.77.9.2/24", "dev", &inner]);
        ip(&["-n", &name, "link", "set", &inner, "up"]);
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        Self { name, inner }
    }

    fn set_link(&self, state: &str) {
        ip(&["-n", &self.name, "link", "set", &self.inner, state]);
    }

    fn spawn(&self, program: &std::path::Path, arguments: &[&str]) -> Child {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ =
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.0.id() as i32), nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

#[test]
fn real_a_second_host_joins_and_survives_a_cut() {
    let space = Namespace::new();
    let instance = Instance::empty();
    instance.perigee(&["up", "--detach", "--agents", "10.77.9.1:0"]).fine();
    instance.base();
    let token = instance.path().join("join.token");
    instance.perigee(&["host", "token", "--file", token.to_str().unwrap()]).fine();
    let endpoints = std::fs::read_to_string(instance.path().join("endpoints.json")).unwrap();
    let endpoints: serde_json::Value = serde_json::from_str(&endpoints).unwrap();
    let url = endpoints["agents"].as_str().unwrap();
    let dir = instance.path().join("second");
    let agent = Ended(space.spawn(
        &programs().join("perigee-agent"),
        &[
            "run",
            "--data-dir",
            dir.to_str().unwrap(),
            "--server",
            url,
            "--token-file",
            token.to_str().unwrap(),
            "--health",
            "127.0.0.1:0",
        ],
    ));
    let second = || {
        let hosts = instance.json(&["host", "list"]);
        hosts.as_array().unwrap().iter().find(|h| h["name"].as_str().unwrap().ends_with("-2")).cloned()
    };
    let connected = |is: bool| second().filter(|h| (h["status"] == "connected") == is);
    let host = instance.until("the second host", || connected(true));
    let name = host["name"].as_str().unwrap();
    instance.perigee(&["sandbox", "create", "--name", "there", "--image", "base", "--host", name]).fine();
    assert_eq!(instance.exec("there", &["echo", "hello"]).fine(), "hello\n");

    space.set_link("down");
    let cut = Instant::now();
    instance.until("the host's absence in the list", || connected(false));
    assert_eq!(instance.sandbox("there").unwrap()["status"], "unknown");
    while cut.elapsed() < Duration::from_secs(20) {
        std::thread::park_timeout(Duration::from_millis(200));
    }
    space.set_link("up");
    instance.until("the host's return", || connected(true));
    assert!(cut.elapsed() < PATIENCE);
    assert_eq!(instance.exec("there", &["echo", "again"]).fine(), "again\n");
    // The token was good for one host.
    let third = instance.path().join("third");
    let refused = space
        .spawn(
            &programs().join("perigee-agent"),
            &["join", url, "--token-file", token.to_str().unwrap(), "--data-dir", third.to_str().unwrap()],
        )
        .wait()
        .unwrap();
    assert!(!refused.success());
    instance.perigee(&["sandbox", "delete", "there"]).fine();
    drop(agent);
}
