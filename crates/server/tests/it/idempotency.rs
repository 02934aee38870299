//! Repeating a POST.

use crate::world::World;
use perigee_store::Store;
use serde_json::json;

#[tokio::test]
async fn a_repeat_gives_the_first_answer_and_makes_nothing() {
    let world = World::new().await;
    let body = json!({ "name": "a" });
    let first = world.post("/api/v1/sandboxes", &[("idempotency-key", "k1")], body.clone()).await;
    let again = world.post("/api/v1/sandboxes", &[("idempotency-key", "k1")], body.clone()).await;
    assert_eq!((first.status, first.json()), (again.status, again.json()));
    assert_eq!((first.header("idempotency-replayed"), again.header("idempotency-replayed")), ("", "true"));
    assert_eq!(world.get("/api/v1/sandboxes").await.json()["items"].as_array().unwrap().len(), 1);
    let other = world.post("/api/v1/sandboxes", &[("idempotency-key", "k1")], json!({ "name": "b" })).await;
    assert_eq!((other.status.as_u16(), other.code().as_str()), (422, "PRG-1009"));
    let empty = world.post("/api/v1/sandboxes", &[("idempotency-key", "")], body).await;
    assert_eq!((empty.status.as_u16(), empty.code().as_str()), (400, "PRG-1001"));
}

#[tokio::test]
async fn a_refused_request_may_be_sent_again_under_its_key() {
    let world = World::new().await;
    let key = [("idempotency-key", "k")];
    let refused = world.post("/api/v1/sandboxes", &key, json!({ "cpus": 0 })).await;
    assert_eq!(refused.status, 422);
    assert_eq!(world.post("/api/v1/sandboxes", &key, json!({ "cpus": 1 })).await.status, 202);
}

#[tokio::test]
async fn a_crash_between_change_and_answer_does_not_make_it_twice() {
    let world = World::new().await;
    let key = [("idempotency-key", "k")];
    let first = world.post("/api/v1/sandboxes", &key, json!({ "name": "a" })).await;
    // As a crash would leave it: the row of the change is there, its answer is not.
    let scope = "default/admin POST /api/v1/sandboxes";
    let row = world.store.idempotency(scope, "k").await.unwrap().unwrap();
    world.store.prune(world.control.clock().now(), perigee_model::Timestamp::from_micros(0)).await.unwrap();
    let lost = Some(perigee_store::IdempotencyRow { answer: None, ..row });
    let batch = perigee_store::Batch { idempotency: lost, ..perigee_store::Batch::default() };
    world.store.commit(batch).await.unwrap();
    let again = world.post("/api/v1/sandboxes", &key, json!({ "name": "a" })).await;
    assert_eq!((again.status.as_u16(), &again.json()["id"]), (202, &first.json()["id"]));
}

#[tokio::test]
async fn a_join_token_is_shown_once() {
    let world = World::new().await;
    let key = [("idempotency-key", "k")];
    let first = world.post("/api/v1/hosts/tokens", &key, json!({})).await;
    assert!(first.json()["token"].as_str().unwrap().starts_with("perigee-join-1."));
    let again = world.post("/api/v1/hosts/tokens", &key, json!({})).await;
    assert_eq!(again.json()["token"], "shown once");
}
