//! Bad input, row by row: a typed refusal, nothing left behind, and the next request works.

use crate::world::World;
use http::Method;
use perigee_model::Phase;
use serde_json::json;

#[tokio::test]
async fn absurd_sandboxes_are_refused_and_leave_nothing() {
    let world = World::new().await;
    let rows = [
        (json!({ "image": "nope" }), 404, "PRG-3003", ""),
        (json!({ "cpus": 0 }), 422, "PRG-1002", "/cpus"),
        (json!({ "cpus": 10_000 }), 422, "PRG-1002", "/cpus"),
        (json!({ "cpus": 200 }), 409, "PRG-5001", ""),
        (json!({ "memory_bytes": 1u64 << 40 }), 409, "PRG-5001", ""),
        (json!({ "memory_bytes": 1 }), 422, "PRG-1002", "/memory_bytes"),
        (json!({ "memory_bytes": -1 }), 422, "PRG-1002", "/memory_bytes"),
        (json!({ "memory_bytes": 1e30 }), 422, "PRG-1002", "/memory_bytes"),
        (json!({ "name": "a/b" }), 422, "PRG-1002", "/name"),
        (json!({ "name": "a\nb" }), 422, "PRG-1002", "/name"),
        (json!({ "name": "-rf" }), 422, "PRG-1002", "/name"),
        (json!({ "name": "" }), 422, "PRG-1002", "/name"),
        (json!({ "name": "x".repeat(300) }), 422, "PRG-1002", "/name"),
        (json!({ "name": 7 }), 422, "PRG-1002", "/name"),
        (json!({ "kind": "vm" }), 422, "PRG-1002", "/kind"),
        (json!({ "kind": "cat" }), 422, "PRG-1002", "/kind"),
        (json!({ "host": "nowhere" }), 404, "PRG-3001", ""),
        (json!({ "priority": "now" }), 422, "PRG-1002", "/priority"),
        (json!({ "ttl_ms": 1 }), 422, "PRG-1002", "/ttl_ms"),
        (json!({ "ttl_ms": u64::MAX }), 422, "PRG-1002", "/ttl_ms"),
        (json!({ "env": { "A=B": "x" } }), 422, "PRG-1002", "/env"),
        (json!({ "labels": { "": "x" } }), 422, "PRG-1002", "/labels"),
        (json!({ "labels": { "k": "x".repeat(200) } }), 422, "PRG-1002", "/labels"),
    ];
    for (body, status, code, pointer) in rows {
        let shown: String = body.to_string().chars().take(60).collect();
        let answer = world.post("/api/v1/sandboxes", &[], body).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{shown}: {}", answer.json());
        if !pointer.is_empty() {
            assert_eq!(answer.json()["errors"][0]["pointer"], pointer, "{shown}");
        }
    }
    assert_eq!(world.get("/api/v1/sandboxes").await.json()["items"], json!([]));
    assert_eq!(world.get("/api/v1/tasks").await.json()["items"], json!([]));
}

#[tokio::test]
async fn absurd_vms_are_refused_and_leave_nothing() {
    let world = World::new().await;
    let vm = json!({ "name": "there", "mac": "52:54:00:00:00:07", "metadata": { "ticket": "7" } });
    assert_eq!(world.post("/api/v1/vms", &[], vm).await.status, 202);
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIF";
    let rows = [
        (json!({ "name": "<domain/>" }), 422, "/name"),
        (json!({ "name": "../../etc" }), 422, "/name"),
        (json!({ "name": "there" }), 409, ""),
        (json!({ "description": "a\u{1b}]0;b" }), 422, "/description"),
        (json!({ "description": "x".repeat(5000) }), 422, "/description"),
        (json!({ "metadata": { "": "x" } }), 422, "/metadata"),
        (json!({ "metadata": { "k": "x".repeat(20_000) } }), 422, "/metadata"),
        (json!({ "network": "'/><disk" }), 422, "/network"),
        (json!({ "mac": "52:54:00:00:00:07" }), 422, "/mac"),
        (json!({ "mac": "01:00:5e:00:00:01" }), 422, "/mac"),
        (json!({ "mac": "here" }), 422, "/mac"),
        (json!({ "memory_bytes": 1u64 << 40 }), 409, ""),
        (json!({ "memory_bytes": (1u64 << 30) + 1 }), 422, "/memory_bytes"),
        (json!({ "disk_bytes": 1u64 << 60 }), 422, "/disk_bytes"),
        (json!({ "user_data": "x".repeat((1 << 20) + 1) }), 422, "/user_data"),
        (json!({ "ssh_keys": [format!("command=\"rm\" {key}")] }), 422, "/ssh_keys"),
        (json!({ "ssh_keys": [format!("{key}\nssh-rsa AAAA")] }), 422, "/ssh_keys"),
        (json!({ "firmware": "coreboot" }), 422, "/firmware"),
        (json!({ "firmware": "uefi" }), 422, "/firmware"),
        (json!({ "tpm": true }), 422, "/firmware"),
        (json!({ "restart": "sometimes" }), 422, "/restart"),
        (json!({ "ttl_ms": 1000 }), 422, "/kind"),
        (json!({ "kind": "cat" }), 422, "/kind"),
    ];
    for (body, status, pointer) in rows {
        let shown: String = body.to_string().chars().take(60).collect();
        let answer = world.post("/api/v1/vms", &[], body).await;
        assert_eq!(answer.status.as_u16(), status, "{shown}: {}", answer.json());
        if !pointer.is_empty() {
            assert_eq!(answer.json()["errors"][0]["pointer"], pointer, "{shown}");
        }
    }
    let all = world.get("/api/v1/vms").await.json();
    assert_eq!(all["items"].as_array().map(Vec::len), Some(1), "{all}");
}

#[tokio::test]
async fn a_vm_is_called_otherwise_and_its_old_name_is_free() {
    let world = World::new().await;
    for name in ["a", "b"] {
        assert_eq!(world.post("/api/v1/vms", &[], json!({ "name": name })).await.status, 202);
    }
    let patch = async |vm: &str, change: serde_json::Value| {
        let path = format!("/api/v1/vms/{vm}");
        world.send(Method::PATCH, &path, &world.admin, &[("if-match", "*")], change.to_string().as_bytes()).await
    };
    let taken = patch("a", json!({ "name": "b", "metadata": { "k": "v" } })).await;
    assert_eq!((taken.status.as_u16(), taken.code().as_str()), (409, "PRG-4001"));
    let kept = world.get("/api/v1/vms/a").await.json();
    assert_eq!(kept["metadata"], json!(null), "nothing half-done");
    assert_eq!(patch("a", json!({ "name": "A!" })).await.status, 422);

    let renamed = patch("a", json!({ "name": "c", "metadata": { "k": "v", "gone": "x" } })).await;
    assert_eq!((renamed.status.as_u16(), &renamed.json()["name"]), (200, &json!("c")));
    let less = patch("c", json!({ "metadata": { "gone": null } })).await.json();
    assert_eq!(less["metadata"], json!({ "k": "v" }));
    assert_eq!(world.get("/api/v1/vms/a").await.status, 404);
    assert_eq!(world.post("/api/v1/vms", &[], json!({ "name": "a" })).await.status, 202);
}

#[tokio::test]
async fn names_are_taken_until_their_guest_is_gone() {
    let mut world = World::new().await;
    let guest = world.running("a").await;
    let again = world.post("/api/v1/sandboxes", &[], json!({ "name": "a" })).await;
    assert_eq!((again.status.as_u16(), again.code().as_str()), (409, "PRG-4001"));
    world.send(Method::DELETE, "/api/v1/sandboxes/a", &world.admin, &[], b"").await;
    assert_eq!(world.obey(Phase::Gone, 2).await, guest);
    let again = world.post("/api/v1/sandboxes", &[], json!({ "name": "a" })).await;
    assert_eq!(again.status, 202);
}

#[tokio::test]
async fn commands_for_guests_that_cannot_run_them_are_refused() {
    let mut world = World::new().await;
    let guest = world.running("a").await;
    let execute = format!("/api/v1/sandboxes/{guest}/execute");
    for (body, code) in [
        (json!({ "argv": [] }), "PRG-1002"),
        (json!({ "argv": ["a\u{0}b"] }), "PRG-1002"),
        (json!({ "argv": ["x", "y".repeat(200_000)] }), "PRG-1002"),
        (json!({ "argv": ["x"], "cwd": "here" }), "PRG-1002"),
        (json!({ "argv": ["x"], "timeout_ms": 0 }), "PRG-1002"),
        (json!({ "argv": "ls" }), "PRG-1002"),
        (json!({}), "PRG-1002"),
    ] {
        let answer = world.post(&execute, &[], body.clone()).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (422, code), "{}", answer.json());
    }
    let plain = world.get(&format!("/api/v1/sandboxes/{guest}/exec")).await;
    assert_eq!((plain.status.as_u16(), plain.code().as_str()), (426, "PRG-1013"));
    world.report(guest, 1, Phase::Failed, 9).await;
    let dead = world.post(&execute, &[], json!({ "argv": ["true"] })).await;
    assert_eq!((dead.status.as_u16(), dead.code().as_str()), (409, "PRG-4002"));
    world.control.links().cut(world.host);
    let path = format!("/api/v1/sandboxes/{guest}/files?path=/etc/passwd");
    let away = world.get(&path).await;
    assert_eq!((away.status.as_u16(), away.code().as_str()), (503, "PRG-6001"));
    assert_eq!(world.get("/api/v1/sandboxes/a").await.json()["status"], "unknown");
}

#[tokio::test]
async fn a_used_image_and_a_host_with_guests_stay() {
    let mut world = World::new().await;
    world.running("a").await;
    let image = world.send(Method::DELETE, "/api/v1/images/base", &world.admin, &[], b"").await;
    assert_eq!((image.status.as_u16(), image.code().as_str()), (409, "PRG-4004"));
    let host = world.send(Method::DELETE, "/api/v1/hosts/bench", &world.admin, &[], b"").await;
    assert_eq!((host.status.as_u16(), host.code().as_str()), (409, "PRG-4006"));
    let recipe = world.post("/api/v1/images", &[], json!({ "name": "x", "recipe": "cake" })).await;
    assert_eq!((recipe.status.as_u16(), recipe.code().as_str()), (422, "PRG-1002"));
}

#[tokio::test]
async fn a_host_speaks_only_for_itself() {
    use perigee_agent_api::{Hello, VERSIONS, VersionRange};
    let mut world = World::new().await;
    let guest = world.running("a").await;
    let stranger = perigee_model::HostId::new(uuid::Uuid::from_u128(9));
    let hello = |host, versions| Hello {
        host,
        run: perigee_model::RunId::new(uuid::Uuid::from_u128(1)),
        versions,
        inventory: crate::world::inventory(),
        guests: Vec::new(),
        executions: Vec::new(),
    };
    let unknown = world.control.host_hello(stranger, hello(stranger, VERSIONS)).await.err().unwrap();
    assert_eq!(unknown.code.number(), "PRG-3001");
    let liar = world.control.host_hello(world.host, hello(stranger, VERSIONS)).await.err().unwrap();
    assert_eq!(liar.code.number(), "PRG-2005");
    let newer = VersionRange { min: 90, max: 99 };
    let refused = world.control.host_hello(world.host, hello(world.host, newer)).await.err().unwrap();
    assert_eq!(refused.code.number(), "PRG-2007");
    assert!(refused.shown.contains("90-99") && refused.shown.contains("1-1"), "{}", refused.shown);
    // A report about a guest that is placed elsewhere changes nothing.
    let report = perigee_agent_api::GuestReport {
        guest,
        observed: perigee_model::Observed {
            generation: 1,
            sequence: 99,
            phase: Phase::Gone,
            since: world.control.clock().now(),
            note: None,
            problem: None,
            kernel_release: None,
            boot_ms: None,
            restarts: 0,
            booted: None,
            addresses: Vec::new(),
            forwards: Vec::new(),
            volumes: Vec::new(),
        },
    };
    world.control.host_message(stranger, perigee_agent_api::FromAgent::Guest(report)).await.unwrap();
    assert_eq!(world.get("/api/v1/sandboxes/a").await.json()["status"], "running");
}

#[tokio::test]
async fn what_a_host_said_before_counts_when_it_says_so_again() {
    use perigee_agent_api::{Hello, VERSIONS};
    let mut world = World::new().await;
    let guest = world.running("a").await;
    let status = async |world: &World| world.get("/api/v1/sandboxes/a").await.json()["status"].clone();
    assert_eq!(status(&world).await, "running");
    // Its agent is back, and has not found it yet.
    let hello = Hello {
        host: world.host,
        run: perigee_model::RunId::new(world.control.clock().uuid()),
        versions: VERSIONS,
        inventory: crate::world::inventory(),
        guests: Vec::new(),
        executions: Vec::new(),
    };
    world.link = world.control.host_hello(world.host, hello).await.unwrap();
    assert_eq!(status(&world).await, "unknown");
    // No news, but a word: the report that is known already.
    world.report(guest, 1, Phase::Running, 1).await;
    assert_eq!(status(&world).await, "running");
}
