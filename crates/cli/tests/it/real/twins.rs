//! Two agents with one identity: a machine's disk was copied, and both copies were started.

use super::Instance;
use super::instance::processes;
use serde_json::Value;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The agent of this folder once more, as it was started, on a copy of the folder.
fn start_again(instance: &Instance, folder: &Path, copy: &Path) -> Child {
    let copied = Command::new("cp").arg("-a").args([folder, copy]).status().unwrap();
    assert!(copied.success());
    let first = instance.pids("perigee-agent");
    let (_, line) = processes().into_iter().find(|(pid, _)| first == [*pid]).unwrap();
    let (folder, copy_text) = (folder.to_str().unwrap(), copy.to_str().unwrap());
    let mut command = Command::new(&line[0]);
    command.args(line[1..].iter().map(|word| word.replace(folder, copy_text)));
    command.stdout(Stdio::null()).stderr(File::create(copy.join("twin.log")).unwrap()).spawn().unwrap()
}

fn guests(folder: &Path) -> usize {
    std::fs::read_dir(folder.join("journal/guests")).map_or(0, Iterator::count)
}

#[test]
fn real_of_two_agents_with_one_identity_the_later_is_served() {
    let instance = Instance::empty();
    instance.perigee(&["up", "--detach", "--driver", "simulated"]).fine();
    instance.perigee(&["image", "build", "base"]).fine();
    let (folder, copy) = (instance.path().join("agent"), instance.path().join("twin"));
    let mut twin = start_again(&instance, &folder, &copy);

    let host = instance.until("word of two agents", || {
        let host = instance.json(&["host", "list"])[0].clone();
        host["problem"].is_object().then_some(host)
    });
    assert_eq!((&host["problem"]["code"], &host["status"]), (&"PRG-4009".into(), &"connected".into()), "{host}");
    let said = instance.until("the older one's own word", || {
        let log = std::fs::read_to_string(folder.join("agent.log")).ok()?;
        log.lines().find(|line| line.contains("was started later")).map(str::to_owned)
    });
    assert!(said.contains("PRG-4009") || said.contains("stop one of the two"), "{said}");
    let events = instance.json(&["event", "list", "--limit", "100"]);
    let told: Vec<&Value> = events.as_array().unwrap().iter().filter(|event| event["verb"] == "host.twins").collect();
    assert_eq!(told.len(), 1, "told once: {events}");
    assert_eq!(instance.json(&["host", "list"]).as_array().unwrap().len(), 1, "it is one host");

    instance.create("web");
    assert_eq!((guests(&copy), guests(&folder)), (1, 0), "the later one serves");
    instance.perigee(&["sandbox", "delete", "web"]).fine();
    twin.kill().unwrap();
    twin.wait().unwrap();
}
