//! A fleet: many played machines in one process that speak the agent's real protocol to a real
//! control plane.
//!
//! Owns: joining (each host with a token of its own), the hosts' tasks, and how they fare together.
//! Refuses: running guests; a played host reports no driver, so nothing is placed on it.
//!
//! ```text
//! API ◀─ join token ─ joining ─ certificate ─▶ identity on disk ─▶ link, frames
//!                        └ a host that joined before starts here ──▲
//! ```
//! Nothing here has a thread of its own: a host is a handful of tasks and one sheet.

mod host;
mod machine;
mod pages;
mod past;

pub use machine::Mix;
pub use past::Past;

use crate::draw::Draw;
use host::{Guide, Host};
use pages::Pages;
use perigee_agent::tls::ServerUrl;
use perigee_client::Client;
use perigee_clock::Clock;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Hosts that join at once.
const JOINS_AT_ONCE: usize = 8;
/// A host that could not join tries again after this.
const JOIN_AGAIN: Duration = Duration::from_secs(2);
/// How it stands is told this often.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Which hosts, and whom they serve.
pub struct Fleet {
    /// So many.
    pub hosts: usize,
    /// How often each measures.
    pub interval: Duration,
    /// What they measure is drawn from it.
    pub seed: u64,
    /// How much moves.
    pub mix: Mix,
    /// What they measured before they came here.
    pub past: Option<Past>,
    /// Where their last measurements are shown to Prometheus.
    pub pages: Option<SocketAddr>,
    /// Where identities are kept; a host that is there joins no second time.
    pub folder: PathBuf,
    /// The control plane's agent link.
    pub server: ServerUrl,
    /// Its API, for join tokens.
    pub client: Client,
    /// Time and randomness.
    pub clock: Clock,
}

/// How the hosts fare together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Hosts that joined.
    pub joined: usize,
    /// Hosts with a link.
    pub linked: usize,
    /// Frames that are not durable at the control plane yet.
    pub waiting: u64,
    /// Frames that will never arrive.
    pub lost: u64,
}

impl Fleet {
    /// Plays until cancelled; `tell` hears how it stands.
    ///
    /// # Errors
    /// When nothing can be shown at the address of the pages.
    pub async fn run(self, cancel: CancellationToken, tell: impl Fn(Standing)) -> std::io::Result<()> {
        let pages = Arc::new(Pages::default());
        let serving = match self.pages {
            Some(address) => Some(pages.clone().serve(address).await?),
            None => None,
        };
        let guide = Arc::new(Guide { fleet: self, joins: Semaphore::new(JOINS_AT_ONCE), pages });
        let all: Arc<Mutex<Vec<Host>>> = Arc::default();
        let mut joining = JoinSet::new();
        for number in 0..guide.fleet.hosts {
            let (guide, all) = (guide.clone(), all.clone());
            joining.spawn(async move {
                let host = begin(&guide, number).await;
                all.lock().unwrap_or_else(PoisonError::into_inner).push(host);
            });
        }
        let mut look = tokio::time::interval(TELL_EVERY);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                _ = look.tick() => tell(standing(&all.lock().unwrap_or_else(PoisonError::into_inner))),
            }
        }
        joining.shutdown().await;
        drop(serving);
        tell(standing(&all.lock().unwrap_or_else(PoisonError::into_inner)));
        Ok(())
    }
}

/// Starts one, as often as it takes.
async fn begin(guide: &Arc<Guide>, number: usize) -> Host {
    let mut draw = Draw::new(guide.fleet.seed, &format!("join {number}"));
    loop {
        match Host::begin(guide, number).await {
            Ok(host) => return host,
            Err(error) => {
                tracing::warn!(host = host::name(number), error = format!("{error:#}"), "not joined, once more")
            }
        }
        tokio::time::sleep(JOIN_AGAIN + draw.millis(0, 1000)).await;
    }
}

fn standing(hosts: &[Host]) -> Standing {
    let mut standing = Standing { joined: hosts.len(), ..Standing::default() };
    for host in hosts {
        standing.linked += usize::from(host.health.is_ready());
        standing.waiting += host.spool.waiting();
        standing.lost += host.spool.lost();
    }
    standing
}
