//! Waiting for tasks, deleting one and many.

use crate::canned::{answers, id, task};
use crate::fake::{Fake, Ran, Seen, json, refusal};
use perigee_api::problem::ProblemView;
use perigee_model::Code;
use std::process::Stdio;

#[test]
fn create_waits_and_prints_the_sandbox() {
    let fake = Fake::start(answers);
    let ran = fake.run(&["sandbox", "create", "--memory", "512MiB", "--ttl", "1h30m", "--env", "A=b=c", "-o", "name"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "web\n", ""));
    let seen = fake.seen();
    let body: serde_json::Value = serde_json::from_slice(&seen[0].body).unwrap();
    assert_eq!(body, serde_json::json!({"memory_bytes": 512 << 20, "ttl_ms": 5_400_000, "env": {"A": "b=c"}}));
    assert!(!seen[0].header("idempotency-key").is_empty() && !seen[0].header("x-request-id").is_empty());
    assert_eq!((seen[1].line(), seen[1].header("prefer")), (format!("GET /api/v1/tasks/{}", id(0xd1)), "wait=1"));
    let ran = fake.run(&["sandbox", "create", "--no-wait"]);
    assert_eq!(ran.out, format!("{}\n", id(0xd1)));
    assert_ne!(seen[0].header("idempotency-key"), fake.seen().last().unwrap().header("idempotency-key"));
}

#[test]
fn a_task_that_fails_says_why() {
    let fake = Fake::start(|seen: &Seen| {
        if seen.path.contains("/tasks/") {
            let problem = ProblemView { code: "PRG-5001".to_owned(), detail: "host-1 lacks 9 GiB".to_owned() };
            return json(200, &perigee_api::TaskView { problem: Some(problem), ..task(0xd1, "vm:create", "failed") });
        }
        answers(seen)
    });
    let ran = fake.run(&["sandbox", "create"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("host-1 lacks 9 GiB") && ran.err.contains("PRG-5001"), "{}", ran.err);
    // `run` leaves nothing behind even then.
    assert_eq!(fake.run(&["sandbox", "run", "--", "true"]).code, 125);
    assert!(fake.lines().contains(&format!("DELETE /api/v1/sandboxes/{}", id(0xa1))));
    let ran = fake.run(&["task", "wait", &id(0xd1)]);
    assert!(ran.code == 1 && ran.out.contains("failed"), "{ran:?}");
}

#[test]
fn waiting_has_an_end() {
    let forever = |seen: &Seen| match seen.path.contains("/tasks/") {
        true => json(200, &task(0xd1, "vm:create", "running")),
        false => answers(seen),
    };
    let fake = Fake::start(forever);
    let ran = fake.run(&["task", "wait", &id(0xd1), "--timeout", "300ms"]);
    assert_eq!((ran.code, ran.out.as_str()), (6, ""), "{}", ran.err);
    // Ctrl-C lets go and says how to come back.
    let mut command = fake.command(&["sandbox", "create"]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let began = std::time::Instant::now();
    while fake.lines().iter().filter(|l| l.contains("/tasks/")).count() < 5 {
        assert!(began.elapsed().as_secs() < 20, "{:?}", fake.lines());
        std::thread::yield_now();
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 130, "{ran:?}");
    assert!(ran.err.contains(&format!("perigee task wait {}", id(0xd1))), "{}", ran.err);
}

#[test]
fn many_deletes_may_succeed_in_part() {
    let fake = Fake::start(answers);
    assert_eq!(fake.run(&["sandbox", "delete", "web"]).code, 0);
    assert_eq!(fake.run(&["sandbox", "rm", "gone"]).code, 3);
    let ran = fake.run(&["sandbox", "delete", "web", "gone"]);
    assert!(ran.code == 8 && ran.err.contains("gone: There is no such guest PRG-3002"), "{ran:?}");
    assert_eq!(fake.run(&["sandbox", "delete", "gone", "gone"]).code, 3);
    let ran = fake.run(&["sandbox", "delete", "--all"]);
    assert!(ran.code == 2 && ran.err.contains("--all --yes"), "{ran:?}");
    assert_eq!(fake.run(&["sandbox", "delete", "--all", "--yes"]).code, 0);
    let deleted = fake.lines().into_iter().filter(|l| l.ends_with(&format!("DELETE /api/v1/sandboxes/{}", id(0xa2))));
    assert_eq!(deleted.count(), 1);
}

#[test]
fn images_are_built_and_kept_in_use() {
    let fake = Fake::start(answers);
    let ran = fake.run(&["image", "build", "base", "-o", "name"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "base\n"), "{}", ran.err);
    let ran = fake.run(&["image", "delete", "base"]);
    assert!(ran.code == 5 && ran.err.contains("PRG-4004"), "{ran:?}");
    assert_eq!(fake.run(&["host", "delete", "host-1"]).code, 0);
    assert_eq!(fake.run(&["task", "cancel", &id(0xd1), "-o", "name"]).code, 0);
}

#[test]
fn images_are_imported_from_one_place() {
    let fake = Fake::start(answers);
    let disk = fake.dir.path().join("disk");
    std::fs::write(&disk, "hello from inside").unwrap();
    let sum = "8b6f8a5ad2e3b8a28ba7c5f1c4ee3d22ad4b6dbe2c1f2c6b3dd9b9d0a6b9a0aa";
    let url =
        fake.run(&["image", "import", "base", "--from", "http://a.example/d", "--sha256", sum, "--arch", "aarch64"]);
    assert_eq!(url.code, 0, "{}", url.err);
    let body: serde_json::Value =
        serde_json::from_slice(&fake.seen().iter().rfind(|s| s.method == "POST").unwrap().body).unwrap();
    let wanted = serde_json::json!({
        "name": "base", "url": "http://a.example/d", "checksum": format!("sha256:{sum}"), "arch": "aarch64",
    });
    assert_eq!(body, wanted);
    assert_eq!(fake.run(&["image", "import", "--catalog", "ubuntu-22.04"]).code, 0);
    let body: serde_json::Value =
        serde_json::from_slice(&fake.seen().iter().rfind(|s| s.method == "POST").unwrap().body).unwrap();
    assert_eq!(body, serde_json::json!({ "name": "ubuntu-22-04", "catalogue": "ubuntu-22.04" }));
    // Half of it is there: the rest is sent, and what was sent is named by its sum.
    let ran = fake.run(&["image", "import", "base", "--file", disk.to_str().unwrap(), "--format", "raw"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let sent = fake.seen().into_iter().rfind(|s| s.method == "PUT").unwrap();
    assert!(sent.path.starts_with("/api/v1/uploads/") && sent.path.ends_with("?offset=5"), "{}", sent.path);
    assert_eq!(sent.body, b" from inside".as_slice());
    for wrong in [
        &["image", "import", "base"][..],
        &["image", "import", "--from", "https://a.example/d"],
        &["image", "import", "base", "--from", "https://a.example/d", "--file", "d"],
        &["image", "import", "base", "--catalog", "debian-12", "--sha256", sum],
        &["image", "import", "base", "--from", "https://a.example/d", "--format", "vmdk"],
    ] {
        assert_eq!(fake.run(wrong).code, 2, "{wrong:?}");
    }
}

#[test]
fn the_catalogue_is_a_list() {
    let fake = Fake::start(answers);
    let ran = fake.run(&["image", "catalog", "-o", "csv"]);
    let told = "NAME,ARCH,FORMAT,TITLE,URL,CHECKSUM\ndebian-12,x86_64,qcow2,Debian 12,https://a.example/d,https://a.example/SUMS\n";
    assert_eq!((ran.code, ran.out.as_str()), (0, told));
}

#[test]
fn join_tokens_go_into_private_files() {
    use std::os::unix::fs::PermissionsExt;
    let fake = Fake::start(answers);
    let file = fake.dir.path().join("join.token");
    let ran = fake.run(&["host", "token", "--ttl", "10m", "--file", file.to_str().unwrap()]);
    assert_eq!((ran.code, ran.out.as_str()), (0, ""));
    assert!(ran.err.contains("perigee-agent join https://127.0.0.1:8443") && !ran.err.contains("join-me"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "join-me\n");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fake.run(&["host", "token", "--file", file.to_str().unwrap()]).code, 1, "never over another file");
}

#[test]
fn any_route_can_be_called() {
    let fake = Fake::start(|seen: &Seen| match seen.path.as_str() {
        "/api/v1/none" => refusal(Code::NoSuchRoute, 404, "none"),
        _ => answers(seen),
    });
    let ran = fake.run(&["api", "get", "/api/v1/hosts/host-1"]);
    assert!(ran.code == 0 && ran.out.starts_with('{'), "{ran:?}");
    assert_eq!(fake.run(&["api", "GET", "/api/v1/none"]).code, 3);
    let ran = fake.run_with_input(&["api", "POST", "/api/v1/images", "--data", "@-"], b"{\"name\":\"x\"}");
    assert_eq!(ran.code, 0);
    assert_eq!(fake.seen().last().unwrap().body, "{\"name\":\"x\"}".as_bytes());
    assert_eq!(fake.run(&["api", "GET", "no-slash"]).code, 2);
}
