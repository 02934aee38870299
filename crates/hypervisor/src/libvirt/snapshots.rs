//! Snapshots inside a guest's disk, by libvirt and QEMU.
//!
//! ```text
//!             in the disk      known to libvirt
//!   running   QEMU's monitor ─▶ told afterwards     (the disk alone: the guest does not stop)
//!   running   libvirt, both                         (with memory: it stands while that is written)
//!   off       libvirt, both
//! ```
//! Owns: making one, going back to it, forgetting it; bringing the two sides together again when a crash
//! has left one of them. A snapshot is named by its id; both sides have it, or it is not there.
//! Refuses: snapshots of other names, which are the owner's of that host.

use super::connections::Ask;
use super::create::refused;
use super::host::{Host, Ours};
use super::xml;
use crate::qcow2::{self, Inside};
use crate::work::{off_thread, os};
use crate::{Found, HypervisorError, Keep, Kept, Progress};
use nix::sys::statvfs::statvfs;
use perigee_libvirt::{Domain, Error, Snapshot, codes, delete_snapshot, revert, snapshot};
use perigee_model::{GuestId, SnapshotId};
use serde::Deserialize;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// Memory is written at the disk's pace: an hour is a task's whole time.
const WORK_WITHIN: Duration = Duration::from_secs(3600);
/// A file system with less free counts as full: a write of QEMU's may need more.
const FULL_BYTES: u64 = 1 << 20;
/// Between two looks at how much of the memory is written.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// libvirt's flag for a definition as it will be at the next start.
const INACTIVE: u32 = 2;

impl Host {
    /// Those of ours that are there, whole.
    pub async fn kept(&self, guest: GuestId) -> Result<Vec<Kept>, HypervisorError> {
        let Some(ours) = self.find(guest).await? else { return Ok(Vec::new()) };
        let known = self.known_snapshots(&ours.domain).await?;
        let inside = self.inside(guest).await?;
        Ok(inside.iter().filter(|one| known.contains(&one.name)).filter_map(kept).collect())
    }

    /// Makes one, or finds it made.
    pub async fn keep(
        self: &Arc<Self>,
        guest: GuestId,
        wish: &Keep,
        tell: &watch::Sender<Progress>,
    ) -> Result<Kept, HypervisorError> {
        let ours = self.find(guest).await?.ok_or(HypervisorError::NotRunning)?;
        if let Some(found) = self.kept(guest).await?.into_iter().find(|kept| kept.snapshot == wish.snapshot) {
            return Ok(found);
        }
        let name = wish.snapshot.to_string();
        self.remove(&ours, &name).await?;
        if wish.memory_bytes.is_some() && !ours.life.is_up() {
            return Err(HypervisorError::NotRunning);
        }
        self.check_disk(guest, wish.memory_bytes).await?;
        let made = match (wish.memory_bytes, ours.life.is_up()) {
            (None, true) => self.keep_running_disk(&ours, wish).await,
            (None, false) | (Some(_), _) => self.keep_by_libvirt(&ours, wish, tell).await,
        };
        if let Err(error) = made {
            // Before what was written is removed.
            let error = self.for_room(guest, error).await;
            if let Err(left) = self.remove(&ours, &name).await {
                tracing::warn!(%guest, snapshot = name, error = %left, "what is left of it is cleared up later");
            }
            return Err(error);
        }
        let found = self.kept(guest).await?.into_iter().find(|kept| kept.snapshot == wish.snapshot);
        found.ok_or_else(|| HypervisorError::Channel("the snapshot was made and is not there".to_owned()))
    }

    /// The disk of a guest that runs, at one moment between two of its writes.
    async fn keep_running_disk(&self, ours: &Ours, wish: &Keep) -> Result<(), HypervisorError> {
        let disk = self.places.disk(ours.mark.guest);
        let blocks: Vec<Block> = self.monitor(&ours.domain, serde_json::json!({"execute": "query-block"})).await?;
        let mut inserted = blocks.into_iter().filter_map(|block| block.inserted);
        let node = inserted.find(|at| disk == Path::new(&at.file)).map(|at| at.node_name);
        let node = node.ok_or_else(|| HypervisorError::BadPlan("its QEMU does not have its disk".to_owned()))?;
        let arguments = serde_json::json!({"device": node, "name": wish.snapshot.to_string()});
        let command = serde_json::json!({"execute": "blockdev-snapshot-internal-sync", "arguments": arguments});
        self.freeze(ours).await;
        let kept: Result<Nothing, _> = self.monitor(&ours.domain, command).await;
        self.thaw(ours).await;
        kept?;
        let now = u64::try_from(self.clock.now().micros()).unwrap_or(0) / 1_000_000;
        self.tell_libvirt(ours, (&wish.snapshot.to_string(), now)).await
    }

    async fn keep_by_libvirt(
        self: &Arc<Self>,
        ours: &Ours,
        wish: &Keep,
        tell: &watch::Sender<Progress>,
    ) -> Result<(), HypervisorError> {
        let text = xml::snapshot(&wish.snapshot.to_string(), wish.title.as_str(), wish.memory_bytes.is_some());
        let text = text.map_err(|error| HypervisorError::BadPlan(format!("its snapshot's XML: {error}")))?;
        let made =
            self.work.ask(async |libvirt| libvirt.within(WORK_WITHIN).create_snapshot(&ours.domain, &text, 0).await);
        let disk = self.places.disk(ours.mark.guest);
        let size = || std::fs::metadata(&disk).map_or(0, |found| found.blocks() * 512);
        let before = size();
        tokio::pin!(made);
        loop {
            tokio::select! {
                biased;
                made = &mut made => return made.map(|_| ()).map_err(said),
                () = tokio::time::sleep(LOOK_EVERY) => {
                    let written = size().saturating_sub(before) >> 20;
                    tell.send_replace(Some((format!("writing its memory, {written} MiB so far"), None)));
                }
            }
        }
    }

    /// Puts the guest back.
    pub async fn go_back(self: &Arc<Self>, guest: GuestId, snapshot: SnapshotId) -> Result<Found, HypervisorError> {
        let ours = self.find(guest).await?.ok_or(HypervisorError::NotRunning)?;
        let name = snapshot.to_string();
        let kept = self.kept(guest).await?.into_iter().find(|kept| kept.snapshot == snapshot);
        let flags = if kept.ok_or(HypervisorError::NoSnapshot)?.memory_bytes > 0 { revert::RUNNING } else { 0 };
        // QEMU remembers what is written, not what comes back: it refuses, or would be wrong.
        self.forget_checkpoints(&ours).await?;
        let to = Snapshot { name, domain: ours.domain.clone() };
        let reverted = self.work.ask(async |libvirt| libvirt.within(WORK_WITHIN).revert_to(&to, flags).await).await;
        // Its QEMU may have ended whatever came of it; that is no news.
        let now = self.find(guest).await?.ok_or(HypervisorError::NotRunning)?;
        self.seen.set(guest, now.life);
        reverted.map_err(said)?;
        self.write_mark(&now, Some(&ours.mark)).await?;
        self.found(&Ours { mark: ours.mark, ..now }).await
    }

    /// Forgets one.
    pub async fn forget(&self, guest: GuestId, snapshot: SnapshotId) -> Result<(), HypervisorError> {
        match self.find(guest).await? {
            Some(ours) => self.remove(&ours, &snapshot.to_string()).await,
            None => Ok(()),
        }
    }

    /// Leaves nothing of it, on either side.
    async fn remove(&self, ours: &Ours, name: &str) -> Result<(), HypervisorError> {
        let known = self.known_snapshots(&ours.domain).await?.iter().any(|known| known == name);
        let inside = self.inside(ours.mark.guest).await?.into_iter().find(|inside| inside.name == name);
        let flags = match (known, inside) {
            (false, None) => return Ok(()),
            (true, None) => delete_snapshot::METADATA_ONLY,
            (true, Some(_)) => 0,
            (false, Some(inside)) => {
                self.tell_libvirt(ours, (name, inside.at.as_secs())).await?;
                0
            }
        };
        let which = Snapshot { name: name.to_owned(), domain: ours.domain.clone() };
        let deleted =
            self.work.ask(async |libvirt| libvirt.within(WORK_WITHIN).delete_snapshot(&which, flags).await).await;
        match deleted {
            Err(ask) if ask.code() != Some(codes::NO_SNAPSHOT) => Err(said(ask)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Makes libvirt know of one that is in the disk, as of a guest that was off.
    async fn tell_libvirt(&self, ours: &Ours, (name, at_seconds): (&str, u64)) -> Result<(), HypervisorError> {
        let definition = self.control.ask(async |libvirt| libvirt.domain_xml(&ours.domain, INACTIVE).await).await;
        let text = xml::known_snapshot(name, at_seconds, &definition.map_err(said)?);
        let text = text.map_err(|error| HypervisorError::BadPlan(format!("its snapshot's XML: {error}")))?;
        let told =
            self.control.ask(async |libvirt| libvirt.create_snapshot(&ours.domain, &text, snapshot::REDEFINE).await);
        told.await.map(|_| ()).map_err(said)
    }

    async fn known_snapshots(&self, domain: &Domain) -> Result<Vec<String>, HypervisorError> {
        self.control.ask(async |libvirt| libvirt.snapshot_names(domain).await).await.map_err(Ask::told)
    }

    async fn inside(&self, guest: GuestId) -> Result<Vec<Inside>, HypervisorError> {
        let disk = self.places.disk(guest);
        off_thread(move || if disk.exists() { qcow2::snapshots(&disk) } else { Ok(Vec::new()) }).await
    }

    /// It has a disk, and the file system has room for what is kept of the memory.
    async fn check_disk(&self, guest: GuestId, memory_bytes: Option<u64>) -> Result<(), HypervisorError> {
        let (disk, place, reserve) = (self.places.disk(guest), self.places.guest(guest), self.reserve);
        off_thread(move || {
            if !disk.exists() {
                return Err(HypervisorError::BadPlan("it has no disk of its own to keep a snapshot in".to_owned()));
            }
            let needed = memory_bytes.unwrap_or(0);
            let free = free_bytes(&disk)?;
            if free < needed {
                let text = format!(
                    "its memory may take {} MiB in {}, where {} MiB are free",
                    needed >> 20,
                    place.display(),
                    free >> 20
                );
                return Err(HypervisorError::NoRoom(text));
            }
            // What it keeps is written beside from now on.
            reserve.check(&place, needed)
        })
        .await
    }

    /// QEMU says "Input/output error" of a disk whose file system is full.
    async fn for_room(&self, guest: GuestId, error: HypervisorError) -> HypervisorError {
        let HypervisorError::Refused(text) = &error else { return error };
        let disk = self.places.disk(guest);
        match off_thread(move || free_bytes(&disk)).await {
            Ok(free) if free < FULL_BYTES => {
                HypervisorError::NoRoom(format!("{} MiB are free beside its disk: {text}", free >> 20))
            }
            _ => error,
        }
    }

    /// What the guest's QEMU answers.
    async fn monitor<T: for<'de> Deserialize<'de>>(
        &self,
        domain: &Domain,
        command: serde_json::Value,
    ) -> Result<T, HypervisorError> {
        let answer = self.control.ask(async |libvirt| libvirt.monitor(domain, &command.to_string()).await).await;
        let answer = answer.map_err(said)?;
        match serde_json::from_str(&answer) {
            Ok(Answer { error: Some(fault), .. }) => Err(no(codes::FAILED, fault.desc)),
            Ok(Answer { value: Some(value), .. }) => Ok(value),
            Ok(Answer { .. }) => Err(HypervisorError::Channel("its QEMU's answer is empty".to_owned())),
            Err(error) => Err(HypervisorError::Channel(format!("its QEMU's answer: {error}"))),
        }
    }
}

/// What the file system of the disk has free for us.
fn free_bytes(disk: &Path) -> Result<u64, HypervisorError> {
    let doing = || format!("asking for room at {}", disk.display());
    let found = statvfs(disk).map_err(std::io::Error::from).map_err(os(doing()))?;
    Ok(found.blocks_available().saturating_mul(found.fragment_size()))
}

/// QMP: what comes back.
#[derive(Deserialize)]
struct Answer<T> {
    #[serde(rename = "return")]
    value: Option<T>,
    error: Option<Fault>,
}

#[derive(Deserialize)]
struct Fault {
    desc: String,
}

/// QMP: no answer but that it was done.
#[derive(Deserialize)]
struct Nothing {}

/// QMP: `BlockInfo`, the little of it.
#[derive(Deserialize)]
struct Block {
    inserted: Option<Inserted>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Inserted {
    node_name: String,
    file: String,
}

/// In the seam's words. What libvirt refuses is refused; what it did not answer may have been done.
pub fn said(ask: Ask) -> HypervisorError {
    match ask {
        Ask::Said(Error::Libvirt { code: codes::NO_SNAPSHOT, .. }) => HypervisorError::NoSnapshot,
        // Somebody else's work on the guest is not over, or that of a libvirtd that was killed.
        Ask::Said(Error::Libvirt { code: codes::NO_DOMAIN | codes::TIMED_OUT, .. }) => ask.told(),
        Ask::Said(Error::Libvirt { code, message, .. }) => no(code, message),
        ask => ask.told(),
    }
}

pub fn no(code: i32, message: String) -> HypervisorError {
    match refused(code, message) {
        HypervisorError::DidNotStart(text) => HypervisorError::Refused(text),
        error => error,
    }
}

/// One of ours; others' have other names.
fn kept(inside: &Inside) -> Option<Kept> {
    let snapshot = inside.name.parse().ok()?;
    Some(Kept { snapshot, at: SystemTime::UNIX_EPOCH + inside.at, memory_bytes: inside.memory_bytes })
}
