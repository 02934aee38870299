//! Measurements: from a host's stream to queries and watchers.

use crate::world::World;
use futures::{FutureExt as _, StreamExt as _};
use http::{Method, StatusCode};
use perigee_agent_api::{Mark, StreamName};
use perigee_control::watch::{Feed, Taken};
use perigee_model::frame::{Series, Sheet};
use perigee_model::{GuestId, RunId, Timestamp};
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

const RUN: RunId = RunId::new(Uuid::from_u128(77));

/// An agent's measuring end.
struct Agent {
    feed: Feed,
    sheet: Sheet,
    sequence: u64,
    start: Timestamp,
}

impl Agent {
    fn new(world: &World) -> Self {
        Self::on(world, StreamName::Node)
    }
    fn on(world: &World, stream: StreamName) -> Self {
        let feed = world.watch.feed(world.host, stream);
        let start = world.control.clock().now() - Duration::from_secs(20);
        Self { feed, sheet: Sheet::default(), sequence: 0, start }
    }
    fn frame(&mut self, values: &[(&str, i64)]) -> Vec<u8> {
        self.sequence += 1;
        for (name, value) in values {
            self.put(Series::gauge(name, 2), *value);
        }
        self.sheet.encode(self.sequence, self.start + Duration::from_secs(self.sequence), false)
    }
    fn put(&mut self, series: Series, value: i64) {
        let slot = self.sheet.define(series).unwrap();
        self.sheet.set(slot, value);
    }
    fn measure(&mut self, values: &[(&str, i64)]) {
        let frame = self.frame(values);
        assert_eq!(self.feed.take(RUN, &frame), Taken::Wait(Duration::ZERO));
    }
    /// The last frame that the next answer says to be durable. A paused clock stands meanwhile.
    async fn answered(&mut self) -> u64 {
        let began = std::time::Instant::now();
        loop {
            if let Some(down) = self.feed.next().now_or_never() {
                return down.durable.map_or(0, |mark| mark.sequence);
            }
            assert!(began.elapsed() < Duration::from_secs(20), "no answer");
            tokio::task::yield_now().await;
        }
    }
    /// Until this frame is durable.
    async fn durable(&mut self, sequence: u64) {
        let mark = Some(Mark { run: RUN, sequence });
        let long = async { while self.feed.next().await.durable != mark {} };
        tokio::time::timeout(Duration::from_secs(10), long).await.expect("it never became durable");
    }
}

fn values(answer: &Value) -> Vec<String> {
    let result = answer["data"]["result"].as_array().unwrap();
    result.iter().map(|one| one["value"][1].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn what_a_host_measures_is_asked_for_in_promql() {
    let world = World::new().await;
    let mut agent = Agent::new(&world);
    for n in 1..=10 {
        agent.measure(&[("node_load1", n * 100), ("perigee_host_cpu_usage_ratio", 25)]);
    }
    agent.durable(10).await;
    let answer = world.get("/api/v1/query?query=node_load1").await;
    assert_eq!(answer.json()["status"], "success");
    assert_eq!(values(&answer.json()), ["10"]);
    let metric = &answer.json()["data"]["result"][0]["metric"];
    assert_eq!((&metric["host"], &metric["host_id"]), (&json!("bench"), &json!(world.host.to_string())));
    assert_eq!(values(&world.get("/api/v1/query?query=max_over_time(node_load1[4s:1s])%2B1").await.json()).len(), 1);
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let posted = world.send(Method::POST, "/api/v1/query", &world.viewer, &form, b"query=node_load1*2").await;
    assert_eq!(values(&posted.json()), ["20"], "a viewer may ask, also by a form");
    let seconds = |at: Timestamp| at.micros() / 1_000_000;
    let (start, end) = (seconds(agent.start), seconds(agent.start) + 11);
    let range = format!("/api/v1/query_range?query=node_load1&start={start}&end={end}&step=1");
    let matrix = world.get(&range).await.json();
    assert_eq!(matrix["data"]["resultType"], "matrix");
    assert!(matrix["data"]["result"][0]["values"].as_array().unwrap().len() >= 9);
    assert_eq!(
        world.get("/api/v1/labels").await.json()["data"],
        json!(["__name__", "host", "host_id", "instance", "job"])
    );
    let names = world.get("/api/v1/label/__name__/values").await.json();
    assert_eq!(names["data"], json!(["node_load1", "perigee_host_cpu_usage_ratio"]));
    let series = world.get("/api/v1/series?match[]=node_load1").await.json();
    assert_eq!(series["data"].as_array().unwrap().len(), 1);
    assert_eq!(world.get("/api/v1/metadata").await.json()["data"]["node_load1"][0]["type"], "gauge");
    let host = world.get("/api/v1/hosts").await.json();
    assert_eq!(host["items"][0]["load"]["cpu_usage_ratio"], 0.25);
}

/// Until the disk has what was taken. A paused clock stands meanwhile.
async fn all_durable(world: &World) {
    let began = std::time::Instant::now();
    let log = || world.watch.figures().store.log;
    while log().durable != log().appended {
        assert!(began.elapsed() < Duration::from_secs(20), "it never became durable");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn frames_that_follow_each_other_soon_are_answered_together() {
    let world = World::new().await;
    let mut agent = Agent::new(&world);
    assert_eq!(agent.answered().await, 0);
    tokio::time::pause();
    agent.measure(&[("node_load1", 1)]);
    assert_eq!(agent.answered().await, 1, "nothing says yet that others follow");
    for n in 2..=5 {
        tokio::time::advance(Duration::from_millis(200)).await;
        agent.measure(&[("node_load1", n)]);
        all_durable(&world).await;
        assert_eq!(agent.feed.next().now_or_never(), None, "{n} waits for others");
    }
    tokio::time::advance(Duration::from_millis(200)).await;
    agent.measure(&[("node_load1", 6)]);
    let mut last = agent.answered().await;
    assert!((2..=6).contains(&last), "{last}");
    tokio::time::advance(Duration::from_millis(1500)).await;
    while last < 6 {
        last = agent.answered().await;
    }
    tokio::time::advance(Duration::from_secs(5)).await;
    agent.measure(&[("node_load1", 7)]);
    assert_eq!(agent.answered().await, 7, "a slow one's are not kept");
}

#[tokio::test]
async fn a_guest_is_shown_with_what_it_uses_while_that_is_known() {
    let mut world = World::new().await;
    let (busy, other) = (world.running("busy").await, world.running("other").await);
    let mut agent = Agent::on(&world, StreamName::Vm);
    let of = |name: &str, digits| Series::gauge(name, digits).with("guest", &busy.to_string());
    agent.put(of("perigee_guest_cpu_cores", 3), 1500);
    agent.put(of("perigee_guest_memory_resident_bytes", 0), 96 << 20);
    let fresh = std::mem::replace(&mut agent.start, world.control.clock().now() - Duration::from_secs(60));
    agent.measure(&[]);
    let told = async |path: String| {
        let vm = world.get(&path).await.json();
        (vm["cpu_cores"].clone(), vm["resident_bytes"].clone())
    };
    assert_eq!(told(format!("/api/v1/vms/{busy}")).await, (Value::Null, Value::Null), "a minute ago says nothing");
    agent.start = fresh;
    agent.measure(&[]);
    assert_eq!(told(format!("/api/v1/vms/{busy}")).await, (json!(1.5), json!(96 << 20)));
    assert_eq!(told(format!("/api/v1/vms/{other}")).await, (Value::Null, Value::Null));
    let all = world.get("/api/v1/vms").await.json();
    let cores = |id: GuestId| {
        let vm = all["items"].as_array().unwrap().iter().find(|vm| vm["id"] == id.to_string());
        vm.unwrap()["cpu_cores"].clone()
    };
    assert_eq!((cores(busy), cores(other)), (json!(1.5), Value::Null));
}

#[tokio::test]
async fn queries_that_cannot_be_answered_say_why_in_that_apis_shape() {
    let world = World::new().await;
    for (path, status, kind, code, says) in [
        ("/api/v1/query?query=node_load1{", 400, "bad_data", "PRG-1014", "cannot read"),
        ("/api/v1/query", 400, "bad_data", "PRG-1002", "missing"),
        ("/api/v1/query?query=up&time=soon", 400, "bad_data", "PRG-1002", "no time"),
        ("/api/v1/query?query=no_such_function(up)", 400, "bad_data", "PRG-1014", "no_such_function"),
        ("/api/v1/query_range?query=up&start=0&end=100000&step=1", 400, "bad_data", "PRG-1014", "resolution"),
        ("/api/v1/query_range?query=up&start=9&end=1&step=1", 400, "bad_data", "PRG-1014", "end"),
        ("/api/v1/series", 400, "bad_data", "PRG-1002", "match"),
    ] {
        let answer = world.get(path).await;
        let told = answer.json();
        assert_eq!(
            (answer.status.as_u16(), &told["status"], &told["errorType"]),
            (status, &json!("error"), &json!(kind)),
            "{path}"
        );
        assert_eq!(told["code"], code, "{path}: {told}");
        assert!(told["error"].as_str().unwrap().contains(says), "{path}: {told}");
    }
}

#[tokio::test]
async fn what_is_acknowledged_is_durable_and_what_is_missing_is_asked_for() {
    let world = World::new().await;
    let mut agent = Agent::new(&world);
    assert_eq!(agent.feed.next().await.durable, None, "it begins with nothing");
    let first = agent.frame(&[("node_load1", 1)]);
    let second = agent.frame(&[("node_load1", 2)]);
    agent.feed.take(RUN, &second);
    assert!(agent.feed.next().await.want_key);
    agent.feed.take(RUN, &first);
    agent.feed.take(RUN, &second);
    agent.durable(2).await;
    let again = world.watch.feed(world.host, StreamName::Node).next().await;
    assert_eq!(again.durable, Some(Mark { run: RUN, sequence: 2 }), "a new link goes on there");
    agent.start = agent.start + Duration::from_secs(7200);
    let future = agent.frame(&[("node_load1", 3)]);
    agent.feed.take(RUN, &future);
    let told = agent.feed.next().await;
    assert_eq!(told.refused.unwrap().code, "PRG-7009");
    assert_eq!(
        told.durable,
        Some(Mark { run: RUN, sequence: 3 }),
        "it will never be taken: no use in sending it again"
    );
}

#[tokio::test]
async fn watchers_are_told_what_changes() {
    let world = World::new().await;
    let mut agent = Agent::new(&world);
    agent.measure(&[("node_load1", 100), ("node_other", 700)]);
    let request = http::Request::builder()
        .uri(format!("/api/v1/live?host={}", world.host))
        .header("host", "localhost")
        .header("accept", "text/event-stream")
        .header("authorization", format!("Bearer {}", world.viewer))
        .body(axum::body::Body::empty())
        .unwrap();
    let response = tower::ServiceExt::oneshot(world.app.clone(), request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body().into_data_stream();
    let mut next = async || {
        let chunk = tokio::time::timeout(Duration::from_secs(10), body.next()).await.unwrap().unwrap().unwrap();
        let text = String::from_utf8(chunk.to_vec()).unwrap();
        let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap().to_owned();
        serde_json::from_str::<Value>(&data).unwrap()
    };
    let snapshot = next().await;
    assert_eq!((&snapshot["type"], &snapshot["sequence"]), (&json!("snapshot"), &json!(1)));
    assert_eq!(snapshot["streams"][0]["values"], json!([1.0, 7.0]));
    // Somebody looks closely: the agent is asked to measure more often.
    let asked = async { while agent.feed.next().await.interval != Some(Duration::from_secs(1)) {} };
    tokio::time::timeout(Duration::from_secs(10), asked).await.unwrap();
    agent.measure(&[("node_other", 800)]);
    let frame = next().await;
    assert_eq!((&frame["type"], &frame["columns"], &frame["values"]), (&json!("frame"), &json!([1]), &json!([8.0])));
    assert_eq!(frame["sequence"], 2);
    drop(body);
    let released = async { while agent.feed.next().await.interval.is_some() {} };
    tokio::time::timeout(Duration::from_secs(10), released).await.expect("nobody looks any more");
}
