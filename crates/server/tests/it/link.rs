//! The agent link as agents meet it: one contract for both of its forms, over real TLS.

use crate::chunks;
use crate::world::World;
use perigee_agent::enrol;
use perigee_agent::frames::FrameUplink;
use perigee_agent::identity::{CurrentIdentity, IdentityDir};
use perigee_agent::tls::ServerUrl;
use perigee_agent::uplink::grpc::GrpcUplink;
use perigee_agent::uplink::ws::WsUplink;
use perigee_agent::{Session, Uplink, UplinkError};
use perigee_agent_api::{
    FramesUp, FromAgent, FromServer, Hello, Mark, Purpose, StreamName, TunnelFrame, TunnelId, VERSIONS,
};
use perigee_backups::Repository;
use perigee_blobs::BlobDir;
use perigee_control::Cause;
use perigee_model::frame::{Series, Sheet};
use perigee_model::{Digest, GuestId, HostId, Role, RunId, Tenant, Who};
use perigee_server::authority::Authority;
use perigee_server::chunks::Vault;
use perigee_server::{grpc, rest};
use sha2::Digest as _;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

struct Plane {
    world: World,
    server: ServerUrl,
    identity: Arc<CurrentIdentity>,
    host: HostId,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<anyhow::Result<()>>,
    dir: tempfile::TempDir,
}

impl Plane {
    async fn new() -> Self {
        let world = World::new().await;
        let dir = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority::open(dir.path(), world.control.clock().clone()).unwrap());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server: ServerUrl = format!("https://{}", listener.local_addr().unwrap()).parse().unwrap();
        let blobs = BlobDir::at(dir.path().join("blobs")).unwrap();
        let backups =
            Repository::open(dir.path().join("backups"), dir.path().join("backups.key"), |bytes| bytes.fill(7));
        let disks = (blobs, Vault::new(backups.unwrap()));
        let (stop, sha256) = (CancellationToken::new(), authority.sha256());
        let brain = (world.control.clone(), world.watch.clone());
        let served = grpc::serve(listener, brain, disks, authority, vec![[127, 0, 0, 1].into()], stop.clone());
        let served = tokio::spawn(served);
        let who = Who { tenant: Tenant::first(), actor: "test".into(), role: Role::Admin };
        let (secret, _) = world.control.mint_join_secret(&who, None, &Cause::default()).await.unwrap();
        let token = rest::join_token(&sha256, &secret.0).parse().unwrap();
        let folder = IdentityDir::of(dir.path());
        let identity = enrol::join(&server, &token, &folder, "web-1", &BTreeMap::new()).await.unwrap();
        let host = identity.host;
        Self { world, server, identity: Arc::new(CurrentIdentity::new(identity)), host, stop, served, dir }
    }

    fn hello(&self) -> Hello {
        let bench = self.world.control.view().host(self.world.host).unwrap();
        Hello {
            host: self.host,
            run: RunId::new(self.world.control.clock().uuid()),
            versions: VERSIONS,
            inventory: bench.inventory.clone().unwrap(),
            guests: Vec::new(),
            executions: Vec::new(),
        }
    }
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(Duration::from_secs(10), future).await;
    waited.unwrap_or_else(|_| panic!("{what} did not come to be"))
}

/// Bytes of another order.
async fn long<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(Duration::from_secs(60), future).await;
    waited.unwrap_or_else(|_| panic!("{what} did not come to be"))
}

async fn heard(session: &mut Session) -> FromServer {
    soon("a message", session.rx.recv()).await.expect("the link ended")
}

async fn refusal(session: &mut Session) -> String {
    loop {
        if let FromServer::Refused { problem, .. } = heard(session).await {
            return problem.code;
        }
    }
}

async fn contract<U: Uplink + FrameUplink>(make: impl Fn(ServerUrl, Arc<CurrentIdentity>) -> U) {
    let plane = Plane::new().await;
    let uplink = make(plane.server.clone(), plane.identity.clone());
    let mut session = soon("a link", uplink.open(plane.hello())).await.unwrap();
    assert!(matches!(heard(&mut session).await, FromServer::Welcome { epoch: 1, .. }));
    assert_eq!(heard(&mut session).await, FromServer::DesiredAll(Vec::new()));
    reports_arrive(&plane, &session).await;
    tunnels_end_by_halves(&plane, &uplink, &mut session).await;
    frames_become_durable(&plane, &uplink).await;
    blobs_are_fetched_and_pushed(&plane, &uplink).await;
    let root = plane.dir.path().join("backups");
    long("chunks", chunks::are_stored_once_and_given_back(&root, &uplink)).await;
    long("chunks", chunks::travel_side_by_side_and_up_to_the_largest(&uplink)).await;
    long("chunks", chunks::are_told_when_damaged(&root, &uplink)).await;

    let mut newer = soon("a newer link", uplink.open(plane.hello())).await.unwrap();
    assert_eq!(refusal(&mut session).await, "PRG-4007");
    assert!(soon("the older link's end", session.rx.recv()).await.is_none());
    assert!(matches!(heard(&mut newer).await, FromServer::Welcome { .. }));
    uplink.push_chunk(false, &perigee_backups::digest_of(b"last"), bytes::Bytes::from_static(b"last")).await.unwrap();
    let who = Who { tenant: Tenant::first(), actor: "test".into(), role: Role::Admin };
    plane.world.control.revoke_host(&who, &plane.host.to_string(), None, &Cause::default()).await.unwrap();
    assert_eq!(refusal(&mut newer).await, "PRG-4007");
    let again = soon("an answer", uplink.open(plane.hello())).await;
    assert!(matches!(again, Err(UplinkError::Refused(text)) if text.contains("PRG-2006")));

    chunks::are_refused_to_a_revoked_host(&uplink).await;

    let other = Plane::new().await;
    let stranger = make(other.server.clone(), plane.identity.clone());
    let refused = soon("an answer", stranger.open(plane.hello())).await;
    assert!(matches!(refused, Err(UplinkError::Certificate(_))), "another authority's host");
    let mut last =
        soon("a link", make(other.server.clone(), other.identity.clone()).open(other.hello())).await.unwrap();
    other.stop.cancel();
    assert_eq!(refusal(&mut last).await, "PRG-6002");
    drop(last);
    soon("the server's end", other.served).await.unwrap().unwrap();
    let nobody = soon("an answer", stranger.open(plane.hello())).await;
    assert!(matches!(nobody, Err(UplinkError::Away(_))));
}

async fn reports_arrive(plane: &Plane, session: &Session) {
    let mut inventory = plane.hello().inventory;
    inventory.hostname = "another".to_owned();
    let beat = FromAgent::Heartbeat { inventory: Some(Box::new(inventory)) };
    session.tx.send(beat).await.unwrap();
    let told = || plane.world.control.view().host(plane.host).unwrap().inventory.as_ref().unwrap().hostname.clone();
    let known = async {
        while told() != "another" {
            tokio::task::yield_now().await
        }
    };
    soon("the new inventory", known).await;
}

async fn tunnels_end_by_halves(plane: &Plane, uplink: &impl Uplink, session: &mut Session) {
    let guest = GuestId::new(Uuid::from_u128(7));
    let purpose = Purpose::GetFile { guest, path: "/x".into() };
    let opened = async {
        let FromServer::OpenTunnel { tunnel, .. } = heard(session).await else { panic!("no order for a tunnel") };
        uplink.tunnel(tunnel).await.unwrap()
    };
    let (ours, mut theirs) = tokio::join!(plane.world.control.links().open(plane.host, purpose), opened);
    let mut ours = ours.unwrap();
    let bytes: Vec<u8> = (0..=255).cycle().take(64 << 10).collect();
    for frame in [TunnelFrame::Data(bytes.clone()), TunnelFrame::Started, TunnelFrame::End] {
        theirs.tx.send(frame.clone()).await.unwrap();
        assert_eq!(soon("a frame", ours.rx.recv()).await, Some(frame));
    }
    drop(theirs.tx);
    assert_eq!(soon("the agent's end", ours.rx.recv()).await, None);
    ours.tx.send(TunnelFrame::Signal(15)).await.unwrap();
    assert_eq!(soon("a signal", theirs.rx.recv()).await, Some(TunnelFrame::Signal(15)));
    drop(ours);
    assert_eq!(soon("our end", theirs.rx.recv()).await, None);
    let unknown = soon("an answer", uplink.tunnel(TunnelId(Uuid::from_u128(1)))).await;
    assert!(matches!(unknown, Err(UplinkError::NotFound)));
}

async fn frames_become_durable(plane: &Plane, uplink: &impl FrameUplink) {
    let run = RunId::new(Uuid::from_u128(9));
    let mut stream = soon("a stream", uplink.frames(StreamName::Node)).await.unwrap();
    let first = soon("a first word", stream.rx.recv()).await.unwrap();
    assert_eq!((first.durable, first.want_key), (None, false));
    let mut sheet = Sheet::default();
    let slot = sheet.define(Series::gauge("node_load1", 0)).unwrap();
    for sequence in 1..=3 {
        sheet.set(slot, i64::try_from(sequence).unwrap());
        let frame = sheet.encode(sequence, plane.world.control.clock().now(), false);
        stream.tx.send(FramesUp::Frame { run, frame }).await.unwrap();
    }
    let durable =
        async { while stream.rx.recv().await.expect("the stream ended").durable != Some(Mark { run, sequence: 3 }) {} };
    soon("the third frame", durable).await;
    drop(stream);
    let mut again = soon("a stream", uplink.frames(StreamName::Node)).await.unwrap();
    let known = soon("a first word", again.rx.recv()).await.unwrap();
    assert_eq!(known.durable, Some(Mark { run, sequence: 3 }), "it goes on where it was");
    let foreign = soon("an answer", async {
        match uplink.frames(StreamName::Ingest).await {
            Ok(mut stream) => stream.rx.recv().await.is_none(),
            Err(_) => true,
        }
    });
    assert!(foreign.await, "that stream is not the agent's");
}

async fn blobs_are_fetched_and_pushed(plane: &Plane, uplink: &impl Uplink) {
    let bytes: Vec<u8> = (0..700_001u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let digest = Digest::parse(&hex::encode(sha2::Sha256::digest(&bytes))).unwrap();
    let file = plane.dir.path().join("part");
    std::fs::write(&file, &bytes).unwrap();
    soon("a push", uplink.push_blob(&digest, &file)).await.unwrap();
    for offset in [0, 300_000, bytes.len()] {
        let mut chunks = soon("a fetch", uplink.fetch_blob(&digest, offset as u64)).await.unwrap();
        let mut got = Vec::new();
        while let Some(chunk) = soon("a chunk", chunks.recv()).await {
            got.extend_from_slice(&chunk.unwrap());
        }
        assert!(got == bytes[offset..], "from {offset}");
    }
    let unknown = Digest::parse(&"e".repeat(64)).unwrap();
    let missing = async {
        match uplink.fetch_blob(&unknown, 0).await {
            Ok(mut chunks) => matches!(chunks.recv().await, Some(Err(UplinkError::NotFound))),
            Err(error) => matches!(error, UplinkError::NotFound),
        }
    };
    assert!(soon("an answer", missing).await);
    let wrong = soon("an answer", uplink.push_blob(&unknown, &file)).await;
    assert!(matches!(wrong, Err(UplinkError::Refused(_))), "{wrong:?}");
}

#[tokio::test]
async fn two_agents_with_one_identity_are_told_and_the_newer_is_served() {
    let plane = Plane::new().await;
    let uplink = GrpcUplink::new(plane.server.clone(), plane.identity.clone());
    let hello = |run| Hello { run: RunId::new(Uuid::from_u128(run)), ..plane.hello() };
    let host = || async { plane.world.get(&format!("/api/v1/hosts/{}", plane.host)).await.json() };
    let _first = soon("a link", uplink.open(hello(1))).await.unwrap();
    let mut second = soon("a link", uplink.open(hello(2))).await.unwrap();
    assert!(matches!(heard(&mut second).await, FromServer::Welcome { .. }));
    assert!(host().await["problem"].is_null(), "an agent that was started again is no news");

    // The first is alive all the same, and comes back twice.
    for _ in 0..2 {
        let mut back = soon("an answer", uplink.open(hello(1))).await.unwrap();
        let FromServer::Refused { problem, retry_after_ms } = heard(&mut back).await else { panic!("it was let in") };
        assert_eq!((problem.code.as_str(), retry_after_ms), ("PRG-4009", None), "it does not ask again at once");
    }
    let alarms = || async {
        let events = plane.world.get("/api/v1/events?limit=200").await.json();
        let of_twins = |event: &&serde_json::Value| event["verb"] == "host.twins";
        events["items"].as_array().unwrap().iter().filter(of_twins).cloned().collect::<Vec<_>>()
    };
    let told = alarms().await;
    assert_eq!(told.len(), 1, "once: {told:?}");
    assert_eq!(told[0]["subject_id"], plane.host.to_string());
    let shown = host().await;
    assert_eq!((&shown["problem"]["code"], &shown["status"]), (&"PRG-4009".into(), &"connected".into()));
    assert!(shown["problem"]["detail"].as_str().unwrap().contains(&RunId::new(Uuid::from_u128(2)).to_string()));
    assert!(plane.world.control.links().is_connected(plane.host), "the newer one goes on");

    // Whoever is left is served.
    drop(second);
    soon("the newer one's end", async {
        while plane.world.control.links().is_connected(plane.host) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut left = soon("a link", uplink.open(hello(1))).await.unwrap();
    assert!(matches!(heard(&mut left).await, FromServer::Welcome { .. }));
    let _newer = soon("a link", uplink.open(hello(2))).await.unwrap();
    assert_eq!(refusal(&mut left).await, "PRG-4007", "the newer one takes its place back");
    assert_eq!(alarms().await.len(), 1);
}

#[tokio::test]
async fn grpc_keeps_the_contract() {
    contract(GrpcUplink::new).await;
}

#[tokio::test]
async fn websocket_keeps_the_contract() {
    contract(WsUplink::new).await;
}
