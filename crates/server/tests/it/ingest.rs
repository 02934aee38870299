//! Hosts whose agent is not ours: what they may say, and what is refused.

use crate::world::{Answer, World};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, header};
use perigee_model::Timestamp;
use perigee_model::limits::{INGEST_BURST, INGEST_SERIES_MAX};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use std::time::Duration;

const RUN: &str = "0192f0c1-2a3b-7c4d-8e5f-60718293a4b5";
const BATCH: &str = "/api/v1/metrics/batch";
const REGISTER: &str = "/api/v1/hosts/register";
const EVENTS: &str = "/api/v1/events";

fn now(world: &World) -> Timestamp {
    world.control.clock().now()
}

fn batch(world: &World, sequence: u64, metrics: Value) -> Value {
    json!({ "run_id": RUN, "sequence_id": sequence, "timestamp": now(world), "metrics": metrics })
}

async fn report(world: &World, token: &str, path: &str, body: &Value) -> Answer {
    world.send(Method::POST, path, token, &[], body.to_string().as_bytes()).await
}

async fn query(world: &World, expr: &str) -> Vec<(Value, String)> {
    let answer = world.get(&format!("/api/v1/query?query={expr}")).await.json();
    let result = answer["data"]["result"].as_array().unwrap_or_else(|| panic!("{answer}"));
    result.iter().map(|one| (one["metric"].clone(), one["value"][1].as_str().unwrap().to_owned())).collect()
}

fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{}", answer.json());
}

#[tokio::test]
async fn what_is_posted_is_asked_for_in_promql() {
    let world = World::new().await;
    let value = |n: f64| json!([{ "name": "node_load1", "value": n }, { "name": "nas_bytes_total", "value": 2, "kind": "counter", "labels": { "pool": "a" } }]);
    for (sequence, n) in [(1, 0.5), (2, 1.25), (5, 1.5)] {
        let answer = report(&world, &world.silent, BATCH, &batch(&world, sequence, value(n))).await;
        assert_eq!(answer.status, 200, "{}", answer.json());
        assert_eq!((&answer.json()["sequence_id"], &answer.json()["taken"]), (&json!(sequence), &json!(2)));
        assert_eq!(query(&world, "node_load1").await[0].1, n.to_string(), "durable is visible");
    }
    let labels = &query(&world, "nas_bytes_total").await[0].0;
    assert_eq!((&labels["host"], &labels["job"], &labels["pool"]), (&json!("silent"), &json!("ingest"), &json!("a")));
    assert_eq!(world.get("/api/v1/metadata").await.json()["data"]["nas_bytes_total"][0]["type"], "counter");
    let host = world.get("/api/v1/hosts/silent").await.json();
    assert_eq!((&host["load"]["load1"], &host["load"]["frames_lost"]), (&json!(1.5), &json!(2)), "{host}");
    // What the next batch does not have has no value any more.
    let less = batch(&world, 6, json!([{ "name": "node_load1", "value": 3 }]));
    assert_eq!(report(&world, &world.silent, BATCH, &less).await.status, 200);
    assert_eq!(query(&world, "nas_bytes_total").await, []);
    assert_eq!(query(&world, "node_load1").await[0].1, "3");
}

#[tokio::test]
async fn a_host_that_reports_is_heard_of_without_a_link() {
    let world = World::new().await;
    let status = async || world.get("/api/v1/hosts/silent").await.json()["status"].clone();
    assert_eq!(status().await, "disconnected");
    let mut old = batch(&world, 1, json!([{ "name": "a", "value": 1 }]));
    old["timestamp"] = json!(now(&world) - Duration::from_secs(240));
    assert_eq!(report(&world, &world.silent, BATCH, &old).await.status, 200);
    assert_eq!(status().await, "disconnected", "that was four minutes ago");
    let new = batch(&world, 2, json!([{ "name": "a", "value": 1 }]));
    assert_eq!(report(&world, &world.silent, BATCH, &new).await.status, 200);
    assert_eq!(status().await, "reporting");
}

#[tokio::test]
async fn a_batch_is_taken_once_and_whole() {
    let world = World::new().await;
    let good = batch(&world, 1, json!([{ "name": "a", "value": 1 }]));
    let (one, two) =
        tokio::join!(report(&world, &world.silent, BATCH, &good), report(&world, &world.silent, BATCH, &good));
    let mut answers = [one.status.as_u16(), two.status.as_u16()];
    answers.sort_unstable();
    assert_eq!(answers, [200, 409]);
    refused(&report(&world, &world.silent, BATCH, &good).await, 409, "PRG-4008");
    let sample = json!({ "name": "b", "value": 1 });
    let many: Vec<Value> = (0..=INGEST_SERIES_MAX).map(|n| json!({ "name": format!("m{n}"), "value": 1 })).collect();
    for (pointer, metrics) in [
        ("/metrics/1", json!([sample, { "name": "b", "value": 2 }])),
        ("/metrics/1", json!([sample, { "name": "not a name", "value": 2 }])),
        ("/metrics/1", json!([sample, { "name": "c", "value": 2, "labels": { "host": "web-1" } }])),
        ("/metrics/1", json!([sample, { "name": "c", "value": 2, "labels": { "__name__": "d" } }])),
        ("/metrics/1", json!([sample, { "name": "c", "value": 2, "labels": { "x": "" } }])),
        ("/metrics/1", json!([sample, { "name": "c", "value": 2, "labels": { "x": "y".repeat(1025) } }])),
        ("/metrics/0/value", json!([{ "name": "c", "value": "NaN" }])),
        ("/metrics/0/value", json!([{ "name": "c", "value": null }])),
        ("/metrics", json!([])),
        ("/metrics", json!(many)),
    ] {
        let answer = report(&world, &world.silent, BATCH, &batch(&world, 2, metrics)).await;
        refused(&answer, 422, "PRG-1002");
        assert_eq!(answer.json()["errors"][0]["pointer"], pointer, "{}", answer.json());
    }
    for sequence in [json!(0), json!(-1), json!(1.5), json!(u64::MAX)] {
        let mut body = batch(&world, 2, json!([sample]));
        body["sequence_id"] = sequence;
        refused(&report(&world, &world.silent, BATCH, &body).await, 422, "PRG-1002");
    }
    let endless = format!(r#"{{"run_id":"{RUN}","metrics":[{{"name":"b","value":1e999}}]}}"#);
    refused(&world.send(Method::POST, BATCH, &world.silent, &[], endless.as_bytes()).await, 400, "PRG-1001");
    assert_eq!(query(&world, "b").await, [], "nothing of them was taken");
    assert_eq!(report(&world, &world.silent, BATCH, &batch(&world, 2, json!([sample]))).await.status, 200);
}

#[tokio::test]
async fn times_and_hosts_must_fit() {
    let world = World::new().await;
    let mut body = batch(&world, 1, json!([{ "name": "a", "value": 1 }]));
    for (at, status, code) in [
        (json!(now(&world) - Duration::from_secs(301)), 400, "PRG-1015"),
        (json!(now(&world) + Duration::from_secs(60)), 400, "PRG-1016"),
        (json!("yesterday"), 422, "PRG-1002"),
    ] {
        body["timestamp"] = at;
        refused(&report(&world, &world.silent, BATCH, &body).await, status, code);
    }
    body["timestamp"] = json!(now(&world) - Duration::from_secs(290));
    body["host_id"] = json!(world.host.to_string());
    refused(&report(&world, &world.silent, BATCH, &body).await, 403, "PRG-2009");
    body["host_id"] = world.get("/api/v1/hosts/silent").await.json()["id"].clone();
    assert_eq!(report(&world, &world.silent, BATCH, &body).await.status, 200);
}

#[tokio::test]
async fn another_agents_reports_do_not_disturb_our_own_agent() {
    let world = World::new().await;
    let token = world.ingest_token("bench", json!({})).await;
    let posted = batch(&world, 1, json!([{ "name": "node_load1", "value": 9 }]));
    assert_eq!(report(&world, &token, BATCH, &posted).await.status, 200);
    let mut feed = world.watch.feed(world.host, perigee_agent_api::StreamName::Node);
    let mut sheet = perigee_model::frame::Sheet::default();
    let slot = sheet.define(perigee_model::frame::Series::gauge("node_load1", 0)).unwrap();
    sheet.set(slot, 1);
    let run = perigee_model::RunId::new(world.control.clock().uuid());
    feed.take(run, &sheet.encode(1, now(&world), true));
    let told: Vec<(Value, String)> =
        query(&world, "node_load1").await.into_iter().map(|(labels, value)| (labels["job"].clone(), value)).collect();
    assert_eq!(told, [(json!("ingest"), "9".to_owned()), (json!("perigee"), "1".to_owned())]);
    let registered = json!({ "timestamp": now(&world), "hostname": "other" });
    assert_eq!(report(&world, &token, REGISTER, &registered).await.json()["inventory"]["hostname"], "bench");
}

#[tokio::test]
async fn a_host_registers_with_its_tags() {
    let world = World::new().await;
    let body = json!({
        "timestamp": now(&world), "hostname": "nas", "arch": "aarch64", "os": "TrueNAS", "cpus": 4,
        "tags": { "primary_interface_speed_mbps": 2500, "rack": "r1", "ups": true },
    });
    let answer = report(&world, &world.silent, REGISTER, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    let host = world.get("/api/v1/hosts/silent").await.json();
    assert_eq!(host["tags"], json!({ "primary_interface_speed_mbps": "2500", "rack": "r1", "ups": "true" }));
    assert_eq!((&host["inventory"]["os"], &host["inventory"]["cpus"]), (&json!("TrueNAS"), &json!(4)));
    for (field, value) in [
        ("tags", json!({ "primary_interface_speed_mbps": "fast" })),
        ("tags", json!({ "a b": 1 })),
        ("hostname", json!("x".repeat(200))),
        ("public_key", json!("AAAA")),
    ] {
        let mut bad = body.clone();
        bad[field] = value;
        refused(&report(&world, &world.silent, REGISTER, &bad).await, 422, "PRG-1002");
    }
    assert_eq!(world.get("/api/v1/hosts/silent").await.json(), host);
}

struct Key(Ed25519KeyPair);

impl Key {
    fn new(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())
    }
    fn public(&self) -> String {
        STANDARD.encode(self.0.public_key())
    }
    async fn report(&self, world: &World, at: Timestamp, path: &str, body: &Value) -> Answer {
        let signature = STANDARD.encode(self.0.sign(format!("POST {path}\n{at}\n{body}").as_bytes()));
        let headers = [("x-perigee-timestamp", at.to_string()), ("x-perigee-signature", signature)];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        world.send(Method::POST, path, &world.silent, &headers, body.to_string().as_bytes()).await
    }
}

#[tokio::test]
async fn a_host_with_a_key_signs() {
    let world = World::new().await;
    let (key, stranger) = (Key::new(1), Key::new(2));
    let register = json!({ "timestamp": now(&world), "hostname": "nas", "public_key": key.public() });
    assert_eq!(report(&world, &world.silent, REGISTER, &register).await.status, 200);
    let body = batch(&world, 1, json!([{ "name": "a", "value": 1 }]));
    refused(&report(&world, &world.silent, BATCH, &body).await, 401, "PRG-2010");
    refused(&stranger.report(&world, now(&world), BATCH, &body).await, 401, "PRG-2010");
    let old = now(&world) - Duration::from_secs(301);
    refused(&key.report(&world, old, BATCH, &body).await, 400, "PRG-1015");
    // A signature is good for its route alone.
    refused(&key.report(&world, now(&world), EVENTS, &body).await, 422, "PRG-1003");
    let renewed = world.send(Method::POST, "/api/v1/hosts/tokens/renew", &world.silent, &[], b"").await;
    refused(&renewed, 401, "PRG-2010");
    assert_eq!(key.report(&world, now(&world), BATCH, &body).await.status, 200);
    let replaced = json!({ "timestamp": now(&world), "hostname": "nas", "public_key": stranger.public() });
    refused(&report(&world, &world.silent, REGISTER, &replaced).await, 401, "PRG-2010");
    assert_eq!(key.report(&world, now(&world), REGISTER, &replaced).await.status, 200);
    let next = batch(&world, 2, json!([{ "name": "a", "value": 1 }]));
    refused(&key.report(&world, now(&world), BATCH, &next).await, 401, "PRG-2010");
    assert_eq!(stranger.report(&world, now(&world), BATCH, &next).await.status, 200);
    // The key is lost: a person makes a new beginning.
    let token = world.ingest_token("silent", json!({ "reset": true })).await;
    let after = batch(&world, 3, json!([{ "name": "a", "value": 1 }]));
    refused(&report(&world, &world.silent, BATCH, &after).await, 401, "PRG-2008");
    assert_eq!(report(&world, &token, BATCH, &after).await.status, 200);
}

#[tokio::test]
async fn tokens_end_and_are_renewed() {
    let world = World::new().await;
    let renew = async |token: &str| world.send(Method::POST, "/api/v1/hosts/tokens/renew", token, &[], b"").await;
    let renewed = renew(&world.silent).await;
    assert_eq!(renewed.status, 201, "{}", renewed.json());
    let token = renewed.json()["token"].as_str().unwrap().to_owned();
    assert_ne!(token, world.silent);
    let body = batch(&world, 1, json!([{ "name": "a", "value": 1 }]));
    assert_eq!(report(&world, &token, BATCH, &body).await.status, 200);
    let host = world.get("/api/v1/hosts/silent").await.json()["id"].as_str().unwrap().parse().unwrap();
    let tokens = perigee_server::ingest_token::IngestTokens::of_seed(
        &[7; 32],
        world.control.instance(),
        world.control.clock().clone(),
    )
    .unwrap();
    let (issued_at, expires_at) = (now(&world) - Duration::from_secs(60), now(&world));
    let claim = perigee_control::ingest::Claim { host, generation: 0, issued_at, expires_at };
    refused(&renew(&tokens.sign(&claim).unwrap()).await, 401, "PRG-2008");
    for ttl_ms in [0, 999, 86_400_001] {
        let answer = world.post("/api/v1/hosts/silent/ingest-token", &[], json!({ "ttl_ms": ttl_ms })).await;
        refused(&answer, 422, "PRG-1002");
    }
    let revoked = world.send(Method::DELETE, "/api/v1/hosts/silent", &world.admin, &[], b"").await;
    assert_eq!(revoked.status, 204);
    refused(&renew(&token).await, 403, "PRG-2006");
    refused(&report(&world, &token, BATCH, &body).await, 403, "PRG-2006");
}

#[tokio::test]
async fn a_host_that_reports_too_often_holds_nobody_up() {
    let world = World::new().await;
    let other = world.ingest_token("bench", json!({})).await;
    let mut over = None;
    for _ in 0..INGEST_BURST * 4 {
        let answer = world.send(Method::POST, BATCH, &world.silent, &[], b"{}").await;
        if answer.code() == "PRG-5006" {
            over = Some(answer);
            break;
        }
    }
    let over = over.expect("it was never held back");
    refused(&over, 429, "PRG-5006");
    assert_eq!(over.header(header::RETRY_AFTER), "1");
    let body = batch(&world, 1, json!([{ "name": "a", "value": 1 }]));
    assert_eq!(report(&world, &other, BATCH, &body).await.status, 200);
}

#[tokio::test]
async fn events_are_the_hosts_own_and_taken_once() {
    let world = World::new().await;
    let event = json!({ "kind": "guest.create", "text": "disk 3 \u{fffd} failed" });
    let body = json!({ "run_id": RUN, "sequence_id": 1, "timestamp": now(&world), "events": [event, event] });
    let answer = report(&world, &world.silent, EVENTS, &body).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["taken"]), (200, &json!(2)), "{}", answer.json());
    refused(&report(&world, &world.silent, EVENTS, &body).await, 409, "PRG-4008");
    let host = world.get("/api/v1/hosts/silent").await.json()["id"].as_str().unwrap().to_owned();
    let all = world.get("/api/v1/events?limit=1000").await.json();
    let told: Vec<&Value> =
        all["items"].as_array().unwrap().iter().filter(|e| e["actor"] == format!("host:{host}")).collect();
    assert_eq!(told.len(), 2);
    let told = told[0];
    assert_eq!((&told["verb"], &told["noun"]), (&json!("reported.guest.create"), &json!("host")));
    assert_eq!((&told["subject_id"], &told["detail"]), (&json!(host), &event["text"]));
    for (field, value, status, code) in [
        ("actor", json!("admin"), 422, "PRG-1003"),
        ("kind", json!("Guest Create"), 422, "PRG-1002"),
        ("kind", json!(""), 422, "PRG-1002"),
        ("text", json!("a\u{7}b"), 422, "PRG-1002"),
        ("text", json!("x".repeat(4097)), 422, "PRG-1002"),
        ("timestamp", json!(now(&world) - Duration::from_secs(400)), 400, "PRG-1015"),
    ] {
        let mut bad = body.clone();
        bad["sequence_id"] = json!(2);
        bad["events"][1][field] = value;
        refused(&report(&world, &world.silent, EVENTS, &bad).await, status, code);
    }
    let mut none = body.clone();
    none["events"] = json!([]);
    refused(&report(&world, &world.silent, EVENTS, &none).await, 422, "PRG-1002");
    let after = world.get("/api/v1/events?limit=1000").await.json();
    assert_eq!(after["items"].as_array().unwrap().len(), all["items"].as_array().unwrap().len(), "nothing half-taken");
}

#[tokio::test]
async fn results_of_commands_that_nobody_gave_are_refused() {
    let world = World::new().await;
    let body = json!({ "timestamp": now(&world), "exit_code": 0, "stdout": "done" });
    let path = format!("/api/v1/commands/{RUN}/result");
    refused(&report(&world, &world.silent, &path, &body).await, 404, "PRG-3007");
}

#[tokio::test]
async fn tokens_are_shown_once() {
    let world = World::new().await;
    let path = "/api/v1/hosts/silent/ingest-token";
    let mint = async || world.post(path, &[("idempotency-key", "k1")], json!({ "reset": true })).await;
    let first = mint().await;
    assert!(first.json()["token"].as_str().unwrap().starts_with("ey"));
    assert_eq!(mint().await.json()["token"], "shown once");
    let body = batch(&world, 1, json!([{ "name": "a", "value": 1 }]));
    let token = first.json()["token"].as_str().unwrap().to_owned();
    assert_eq!(report(&world, &token, BATCH, &body).await.status, 200, "the repeat reset nothing");
    refused(&world.post("/api/v1/hosts/no-such/ingest-token", &[], json!({})).await, 404, "PRG-3001");
    let bad = world.post("/api/v1/hosts/No%20Name/ingest-token", &[], json!({ "create": true })).await;
    refused(&bad, 422, "PRG-1002");
}
