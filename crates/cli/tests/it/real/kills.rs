//! The kill matrix: each process, in the middle of each verb. After a restart the record is true,
//! creates and deletes are finished or undone, executions are attached again or lost, and nothing
//! is left.

use super::{Instance, Inventory};
use serde_json::Value;

const QEMU: &str = "qemu-system-x86_64";
const VICTIMS: [&str; 3] = ["perigeed", "perigee-agent", QEMU];

#[test]
fn real_kill_in_the_middle_of_create() {
    let instance = Instance::new();
    let before = Inventory::of(&instance);
    for (n, victim) in VICTIMS.into_iter().enumerate() {
        let name = format!("c{n}");
        instance.perigee(&["sandbox", "create", "--name", &name, "--image", "base", "--no-wait"]).fine();
        instance.until("a VMM", || (!instance.pids(QEMU).is_empty()).then_some(()));
        instance.kill_and_restart(victim);
        // A create whose VMM was killed is tried again.
        instance.until("a running sandbox", || instance.sandbox(&name).filter(|s| s["status"] == "running"));
        assert_eq!(instance.exec(&name, &["echo", "up"]).fine(), "up\n", "{victim}");
        assert_eq!(instance.pids(QEMU).len(), 1, "{victim}: one copy");
        instance.perigee(&["sandbox", "delete", &name]).fine();
        assert_eq!(Inventory::of(&instance), before, "{victim}");
    }
}

#[test]
fn real_kill_in_the_middle_of_exec() {
    let instance = Instance::new();
    for victim in VICTIMS {
        instance.create("e");
        let script = "echo run >> /tmp/runs; for i in 1 2 3 4 5 6; do echo line $i; sleep 1; done; exit 3";
        let task = instance.json_of(&["api", "POST", "/api/v1/sandboxes/e/execute", "--data", &body(script)]);
        let id = task["execution_id"].as_str().unwrap().to_owned();
        instance.until("a running command", || (instance.execution(&id)["state"] == "running").then_some(()));
        instance.kill_and_restart(victim);
        let end = instance.until("its end", || Some(instance.execution(&id)).filter(|e| e["ended_at"].is_string()));
        if victim == QEMU {
            assert_eq!(end["state"], "lost", "{end:#}");
            assert_eq!(instance.json(&["task", "get", task["id"].as_str().unwrap()])["state"], "failed");
        } else {
            assert_eq!(
                (end["state"].as_str(), end["exit_code"].as_i64()),
                (Some("exited"), Some(3)),
                "{victim} {end:#}"
            );
            let all: String = (1..=6).map(|i| format!("line {i}\n")).collect();
            assert_eq!(end["stdout"], all, "{victim}: every byte exactly once");
            assert_eq!(instance.exec("e", &["cat", "/tmp/runs"]).fine(), "run\n", "{victim}: run once");
        }
        instance.perigee(&["sandbox", "delete", "e"]).fine();
    }
}

#[test]
fn real_kill_in_the_middle_of_delete() {
    let instance = Instance::new();
    let before = Inventory::of(&instance);
    for victim in VICTIMS {
        instance.create("d");
        let deleting = instance.start(&["sandbox", "delete", "d", "--no-wait"]);
        instance.kill_and_restart(victim);
        let said = deleting.wait_with_output().unwrap();
        let acknowledged = said.status.success();
        if !acknowledged {
            // The request died with the control plane: it happened whole or not at all.
            instance.perigee(&["sandbox", "delete", "d", "--no-wait"]);
        }
        instance.until("the end of the sandbox", || instance.sandbox("d").is_none().then_some(()));
        assert_eq!(Inventory::of(&instance), before, "{victim}");
    }
}

#[test]
fn real_acknowledged_writes_survive_a_kill() {
    let instance = Instance::new();
    // The agent is away, so that tasks stay where the kill finds them.
    instance.kill("perigee-agent");
    let mut acknowledged = Vec::new();
    for n in 0..20 {
        let name = format!("w{n}");
        if instance.perigee(&["sandbox", "create", "--name", &name, "--image", "base", "--no-wait"]).code == 0 {
            acknowledged.push(name);
        }
        if n % 5 == 4 {
            instance.kill("perigeed");
            instance.perigee(&["up", "--detach"]).fine();
            instance.kill("perigee-agent");
        }
    }
    assert_eq!(acknowledged.len(), 20);
    let known = instance.json(&["sandbox", "list"]);
    for name in acknowledged {
        assert!(known.as_array().unwrap().iter().any(|s| s["name"] == name.as_str()), "{name} is lost");
    }
}

fn body(script: &str) -> String {
    serde_json::json!({ "argv": ["sh", "-c", script] }).to_string()
}

impl Instance {
    fn kill_and_restart(&self, victim: &str) {
        self.kill(victim);
        if victim != QEMU {
            self.up();
        }
    }

    fn execution(&self, id: &str) -> Value {
        self.json(&["execution", "get", id])
    }

    fn json_of(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.perigee(arguments).fine()).unwrap()
    }
}
