//! The dashboard, as a person walks through it with a real browser.

use super::Instance;
use std::path::Path;
use std::process::Command;

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
    let walk = Command::new("node")
        .arg(web.join("journey.mjs"))
        .envs([("BASE_URL", url.as_str()), ("TOKEN", token.trim())])
        .output()
        .unwrap_or_else(|error| panic!("node: {error}; it comes with scripts/setup test"));
    let said = String::from_utf8_lossy(&walk.stdout).into_owned() + &String::from_utf8_lossy(&walk.stderr);
    assert!(walk.status.success() && said.contains("the journey went well"), "{said}");
}
