//! The network between agents and the control plane.
//!
//! Owns: each host's line (up, cut, rough), links and tunnels over it, and messages that arrive
//! late, twice, out of order or never. It is the simulated [`Uplink`].
//! Refuses: understanding what it carries, beyond which message may be lost: one that the next
//! resync repeats.

use crate::chunks::Chunks;
use crate::draw::Draw;
use crate::link;
use crate::pipe::Rough;
use crate::plane::Plane;
use crate::scene::Scene;
use async_trait::async_trait;
use bytes::Bytes;
use perigee_agent::uplink::BlobStream;
use perigee_agent::{Session, Tunnel, Uplink, UplinkError};
use perigee_agent_api::{ChunkStored, FromServer, Hello, TunnelFrame, TunnelId};
use perigee_model::{Digest, HostId};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// Messages under way from one end to its network card.
const QUEUE: usize = 256;

/// Every line.
pub struct Network {
    pub(crate) scene: Arc<Scene>,
    pub(crate) plane: Arc<Plane>,
    lines: Mutex<BTreeMap<HostId, Arc<Line>>>,
}

/// One host's line.
pub struct Line {
    pub(crate) network: Arc<Network>,
    pub(crate) host: HostId,
    /// Wakes whoever waits for the next order that arrives at the host.
    pub heard: Notify,
    state: Mutex<State>,
    draw: Mutex<Draw>,
}

#[derive(Default)]
struct State {
    cut: bool,
    rough: Rough,
    /// Cancelled when the line is cut; a new one when it is mended.
    severed: CancellationToken,
    /// The newest link's way to the agent.
    agent: Option<mpsc::WeakSender<FromServer>>,
}

impl Network {
    /// Without lines.
    pub fn new(scene: Arc<Scene>, plane: Arc<Plane>) -> Arc<Self> {
        Arc::new(Self { scene, plane, lines: Mutex::default() })
    }

    /// Lays a line to a host.
    pub fn lay(self: &Arc<Self>, host: HostId, name: &str) -> Arc<Line> {
        let line = Arc::new(Line {
            network: self.clone(),
            host,
            heard: Notify::new(),
            state: Mutex::default(),
            draw: Mutex::new(Draw::new(self.scene.settings.seed, &format!("line {name}"))),
        });
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).insert(host, line.clone());
        line
    }

    /// Every line, by host.
    pub fn lines(&self) -> Vec<Arc<Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

impl Line {
    /// Cuts the line: what is under way is lost or late, and both ends notice in their own time.
    pub fn cut(&self) {
        let mut state = self.lock();
        state.cut = true;
        state.severed.cancel();
    }
    /// Mends it.
    pub fn mend(&self) {
        let mut state = self.lock();
        if state.cut {
            state.cut = false;
            state.severed = CancellationToken::new();
        }
    }
    /// Whether it is cut.
    pub fn is_cut(&self) -> bool {
        self.lock().cut
    }
    /// How rough it is from now on.
    pub fn set_rough(&self, rough: Rough) {
        self.lock().rough = rough;
    }
    pub(crate) fn rough(&self) -> Rough {
        self.lock().rough
    }
    /// The newest link's way to the agent.
    pub(crate) fn agent(&self) -> Option<mpsc::Sender<FromServer>> {
        self.lock().agent.as_ref().and_then(mpsc::WeakSender::upgrade)
    }
    pub(crate) fn with_draw<T>(&self, f: impl FnOnce(&mut Draw) -> T) -> T {
        f(&mut self.draw.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A packet there and back. Gives what ends everything on the line.
    async fn reach(&self) -> Result<CancellationToken, UplinkError> {
        let latency = self.with_draw(|d| d.millis(1, 8));
        tokio::time::sleep(latency).await;
        let state = self.lock();
        if state.cut {
            return Err(UplinkError::Away("no route to host".to_owned()));
        }
        Ok(state.severed.clone())
    }
}

/// A host's way to the control plane.
pub struct Wire(pub Arc<Line>);

impl Wire {
    /// The control plane's chunks, if somebody reigns and lets this host in.
    async fn repository(&self) -> Result<&Chunks, UplinkError> {
        self.0.reach().await?;
        let plane = &self.0.network.plane;
        let control = plane.control().ok_or_else(refused)?;
        control.admit_host(self.0.host).map_err(|refusal| UplinkError::Refused(refusal.to_string()))?;
        Ok(&plane.chunks)
    }
}

#[async_trait]
impl Uplink for Wire {
    async fn open(&self, hello: Hello) -> Result<Session, UplinkError> {
        let severed = self.0.reach().await?;
        let (to_agent, rx) = mpsc::channel(QUEUE);
        let (tx, from_agent) = mpsc::channel(QUEUE);
        // Weak: a link ends with the task that carries it.
        self.0.lock().agent = Some(to_agent.downgrade());
        let ends = link::Ends { hello, to_agent, from_agent, severed };
        let Some(control) = self.0.network.plane.control() else { return Err(refused()) };
        if self.0.network.plane.spawn(link::carry(self.0.clone(), control, ends)) {
            Ok(Session { tx, rx })
        } else {
            Err(refused())
        }
    }

    async fn tunnel(&self, id: TunnelId) -> Result<Tunnel, UplinkError> {
        let severed = self.0.reach().await?;
        let control = self.0.network.plane.control().ok_or_else(refused)?;
        let theirs = control.links().opened(self.0.host, id).ok_or(UplinkError::NotFound)?;
        let (to_agent, rx) = mpsc::channel(1);
        let (tx, from_agent) = mpsc::channel(1);
        self.0.network.plane.spawn(async move {
            tokio::select! {
                biased;
                () = severed.cancelled() => {}
                () = forward(from_agent, theirs.tx) => {}
                () = forward(theirs.rx, to_agent) => {}
            }
        });
        Ok(Tunnel { tx, rx })
    }

    async fn fetch_blob(&self, _: &Digest, _: u64) -> Result<BlobStream, UplinkError> {
        Err(UplinkError::NotFound)
    }

    async fn push_blob(&self, _: &Digest, _: &Path) -> Result<(), UplinkError> {
        self.0.reach().await?;
        if self.0.network.plane.control().is_none() { Err(refused()) } else { Ok(()) }
    }

    async fn push_chunk(&self, sealed: bool, digest: &Digest, bytes: Bytes) -> Result<ChunkStored, UplinkError> {
        let stored = self.repository().await?.put(sealed, digest, bytes);
        // It is kept, whether the answer arrives or not.
        self.0.reach().await?;
        stored
    }

    async fn fetch_chunk(&self, sealed: bool, digest: &Digest) -> Result<Bytes, UplinkError> {
        let found = self.repository().await?.get(sealed, digest);
        self.0.reach().await?;
        found
    }
}

/// One direction of a tunnel. Ends when the sender has: what was sent before arrives.
async fn forward(mut from: mpsc::Receiver<TunnelFrame>, to: mpsc::Sender<TunnelFrame>) {
    loop {
        let frame = tokio::select! {
            biased;
            frame = from.recv() => frame,
            () = to.closed() => return,
        };
        let Some(frame) = frame else { return };
        if to.send(frame).await.is_err() {
            return;
        }
    }
}

fn refused() -> UplinkError {
    UplinkError::Away("connection refused".to_owned())
}
