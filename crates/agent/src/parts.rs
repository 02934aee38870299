//! The parts of images on this host.
//!
//! Owns: the [`Parts`] seam and its real form, a cache filled over the uplink: resumed where it
//! broke off, checked against the digest before anybody sees it, fetched once however many guests
//! wait for it.
//! Refuses: knowing which guest wants them.

use crate::uplink::{Uplink, UplinkError};
use async_trait::async_trait;
use perigee_blobs::{BlobDir, BlobError};
use perigee_hypervisor::Reserve;
use perigee_model::{Digest, Part, PartRole};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::watch;

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

/// A host's cache, filled over the uplink.
pub struct CachedParts {
    blobs: BlobDir,
    uplink: Arc<dyn Uplink>,
    /// What is left free of the file system of this directory.
    reserve: Option<(PathBuf, Reserve)>,
    fetching: Mutex<BTreeMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

impl CachedParts {
    /// With the cache's folder.
    pub fn new(blobs: BlobDir, uplink: Arc<dyn Uplink>) -> Self {
        Self { blobs, uplink, reserve: None, fetching: Mutex::default() }
    }

    /// The same, which leaves that much free of the file system of this directory.
    #[must_use]
    pub fn leaving(self, dir: PathBuf, reserve: Reserve) -> Self {
        Self { reserve: Some((dir, reserve)), ..self }
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
        if self.blobs.has(&part.digest) {
            return Ok(());
        }
        let mut partial = self.blobs.partial(&part.digest).await.map_err(of_blob)?;
        if let Some((dir, reserve)) = &self.reserve {
            let more = part.bytes.saturating_sub(partial.offset());
            reserve.check(dir, more).map_err(|full| PartsError::NoSpace(full.to_string()))?;
        }
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
            if !self.blobs.has(&part.digest) {
                self.fetch(part, &progress).await?;
            }
            files.push((part.role, self.blobs.path(&part.digest)));
        }
        Ok(files)
    }
}
