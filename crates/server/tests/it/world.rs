//! A control plane with one host, one image and callers of every kind. The host's agent is the
//! test: it reads what it is sent and reports what the test wants reported.

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Method, Request, StatusCode, header};
use perigee_agent_api::{FromAgent, FromServer, GuestReport, Hello, VERSIONS};
use perigee_blobs::BlobDir;
use perigee_clock::Clock;
use perigee_control::watch::Watching;
use perigee_control::{Cause, Control, LinkEnd};
use perigee_model::{
    Abilities, Acceleration, Digest, GuestId, GuestKind, HostId, Image, ImageId, ImageState, InstanceId, Inventory,
    Name, Observed, Part, PartRole, Phase, Role, RunId, Tenant, Who,
};
use perigee_outbound::{Guard, Limits, Outbound};
use perigee_server::imports::Imports;
use perigee_server::ingest_token::IngestTokens;
use perigee_server::rest::{Parts, Requests, Server, router};
use perigee_store::{Batch, MemoryStore, Record, Store};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub struct World {
    pub app: Router,
    pub document: Value,
    pub control: Control,
    pub watch: Watching,
    pub store: Arc<MemoryStore>,
    pub host: HostId,
    pub link: LinkEnd,
    pub admin: String,
    pub viewer: String,
    pub stranger: String,
    /// The ingest token of a host without our agent.
    pub silent: String,
    pub blobs: BlobDir,
    pub dir: tempfile::TempDir,
    stop: CancellationToken,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }
    pub fn header(&self, name: impl header::AsHeaderName) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub fn inventory() -> Inventory {
    Inventory {
        hostname: "bench".into(),
        arch: "x86_64".into(),
        kernel_release: "6.1".into(),
        os: "Debian".into(),
        cpus: 4,
        cpu_model: "test".into(),
        memory_bytes: 8 << 30,
        disk_bytes: 1 << 40,
        disk_free_bytes: 1 << 39,
        agent_version: "0.1.0".into(),
        privileges: "root".into(),
        drivers: vec![Abilities {
            driver: "simulated".into(),
            kinds: vec![GuestKind::Sandbox, GuestKind::Vm],
            version: "1".into(),
            acceleration: Acceleration::Simulated,
            channel: true,
            pause: false,
            halt: false,
            console: false,
            snapshots: false,
            volumes: true,
            networks: true,
            adopt: true,
            boots_in_flight_max: 2,
        }],
    }
}

fn image(clock: &Clock) -> Image {
    let part = |role, digit: &str| Part { role, digest: Digest::parse(&digit.repeat(64)).unwrap(), bytes: 1 };
    Image {
        id: ImageId::new(clock.uuid()),
        name: Name::parse("base").unwrap(),
        tenant: Tenant::first(),
        owner: "test".into(),
        arch: "x86_64".into(),
        parts: vec![part(PartRole::Kernel, "a"), part(PartRole::Initrd, "b")],
        kernel_release: Some("6.1.0-test".into()),
        state: ImageState::Ready,
        created_at: clock.now(),
        revision: 1,
    }
}

impl World {
    pub async fn new() -> Self {
        Self::at(Clock::real()).await
    }

    pub async fn at(clock: Clock) -> Self {
        let store = Arc::new(MemoryStore::new());
        let mut batch = Batch::default();
        batch.insert(Record::Image(image(&clock)));
        store.commit(batch).await.unwrap();
        let instance = InstanceId::parse("00c0ffee").unwrap();
        let control = Control::open(clock.clone(), store.clone(), instance, 1).await.unwrap();
        let admin = control.mint_key("admin", Tenant::first(), Role::Admin).await.unwrap().0;
        let viewer = control.mint_key("viewer", Tenant::first(), Role::Viewer).await.unwrap().0;
        let other = Tenant::new(&Name::parse("other").unwrap());
        let stranger = control.mint_key("stranger", other, Role::Admin).await.unwrap().0;
        let who = Who { tenant: Tenant::first(), actor: "test".into(), role: Role::Admin };
        let (secret, _) = control.mint_join_secret(&who, None, &Cause::default()).await.unwrap();
        let host = control.enrol(&secret.0, "bench", BTreeMap::new(), VERSIONS).await.unwrap().id;
        let hello = Hello {
            host,
            run: RunId::new(clock.uuid()),
            versions: VERSIONS,
            inventory: inventory(),
            guests: Vec::new(),
            executions: Vec::new(),
        };
        let link = control.host_hello(host, hello).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let watch =
            Watching::open(control.clone(), &dir.path().join("series"), perigee_series::Settings::default()).unwrap();
        let blobs = BlobDir::at(dir.path().join("blobs")).unwrap();
        let server = Server::new(Parts {
            watch: watch.clone(),
            control: control.clone(),
            blobs: blobs.clone(),
            catalogue: dir.path().join("catalogue.toml"),
            hosts: Vec::new(),
            agents_url: "https://127.0.0.1:1".into(),
            authority_sha256: "0".repeat(64),
            ingest_tokens: IngestTokens::of_seed(&[7; 32], control.instance(), clock.clone()).unwrap(),
            requests: Requests::default(),
            in_flight: Mutex::default(),
        });
        let (app, document) = router(server);
        let stop = CancellationToken::new();
        let (brain, cancel) = (control.clone(), stop.clone());
        tokio::spawn(async move { brain.run(true, cancel).await });
        let document = serde_json::to_value(document).unwrap();
        let silent = String::new();
        let mut world = Self {
            app,
            document,
            control,
            watch,
            store,
            host,
            link,
            admin,
            viewer,
            stranger,
            silent,
            blobs,
            dir,
            stop,
        };
        world.silent = world.ingest_token("silent", serde_json::json!({ "create": true })).await;
        world
    }

    /// Has imports done, from loopback addresses only.
    pub fn import(&self) {
        let guard = Guard { allowed: vec!["127.0.0.1".parse().unwrap()] };
        let limits = Limits { retry_after: Duration::from_millis(1), ..Limits::default() };
        let outbound = Outbound::new(guard, limits);
        let imports = Imports { control: self.control.clone(), blobs: self.blobs.clone(), outbound };
        tokio::spawn(imports.run(self.stop.clone()));
    }

    /// A new ingest token of a host.
    pub async fn ingest_token(&self, host: &str, request: Value) -> String {
        let answer = self.post(&format!("/api/v1/hosts/{host}/ingest-token"), &[], request).await;
        assert_eq!(answer.status, 201, "{}", answer.json());
        answer.json()["token"].as_str().unwrap().to_owned()
    }

    /// Sends a request; `token` is put in unless empty.
    pub async fn send(&self, method: Method, path: &str, token: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if !body.is_empty() && !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(self.app.clone(), request.body(Body::from(body.to_vec())).unwrap()).await
    }

    /// A POST that waits for the work, under way beside whatever else happens.
    pub fn post_waiting(&self, path: &str, body: &Value) -> tokio::task::JoinHandle<Answer> {
        let bearer = format!("Bearer {}", self.admin);
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json"), ("prefer", "wait=10")];
        let mut request = Request::builder().method(Method::POST).uri(path).header("host", "localhost");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        tokio::spawn(answer(self.app.clone(), request.body(Body::from(body.to_string())).unwrap()))
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &self.admin, &[], b"").await
    }

    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: Value) -> Answer {
        self.send(Method::POST, path, &self.admin, headers, body.to_string().as_bytes()).await
    }

    /// What the host is told next; fails after ten seconds.
    pub async fn told(&mut self) -> FromServer {
        let next = self.link.outgoing.recv();
        tokio::time::timeout(std::time::Duration::from_secs(10), next).await.expect("nothing was sent").unwrap()
    }

    /// Waits for the next order about a guest and reports the phase for it.
    pub async fn obey(&mut self, phase: Phase, sequence: u64) -> GuestId {
        loop {
            if let FromServer::Desired(desired) = self.told().await {
                self.report(desired.id, desired.desired.generation, phase, sequence).await;
                return desired.id;
            }
        }
    }

    pub async fn report(&self, guest: GuestId, generation: u64, phase: Phase, sequence: u64) {
        let observed = Observed {
            generation,
            sequence,
            phase,
            since: self.control.clock().now(),
            note: None,
            problem: None,
            kernel_release: Some("6.1.0-test".into()),
            boot_ms: Some(1),
            restarts: 0,
            booted: None,
            addresses: Vec::new(),
            forwards: Vec::new(),
            volumes: Vec::new(),
        };
        let report = FromAgent::Guest(GuestReport { guest, observed });
        self.control.host_message(self.host, report).await.unwrap();
    }

    /// A sandbox that runs, as far as its host says.
    pub async fn running(&mut self, name: &str) -> GuestId {
        let answer = self.post("/api/v1/sandboxes", &[], serde_json::json!({ "name": name })).await;
        assert_eq!(answer.status, 202, "{}", answer.json());
        self.obey(Phase::Running, 1).await
    }
}

async fn answer(app: Router, request: Request<Body>) -> Answer {
    let (parts, body) = app.oneshot(request).await.unwrap().into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default().to_vec();
    Answer { status: parts.status, headers: parts.headers, bytes }
}
