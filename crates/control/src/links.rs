//! Links: which hosts can be spoken to now, and the tunnels through them.
//!
//! Owns: the sending half of each agent's control stream, tunnels that wait to be opened by the
//! agent, and since when a host is (dis)connected. Refuses: carrying facts that must not be lost;
//! what is sent here is sent again by the next resync.

use perigee_agent_api::{FromServer, Purpose, TunnelFrame, TunnelId};
use perigee_clock::Clock;
use perigee_model::limits::{LINK_QUEUE_MAX, TUNNEL_OPEN_TIMEOUT, TUNNELS_PER_HOST_MAX, TWINS_SHOWN};
use perigee_model::{Code, GuestId, HostId, Refusal, RunId, Timestamp};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Runs that are remembered of a host beside its newest link's.
const RUNS_REMEMBERED: usize = 8;
/// Frames that may wait in a tunnel, per direction.
const TUNNEL_FRAMES_MAX: usize = 32;

/// Every link of this replica.
pub struct Links {
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    hosts: HashMap<HostId, Entry>,
    waiting: HashMap<TunnelId, Waiting>,
}

#[derive(Default)]
struct Entry {
    link: Option<Link>,
    since: Option<Timestamp>,
    heard: Option<Timestamp>,
    /// Whose link was the newest, and whose were before it.
    run: Option<RunId>,
    before: VecDeque<RunId>,
    twins: Option<Twins>,
}

/// Two agent processes that have the identity of one host. Runs are numbered by when they began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Twins {
    /// The one that began first; it is refused while the other is linked.
    pub older: RunId,
    /// The one that is served.
    pub newer: RunId,
    /// When this was seen last.
    pub seen: Timestamp,
}

/// A run that came back after another run had taken its place.
pub(crate) struct Return {
    pub twins: Twins,
    /// Nobody was told of it lately.
    pub is_news: bool,
    /// The other one is linked and began later.
    pub stays_out: bool,
}

struct Link {
    run: RunId,
    to_agent: mpsc::Sender<FromServer>,
    ended: CancellationToken,
    /// Guests that it was said of on this link how they are.
    told: HashSet<GuestId>,
}

struct Waiting {
    host: HostId,
    opened: oneshot::Sender<Tunnel>,
}

/// The agent's end of a new link, for the protocol adapter.
pub struct LinkEnd {
    /// What to send to the agent.
    pub outgoing: mpsc::Receiver<FromServer>,
    /// Cancelled when a newer link of the host took over, or the host was revoked.
    pub ended: CancellationToken,
}

/// One end of a tunnel. Dropping it ends the tunnel.
pub struct Tunnel {
    /// Frames to the other end; waits while it does not read.
    pub tx: mpsc::Sender<TunnelFrame>,
    /// Frames from the other end.
    pub rx: mpsc::Receiver<TunnelFrame>,
}

impl Tunnel {
    /// Two ends.
    pub fn pair() -> (Self, Self) {
        let (left_tx, right_rx) = mpsc::channel(TUNNEL_FRAMES_MAX);
        let (right_tx, left_rx) = mpsc::channel(TUNNEL_FRAMES_MAX);
        (Self { tx: left_tx, rx: left_rx }, Self { tx: right_tx, rx: right_rx })
    }
}

/// What is known of a host's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// It is up.
    pub connected: bool,
    /// Since when.
    pub since: Option<Timestamp>,
    /// When the host spoke last.
    pub heard: Option<Timestamp>,
    /// Two agents have its identity, as was seen lately.
    pub twins: Option<Twins>,
}

impl Links {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, state: Mutex::new(State::default()) }
    }

    /// A link came up. An older one of the same host ends.
    pub fn connect(&self, host: HostId, run: RunId) -> LinkEnd {
        let (to_agent, outgoing) = mpsc::channel(LINK_QUEUE_MAX);
        let ended = CancellationToken::new();
        let now = self.clock.now();
        let mut state = self.lock();
        let entry = state.hosts.entry(host).or_default();
        if let Some(old) = entry.link.replace(Link { run, to_agent, ended: ended.clone(), told: HashSet::new() }) {
            old.ended.cancel();
        }
        entry.since = Some(now);
        entry.heard = Some(now);
        entry.before.retain(|old| *old != run);
        entry.before.extend(entry.run.replace(run).filter(|old| *old != run));
        if entry.before.len() > RUNS_REMEMBERED {
            entry.before.pop_front();
        }
        LinkEnd { outgoing, ended }
    }

    /// Whether this run is back although another one took its place: a process has one life, so two of
    /// them have the host's identity.
    pub(crate) fn returns(&self, host: HostId, run: RunId) -> Option<Return> {
        let seen = self.clock.now();
        let mut state = self.lock();
        let entry = state.hosts.get_mut(&host).filter(|entry| entry.before.contains(&run))?;
        let other = entry.run?;
        let twins = Twins { older: run.min(other), newer: run.max(other), seen };
        let told = entry.twins.replace(twins);
        let is_news = told.is_none_or(|told| seen.since(told.seen) > TWINS_SHOWN);
        Some(Return { twins, is_news, stays_out: entry.link.is_some() && run == twins.older })
    }

    /// A link went down. Nothing happens when a newer one (another run or stream) is up already.
    pub fn disconnect(&self, host: HostId, ended: &CancellationToken) {
        if ended.is_cancelled() {
            return;
        }
        let now = self.clock.now();
        if let Some(entry) = self.lock().hosts.get_mut(&host) {
            entry.link = None;
            entry.since = Some(now);
        }
        ended.cancel();
    }

    /// Ends a host's link: it was revoked.
    pub fn cut(&self, host: HostId) {
        let now = self.clock.now();
        if let Some(entry) = self.lock().hosts.get_mut(&host)
            && let Some(link) = entry.link.take()
        {
            entry.since = Some(now);
            link.ended.cancel();
        }
    }

    /// The host said something.
    pub fn heard(&self, host: HostId) {
        let now = self.clock.now();
        if let Some(entry) = self.lock().hosts.get_mut(&host) {
            entry.heard = Some(now);
        }
    }

    /// The host said how a guest is; one that is gone needs not be remembered.
    pub(crate) fn told(&self, host: HostId, guest: GuestId, is_gone: bool) {
        if let Some(link) = self.lock().hosts.get_mut(&host).and_then(|entry| entry.link.as_mut()) {
            if is_gone {
                link.told.remove(&guest);
            } else {
                link.told.insert(guest);
            }
        }
    }

    /// Whether the host has said on its present link how a guest is: an agent that comes back may not know yet.
    pub fn has_told(&self, host: HostId, guest: GuestId) -> bool {
        let state = self.lock();
        state.hosts.get(&host).and_then(|entry| entry.link.as_ref()).is_some_and(|link| link.told.contains(&guest))
    }

    /// Whether the host has a link, and since when.
    pub fn state(&self, host: HostId) -> LinkState {
        match self.lock().hosts.get(&host) {
            Some(entry) => LinkState {
                connected: entry.link.is_some(),
                since: entry.since,
                heard: entry.heard,
                twins: entry.twins.filter(|twins| self.clock.now().since(twins.seen) <= TWINS_SHOWN),
            },
            None => LinkState { connected: false, since: None, heard: None, twins: None },
        }
    }

    /// Whether the host has a link now.
    pub fn is_connected(&self, host: HostId) -> bool {
        self.state(host).connected
    }

    /// The agent process at the other end.
    pub fn run(&self, host: HostId) -> Option<RunId> {
        self.lock().hosts.get(&host).and_then(|e| e.link.as_ref()).map(|l| l.run)
    }

    /// Nudges a host. Without a link, or with a full queue, nothing is sent: the next resync does.
    pub fn send(&self, host: HostId, message: FromServer) -> bool {
        let state = self.lock();
        let Some(link) = state.hosts.get(&host).and_then(|e| e.link.as_ref()) else { return false };
        link.to_agent.try_send(message).is_ok()
    }

    /// A stream to a host for a purpose; waits until the agent has opened it.
    ///
    /// # Errors
    /// `HostAway` without a link or when the agent does not open it in time.
    pub async fn open(&self, host: HostId, purpose: Purpose) -> Result<Tunnel, Refusal> {
        let tunnel = TunnelId(self.clock.uuid());
        let (opened, wait) = oneshot::channel();
        {
            let mut state = self.lock();
            let busy = state.waiting.values().filter(|w| w.host == host).count();
            if busy >= TUNNELS_PER_HOST_MAX {
                return Err(Refusal::new(Code::TooManyExecutions, "too many streams are being opened on this host"));
            }
            state.waiting.insert(tunnel, Waiting { host, opened });
        }
        let _forget = Forget { links: self, tunnel };
        if !self.send(host, FromServer::OpenTunnel { tunnel, purpose: Box::new(purpose) }) {
            return Err(away());
        }
        match tokio::time::timeout(TUNNEL_OPEN_TIMEOUT, wait).await {
            Ok(Ok(end)) => Ok(end),
            Ok(Err(_)) | Err(_) => Err(away()),
        }
    }

    /// The agent opened a tunnel it was asked for: its end of it. `None` when nobody waits (any
    /// more), or another host was asked.
    pub fn opened(&self, host: HostId, tunnel: TunnelId) -> Option<Tunnel> {
        let mut state = self.lock();
        if state.waiting.get(&tunnel).is_none_or(|w| w.host != host) {
            return None;
        }
        let waiting = state.waiting.remove(&tunnel)?;
        let (ours, theirs) = Tunnel::pair();
        waiting.opened.send(ours).ok()?;
        Some(theirs)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets a waiting tunnel however its wait ends, a cancelled caller included.
struct Forget<'a> {
    links: &'a Links,
    tunnel: TunnelId,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.links.lock().waiting.remove(&self.tunnel);
    }
}

fn away() -> Refusal {
    let mut refusal = Refusal::new(Code::HostAway, "the guest's host is not connected; what is so there is not known");
    refusal.retry_after_s = Some(5);
    refusal
}
