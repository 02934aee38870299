//! `up`, `down`, `doctor` and `version`, as far as they go without the two other programs.

use crate::canned::answers;
use crate::fake::{Fake, Ran, write_private};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// `perigee` in a directory of its own, with these scripts beside it.
fn beside(dir: &Path, scripts: &[(&str, &str)], arguments: &[&str]) -> Ran {
    let own = dir.join("bin");
    fs::create_dir_all(&own).unwrap();
    let perigee = own.join("perigee");
    if !perigee.exists() {
        fs::copy(env!("CARGO_BIN_EXE_perigee"), &perigee).unwrap();
    }
    for (name, script) in scripts {
        fs::write(own.join(name), format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(own.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let data = dir.join("instance");
    let mut command = Command::new(&perigee);
    command.args(["--data-dir", data.to_str().unwrap()]).args(arguments).env_clear();
    Ran::of(command.output().unwrap())
}

#[test]
fn a_program_that_dies_is_told_with_its_last_words() {
    let dir = tempfile::tempdir().unwrap();
    let ran = beside(
        dir.path(),
        &[("perigeed", "echo args: \"$@\" >&2; echo the store is damaged >&2; exit 3")],
        &["up", "--detach"],
    );
    assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{}", ran.err);
    assert!(ran.err.contains("perigeed ended: exit status: 3"), "{}", ran.err);
    assert!(ran.err.contains("the store is damaged"), "{}", ran.err);
    let data = dir.path().join("instance");
    assert!(ran.err.contains(&format!("args: --data-dir {}", data.display())), "{}", ran.err);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&data), mode(&data.join("perigeed.log"))), (0o700, 0o600));
}

#[test]
fn what_is_not_installed_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let ran = beside(dir.path(), &[], &["up", "--detach"]);
    assert!(ran.code == 1 && ran.err.contains("perigeed is not installed"), "{ran:?}");
}

#[test]
fn down_ends_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let ran = beside(dir.path(), &[], &["down"]);
    assert!(ran.code == 0 && ran.err.contains("Nothing of"), "{ran:?}");
    // A record whose number went to another process since.
    let mut other = Command::new("sleep").arg("60").spawn().unwrap();
    let data = dir.path().join("instance");
    fs::create_dir_all(data.join("agent")).unwrap();
    let record = format!("{{\"pid\":{},\"http\":\"http://127.0.0.1:1\"}}", other.id());
    write_private(&data.join("endpoints.json"), &record);
    write_private(&data.join("agent/endpoints.json"), &record);
    assert_eq!(beside(dir.path(), &[], &["down", "--force"]).code, 0);
    assert!(other.try_wait().unwrap().is_none(), "it lives");
    other.kill().unwrap();
    other.wait().unwrap();
    let ran = beside(dir.path(), &[], &["down", "--guests", "stop"]);
    assert!(ran.code == 7, "{ran:?}");
}

#[test]
fn doctor_judges_and_mends() {
    let fake = Fake::start(answers);
    let ran = fake.run(&["doctor"]);
    assert_eq!(ran.err, "");
    let words = |l: &str| l.split_whitespace().next().unwrap().to_owned();
    for line in ran.out.lines() {
        assert!(["ok", "warn", "fail", "fix:"].contains(&words(line).as_str()), "{line}");
    }
    assert!(ran.out.contains("kvm") && ran.out.contains("cgroup") && ran.out.contains("store"), "{}", ran.out);
    // The played instance has a host that is not connected.
    assert!(ran.code == 1 && ran.out.lines().any(|l| l.starts_with("fail  host host-1")), "{}", ran.out);
    let ran = fake.run(&["doctor", "-o", "json"]);
    let checks: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let checks = checks.as_array().unwrap();
    assert!(checks.iter().all(|c| c["grade"] == "ok" || c["fix"].is_string()), "{checks:?}");
    let fails = checks.iter().filter(|c| c["grade"] == "fail").count();
    assert_eq!(ran.code == 1, fails > 0);
}

#[test]
fn version_asks_the_control_plane_but_needs_none() {
    let fake = Fake::start(answers);
    let ran = fake.run(&["version", "-o", "json"]);
    let versions: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&versions["server_version"], &versions["instance"]), (&"0.1.0".into(), &"7f3a".into()));
    let dir = tempfile::tempdir().unwrap();
    let ran = beside(dir.path(), &[], &["version", "-o", "name"]);
    assert_eq!((ran.code, ran.out.trim()), (0, env!("CARGO_PKG_VERSION")));
}
