//! Disks on their way to where backups are kept, and back.
//!
//! ```text
//!   disk ─▶ chunk ─▶ zeros? ─▶ as in the backup before? ─▶ sent, a few at once ─▶ index
//!   index ─▶ its chunks, a few at once, each checked ─▶ disk
//! ```
//! Owns: cutting a disk into chunks, their names, patience with a control plane that is away.
//! Refuses: bytes that are not what their name says; knowing how a host shows or makes a disk.

use crate::uplink::{Uplink, UplinkError};
use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt as _};
use perigee_agent_api::ChunkStored;
use perigee_clock::{Clock, Instant};
use perigee_hypervisor::{DiskBytes, HypervisorError, NewDisk, OpenDisk};
use perigee_model::backup::CHUNK_BYTES;
use perigee_model::limits::{RECONNECT_FIRST, RECONNECT_MAX};
use perigee_model::operation::Base;
use perigee_model::{BackupId, Digest, DiskIndex, Origin};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Chunks on their way at once.
const ON_THE_WAY: usize = 4;
/// A control plane that is away for longer is not waited for: the guest keeps what it writes over meanwhile.
const PATIENCE: Duration = Duration::from_secs(600);

/// How far it is: a word for people, and 0 to 100.
pub(crate) type Told = Option<(String, Option<u8>)>;

/// What was carried.
#[derive(Debug)]
pub(crate) struct Carried {
    /// The index, which is kept, too.
    pub index: Digest,
    /// What was read of the disk.
    pub read_bytes: u64,
    /// What of it was new.
    pub new_bytes: u64,
    /// What that takes up.
    pub kept_bytes: u64,
}

/// Why a disk was not carried.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CarryError {
    /// This host.
    #[error(transparent)]
    Host(#[from] HypervisorError),
    /// The control plane, or the way to it.
    #[error(transparent)]
    Uplink(#[from] UplinkError),
    /// What is kept is not what it should be.
    #[error("{0}")]
    Damaged(String),
    /// Nobody wants it any more.
    #[error("it was cancelled")]
    Cancelled,
}

/// The way of chunks.
#[derive(Clone)]
pub(crate) struct Way {
    pub uplink: Arc<dyn Uplink>,
    pub clock: Clock,
    /// Encrypted where they are kept.
    pub sealed: bool,
}

impl Way {
    /// Carries a disk; of the bases the one that it was opened after is used.
    pub async fn carry(
        &self,
        disk: OpenDisk,
        bases: &[Base],
        tell: &watch::Sender<Told>,
    ) -> Result<Carried, CarryError> {
        let size = format!("a disk of {} bytes is too large to be backed up", disk.bytes);
        let too_large = || CarryError::Host(HypervisorError::BadPlan(size.clone()));
        let before = match disk.since.and_then(|since| bases.iter().find(|base| base.backup == since)) {
            Some(base) => Some(self.index(&base.index).await?),
            None => None,
        };
        let index = match before {
            Some(before) => before.resized(disk.bytes).ok_or_else(too_large)?,
            None => DiskIndex::new(disk.bytes).ok_or_else(too_large)?,
        };
        let mut work = Carrying { way: self, index, read: 0, new: 0, kept: 0 };
        work.disk(disk.bytes_of, tell).await?;
        let (bytes, index) = named(work.index.encode().into()).await?;
        let stored = self.push(&index, &bytes).await?;
        work.count(0, &stored);
        Ok(Carried { index, read_bytes: work.read, new_bytes: work.new, kept_bytes: work.kept })
    }

    /// Fills a disk with what a backup has.
    pub async fn bring(
        &self,
        origin: &Origin,
        mut disk: Box<dyn NewDisk>,
        tell: &watch::Sender<Told>,
    ) -> Result<(), CarryError> {
        let index = self.index(&origin.index).await?;
        if index.disk_bytes() != origin.disk_bytes {
            return Err(CarryError::Damaged("the backup's index is of a disk of another size".to_owned()));
        }
        let mut places = (0..index.len()).filter_map(|place| Some((place, index.chunk(place)?)));
        let total = index.digests().count();
        let mut coming = FuturesUnordered::new();
        let mut here = 0;
        loop {
            for (place, digest) in places.by_ref().take(ON_THE_WAY - coming.len()) {
                coming.push(async move { (place, self.fetch(&digest).await) });
            }
            let Some((place, bytes)) = coming.next().await else { break };
            let (bytes, (at, length)) = (bytes?, index.span(place));
            if bytes.len() as u64 != length {
                return Err(CarryError::Damaged(format!("the chunk at byte {at} has another length")));
            }
            disk.write(at, bytes).await?;
            here += 1;
            tell.send_replace(Some(said("fetching its disk", here * 4, total * 4)));
        }
        disk.finish().await?;
        Ok(())
    }

    async fn index(&self, digest: &Digest) -> Result<DiskIndex, CarryError> {
        let bytes = self.fetch(digest).await?;
        DiskIndex::decode(&bytes).ok_or_else(|| CarryError::Damaged("the backup's index is none".to_owned()))
    }

    /// One that must be there.
    async fn fetch(&self, digest: &Digest) -> Result<Bytes, CarryError> {
        let mut patience = Patience::new(&self.clock);
        let bytes = loop {
            match self.uplink.fetch_chunk(self.sealed, digest).await {
                Ok(bytes) => break bytes,
                Err(error) => patience.wait(error).await?,
            }
        };
        let (bytes, found) = named(bytes).await?;
        if found == *digest {
            Ok(bytes)
        } else {
            Err(CarryError::Damaged(format!("the chunk {digest} is another one")))
        }
    }

    async fn push(&self, digest: &Digest, bytes: &Bytes) -> Result<ChunkStored, CarryError> {
        let mut patience = Patience::new(&self.clock);
        loop {
            match self.uplink.push_chunk(self.sealed, digest, bytes.clone()).await {
                Ok(stored) => return Ok(stored),
                Err(error) => patience.wait(error).await?,
            }
        }
    }
}

/// Trying again and again while the control plane is away.
struct Patience<'a> {
    clock: &'a Clock,
    until: Instant,
    next: Duration,
}

impl<'a> Patience<'a> {
    fn new(clock: &'a Clock) -> Self {
        Self { clock, until: clock.instant().after(PATIENCE), next: RECONNECT_FIRST }
    }

    /// Waits before another try; the error when there is to be none.
    async fn wait(&mut self, error: UplinkError) -> Result<(), UplinkError> {
        match error {
            UplinkError::Away(_) | UplinkError::Certificate(_) if self.clock.instant() < self.until => {
                tokio::time::sleep(self.clock.jitter(self.next)).await;
                self.next = (self.next * 2).min(RECONNECT_MAX);
                Ok(())
            }
            error => Err(error),
        }
    }
}

/// A disk on its way.
struct Carrying<'a> {
    way: &'a Way,
    index: DiskIndex,
    read: u64,
    new: u64,
    kept: u64,
}

impl Carrying<'_> {
    async fn disk(&mut self, mut disk: Box<dyn DiskBytes>, tell: &watch::Sender<Told>) -> Result<(), CarryError> {
        let (way, total) = (self.way, self.index.len());
        let mut on_the_way = FuturesUnordered::new();
        let mut at = 0;
        while let Some((begins, _)) = disk.next_stretch(at).await? {
            let place = usize::try_from(begins / CHUNK_BYTES).unwrap_or(usize::MAX);
            let (chunk_at, length) = self.index.span(place);
            if length == 0 {
                break;
            }
            at = chunk_at + length;
            let bytes = disk.read(chunk_at, u32::try_from(length).unwrap_or(u32::MAX)).await?;
            self.read += length;
            if bytes.iter().all(|byte| *byte == 0) {
                self.index.set(place, None);
            } else {
                let (bytes, digest) = named(bytes).await?;
                if self.index.chunk(place).as_ref() != Some(&digest) {
                    self.index.set(place, Some(&digest));
                    on_the_way.push(async move { (length, way.push(&digest, &bytes).await) });
                }
            }
            if on_the_way.len() >= ON_THE_WAY
                && let Some((length, stored)) = on_the_way.next().await
            {
                self.count(length, &stored?);
            }
            tell.send_replace(Some(said("reading its disk", place * 4, total * 4)));
        }
        while let Some((length, stored)) = on_the_way.next().await {
            self.count(length, &stored?);
        }
        Ok(())
    }

    fn count(&mut self, length: u64, stored: &ChunkStored) {
        if stored.new {
            self.new += length;
            self.kept += stored.stored_bytes;
        }
    }
}

/// The bytes and their SHA-256, away from the threads that others wait for.
async fn named(bytes: Bytes) -> Result<(Bytes, Digest), CarryError> {
    let hashed = tokio::task::spawn_blocking(move || {
        let digest = Digest::of_bytes(&Sha256::digest(&bytes).into());
        (bytes, digest)
    });
    hashed.await.map_err(|stopped| CarryError::Damaged(stopped.to_string()))
}

fn said(doing: &str, here_mib: usize, total_mib: usize) -> (String, Option<u8>) {
    let percent = u8::try_from(here_mib.saturating_mul(100) / total_mib.max(1)).unwrap_or(100);
    (format!("{doing}, {here_mib} of {total_mib} MiB"), Some(percent.min(99)))
}

/// Those of an order, by their ids alone.
pub(crate) fn ids(bases: &[Base]) -> Vec<BackupId> {
    bases.iter().map(|base| base.backup).collect()
}
