//! A sandbox's card by the API: forwards, and a policy that changes.

use crate::world::World;
use http::Method;
use perigee_agent_api::{FromAgent, FromServer, GuestReport};
use perigee_model::{GuestId, Observed, Phase};
use serde_json::{Value, json};

/// A sandbox with a card that runs, as far as its host says.
async fn with_card(world: &mut World, name: &str) -> GuestId {
    let answer = world.post("/api/v1/sandboxes", &[], json!({ "name": name, "egress": ["none"] })).await;
    assert_eq!(answer.status, 202, "{}", answer.json());
    world.obey(Phase::Running, 1).await
}

/// The next order about a guest, in which the host does all but what it cannot.
async fn done_but(world: &mut World, sequence: u64, busy: &[&str]) -> Value {
    loop {
        let FromServer::Desired(order) = world.told().await else { continue };
        let forwards = order.spec.forwards.iter().filter(|one| !busy.contains(&one.to_string().as_str()));
        let observed = Observed {
            generation: order.desired.generation,
            sequence,
            phase: Phase::Running,
            since: world.control.clock().now(),
            note: None,
            problem: None,
            kernel_release: None,
            boot_ms: None,
            restarts: 0,
            booted: None,
            addresses: Vec::new(),
            forwards: forwards.copied().collect(),
            volumes: Vec::new(),
        };
        let report = FromAgent::Guest(GuestReport { guest: order.id, observed });
        world.control.host_message(world.host, report).await.unwrap();
        return serde_json::to_value(&order.spec).unwrap();
    }
}

#[tokio::test]
async fn a_forward_is_told_to_the_host_and_is_up_when_it_says_so() {
    let mut world = World::new().await;
    with_card(&mut world, "web").await;
    let asked = json!({ "host_port": 8080, "guest_port": 80 });
    let added = world.post("/api/v1/sandboxes/web/forwards", &[], asked.clone()).await;
    assert_eq!(added.status, 200, "{}", added.json());
    assert_eq!((&added.json()["forwards"][0]["up"], &added.json()["caught_up"]), (&json!(false), &json!(false)));
    assert_eq!(done_but(&mut world, 2, &[]).await["forwards"], json!(["tcp/8080:80"]));
    let now = world.get("/api/v1/sandboxes/web").await.json();
    assert_eq!((&now["forwards"][0]["up"], &now["caught_up"]), (&json!(true), &json!(true)));
    let again = world.post("/api/v1/sandboxes/web/forwards", &[], asked).await;
    assert_eq!((again.status.as_u16(), &again.json()["generation"]), (200, &now["generation"]), "nothing is new");
    let path = "/api/v1/sandboxes/web/forwards/tcp/8080";
    assert_eq!(world.send(Method::DELETE, path, &world.admin, &[], b"").await.status, 200);
    let gone = world.send(Method::DELETE, path, &world.admin, &[], b"").await;
    assert_eq!((gone.status.as_u16(), gone.code().as_str()), (404, "PRG-3011"));
    let verbs: Vec<_> = world.get("/api/v1/events").await.json()["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["detail"].as_str().unwrap().starts_with("tcp/8080"))
        .map(|event| event["verb"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(verbs, ["guest.forward", "guest.unforward"]);
}

#[tokio::test]
async fn a_port_that_nobody_can_have_is_refused() {
    let mut world = World::new().await;
    with_card(&mut world, "web").await;
    with_card(&mut world, "other").await;
    world.running("bare").await;
    let held = world.post("/api/v1/sandboxes/web/forwards", &[], json!({ "host_port": 8080, "guest_port": 80 })).await;
    assert_eq!(held.status, 200);
    for (sandbox, body, status, code, pointer) in [
        ("web", json!({ "host_port": 0 }), 422, "PRG-1002", "/host_port"),
        ("web", json!({ "host_port": 65536 }), 422, "PRG-1002", "/host_port"),
        ("web", json!({ "host_port": 1, "guest_port": 0 }), 422, "PRG-1002", "/guest_port"),
        ("web", json!({ "host_port": -1 }), 422, "PRG-1002", "/host_port"),
        ("web", json!({ "host_port": 1, "protocol": "sctp" }), 422, "PRG-1002", "/protocol"),
        ("bare", json!({ "host_port": 1 }), 422, "PRG-1002", "/id"),
        ("web", json!({ "host_port": 8080, "guest_port": 81 }), 409, "PRG-4011", ""),
        ("other", json!({ "host_port": 8080, "guest_port": 80 }), 409, "PRG-4011", ""),
    ] {
        let answer = world.post(&format!("/api/v1/sandboxes/{sandbox}/forwards"), &[], body.clone()).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{body}: {}", answer.json());
        if !pointer.is_empty() {
            assert_eq!(answer.json()["errors"][0]["pointer"], pointer, "{body}");
        }
    }
    let udp =
        world.post("/api/v1/sandboxes/other/forwards", &[], json!({ "host_port": 8080, "protocol": "udp" })).await;
    assert_eq!(udp.status, 200, "another protocol has ports of its own");
}

#[tokio::test]
async fn a_port_that_the_host_uses_is_taken_back_from_who_waits() {
    let mut world = World::new().await;
    with_card(&mut world, "web").await;
    let adding = world.post_waiting("/api/v1/sandboxes/web/forwards", &json!({ "host_port": 22 }));
    assert_eq!(done_but(&mut world, 2, &["tcp/22:22"]).await["forwards"], json!(["tcp/22:22"]));
    let answer = adding.await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (409, "PRG-4011"), "{}", answer.json());
    assert!(done_but(&mut world, 3, &[]).await.get("forwards").is_none(), "it is not wanted any more");
}

#[tokio::test]
async fn a_policy_changes_only_for_who_has_a_card() {
    let mut world = World::new().await;
    with_card(&mut world, "web").await;
    world.running("bare").await;
    let patch = async |sandbox: &str, body: Value| {
        let path = format!("/api/v1/sandboxes/{sandbox}");
        world.send(Method::PATCH, &path, &world.admin, &[("if-match", "*")], body.to_string().as_bytes()).await
    };
    for (sandbox, places) in [("bare", json!(["all"])), ("web", json!([])), ("web", json!(["localhost"]))] {
        let answer = patch(sandbox, json!({ "egress": places })).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (422, "PRG-1002"), "{}", answer.json());
        assert_eq!(answer.json()["errors"][0]["pointer"], "/egress");
    }
    let before = world.get("/api/v1/sandboxes/web").await.json();
    let labelled = patch("web", json!({ "labels": { "a": "b" } })).await.json();
    assert_eq!(labelled["generation"], before["generation"], "its host has nothing to do");
    let changed = patch("web", json!({ "egress": ["a.com:443"] })).await.json();
    assert_eq!((&changed["egress"], &changed["labels"]), (&json!(["a.com:tcp/443"]), &json!({ "a": "b" })));
    // What it was told before may be told once more first.
    while done_but(&mut world, 2, &[]).await["egress"] != json!({ "list": ["a.com:tcp/443"] }) {}
}

#[tokio::test]
async fn a_vm_has_a_card_by_the_same_words() {
    let mut world = World::new().await;
    for (body, pointer) in [
        (json!({ "egress": ["localhost"] }), "/egress"),
        (json!({ "egress": ["none"], "network": "default" }), "/network"),
        (json!({ "egress": ["none"], "mac": "52:54:00:00:00:01" }), "/mac"),
    ] {
        let answer = world.post("/api/v1/vms", &[], body.clone()).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (422, "PRG-1002"), "{body}");
        assert_eq!(answer.json()["errors"][0]["pointer"], pointer, "{body}");
    }
    for (name, egress) in [("db", json!(["a.com:443"])), ("bare", Value::Null)] {
        let body = json!({ "name": name, "egress": egress });
        assert_eq!(world.post("/api/v1/vms", &[], body).await.status, 202);
        world.obey(Phase::Running, 1).await;
    }
    let shown = world.get("/api/v1/vms/db").await.json();
    assert_eq!((&shown["egress"], &shown["mac"]), (&json!(["a.com:tcp/443"]), &Value::Null), "no address, no card yet");
    let patch = async |vm: &str, body: Value| {
        let path = format!("/api/v1/vms/{vm}");
        world.send(Method::PATCH, &path, &world.admin, &[("if-match", "*")], body.to_string().as_bytes()).await
    };
    let refused = patch("bare", json!({ "egress": ["all"] })).await;
    assert_eq!((refused.status.as_u16(), refused.json()["errors"][0]["pointer"].as_str()), (422, Some("/egress")));
    let changed = patch("db", json!({ "egress": ["none"], "start_order": 3 })).await.json();
    assert_eq!((&changed["egress"], &changed["start_order"]), (&json!(["none"]), &json!(3)));
    let forward = json!({ "host_port": 8080, "guest_port": 80 });
    for path in ["/api/v1/vms/bare/forwards", "/api/v1/vms/bare/forwards?dry_run=true"] {
        assert_eq!(world.post(path, &[], forward.clone()).await.status, 422, "{path}");
    }
    let added = world.post("/api/v1/vms/db/forwards", &[], forward).await;
    assert_eq!((added.status.as_u16(), &added.json()["start_order"]), (200, &json!(3)), "a VM as VMs are shown");
    let mut sequence = 2;
    while done_but(&mut world, sequence, &[]).await["forwards"] != json!(["tcp/8080:80"]) {
        sequence += 1;
    }
    let shown = world.get("/api/v1/vms/db").await.json();
    assert_eq!((&shown["forwards"][0]["up"], &shown["caught_up"]), (&json!(true), &json!(true)));
    let verbs = world.get("/api/v1/events").await.json()["items"].to_string();
    assert!(verbs.contains("guest.egress") && verbs.contains("guest.forward"), "{verbs}");
    let removed = world.send(Method::DELETE, "/api/v1/vms/db/forwards/tcp/8080", &world.admin, &[], b"").await;
    assert_eq!((removed.status.as_u16(), removed.json().get("forwards")), (200, None), "{}", removed.json());
}

#[tokio::test]
async fn ipv6_is_given_at_creation_to_who_has_a_card() {
    let mut world = World::new().await;
    with_card(&mut world, "web").await;
    let patch = async |sandbox: &str, body: Value| {
        let path = format!("/api/v1/sandboxes/{sandbox}");
        world.send(Method::PATCH, &path, &world.admin, &[("if-match", "*")], body.to_string().as_bytes()).await
    };
    let late = patch("web", json!({ "egress6": ["all"] })).await;
    assert_eq!((late.status.as_u16(), late.json()["errors"][0]["pointer"].clone()), (422, json!("/egress6")));
    for body in [
        json!({ "egress6": ["all"] }),
        json!({ "egress": ["none"], "egress6": ["1.1.1.1"] }),
        json!({ "egress": ["none"], "egress6": ["::ffff:1.1.1.1"] }),
    ] {
        let answer = world.post("/api/v1/sandboxes", &[], body).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (422, "PRG-1002"), "{}", answer.json());
        assert_eq!(answer.json()["errors"][0]["pointer"], "/egress6");
    }
    let vm = world.post("/api/v1/vms", &[], json!({ "egress": ["none"], "egress6": ["none"] })).await;
    assert_eq!((vm.status.as_u16(), vm.code().as_str()), (422, "PRG-1003"), "{}", vm.json());
    let with = json!({ "name": "six", "egress": ["none"], "egress6": ["[2606:4700::1111]:443"] });
    assert_eq!(world.post("/api/v1/sandboxes", &[], with).await.status.as_u16(), 202);
    let changed = patch("six", json!({ "egress6": ["2606:4700::/32"] })).await.json();
    assert_eq!((&changed["egress"], &changed["egress6"]), (&json!(["none"]), &json!(["2606:4700::/32"])));
}
