//! Verbs from request to report: what callers see while a host acts.

use crate::world::World;
use http::Method;
use perigee_agent_api::{Excerpt, ExecutionEnd, ExecutionReport, FromAgent, FromServer};
use perigee_model::{Outcome, Phase};
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn a_sandbox_lives_from_create_to_delete() {
    let mut world = World::new().await;
    let created = world.post("/api/v1/sandboxes", &[], json!({ "name": "a", "labels": { "k": "v" } })).await;
    assert_eq!(created.status, 202);
    let task = created.header("location").to_owned();
    let guest = world.obey(Phase::Booting, 1).await;
    assert_eq!(world.get("/api/v1/sandboxes/a").await.json()["status"], "starting");
    world.report(guest, 1, Phase::Running, 2).await;
    assert_eq!(world.get(&task).await.json()["state"], "succeeded");
    let shown = world.get("/api/v1/sandboxes?label=k=v&status=running").await.json();
    assert_eq!(shown["items"][0]["kernel_release"], "6.1.0-test");
    assert_eq!(world.get("/api/v1/sandboxes?label=k=w").await.json()["items"], json!([]));
    // A late, older report changes nothing.
    world.report(guest, 1, Phase::Booting, 1).await;
    assert_eq!(world.get("/api/v1/sandboxes/a").await.json()["status"], "running");
    let deleted = world.send(Method::DELETE, "/api/v1/sandboxes/a", &world.admin, &[], b"").await;
    assert_eq!(deleted.status, 202);
    assert_eq!(world.obey(Phase::Gone, 3).await, guest);
    assert_eq!(world.get("/api/v1/sandboxes/a").await.status, 404);
    assert_eq!(world.get(&format!("/api/v1/sandboxes/{guest}")).await.json()["status"], "deleted");
    let verbs: Vec<String> = world.get("/api/v1/events").await.json()["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["verb"].as_str().unwrap().to_owned())
        .filter(|v| v.starts_with("guest."))
        .collect();
    assert_eq!(verbs, ["guest.create", "guest.running", "guest.delete", "guest.gone"]);
}

#[tokio::test]
async fn a_caller_may_wait_for_the_end() {
    let mut world = World::new().await;
    let app = world.app.clone();
    let admin = world.admin.clone();
    let request = http::Request::builder()
        .method(Method::POST)
        .uri("/api/v1/sandboxes")
        .header("host", "localhost")
        .header("authorization", format!("Bearer {admin}"))
        .header("prefer", "wait=30")
        .body(axum::body::Body::from(r#"{"name":"a"}"#))
        .unwrap();
    let waiting = tokio::spawn(tower::ServiceExt::oneshot(app, request));
    world.obey(Phase::Running, 1).await;
    let response = waiting.await.unwrap().unwrap();
    assert_eq!(response.status(), 201);
}

#[tokio::test]
async fn an_execution_runs_through_the_queue() {
    let mut world = World::new().await;
    let guest = world.running("a").await;
    let path = format!("/api/v1/vms/{guest}/execute");
    let task = world.post(&path, &[], json!({ "argv": ["sh", "-c", "exit 7"], "env": { "A": "b" } })).await.json();
    let execute = loop {
        if let FromServer::Execute(execute) = world.told().await {
            break execute;
        }
    };
    assert_eq!(execute.command.env["A"], "b");
    let end = ExecutionEnd {
        outcome: Outcome::Exited { code: 7 },
        at: world.control.clock().now(),
        duration_ms: Some(3),
        stdout: Excerpt { head: b"out\xff".to_vec(), tail: Vec::new(), bytes: 4, truncated: false },
        stderr: Excerpt::default(),
        problem: None,
    };
    let started_at = Some(world.control.clock().now());
    let report = ExecutionReport { execution: execute.execution, guest, started_at, end: Some(end) };
    for _ in 0..2 {
        let message = FromAgent::Execution(Box::new(report.clone()));
        world.control.host_message(world.host, message).await.unwrap();
        assert!(matches!(world.told().await, FromServer::ExecutionTaken { .. }), "the end is acknowledged");
    }
    let id = task["execution_id"].as_str().unwrap();
    let shown = world.get(&format!("/api/v1/executions/{id}")).await.json();
    assert_eq!((&shown["state"], &shown["exit_code"]), (&json!("exited"), &json!(7)));
    assert_eq!(shown["stdout_base64"], "b3V0/w==");
    let done = world.get(&format!("/api/v1/tasks/{}", task["id"].as_str().unwrap())).await.json();
    assert_eq!(done["state"], "succeeded");
}

#[tokio::test]
async fn a_cancelled_create_leaves_nothing() {
    let mut world = World::new().await;
    let created = world.post("/api/v1/sandboxes", &[], json!({ "name": "a" })).await.json();
    let guest = world.obey(Phase::Booting, 1).await;
    let cancel = format!("/api/v1/tasks/{}/cancel", created["id"].as_str().unwrap());
    assert_eq!(world.post(&cancel, &[], json!({})).await.status, 200);
    assert_eq!(world.obey(Phase::Gone, 2).await, guest);
    let task = world.get(&format!("/api/v1/tasks/{}", created["id"].as_str().unwrap())).await.json();
    assert_eq!(task["state"], "cancelled");
    assert_eq!(world.get("/api/v1/sandboxes").await.json()["items"], json!([]));
    let again = world.post(&cancel, &[], json!({})).await;
    assert_eq!((again.status.as_u16(), again.code().as_str()), (409, "PRG-4005"));
}

#[tokio::test]
async fn a_guest_that_cannot_boot_becomes_a_dead_letter_and_goes() {
    let mut world = World::new().await;
    let created = world.post("/api/v1/sandboxes", &[], json!({ "name": "a" })).await.json();
    let path = format!("/api/v1/tasks/{}", created["id"].as_str().unwrap());
    for sequence in 1..=3 {
        world.obey(Phase::Failed, sequence).await;
    }
    world.obey(Phase::Gone, 4).await;
    let task = world.get(&path).await.json();
    assert_eq!((&task["state"], &task["attempts"]), (&json!("dead"), &json!(3)));
    assert_eq!(world.get("/api/v1/sandboxes").await.json()["items"], json!([]));
}

#[tokio::test]
async fn the_truth_survives_the_process() {
    let mut world = World::new().await;
    let guest = world.running("a").await;
    let pending = world.post(&format!("/api/v1/sandboxes/{guest}/execute"), &[], json!({ "argv": ["true"] })).await;
    let again = perigee_control::Control::open(
        world.control.clock().clone(),
        std::sync::Arc::new(world.store.reopen()),
        world.control.instance().clone(),
        2,
    )
    .await
    .unwrap();
    let who = again.authenticate(&world.admin).unwrap();
    assert_eq!(again.list_guests(&who, Default::default(), |_| true).unwrap().len(), 1);
    let task = again.find_task(&who, pending.json()["id"].as_str().unwrap()).unwrap();
    let waited = again.wait_task(task.id, Duration::from_millis(1)).await.unwrap();
    assert!(!waited.state.is_final());
    assert_eq!(again.guest_status(&again.find_guest(&who, "a").unwrap()), perigee_model::GuestStatus::Unknown);
}
