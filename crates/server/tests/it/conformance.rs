//! One suite for every route, now and later: it walks the OpenAPI document.

use crate::world::{Answer, World};
use http::{Method, StatusCode, header};
use serde_json::{Value, json};

struct Route {
    method: Method,
    path: String,
    operation: Value,
}

impl Route {
    fn label(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
    /// The path with something in place of its parameters, and the query it cannot do without.
    fn filled(&self, id: &str) -> String {
        let path = self.path.replace("{id}", id).replace("{protocol}", "tcp").replace("{port}", "80");
        let needs_path = self.path.ends_with("/files");
        if needs_path { format!("{path}?path=/tmp/x") } else { path }
    }
    fn has_json_body(&self) -> bool {
        !self.operation["requestBody"]["content"]["application/json"].is_null()
    }
    /// Hosts report here, each with a token of its own; keys of people and programs are refused.
    fn is_ingest(&self) -> bool {
        self.operation["tags"][0] == "ingest"
    }
    /// Opened with a ticket in place of a token (decision 0003): see the tests of consoles.
    fn is_by_ticket(&self) -> bool {
        self.operation["security"][0]["ticket"].is_array()
    }
    /// A token that may call it.
    fn token<'a>(&self, world: &'a World) -> &'a str {
        if self.is_ingest() { &world.silent } else { &world.admin }
    }
    fn is_list(&self) -> bool {
        self.parameters().any(|p| p["name"] == "page_token")
    }
    fn parameters(&self) -> impl Iterator<Item = &Value> {
        self.operation["parameters"].as_array().into_iter().flatten()
    }
}

fn routes(world: &World) -> Vec<Route> {
    let paths = world.document["paths"].as_object().unwrap();
    let mut all = Vec::new();
    for (path, item) in paths {
        for (method, operation) in item.as_object().unwrap() {
            let method = method.to_uppercase().parse().unwrap();
            all.push(Route { method, path: path.clone(), operation: operation.clone() });
        }
    }
    assert!(all.len() >= 20, "only {} routes are described", all.len());
    all
}

/// Every refusal has the one shape.
fn refused(route: &str, answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{route}: {}", answer.json());
    assert_eq!(answer.header(header::CONTENT_TYPE), "application/problem+json", "{route}");
    let document = answer.json();
    assert_eq!(document["status"], status, "{route}");
    assert_eq!(document["type"], format!("/errors/{code}"), "{route}");
    assert_eq!(document["request_id"], answer.header("x-request-id"), "{route}");
    assert!(!answer.header("x-request-id").is_empty(), "{route}");
    assert!(document["detail"].as_str().is_some_and(|d| !d.is_empty()), "{route}");
    guarded(route, answer);
}

/// Every answer carries the security headers.
fn guarded(route: &str, answer: &Answer) {
    assert_eq!(answer.header(header::X_CONTENT_TYPE_OPTIONS), "nosniff", "{route}");
    assert!(answer.header(header::CONTENT_SECURITY_POLICY).contains("default-src 'none'"), "{route}");
    assert!(!answer.header(header::CACHE_CONTROL).is_empty(), "{route}");
}

#[tokio::test]
async fn the_document_describes_every_route_fully() {
    let world = World::new().await;
    assert_eq!(world.document["openapi"], "3.1.0");
    let mut ids = std::collections::BTreeSet::new();
    for route in routes(&world) {
        let id = route.operation["operationId"].as_str().unwrap_or_default().to_owned();
        assert!(!id.is_empty(), "{} has no operation id", route.label());
        // Several nouns share verbs; tag and id together are unique.
        let tag = route.operation["tags"][0].as_str().unwrap_or_default().to_owned();
        assert!(ids.insert((tag, id)), "{}: its operation id is taken", route.label());
        let refusal = &route.operation["responses"]["4XX"]["content"]["application/json"]["schema"]["$ref"];
        assert_eq!(refusal, "#/components/schemas/ProblemDocument", "{}", route.label());
        let text = route.operation["summary"].as_str().or(route.operation["description"].as_str());
        assert!(text.is_some_and(|t| !t.is_empty()), "{} has no description", route.label());
    }
    let served = world.get("/api/v1/openapi.json").await;
    assert_eq!(served.json(), world.document);
}

#[tokio::test]
async fn nothing_answers_without_a_token() {
    let world = World::new().await;
    for route in routes(&world) {
        for token in ["", "wrong", &"f".repeat(64)] {
            let answer = world.send(route.method.clone(), &route.filled("x"), token, &[], b"").await;
            refused(&route.label(), &answer, 401, "PRG-2001");
            assert_eq!(answer.header(header::WWW_AUTHENTICATE), "Bearer");
        }
    }
    for path in ["/metrics", "/api/v1/openapi.json"] {
        let answer = world.send(Method::GET, path, "", &[], b"").await;
        refused(path, &answer, 401, "PRG-2001");
    }
    // What is open carries no facts.
    let ready = world.send(Method::GET, "/health/ready", "", &[], b"").await;
    assert_eq!((ready.status, ready.bytes.len()), (StatusCode::OK, 0));
    let live = world.send(Method::GET, "/health/live", "", &[], b"").await;
    assert_eq!(live.bytes, b"ok\n");
    for page in ["/", "/status.js", "/status.css", "/icon.svg", "/errors/PRG-2001"] {
        assert_eq!(world.send(Method::GET, page, "", &[], b"").await.status, 200, "{page}");
    }
}

#[tokio::test]
async fn foreign_pages_cannot_drive_it() {
    let world = World::new().await;
    for route in routes(&world) {
        for guard in [("origin", "http://evil.example"), ("host", "evil.example")] {
            let mut request = http::Request::builder().method(route.method.clone()).uri(route.filled("x"));
            if guard.0 != "host" {
                request = request.header("host", "localhost");
            }
            let request = request.header(guard.0, guard.1).header("authorization", format!("Bearer {}", world.admin));
            let request = request.body(axum::body::Body::empty()).unwrap();
            let response = tower::ServiceExt::oneshot(world.app.clone(), request).await.unwrap();
            assert_eq!(response.status(), 403, "{} {guard:?}", route.label());
        }
    }
}

#[tokio::test]
async fn viewers_only_look() {
    let mut world = World::new().await;
    let guest = world.running("a").await.to_string();
    for route in routes(&world).iter().filter(|r| r.method != Method::GET) {
        let body: &[u8] = match (route.has_json_body(), route.path.rsplit('/').next()) {
            (true, Some("execute")) => br#"{"argv":["true"]}"#,
            (true, Some("forwards")) => br#"{"host_port":80}"#,
            (true, Some("snapshots" | "networks")) => br#"{"name":"x"}"#,
            (true, Some("backup-schedule")) => br#"{"every_ms":3600000,"keep":1}"#,
            (true, Some("volumes")) => br#"{"name":"x","bytes":1048576}"#,
            (true, Some("attach")) => br#"{"vm":"x"}"#,
            (true, Some("resize")) => br#"{"bytes":2097152}"#,
            (true, _) if route.path == "/api/v1/images" => br#"{"name":"x","recipe":"base"}"#,
            (true, _) => b"{}",
            (false, _) => b"",
        };
        let answer =
            world.send(route.method.clone(), &route.filled(&guest), &world.viewer, &[("if-match", "*")], body).await;
        refused(&route.label(), &answer, 403, "PRG-2003");
    }
}

#[tokio::test]
async fn ingest_tokens_open_nothing_but_ingest() {
    let world = World::new().await;
    let (ingest, others): (Vec<_>, Vec<_>) = routes(&world).into_iter().partition(Route::is_ingest);
    for route in &others {
        for id in ["x", "silent"] {
            let answer = world.send(route.method.clone(), &route.filled(id), &world.silent, &[], b"").await;
            refused(&route.label(), &answer, 401, "PRG-2001");
        }
    }
    for route in &ingest {
        let answer = world.send(route.method.clone(), &route.filled("x"), &world.admin, &[], b"{}").await;
        refused(&route.label(), &answer, 403, "PRG-2003");
    }
    assert_eq!(ingest.len(), 5);
    for path in ["/metrics", "/api/v1/openapi.json"] {
        refused(path, &world.send(Method::GET, path, &world.silent, &[], b"").await, 401, "PRG-2001");
    }
}

#[tokio::test]
async fn another_tenants_objects_do_not_exist() {
    let mut world = World::new().await;
    let guest = world.running("a").await.to_string();
    let task = world.get("/api/v1/tasks").await.json()["items"][0]["id"].as_str().unwrap().to_owned();
    let image = world.get("/api/v1/images/base").await.json()["id"].as_str().unwrap().to_owned();
    world.post(&format!("/api/v1/sandboxes/{guest}/execute"), &[], json!({ "argv": ["true"] })).await;
    let execution = world.get("/api/v1/executions").await.json()["items"][0]["id"].as_str().unwrap().to_owned();
    world.vm(json!({ "name": "db", "disk_bytes": 1 << 30 }), 1).await;
    let asked = world.post("/api/v1/vms/db/backups", &[], json!({})).await.json();
    let backup = asked["backup_id"].as_str().unwrap().to_owned();
    world.post("/api/v1/volumes", &[], json!({ "name": "data", "bytes": 1 << 20 })).await;
    let volume = world.get("/api/v1/volumes/data").await.json()["id"].as_str().unwrap().to_owned();
    world.post("/api/v1/networks", &[], json!({ "name": "lab" })).await;
    let network = world.get("/api/v1/networks/lab").await.json()["id"].as_str().unwrap().to_owned();
    let mut tried = 0;
    let objects =
        |r: &&Route| r.path.contains("{id}") && !r.path.contains("/hosts/") && !r.is_ingest() && !r.is_by_ticket();
    for route in routes(&world).iter().filter(objects) {
        let noun = route.path.split('/').nth(3).unwrap();
        let id = match noun {
            "sandboxes" | "vms" | "foreign-vms" => &guest,
            "tasks" => &task,
            "images" => &image,
            "executions" => &execution,
            "backups" => &backup,
            "volumes" => &volume,
            "networks" => &network,
            other => panic!("no object of {other} to try {} with", route.label()),
        };
        let body: &[u8] = match (route.has_json_body(), route.path.rsplit('/').next()) {
            (true, Some("execute")) => br#"{"argv":["true"]}"#,
            (true, Some("forwards")) => br#"{"host_port":80}"#,
            (true, Some("snapshots" | "networks")) => br#"{"name":"x"}"#,
            (true, Some("backup-schedule")) => br#"{"every_ms":3600000,"keep":1}"#,
            (true, Some("volumes")) => br#"{"name":"x","bytes":1048576}"#,
            (true, Some("attach")) => br#"{"vm":"x"}"#,
            (true, Some("resize")) => br#"{"bytes":2097152}"#,
            (true, _) => b"{}",
            (false, _) => b"",
        };
        let headers = [("if-match", "*")];
        let answer = world.send(route.method.clone(), &route.filled(id), &world.stranger, &headers, body).await;
        assert_eq!(answer.status, 404, "{}: {}", route.label(), answer.json());
        assert!(answer.code().starts_with("PRG-30"), "{}", route.label());
        tried += 1;
    }
    assert!(tried >= 12, "{tried}");
    for list in ["sandboxes", "vms", "tasks", "images", "executions", "backups", "volumes", "networks"] {
        let list = format!("/api/v1/{list}");
        let answer = world.send(Method::GET, &list, &world.stranger, &[], b"").await;
        assert_eq!(answer.json()["items"], json!([]), "{list}");
    }
}

#[tokio::test]
async fn unknown_ids_methods_and_routes_are_refused() {
    let world = World::new().await;
    for route in routes(&world).iter().filter(|r| r.path.contains("{id}") && !r.is_by_ticket()) {
        let now = world.control.clock().now();
        let body = match route.path.rsplit('/').next().unwrap() {
            "execute" => json!({ "argv": ["true"] }),
            "forwards" => json!({ "host_port": 80 }),
            "snapshots" => json!({ "name": "x" }),
            "backup-schedule" => json!({ "every_ms": 3_600_000, "keep": 1 }),
            "attach" => json!({ "vm": "x" }),
            "resize" => json!({ "bytes": 2_097_152 }),
            "result" => json!({ "timestamp": now, "exit_code": 0 }),
            _ => json!({}),
        };
        let body = if route.has_json_body() { body.to_string() } else { String::new() };
        let (path, token) = (route.filled("no-such-thing"), route.token(&world));
        let answer = world.send(route.method.clone(), &path, token, &[("if-match", "*")], body.as_bytes()).await;
        assert_eq!(answer.status, 404, "{}: {}", route.label(), answer.json());
        refused(&route.label(), &answer, 404, &answer.code());
    }
    for route in routes(&world) {
        let answer = world.send(Method::TRACE, &route.filled("x"), &world.admin, &[], b"").await;
        refused(&route.label(), &answer, 405, "PRG-1008");
    }
    refused("no route", &world.get("/api/v1/nothing").await, 404, "PRG-1007");
    refused("no code", &world.get("/errors/PRG-0000").await, 404, "PRG-1007");
}

#[tokio::test]
async fn bodies_are_read_strictly_everywhere() {
    let mut world = World::new().await;
    let guest = world.running("a").await.to_string();
    let huge = format!("{{\"name\":\"{}\"}}", "x".repeat(10 << 20)).into_bytes();
    let mut tried = 0;
    for route in routes(&world).iter().filter(|r| r.has_json_body()) {
        let path = route.filled(&guest);
        let table: [(&[u8], u16, &str); 5] = [
            (br#"{"no_such_field":1}"#, 422, "PRG-1003"),
            (br#"{"na"#, 400, "PRG-1001"),
            (b"\x00\xff", 400, "PRG-1001"),
            (b"[1]", 422, "PRG-1002"),
            (&huge, 413, "PRG-1004"),
        ];
        for (body, status, code) in table {
            let token = route.token(&world);
            let answer = world.send(route.method.clone(), &path, token, &[("if-match", "*")], body).await;
            refused(&route.label(), &answer, status, code);
        }
        let form = [("content-type", "application/x-www-form-urlencoded"), ("if-match", "*")];
        let answer = world.send(route.method.clone(), &path, route.token(&world), &form, b"a=b").await;
        refused(&route.label(), &answer, 415, "PRG-1005");
        tried += 1;
    }
    assert!(tried >= 6, "{tried}");
}

#[tokio::test]
async fn lists_are_pages() {
    let world = World::new().await;
    let mut tried = 0;
    for route in routes(&world).iter().filter(|r| r.is_list()) {
        let path = &route.path;
        let page = world.get(path).await;
        assert_eq!(page.status, 200, "{path}");
        assert!(page.json()["items"].is_array(), "{path}");
        guarded(path, &page);
        for (query, status, code) in [
            ("limit=0", 422, "PRG-1002"),
            ("limit=1001", 422, "PRG-1002"),
            ("limit=x", 422, "PRG-1002"),
            ("page_token=garbage", 400, "PRG-1006"),
            ("no_such_parameter=1", 422, "PRG-1003"),
        ] {
            let answer = world.get(&format!("{path}?{query}")).await;
            refused(&format!("{path}?{query}"), &answer, status, code);
        }
        tried += 1;
    }
    assert!(tried >= 7, "{tried}");
}

#[tokio::test]
async fn objects_have_tags() {
    let mut world = World::new().await;
    let guest = world.running("a").await;
    let task = world.get("/api/v1/tasks").await.json()["items"][0]["id"].as_str().unwrap().to_owned();
    let paths = [
        format!("/api/v1/sandboxes/{guest}"),
        "/api/v1/vms/a".to_owned(),
        format!("/api/v1/tasks/{task}"),
        "/api/v1/images/base".to_owned(),
        "/api/v1/hosts/bench".to_owned(),
    ];
    for path in paths {
        let first = world.get(&path).await;
        let tag = first.header(header::ETAG).to_owned();
        assert!(tag.len() > 2 && tag.starts_with('"'), "{path}: {tag}");
        let again = world.send(Method::GET, &path, &world.admin, &[("if-none-match", &tag)], b"").await;
        assert_eq!((again.status, again.bytes.len()), (StatusCode::NOT_MODIFIED, 0), "{path}");
    }
}

#[tokio::test]
async fn configuration_changes_need_the_tag_that_was_read() {
    let mut world = World::new().await;
    world.running("a").await;
    let path = "/api/v1/sandboxes/a";
    let body = br#"{"labels":{"team":"web"}}"#;
    let patch = async |headers: &[(&str, &str)]| world.send(Method::PATCH, path, &world.admin, headers, body).await;
    refused("no tag", &patch(&[]).await, 428, "PRG-1011");
    refused("foreign tag", &patch(&[("if-match", "\"abc\"")]).await, 412, "PRG-1012");
    let tag = world.get(path).await.header(header::ETAG).to_owned();
    let done = patch(&[("if-match", &tag)]).await;
    assert_eq!((done.status.as_u16(), &done.json()["labels"]["team"]), (200, &json!("web")));
    refused("old tag", &patch(&[("if-match", &tag)]).await, 412, "PRG-1012");
    assert_eq!(patch(&[("if-match", "*")]).await.status, 200);
    let removed =
        world.send(Method::PATCH, path, &world.admin, &[("if-match", "*")], br#"{"labels":{"team":null}}"#).await;
    assert_eq!(removed.json()["labels"], json!({}));
}

/// Whoever takes the object as it is loses to nobody who changes it at the same time.
#[tokio::test]
async fn changes_of_whatever_it_is_now_do_not_get_in_each_others_way() {
    let mut world = World::new().await;
    world.running("a").await;
    world.vm(json!({ "name": "db" }), 1).await;
    for path in ["/api/v1/sandboxes/a", "/api/v1/vms/db"] {
        let bodies: Vec<_> = (0..4).map(|n| format!("{{\"labels\":{{\"n{n}\":\"x\"}}}}")).collect();
        let star = [("if-match", "*")];
        let all = bodies.iter().map(|body| world.send(Method::PATCH, path, &world.admin, &star, body.as_bytes()));
        let statuses: Vec<_> =
            futures::future::join_all(all).await.iter().map(|answer| answer.status.as_u16()).collect();
        assert_eq!(statuses, [200; 4], "{path}");
        let labels = world.get(path).await.json()["labels"].clone();
        assert_eq!(labels.as_object().unwrap().len(), 4, "each counts: {labels}");
    }
}
