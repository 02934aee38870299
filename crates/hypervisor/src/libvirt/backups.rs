//! A guest's disk shown at one moment, and a disk that comes back, by libvirt and QEMU's own tools.
//!
//! ```text
//!   running   libvirt's backup job ─▶ QEMU shows the disk over NBD; a checkpoint remembers what is written
//!   off       qemu-nbd shows the file
//!   coming    qemu-nbd takes bytes into disk.restore ─▶ renamed to disk.qcow2 when it is whole
//! ```
//! Owns: beginning and ending a job, checkpoints named by their backup's id, the NBD socket.
//! Refuses: checkpoints of other names, which are the owner's of that host; knowing where bytes go.

use super::connections::Ask;
use super::host::{Host, Ours};
use super::seen::Life;
use super::snapshots::said;
use super::tools::{Access, Bench, Tool};
use super::xml::{self, Show};
use crate::nbd::Nbd;
use crate::qcow2;
use crate::work::{gone, off_thread, room_or_os};
use crate::{BackupWish, DiskBytes, HypervisorError, NewDisk, OpenDisk};
use async_trait::async_trait;
use bytes::Bytes;
use perigee_confine::Running;
use perigee_libvirt::{codes, delete_checkpoint};
use perigee_model::{BackupId, GuestId};
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// What the disk is called where it is shown.
const EXPORT: &str = "disk";
/// What was written since the checkpoint, as QEMU tells it.
const BITMAP: &str = "written";
const WRITTEN: &str = "qemu:dirty-bitmap:written";
/// What the disk holds.
const ALLOCATION: &str = "base:allocation";
/// Of a stretch in `base:allocation`: it reads as zeros.
const READS_AS_ZEROS: u32 = 2;
/// Of a stretch in QEMU's own contexts: it was written.
const WAS_WRITTEN: u32 = 1;
/// So much is asked about at once.
const ASK_BYTES: u32 = 1 << 30;
/// QEMU remembers what was written since so many backups, the newest: open and encrypted ones may take turns,
/// and each makes a write a little slower.
const REMEMBERED_MAX: usize = 3;
/// For QEMU to make what it needs beside the disk.
const BEGIN_WITHIN: Duration = Duration::from_secs(60);

impl Host {
    pub async fn open_disk(self: &Arc<Self>, guest: GuestId, wish: &BackupWish) -> Result<OpenDisk, HypervisorError> {
        let ours = self.find(guest).await?.ok_or(HypervisorError::NotRunning)?;
        let disk = self.places.disk(guest);
        if !off_thread(move || Ok(disk.exists())).await? {
            return Err(HypervisorError::BadPlan("it has no disk of its own to back up".to_owned()));
        }
        self.end_job(&ours).await?;
        let at = SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(self.clock.now().micros()).unwrap_or(0));
        if !ours.life.is_up() {
            let bench = self.bench(self.places.disk(guest)).await?;
            let Tool { nbd, process } = bench.show((&self.places, guest), EXPORT, Access::Read, &[ALLOCATION]).await?;
            let bytes = nbd.bytes();
            let bytes_of = Box::new(Shown { nbd, context: ALLOCATION, known: None, _tool: Some(process) });
            let quiesced = ours.life == Life::Off { clean: true };
            return Ok(OpenDisk { at, quiesced, bytes, since: None, bytes_of });
        }
        // What it writes over meanwhile is kept beside its disk; it would stand where that found no room.
        self.has_room(guest).await?;
        let (since, quiesced) = self.begin_job(&ours, wish).await?;
        let context = if since.is_some() { WRITTEN } else { ALLOCATION };
        let opened = Nbd::open(&self.places.shown_disk(guest), EXPORT, &[context]).await;
        match opened {
            Ok(nbd) => {
                let bytes = nbd.bytes();
                let bytes_of = Box::new(Shown { nbd, context, known: None, _tool: None });
                Ok(OpenDisk { at, quiesced, bytes, since, bytes_of })
            }
            Err(error) => {
                self.close_disk(guest, wish.backup, false).await?;
                Err(error)
            }
        }
    }

    /// Refuses when less of the host's disk is free than is kept free.
    async fn has_room(&self, guest: GuestId) -> Result<(), HypervisorError> {
        let (place, reserve) = (self.places.guest(guest), self.reserve);
        off_thread(move || reserve.check(&place, 0)).await
    }

    pub async fn close_disk(&self, guest: GuestId, backup: BackupId, made: bool) -> Result<(), HypervisorError> {
        let Some(ours) = self.find(guest).await? else { return Ok(()) };
        self.end_job(&ours).await?;
        let name = backup.to_string();
        if !made && self.checkpoints(&ours).await?.contains(&name) {
            self.forget_checkpoint(&ours, &name).await?;
        }
        Ok(())
    }

    /// Begins to show the disk of one that runs; after which of the bases, and whether its file systems were at
    /// rest.
    async fn begin_job(&self, ours: &Ours, wish: &BackupWish) -> Result<(Option<BackupId>, bool), HypervisorError> {
        let mut known = self.checkpoints(ours).await?;
        // Their names begin with the time. An earlier attempt at this one goes, and so do the oldest.
        known.sort_unstable();
        let own = wish.backup.to_string();
        let surplus = known.len().saturating_sub(REMEMBERED_MAX - 1);
        let (stale, known): (Vec<_>, Vec<_>) =
            known.into_iter().enumerate().partition(|(place, name)| *place < surplus || *name == own);
        for (_, name) in stale {
            self.forget_checkpoint(ours, &name).await?;
        }
        let known: Vec<String> = known.into_iter().map(|(_, name)| name).collect();
        let checkpoint = xml::checkpoint(&wish.backup.to_string()).map_err(no_xml)?;
        for base in wish.bases.iter().filter(|base| known.contains(&base.to_string())) {
            match self.show(ours, Some(*base), &checkpoint).await {
                Ok(quiesced) => return Ok((Some(*base), quiesced)),
                Err(Ask::Said(perigee_libvirt::Error::Libvirt { message, .. })) => {
                    // Its QEMU was killed since, or somebody has removed what was remembered.
                    tracing::info!(guest = %ours.mark.guest, %base, message, "all of the disk is read");
                    self.forget_checkpoint(ours, &base.to_string()).await?;
                }
                Err(ask) => return Err(said(ask)),
            }
        }
        self.show(ours, None, &checkpoint).await.map(|quiesced| (None, quiesced)).map_err(said)
    }

    /// `true`: its file systems were at rest.
    async fn show(&self, ours: &Ours, since: Option<BackupId>, checkpoint: &str) -> Result<bool, Ask> {
        let guest = ours.mark.guest;
        let since = since.map(|since| since.to_string());
        let (socket, scratch) = (self.places.shown_disk(guest), self.places.scratch(guest));
        for leftover in [&socket, &scratch] {
            drop(fs::remove_file(leftover)); // what cannot be removed is told by libvirt
        }
        let show = Show {
            since: since.as_deref(),
            socket: &socket.to_string_lossy(),
            export: EXPORT,
            bitmap: BITMAP,
            scratch: &scratch.to_string_lossy(),
        };
        let text = xml::backup(&show).unwrap_or_default();
        let quiesced = self.freeze(ours).await;
        let asked = self.work.ask(async |libvirt| {
            libvirt.within(BEGIN_WITHIN).begin_backup(&ours.domain, &text, Some(checkpoint)).await
        });
        let begun = asked.await;
        // The moment that is kept is the job's beginning.
        self.thaw(ours).await;
        begun.map(|()| quiesced)
    }

    /// Ends a backup's job, whoever began it, and removes what it leaves.
    async fn end_job(&self, ours: &Ours) -> Result<(), HypervisorError> {
        if ours.life.is_up() {
            match self.control.ask(async |libvirt| libvirt.abort_job(&ours.domain).await).await {
                Err(ask) if ask.code() != Some(codes::NOT_NOW) => return Err(said(ask)),
                Ok(()) | Err(_) => {}
            }
        }
        let guest = ours.mark.guest;
        let left = [self.places.scratch(guest), self.places.shown_disk(guest)];
        off_thread(move || left.iter().try_for_each(|path| gone(path, fs::remove_file(path)))).await
    }

    /// Checkpoints of ours that libvirt knows.
    async fn checkpoints(&self, ours: &Ours) -> Result<Vec<String>, HypervisorError> {
        let names = self.control.ask(async |libvirt| libvirt.checkpoint_names(&ours.domain).await).await;
        let names = names.map_err(said)?;
        Ok(names.into_iter().filter(|name| name.parse::<BackupId>().is_ok()).collect())
    }

    /// Nothing is remembered of what was written to the disk: it is about to become another one.
    pub async fn forget_checkpoints(&self, ours: &Ours) -> Result<(), HypervisorError> {
        for name in self.checkpoints(ours).await? {
            self.forget_checkpoint(ours, &name).await?;
        }
        Ok(())
    }

    async fn forget_checkpoint(&self, ours: &Ours, name: &str) -> Result<(), HypervisorError> {
        let delete = async |flags| {
            let deleted = self
                .work
                .ask(async |libvirt| libvirt.within(BEGIN_WITHIN).delete_checkpoint(&ours.domain, name, flags).await);
            deleted.await
        };
        if ours.life.is_up() {
            match delete(0).await {
                Ok(()) => return Ok(()),
                // What it remembered is not in the disk any more, or is not to be trusted.
                Err(Ask::Said(perigee_libvirt::Error::Libvirt { .. })) => {}
                Err(ask) => return Err(said(ask)),
            }
        } else {
            self.bench(self.places.disk(ours.mark.guest)).await?.remove_bitmap(name).await?;
        }
        match delete(delete_checkpoint::METADATA_ONLY).await {
            Ok(()) => Ok(()),
            Err(ask) if !self.checkpoints(ours).await?.iter().any(|known| known == name) => {
                tracing::debug!(guest = %ours.mark.guest, name, %ask, "the checkpoint was gone");
                Ok(())
            }
            Err(ask) => Err(said(ask)),
        }
    }

    pub async fn new_disk(&self, guest: GuestId, bytes: u64) -> Result<Option<Box<dyn NewDisk>>, HypervisorError> {
        let (places, user) = (self.places.clone(), self.facts().await?.qemu_user);
        let reserve = self.reserve;
        let begun = off_thread(move || {
            if places.disk(guest).exists() {
                return Ok(false);
            }
            places.make(guest, user)?;
            reserve.check(&places.guest(guest), 0)?;
            let unfinished = places.unfinished_disk(guest);
            gone(&unfinished, fs::remove_file(&unfinished))?;
            qcow2::create(&unfinished, None, Some(bytes)).map(|()| true)
        });
        if !begun.await? {
            return Ok(None);
        }
        let unfinished = self.places.unfinished_disk(guest);
        let bench = self.bench(unfinished.clone()).await?;
        let tool = bench.show((&self.places, guest), EXPORT, Access::Write(bytes), &[]).await?;
        Ok(Some(Box::new(Coming { tool, unfinished, disk: self.places.disk(guest) })))
    }

    async fn bench(&self, disk: PathBuf) -> Result<Bench, HypervisorError> {
        Ok(Bench { disk, images: self.images.clone(), user: self.facts().await?.qemu_user })
    }
}

/// A disk that is shown over NBD.
struct Shown {
    nbd: Nbd,
    context: &'static str,
    /// Stretches that were told and not asked for yet: where the first begins, and all of them.
    known: Option<(u64, Vec<crate::nbd::Extent>)>,
    /// Ends with this.
    _tool: Option<Running>,
}

impl Shown {
    fn is_wanted(&self, flags: u32) -> bool {
        match self.context {
            WRITTEN => flags & WAS_WRITTEN != 0,
            _ => flags & READS_AS_ZEROS == 0,
        }
    }
}

#[async_trait]
impl DiskBytes for Shown {
    async fn next_stretch(&mut self, from: u64) -> Result<Option<(u64, u64)>, HypervisorError> {
        let mut at = from;
        while at < self.nbd.bytes() {
            let (mut begins, extents) = match self.known.take() {
                Some((begins, extents)) if begins <= at => (begins, extents),
                _ => {
                    let length = u32::try_from((self.nbd.bytes() - at).min(u64::from(ASK_BYTES))).unwrap_or(ASK_BYTES);
                    (at, self.nbd.extents(self.context, at, length).await?)
                }
            };
            let first = begins;
            for extent in &extents {
                let ends = begins.saturating_add(extent.bytes).min(self.nbd.bytes());
                if ends > at && self.is_wanted(extent.flags) {
                    let stretch = (at.max(begins), ends - at.max(begins));
                    self.known = Some((first, extents));
                    return Ok(Some(stretch));
                }
                begins = ends;
            }
            at = at.max(begins);
        }
        Ok(None)
    }

    async fn read(&mut self, at: u64, length: u32) -> Result<Bytes, HypervisorError> {
        self.nbd.read(at, length).await
    }
}

/// A disk that is being filled.
struct Coming {
    tool: Tool,
    unfinished: PathBuf,
    disk: PathBuf,
}

#[async_trait]
impl NewDisk for Coming {
    async fn write(&mut self, at: u64, bytes: Bytes) -> Result<(), HypervisorError> {
        self.tool.nbd.write(at, &bytes).await
    }

    async fn finish(self: Box<Self>) -> Result<(), HypervisorError> {
        let Self { tool, unfinished, disk } = *self;
        tool.finish().await?;
        off_thread(move || {
            let doing = || format!("finishing {}", disk.display());
            let whole = File::open(&unfinished).and_then(|file| file.sync_all());
            let named = whole.and_then(|()| fs::rename(&unfinished, &disk));
            let folder = disk.parent().unwrap_or(&disk);
            named.and_then(|()| File::open(folder)?.sync_all()).map_err(room_or_os(doing()))
        })
        .await
    }
}

fn no_xml(error: std::io::Error) -> HypervisorError {
    HypervisorError::BadPlan(format!("its backup's XML: {error}"))
}
