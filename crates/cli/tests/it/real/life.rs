//! The main job, and the same as `README.md` tells it.

use super::{Instance, Inventory};
use serde_json::json;
use std::io::Write;
use std::process::Stdio;

fn own_kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim().to_owned()
}

#[test]
fn real_the_link_may_be_a_websocket() {
    let instance = Instance::empty();
    let up = instance.command(&["up", "--detach"]).env("PERIGEE_STREAM_MODE", "ws").output();
    super::instance::Said::from(up.unwrap()).fine();
    instance.base();
    let run = instance.perigee(&["sandbox", "run", "--image", "base", "--", "sh", "-c", "uname -r; exit 7"]);
    assert_eq!(run.code, 7, "{} {}", run.out, run.err);
    assert_ne!(run.out.trim(), own_kernel());
    instance.until("three measurements", || {
        let told = instance.json(&["metrics", "query", "count_over_time(node_load1[1m])"]);
        (told[0]["value"].as_str()?.parse::<f64>().ok()? >= 3.0).then_some(())
    });
    // A link that ends is dialled again, and nothing was lost meanwhile.
    instance.kill("perigeed");
    let up = instance.command(&["up", "--detach"]).env("PERIGEE_STREAM_MODE", "ws").output();
    super::instance::Said::from(up.unwrap()).fine();
    instance.until("the host again", || (instance.json(&["host", "list"])[0]["status"] == "connected").then_some(()));
    instance.perigee(&["sandbox", "run", "--image", "base", "--", "true"]).fine();
    // Its first frame on the new link may be behind the sandbox's whole life.
    let lost = instance.until("measurements on the new link", || {
        let host = instance.json(&["host", "list"])[0].clone();
        Some(host["load"]["frames_lost"].clone()).filter(|lost| !lost.is_null())
    });
    assert_eq!(lost, 0);
}

#[test]
fn real_a_sandbox_lives() {
    let instance = Instance::new();
    let before = Inventory::of(&instance);

    let run =
        instance.perigee(&["sandbox", "run", "--image", "base", "--", "sh", "-c", "uname -r; echo oops >&2; exit 7"]);
    assert_eq!((run.code, run.err.contains("oops")), (7, true), "{} {}", run.out, run.err);
    assert_ne!(run.out.trim(), own_kernel());
    assert_eq!(run.out.trim(), instance.json(&["image", "get", "base"])["kernel_release"].as_str().unwrap());
    assert_eq!(instance.json(&["sandbox", "list"]), json!([]));

    instance.create("web");
    assert_eq!(instance.exec("web", &["cat", "/etc/hostname"]).fine(), "web\n");
    assert_eq!(instance.exec("web", &["sh", "-c", "kill -9 $$"]).code, 137);
    assert_eq!(instance.exec("web", &["no-such-program"]).code, 127);
    stdin_and_files(&instance);
    let tasks = instance.json(&["task", "list"]);
    assert!(tasks.as_array().unwrap().iter().all(|t| t["state"] == "succeeded"), "{tasks:#}");

    let dead = {
        instance.kill("qemu-system-x86_64");
        instance.until("failed", || instance.sandbox("web").filter(|s| s["status"] == "failed"))
    };
    assert_eq!(dead["status"], "failed");
    assert_eq!(instance.exec("web", &["true"]).code, 125);
    instance.perigee(&["sandbox", "delete", "--all", "--yes"]).fine();
    assert_eq!(Inventory::of(&instance), before);
    instance.perigee(&["down"]).fine();
    assert!(instance.pids("perigeed").is_empty() && instance.pids("perigee-agent").is_empty());
}

fn stdin_and_files(instance: &Instance) {
    let mut child = instance
        .command(&["sandbox", "exec", "-i", "web", "--", "sh", "-c", "cat; echo end"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"from outside\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "from outside\nend\n");
    let local = instance.path().join("there");
    let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(&local, &bytes).unwrap();
    instance.perigee(&["sandbox", "cp", local.to_str().unwrap(), "web:/tmp/there"]).fine();
    let back = instance.path().join("back");
    instance.perigee(&["sandbox", "cp", "web:/tmp/there", back.to_str().unwrap()]).fine();
    assert!(std::fs::read(back).unwrap() == bytes, "the file came back changed");
    let count = instance.exec("web", &["wc", "-c", "/tmp/there"]).fine();
    assert!(count.starts_with("3000000"), "{count}");
    assert_eq!(instance.perigee(&["sandbox", "cp", "web:/nowhere", "-"]).code, 3);
}

#[test]
fn real_twenty_runs_at_once_all_answer() {
    let instance = Instance::new();
    let before = Inventory::of(&instance);
    let number = |n: usize| format!("{n}");
    let children: Vec<_> = (0..20)
        .map(|n| instance.start(&["sandbox", "run", "--image", "base", "--memory", "128MiB", "--", "echo", &number(n)]))
        .collect();
    for (n, child) in children.into_iter().enumerate() {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said), (Some(0), format!("{n}\n")), "{err}");
    }
    instance.perigee(&["sandbox", "delete", "--all", "--yes"]).fine();
    assert_eq!(Inventory::of(&instance), before);
}

#[test]
fn real_two_instances_leave_each_other_alone() {
    let (one, two) = (Instance::new(), Instance::new());
    one.create("same-name");
    two.create("same-name");
    assert_ne!(one.agent_instance(), two.agent_instance());
    for instance in [&one, &two] {
        let id = std::fs::read_to_string(instance.path().join("instance")).unwrap();
        assert_eq!(instance.agent_instance(), id.trim(), "both halves carry one id");
    }
    one.perigee(&["sandbox", "delete", "--all", "--yes"]).fine();
    one.perigee(&["down", "--guests", "stop"]).fine();
    assert_eq!(two.exec("same-name", &["echo", "still here"]).fine(), "still here\n");
    one.up();
    assert_eq!(one.json(&["sandbox", "list"]), json!([]));
    assert_eq!(two.pids("qemu-system-x86_64").len(), 1);
}

#[test]
fn real_guests_outlive_both_halves_and_are_adopted() {
    let instance = Instance::new();
    instance.create("web");
    let boot_id = || instance.exec("web", &["cat", "/proc/sys/kernel/random/boot_id"]).fine();
    let first = boot_id();
    let pid = instance.pids("qemu-system-x86_64");
    instance.perigee(&["down"]).fine();
    assert_eq!(instance.pids("qemu-system-x86_64"), pid, "down keeps guests by default");
    instance.up();
    assert_eq!(boot_id(), first);
    // Only the missing half is started.
    let perigeed = instance.pids("perigeed");
    instance.kill("perigee-agent");
    instance.up();
    assert_eq!(instance.pids("perigeed"), perigeed);
    assert_eq!(boot_id(), first);
    let agent = instance.pids("perigee-agent");
    instance.kill("perigeed");
    instance.up();
    assert_eq!(instance.pids("perigee-agent"), agent);
    assert_eq!(boot_id(), first);
    instance.perigee(&["down", "--guests", "stop"]).fine();
    assert!(instance.pids("qemu-system-x86_64").is_empty());
}

#[test]
fn real_a_sandbox_ends_with_its_time() {
    let instance = Instance::new();
    let before = Inventory::of(&instance);
    instance.perigee(&["sandbox", "create", "--name", "brief", "--image", "base", "--ttl", "20s"]).fine();
    // The control plane's absence does not prolong it.
    instance.kill("perigeed");
    instance.until("the end of the guest", || instance.pids("qemu-system-x86_64").is_empty().then_some(()));
    instance.up();
    instance.until("its record's end", || instance.sandbox("brief").is_none().then_some(()));
    assert_eq!(Inventory::of(&instance), before);
}
