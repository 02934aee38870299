//! A control plane in memory: the other end of the uplink.

use async_trait::async_trait;
use bytes::Bytes;
use perigee_agent::uplink::BlobStream;
use perigee_agent::{Session, Tunnel, Uplink, UplinkError};
use perigee_agent_api::*;
use perigee_model::{Digest, ExecutionId, GuestId, ImageId, NetworkId, Observed, Phase, TaskId, VolumeId};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

type Frames = (mpsc::Sender<TunnelFrame>, mpsc::Receiver<TunnelFrame>);

pub struct State {
    pub up: bool,
    pub epoch: u64,
    /// Ends are acknowledged at once.
    pub takes: bool,
    /// Everything is sent on each link.
    pub resync: bool,
    pub desired: BTreeMap<GuestId, DesiredGuest>,
    pub observed: BTreeMap<GuestId, Observed>,
    /// Every accepted phase, in order.
    pub story: Vec<(GuestId, Phase)>,
    pub ends: BTreeMap<ExecutionId, ExecutionEnd>,
    pub end_reports: BTreeMap<ExecutionId, u32>,
    pub gone_reports: BTreeMap<GuestId, u32>,
    pub builds: BTreeMap<ImageId, BuildStage>,
    /// Every stage that was told of each.
    pub operations: BTreeMap<TaskId, Vec<OperationStage>>,
    /// Every report on each volume.
    pub volumes: BTreeMap<VolumeId, Vec<(u64, VolumeStage)>>,
    /// Every report on each network.
    pub networks: BTreeMap<NetworkId, Vec<(u64, NetworkStage)>>,
    pub hellos: Vec<Hello>,
    link: Option<mpsc::Sender<FromServer>>,
    tunnels: BTreeMap<TunnelId, Frames>,
    next_tunnel: u128,
    pub refuse: Option<FromServer>,
    /// Parts of images.
    pub blobs: BTreeMap<Digest, Bytes>,
    /// How often each was fetched.
    pub fetches: BTreeMap<Digest, u32>,
    /// The repository of backups.
    pub chunks: BTreeMap<(bool, Digest), Bytes>,
    /// Its disk is full.
    pub chunks_full: bool,
}

#[derive(Clone)]
pub struct Plane {
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<u64>>,
}

impl Plane {
    pub fn new() -> Self {
        let state = State {
            up: true,
            epoch: 1,
            takes: true,
            resync: true,
            desired: BTreeMap::new(),
            observed: BTreeMap::new(),
            story: vec![],
            ends: BTreeMap::new(),
            end_reports: BTreeMap::new(),
            gone_reports: BTreeMap::new(),
            builds: BTreeMap::new(),
            operations: BTreeMap::new(),
            volumes: BTreeMap::new(),
            networks: BTreeMap::new(),
            hellos: vec![],
            link: None,
            tunnels: BTreeMap::new(),
            next_tunnel: 1,
            refuse: None,
            blobs: BTreeMap::new(),
            fetches: BTreeMap::new(),
            chunks: BTreeMap::new(),
            chunks_full: false,
        };
        Self { state: Arc::new(Mutex::new(state)), changed: Arc::new(watch::Sender::new(0)) }
    }
    pub fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let answer = f(&mut self.state.lock().unwrap());
        self.changed.send_modify(|n| *n += 1);
        answer
    }
    /// Waits, with a deadline of two virtual minutes.
    pub async fn until(&self, what: &str, f: impl Fn(&State) -> bool) {
        let mut changed = self.changed.subscribe();
        let wait = async {
            loop {
                changed.mark_unchanged();
                if f(&self.state.lock().unwrap()) {
                    return;
                }
                changed.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(Duration::from_secs(120), wait).await.is_err() {
            let s = self.state.lock().unwrap();
            panic!("{what} did not happen: {:?} {:?}", s.observed, s.ends);
        }
    }
    pub async fn until_phase(&self, guest: GuestId, phase: Phase) {
        let what = format!("{phase:?}");
        self.until(&what, |s| s.observed.get(&guest).is_some_and(|o| o.phase == phase)).await;
    }
    pub fn send(&self, message: FromServer) -> bool {
        let link = self.with(|s| s.link.clone());
        link.is_some_and(|link| link.try_send(message).is_ok())
    }
    /// Writes desired down and nudges.
    pub fn want(&self, guest: DesiredGuest) {
        self.with(|s| s.desired.insert(guest.id, guest.clone()));
        self.send(FromServer::Desired(Box::new(guest)));
    }
    pub fn resync(&self) {
        let all = self.with(|s| s.desired.values().cloned().collect());
        self.send(FromServer::DesiredAll(all));
    }
    pub fn cut(&self) {
        self.with(|s| {
            s.up = false;
            s.link = None;
        });
    }
    pub fn tunnel(&self, purpose: Purpose) -> Frames {
        let (to_agent, from_plane) = mpsc::channel(8);
        let (to_plane, from_agent) = mpsc::channel(8);
        let tunnel = self.with(|s| {
            let id = TunnelId(uuid::Uuid::from_u128(s.next_tunnel));
            s.next_tunnel += 1;
            s.tunnels.insert(id, (to_plane, from_plane));
            id
        });
        assert!(self.send(FromServer::OpenTunnel { tunnel, purpose: Box::new(purpose) }));
        (to_agent, from_agent)
    }

    fn hear_guest(&self, report: GuestReport) {
        self.with(|s| {
            if report.observed.phase == Phase::Gone {
                *s.gone_reports.entry(report.guest).or_default() += 1;
            }
            let newest = s.observed.get(&report.guest).map_or(0, |o| o.sequence);
            if report.observed.sequence <= newest {
                return;
            }
            if report.observed.phase == Phase::Gone && s.takes {
                s.desired.remove(&report.guest);
            }
            s.story.push((report.guest, report.observed.phase));
            s.observed.insert(report.guest, report.observed);
        });
    }

    fn hear(&self, message: FromAgent) {
        match message {
            FromAgent::Hello(_) | FromAgent::Heartbeat { .. } => {}
            FromAgent::Intent(intent) => drop(self.send(FromServer::IntentTaken { intent: intent.id })),
            FromAgent::Guest(report) => self.hear_guest(report),
            FromAgent::Execution(report) => {
                let Some(end) = report.end else { return };
                let takes = self.with(|s| {
                    *s.end_reports.entry(report.execution).or_default() += 1;
                    s.ends.entry(report.execution).or_insert(end);
                    s.takes
                });
                if takes {
                    self.send(FromServer::ExecutionTaken { execution: report.execution });
                }
            }
            FromAgent::Operation(report) => {
                let takes = self.with(|s| {
                    s.operations.entry(report.task).or_default().push(report.stage.clone());
                    s.takes
                });
                if takes && report.stage.is_end() {
                    self.send(FromServer::OperationTaken { guest: report.guest, task: report.task });
                }
            }
            FromAgent::Volume(report) => {
                self.with(|s| s.volumes.entry(report.volume).or_default().push((report.generation, report.stage)));
            }
            FromAgent::Network(report) => {
                self.with(|s| s.networks.entry(report.network).or_default().push((report.generation, report.stage)));
            }
            FromAgent::Build(report) => {
                self.with(|s| s.builds.insert(report.image, report.stage.clone()));
                if !matches!(report.stage, BuildStage::Running { .. }) {
                    self.send(FromServer::BuildTaken { image: report.image });
                }
            }
        }
    }
}

#[async_trait]
impl Uplink for Plane {
    async fn open(&self, hello: Hello) -> Result<Session, UplinkError> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        if !self.with(|s| s.up) {
            return Err(UplinkError::Away("cut".into()));
        }
        let (to_agent, rx) = mpsc::channel(256);
        let (tx, mut from_agent) = mpsc::channel(256);
        if let Some(refusal) = self.with(|s| s.refuse.clone()) {
            to_agent.try_send(refusal).unwrap();
            return Ok(Session { tx, rx });
        }
        let epoch = self.with(|s| s.epoch);
        to_agent.try_send(FromServer::Welcome { version: 1, epoch, heartbeat_ms: 30_000 }).unwrap();
        let guests = hello.guests.clone();
        self.with(|s| {
            s.hellos.push(hello);
            s.link = Some(to_agent);
        });
        guests.into_iter().for_each(|report| self.hear_guest(report));
        if self.with(|s| s.resync) {
            self.resync();
        }
        let plane = self.clone();
        tokio::spawn(async move {
            while let Some(message) = from_agent.recv().await {
                if plane.with(|s| s.up) {
                    plane.hear(message);
                }
            }
        });
        Ok(Session { tx, rx })
    }
    async fn tunnel(&self, id: TunnelId) -> Result<Tunnel, UplinkError> {
        let (tx, rx) = self.with(|s| s.tunnels.remove(&id)).ok_or(UplinkError::NotFound)?;
        Ok(Tunnel { tx, rx })
    }
    async fn fetch_blob(&self, digest: &Digest, from: u64) -> Result<BlobStream, UplinkError> {
        let found = self.with(|s| {
            *s.fetches.entry(digest.clone()).or_default() += 1;
            s.blobs.get(digest).cloned()
        });
        let bytes = found.ok_or(UplinkError::NotFound)?;
        let (tx, rx) = mpsc::channel(1);
        let rest = bytes.slice(usize::try_from(from).unwrap()..);
        tx.try_send(Ok(rest)).unwrap();
        Ok(rx)
    }
    async fn push_blob(&self, _: &Digest, _: &Path) -> Result<(), UplinkError> {
        Ok(())
    }
    async fn push_chunk(&self, sealed: bool, digest: &Digest, bytes: Bytes) -> Result<ChunkStored, UplinkError> {
        self.with(|s| {
            if !s.up {
                return Err(UplinkError::Away("cut".into()));
            }
            let (key, stored_bytes) = ((sealed, digest.clone()), bytes.len() as u64);
            let new = !s.chunks.contains_key(&key);
            if new && s.chunks_full {
                return Err(UplinkError::NoSpace("no space left".into()));
            }
            s.chunks.entry(key).or_insert(bytes);
            Ok(ChunkStored { new, stored_bytes })
        })
    }
    async fn fetch_chunk(&self, sealed: bool, digest: &Digest) -> Result<Bytes, UplinkError> {
        self.with(|s| match s.chunks.get(&(sealed, digest.clone())) {
            _ if !s.up => Err(UplinkError::Away("cut".into())),
            found => found.cloned().ok_or(UplinkError::NotFound),
        })
    }
}
