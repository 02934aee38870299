//! The parts of images on this host.
//!
//! Owns: the [`Parts`] seam and its real form, a cache filled over the uplink: resumed where it
//! broke off, checked against the digest before anybody sees it, fetched once however many guests
//! wait for it; kept within a limit, what is longest unused goes first (`keep`).
//! Refuses: knowing which guest wants them; removing what a guest of this host needs. The limit gives way to those.

mod keep;

pub use keep::{Tally, Uses};

use crate::uplink::{Uplink, UplinkError};
use async_trait::async_trait;
use keep::UseError;
use perigee_blobs::{BlobDir, BlobError};
use perigee_clock::Clock;
use perigee_hypervisor::{Reserve, Space};
use perigee_model::{Digest, Part, PartRole};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};
use tokio::sync::{RwLock, watch};
use tracing::{info, warn};

/// What was fetched in part, and not gone on with for so long, goes with what is evicted.
const STALE_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// How far a fetch is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is fetched.
    pub role: PartRole,
    /// Bytes here.
    pub bytes: u64,
    /// Bytes in all.
    pub total: u64,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.role {
            PartRole::Kernel => "kernel",
            PartRole::Initrd => "initrd",
            PartRole::Disk => "disk",
            PartRole::Iso => "installation medium",
            PartRole::UserData => "user-data",
        };
        write!(f, "fetching the {what}, {} %", self.bytes.saturating_mul(100) / self.total.max(1))
    }
}

/// Why parts are not here.
#[derive(Debug, thiserror::Error)]
pub enum PartsError {
    /// The control plane is not reachable now.
    #[error("{0}")]
    Away(String),
    /// The host's disk is full.
    #[error("the host has no room for the image: {0}")]
    NoSpace(String),
    /// It can never work: wrong bytes, unknown part.
    #[error("the image's parts cannot be fetched: {0}")]
    Bad(String),
}

/// Makes the parts of an image be on this host.
#[async_trait]
pub trait Parts: Send + Sync {
    /// Every part as a file. May be dropped at any time; what was fetched is kept.
    ///
    /// # Errors
    /// `Away`, `NoSpace`, `Bad`.
    async fn ensure(
        &self,
        parts: &[Part],
        progress: watch::Sender<Option<Progress>>,
    ) -> Result<Vec<(PartRole, PathBuf)>, PartsError>;
}

/// How much a cache takes up.
#[derive(Clone, Debug)]
pub struct Budget {
    /// Where it is.
    pub dir: PathBuf,
    /// What is left free of the file system there.
    pub reserve: Reserve,
    /// It takes this much; `None`: a tenth of the file system, 10 GiB at least.
    pub cache_bytes: Option<u64>,
}

/// A host's cache, filled over the uplink.
pub struct CachedParts {
    blobs: BlobDir,
    uplink: Arc<dyn Uplink>,
    clock: Clock,
    budget: Budget,
    uses: Uses,
    tally: Tally,
    fetching: Mutex<BTreeMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
    /// Held while parts are looked up, and alone from finding out what is in use until the rest is removed: who
    /// comes before is in use by then, as its document was written first, and who comes after sees what is gone.
    looking: RwLock<()>,
}

impl CachedParts {
    /// In this folder.
    pub fn new(blobs: BlobDir, uplink: Arc<dyn Uplink>, clock: Clock, budget: Budget, uses: Uses) -> Self {
        let (tally, fetching, looking) = Default::default();
        let parts = Self { blobs, uplink, clock, budget, uses, tally, fetching, looking };
        parts.count();
        parts
    }

    /// What it tells of itself.
    pub fn tally(&self) -> Tally {
        self.tally.clone()
    }

    /// Removes what is beyond the limit, which may have been a higher one in an earlier life.
    pub async fn tidy(&self) {
        self.make_room(0).await;
    }

    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(self.clock.now().micros()).unwrap_or(0))
    }

    fn count(&self) -> u64 {
        let bytes = self.blobs.list().map_or(0, |parts| parts.iter().map(|part| part.bytes).sum());
        self.tally.holds(bytes);
        bytes
    }

    /// Whether it is here. Then it was of use now.
    async fn has(&self, digest: &Digest) -> bool {
        let _looking = self.looking.read().await;
        let has = self.blobs.has(digest);
        if has && let Err(error) = self.blobs.touch(digest, self.now()) {
            tracing::debug!(%digest, %error, "its last use is not kept");
        }
        has
    }

    /// Makes room for so many more bytes, as far as there is anything that nobody needs.
    async fn make_room(&self, more: u64) {
        let space = match Space::at(&self.budget.dir) {
            Ok(space) => space,
            Err(error) => return warn!(error = %crate::chain(&error), "nobody knows how much room images have"),
        };
        let most = self.budget.cache_bytes.unwrap_or_else(|| keep::usual_bytes(&space));
        let beyond = self.count().saturating_add(more).saturating_sub(most);
        let wanted = beyond.max(self.budget.reserve.short(&space, more));
        if wanted == 0 {
            return;
        }
        let _alone = self.looking.write().await;
        if let Err(error) = self.evict(wanted).await {
            warn!(error = %crate::chain(&error), "no image is removed: it is not known which are in use");
        }
        self.count();
    }

    async fn evict(&self, wanted: u64) -> Result<(), UseError> {
        self.blobs.remove_partials(self.now() - STALE_AFTER)?;
        let used = self.uses.digests().await?;
        for part in keep::choose(&self.blobs.kept()?, &used, wanted) {
            let perigee_blobs::Blob { digest, bytes } = part.blob;
            match self.blobs.remove(&digest) {
                Ok(()) => {
                    info!(%digest, bytes, "removed from the cache: no guest here needs it");
                    self.tally.evicted();
                }
                Err(error) => warn!(%digest, error = %crate::chain(&error), "it stays in the cache"),
            }
        }
        Ok(())
    }

    /// Whoever fetches this digest holds this.
    fn turn(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        fetching.retain(|_, turn| turn.strong_count() > 0);
        let known = fetching.get(digest).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let turn = Arc::default();
            fetching.insert(digest.clone(), Arc::downgrade(&turn));
            turn
        })
    }

    async fn fetch(&self, part: &Part, progress: &watch::Sender<Option<Progress>>) -> Result<(), PartsError> {
        let turn = self.turn(&part.digest);
        let _turn = turn.lock().await;
        if self.has(&part.digest).await {
            return Ok(());
        }
        let mut partial = self.blobs.partial(&part.digest).await.map_err(of_blob)?;
        let more = part.bytes.saturating_sub(partial.offset());
        self.make_room(more).await;
        let Budget { dir, reserve, .. } = &self.budget;
        reserve.check(dir, more).map_err(|full| PartsError::NoSpace(full.to_string()))?;
        let mut chunks = self.uplink.fetch_blob(&part.digest, partial.offset()).await.map_err(of_uplink)?;
        while let Some(chunk) = chunks.recv().await {
            let chunk = chunk.map_err(of_uplink)?;
            if partial.offset() + chunk.len() as u64 > part.bytes {
                return Err(PartsError::Bad("a part is longer than it should be".to_owned()));
            }
            partial.append(&chunk).map_err(of_blob)?;
            let bytes = partial.offset();
            progress.send_replace(Some(Progress { role: part.role, bytes, total: part.bytes }));
        }
        if partial.offset() < part.bytes {
            return Err(PartsError::Away("the transfer broke off".to_owned()));
        }
        partial.finish().await.map_err(of_blob)?;
        self.count();
        Ok(())
    }
}

fn of_blob(error: BlobError) -> PartsError {
    match error {
        BlobError::NoSpace(_) => PartsError::NoSpace("its disk is full".to_owned()),
        other => PartsError::Bad(crate::chain(&other)),
    }
}

fn of_uplink(error: UplinkError) -> PartsError {
    match error {
        UplinkError::Away(why) | UplinkError::Certificate(why) => PartsError::Away(why),
        other => PartsError::Bad(other.to_string()),
    }
}

#[async_trait]
impl Parts for CachedParts {
    async fn ensure(
        &self,
        parts: &[Part],
        progress: watch::Sender<Option<Progress>>,
    ) -> Result<Vec<(PartRole, PathBuf)>, PartsError> {
        let mut files = Vec::with_capacity(parts.len());
        for part in parts {
            if !self.has(&part.digest).await {
                self.fetch(part, &progress).await?;
            }
            files.push((part.role, self.blobs.path(&part.digest)));
        }
        Ok(files)
    }
}
