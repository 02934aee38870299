//! The dashboard, as a person walks through it with a real browser.

use super::Instance;
use super::ground::Ground;
use super::libvirtd::Daemon;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A person who knows where the dashboard is, and its token.
fn walk(instance: &Instance, journey: &str) -> Child {
    let url = instance.until("the address", || {
        let text = std::fs::read_to_string(instance.path().join("endpoints.json")).ok()?;
        serde_json::from_str::<serde_json::Value>(&text).ok()?["http"].as_str().map(str::to_owned)
    });
    let token = std::fs::read_to_string(instance.path().join("token")).unwrap();
    let web = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../web");
    assert!(web.join("dist/index.html").exists(), "the dashboard is not built: cargo xtask web, then cargo build");
    Command::new("node")
        .arg(web.join(journey))
        .envs([("BASE_URL", url.as_str()), ("TOKEN", token.trim()), ("OUTAGES", "1")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("node: {error}; it comes with scripts/setup test"))
}

#[test]
fn real_a_person_finds_their_host_in_the_dashboard() {
    let instance = Instance::empty();
    instance.up();
    instance.until("a measurement", || instance.json(&["host", "list"])[0]["load"].is_object().then_some(()));
    let mut walk = walk(&instance, "journey.mjs");
    let (mut done, said) = (walk.stdin.take().unwrap(), BufReader::new(walk.stdout.take().unwrap()));
    let mut asked = Vec::new();
    for line in said.lines().map_while(Result::ok) {
        match line.strip_prefix("please: ") {
            Some("kill agent") => instance.kill("perigee-agent"),
            Some("kill perigeed") => instance.kill("perigeed"),
            Some("start") => instance.up(),
            Some(other) => panic!("nobody can {other}"),
            None => {}
        }
        if line.starts_with("please: ") {
            writeln!(done, "done").unwrap();
        }
        asked.push(line);
    }
    let walked = walk.wait().unwrap();
    let wanted =
        ["please: kill agent", "please: start", "please: kill perigeed", "please: start", "the journey went well"];
    assert!(walked.success() && asked == wanted, "{asked:?}");
}

#[test]
fn real_a_person_makes_renames_and_takes_over_vms() {
    let daemon = Daemon::start();
    daemon.define("old");
    let ground = Ground::beside(daemon);
    let before = ground.daemon.virsh(&["dumpxml", "--inactive", "old"]);
    let walked = walk(&ground.instance, "journey-vms.mjs").wait_with_output().unwrap();
    assert!(walked.status.success(), "{}", String::from_utf8_lossy(&walked.stdout));
    assert_eq!(
        ground.daemon.virsh(&["list", "--all", "--name"]),
        "old",
        "what was made is gone, what was there is not"
    );
    assert_eq!(ground.daemon.virsh(&["dumpxml", "--inactive", "old"]), before);
    let events = ground.instance.json(&["event", "list", "--limit", "100"]);
    let verbs: Vec<&str> = events.as_array().unwrap().iter().filter_map(|event| event["verb"].as_str()).collect();
    for verb in ["guest.create", "guest.update", "guest.adopt", "guest.release", "guest.delete"] {
        assert_eq!(verbs.iter().filter(|one| **one == verb).count(), 1, "{verb} among {verbs:?}");
    }
}
