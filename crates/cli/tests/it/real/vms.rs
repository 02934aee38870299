//! Guests as they are measured: sandboxes, and the virtual machines of a real libvirtd.

use super::Instance;
use super::instance::Said;
use super::libvirtd::Daemon;
use super::watch::agents_page;
use nix::pty::openpty;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;

fn beside(daemon: &Daemon) -> Instance {
    let instance = Instance::empty();
    let up = instance.command(&["up", "--detach"]).env("PERIGEE_LIBVIRT_SOCKET", daemon.socket()).output();
    Said::from(up.unwrap()).fine();
    instance
}

/// The virtual machine of that name, once it is as `is` wants it.
fn seen(instance: &Instance, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    instance.until(what, || {
        let all = instance.json(&["vm", "list"]);
        all.as_array()?.iter().find(|vm| vm["name"] == name && is(vm)).cloned()
    })
}

fn value(instance: &Instance, query: &str) -> Option<f64> {
    let answer = instance.json(&["metrics", "query", query]);
    answer[0]["value"].as_str()?.parse().ok()
}

#[test]
fn real_virtual_machines_of_libvirt_are_shown_and_not_touched() {
    let mut daemon = Daemon::start();
    daemon.define("db");
    daemon.define("idle");
    let instance = beside(&daemon);
    seen(&instance, "db", "a stopped machine", |vm| vm["status"] == "stopped");

    daemon.virsh(&["start", "db"]);
    let running = seen(&instance, "db", "a running machine", |vm| {
        vm["status"] == "running" && vm["cpu_cores"].is_number() && vm["resident_bytes"].as_u64() > Some(0)
    });
    assert_eq!(running["id"], daemon.virsh(&["domuuid", "db"]));
    assert_eq!((&running["memory_bytes"], &running["driver"]), (&Value::from(32 << 20), &Value::from("libvirt")));
    assert_eq!(instance.json(&["vm", "get", "db"])["id"], running["id"]);
    let told = value(&instance, "perigee_guest_cpu_seconds_total{name=\"db\"}").unwrap();
    let said = daemon.virsh(&["domstats", "--cpu-total", "db"]);
    let used = said.lines().find_map(|line| line.trim().strip_prefix("cpu.time=")).unwrap();
    let used: f64 = used.parse::<f64>().unwrap() / 1e9;
    assert!(told > 0.0 && told <= used + 0.001, "virsh said {used} after we said {told}");

    daemon.virsh(&["suspend", "db"]);
    seen(&instance, "db", "a paused machine", |vm| vm["status"] == "paused");
    daemon.virsh(&["resume", "db"]);
    seen(&instance, "db", "a machine that runs again", |vm| vm["status"] == "running");
    daemon.virsh(&["destroy", "db"]);
    seen(&instance, "db", "a machine that was ended", |vm| vm["status"] == "stopped");
    daemon.virsh(&["undefine", "db"]);
    instance.until("only the other one", || {
        let all = instance.json(&["vm", "list"]);
        (all.as_array()?.len() == 1 && all[0]["name"] == "idle").then_some(())
    });
    assert_eq!(instance.perigee(&["vm", "get", "db"]).code, 3, "not found");

    // A daemon that hangs, then one that is gone, then one that is there again.
    daemon.signal(Signal::SIGSTOP);
    let failing = "perigee_collector_success{collector=\"libvirt\"}";
    instance.until("word of the silence", || (value(&instance, failing)? == 0.0).then_some(()));
    seen(&instance, "idle", "an unknown machine", |vm| vm["status"] == "unknown");
    assert!(value(&instance, "perigee_host_cpu_usage_ratio").is_some(), "the host is measured all the same");
    daemon.signal(Signal::SIGCONT);
    seen(&instance, "idle", "word of it again", |vm| vm["status"] == "stopped");
    daemon.restart();
    seen(&instance, "idle", "word of it from another daemon", |vm| vm["status"] == "stopped");
    assert_eq!(daemon.virsh(&["list", "--all", "--name"]), "idle");
}

/// The agent reaches it through a stand-in for `ssh` that enters the daemon's mounts.
#[test]
fn real_a_far_libvirt_tells_of_its_machine() {
    let (daemon, instance) = (Daemon::start(), Instance::empty());
    let usual = daemon.socket().parent().unwrap().join("run/libvirt/libvirt-sock");
    std::os::unix::fs::symlink(daemon.socket(), usual).unwrap();
    let programs = instance.path().join("programs");
    std::fs::create_dir(&programs).unwrap();
    let script = format!("#!/bin/sh\nfor last; do :; done\nexec nsenter -m -t {} sh -c \"$last\"\n", daemon.pid());
    std::fs::write(programs.join("ssh"), script).unwrap();
    std::fs::set_permissions(programs.join("ssh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut up = instance.command(&["up", "--detach"]);
    up.env("PATH", path).env("PERIGEE_LIBVIRT_URI", "qemu+ssh://far.example/system");
    Said::from(up.output().unwrap()).fine();

    daemon.define("db");
    seen(&instance, "db", "a stopped machine", |vm| vm["status"] == "stopped");
    let node = format!("{{node=\"{}\"}}", daemon.virsh(&["hostname"]));
    let told = |name: &str| value(&instance, &format!("perigee_libvirt_node_{name}{node}"));
    let busy = instance.until("what its processors do", || told("cpu_usage_ratio"));
    assert!((0.0..=1.0).contains(&busy), "{busy}");
    assert_eq!(told("memory_total_bytes"), value(&instance, "perigee_host_memory_total_bytes"), "it is this one");
    assert!(told("memory_used_bytes") > Some(0.0) && told("memory_used_bytes") < told("memory_total_bytes"));

    let host = instance.json(&["host", "list"])[0]["name"].as_str().unwrap().to_owned();
    let shown = on_a_terminal(&instance, &["host", "get", &host]);
    for head in ["CPU ", "MEMORY ", "VMS CPU", "VMS MEM"] {
        let is_drawn = |line: &str| line.starts_with(head) && line.contains("%  15m ");
        assert!(shown.lines().any(is_drawn), "{head} in {shown}");
    }
    let page = agents_page(&instance).unwrap();
    let names = |mark: &str| page.lines().filter_map(|line| line.strip_prefix(mark)?.split(' ').next()).collect();
    let (explained, all): (Vec<&str>, Vec<&str>) = (names("# HELP "), names("# TYPE "));
    assert!(all.contains(&"perigee_libvirt_node_cpu_seconds_total") && explained == all, "{page}");
}

/// What a person sees of a command.
fn on_a_terminal(instance: &Instance, arguments: &[&str]) -> String {
    let pair = openpty(None, None).unwrap();
    let mut command = instance.command(arguments);
    command.env("TERM", "xterm").stdout(pair.slave);
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut shown = Vec::new();
    // The other end is closed: the kernel calls that an error.
    let _ = File::from(pair.master).read_to_end(&mut shown);
    assert!(child.wait().unwrap().success());
    String::from_utf8(shown).unwrap()
}

#[test]
fn real_sandboxes_are_measured() {
    let instance = Instance::new();
    instance.perigee(&["sandbox", "create", "--name", "busy", "--memory", "192MiB"]).fine();
    let of = |name: &str| format!("{name}{{name=\"busy\"}}");
    instance.until("a running sandbox", || (value(&instance, &of("perigee_guest_state"))? == 1.0).then_some(()));
    let before = value(&instance, &of("perigee_guest_cpu_seconds_total")).unwrap();
    instance
        .perigee(&["sandbox", "exec", "busy", "--", "sh", "-c", "n=0; while [ $n -lt 20000 ]; do n=$((n+1)); done"])
        .fine();
    instance.until("its use of the host", || {
        let used = value(&instance, &of("perigee_guest_cpu_seconds_total"))? - before;
        let resident = value(&instance, &of("perigee_guest_memory_resident_bytes"))?;
        (used > 0.0 && resident > 1e6).then_some(())
    });
    assert_eq!(value(&instance, &of("perigee_guest_memory_bytes")), Some(f64::from(192 << 20)));
    assert!(instance.json(&["vm", "list"]).as_array().unwrap().is_empty(), "a sandbox is no foreign machine");
    instance.perigee(&["sandbox", "delete", "busy"]).fine();
    instance.until("no series of it", || value(&instance, &of("perigee_guest_info")).is_none().then_some(()));
}
