//! The dashboard, as a person walks through it with a real browser.

use super::Instance;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn real_a_person_finds_their_host_in_the_dashboard() {
    let instance = Instance::empty();
    instance.up();
    let url = instance.until("the address", || {
        let text = std::fs::read_to_string(instance.path().join("endpoints.json")).ok()?;
        serde_json::from_str::<serde_json::Value>(&text).ok()?["http"].as_str().map(str::to_owned)
    });
    instance.until("a measurement", || instance.json(&["host", "list"])[0]["load"].is_object().then_some(()));
    let token = std::fs::read_to_string(instance.path().join("token")).unwrap();
    let web = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../web");
    assert!(web.join("dist/index.html").exists(), "the dashboard is not built: cargo xtask web, then cargo build");
    let mut walk = Command::new("node")
        .arg(web.join("journey.mjs"))
        .envs([("BASE_URL", url.as_str()), ("TOKEN", token.trim()), ("OUTAGES", "1")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("node: {error}; it comes with scripts/setup test"));
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
