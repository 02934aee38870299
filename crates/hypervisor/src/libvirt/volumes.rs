//! Volumes: disks of their own beside the guests' folders, in the definitions of those that have them.
//!
//! ```text
//!   <dir>/volumes/<id>.qcow2   made by us, whole or not at all; grown by us, or by the QEMU that has it
//!   definition, running QEMU   each made to have exactly those that are wanted
//! ```
//! Owns: these files, and every disk of a domain of ours that lies there. Refuses: other disks, and a file
//! that the QEMU of a guest has open, but through that QEMU.

use super::connections::Ask;
use super::create::refused;
use super::host::{Host, Ours};
use super::xml::{self, VolumeDisk};
use crate::qcow2;
use crate::work::{gone, off_thread};
use crate::{HypervisorError, Plugs, Space};
use perigee_libvirt::{Error, affect, codes, resize};
use perigee_model::{GuestId, VolumeId};
use std::time::Duration;

/// libvirt's flag for a definition as it will be at the next start.
const INACTIVE: u32 = 2;
/// For QEMU to put a disk in, to begin to take it out, or to make it larger.
const DEVICE_WITHIN: Duration = Duration::from_secs(60);
/// A guest lets go of a disk within this time, or it is said that it does not.
const LET_GO_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks at whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Host {
    /// Makes a volume be there, so large at least.
    pub async fn store(&self, volume: VolumeId, bytes: u64, guest: Option<GuestId>) -> Result<u64, HypervisorError> {
        let path = self.places.volume(volume);
        let (places, reserve) = (self.places.clone(), self.reserve);
        let made = path.clone();
        let found = off_thread(move || {
            if !made.exists() {
                let dir = places.make_volumes()?;
                reserve.check(&dir, 0)?;
                qcow2::create_growing(&made, bytes)?;
            }
            qcow2::size(&made, qcow2::Format::Qcow2)
        });
        let has = found.await?;
        if has >= bytes {
            return Ok(has);
        }
        let user = match guest {
            Some(guest) => self.user_of(volume, guest).await?,
            None => None,
        };
        match user {
            Some(ours) => {
                let text = path.to_string_lossy().into_owned();
                let grown = self.control.ask(async |libvirt| {
                    libvirt.within(DEVICE_WITHIN).resize_disk(&ours.domain, &text, bytes, resize::BYTES).await
                });
                grown.await.map_err(said)?;
            }
            None => {
                let path = path.clone();
                off_thread(move || qcow2::grow(&path, bytes)).await?;
            }
        }
        off_thread(move || qcow2::size(&path, qcow2::Format::Qcow2)).await
    }

    /// The guest whose QEMU has the volume open.
    async fn user_of(&self, volume: VolumeId, guest: GuestId) -> Result<Option<Ours>, HypervisorError> {
        let Some(ours) = self.find(guest).await?.filter(|ours| ours.life.is_up()) else { return Ok(None) };
        let has = self.disks(&ours, 0).await?.iter().any(|disk| disk.volume == Some(volume));
        Ok(has.then_some(ours))
    }

    /// Leaves nothing of it.
    pub async fn discard(&self, volume: VolumeId) -> Result<(), HypervisorError> {
        let places = self.places.clone();
        off_thread(move || {
            let path = places.volume(volume);
            gone(&path, std::fs::remove_file(&path))?;
            // The last one takes the directory along; others keep it.
            _ = std::fs::remove_dir(places.volumes());
            Ok(())
        })
        .await
    }

    /// Makes a guest have exactly these.
    pub async fn plug(&self, guest: GuestId, wanted: &[VolumeId]) -> Result<Plugs, HypervisorError> {
        let mut plugs = Plugs::default();
        let Some(ours) = self.find(guest).await? else { return Ok(plugs) };
        if ours.life.is_up() {
            self.plug_in(&ours, wanted, affect::LIVE, &mut plugs).await?;
        }
        let left: Vec<_> =
            wanted.iter().copied().filter(|volume| !plugs.refused.iter().any(|(no, _)| no == volume)).collect();
        self.plug_in(&ours, &left, affect::CONFIG, &mut plugs).await?;
        Ok(plugs)
    }

    async fn plug_in(
        &self,
        ours: &Ours,
        wanted: &[VolumeId],
        affect: u32,
        plugs: &mut Plugs,
    ) -> Result<(), HypervisorError> {
        let xml_flags = if affect == affect::CONFIG { INACTIVE } else { 0 };
        let mut disks = self.disks(ours, xml_flags).await?;
        let unwanted = |disk: &&VolumeDisk| disk.volume.is_some_and(|volume| !wanted.contains(&volume));
        let too_many: Vec<_> = disks.iter().filter(unwanted).cloned().collect();
        for disk in &too_many {
            self.take_out(ours, disk, affect).await?;
        }
        if affect == affect::LIVE && !too_many.is_empty() {
            plugs.held = self.held(ours, wanted).await?;
        }
        for volume in wanted.iter().copied() {
            if disks.iter().any(|disk| disk.volume == Some(volume)) {
                continue;
            }
            match self.put_in(ours, volume, &disks, affect).await {
                Ok(disk) => disks.push(disk),
                Err(error @ (HypervisorError::Channel(_) | HypervisorError::Os { .. })) => return Err(error),
                Err(error) => plugs.refused.push((volume, error)),
            }
        }
        Ok(())
    }

    async fn put_in(
        &self,
        ours: &Ours,
        volume: VolumeId,
        disks: &[VolumeDisk],
        affect: u32,
    ) -> Result<VolumeDisk, HypervisorError> {
        let path = self.places.volume(volume);
        if !path.is_file() {
            return Err(HypervisorError::BadPlan("the volume's file is not on this host any more".to_owned()));
        }
        let full = || HypervisorError::BadPlan("it has as many disks as a VM can have".to_owned());
        let target = xml::free_target(disks).ok_or_else(full)?;
        let text = xml::volume(&path.to_string_lossy(), volume, &target);
        let text = text.map_err(|error| HypervisorError::BadPlan(format!("its volume's XML: {error}")))?;
        let attached = self
            .control
            .ask(async |libvirt| libvirt.within(DEVICE_WITHIN).attach_device(&ours.domain, &text, affect).await);
        attached.await.map_err(said)?;
        Ok(VolumeDisk { volume: Some(volume), target })
    }

    /// A guest that runs may keep it for a while.
    async fn take_out(&self, ours: &Ours, disk: &VolumeDisk, affect: u32) -> Result<(), HypervisorError> {
        let Some(volume) = disk.volume else { return Ok(()) };
        let text = xml::volume(&self.places.volume(volume).to_string_lossy(), volume, &disk.target);
        let text = text.map_err(|error| HypervisorError::BadPlan(format!("its volume's XML: {error}")))?;
        let detached = self
            .control
            .ask(async |libvirt| libvirt.within(DEVICE_WITHIN).detach_device(&ours.domain, &text, affect).await);
        match detached.await {
            Ok(()) => Ok(()),
            Err(ask) if ask.code() == Some(codes::NO_DEVICE) => Ok(()),
            // It was asked before and takes its time: whether it is out is seen.
            Err(Ask::Said(error @ Error::Libvirt { .. })) if affect == affect::LIVE => {
                tracing::debug!(guest = %ours.mark.guest, %volume, %error, "not taken out yet");
                Ok(())
            }
            Err(ask) => Err(ask.told()),
        }
    }

    /// What a running guest still has of what it should not have, when it was waited for.
    async fn held(&self, ours: &Ours, wanted: &[VolumeId]) -> Result<Vec<VolumeId>, HypervisorError> {
        let until = self.clock.instant().after(LET_GO_WITHIN);
        loop {
            let disks = self.disks(ours, 0).await?;
            let held: Vec<_> =
                disks.iter().filter_map(|disk| disk.volume).filter(|volume| !wanted.contains(volume)).collect();
            if held.is_empty() || self.clock.instant() >= until {
                return Ok(held);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn disks(&self, ours: &Ours, flags: u32) -> Result<Vec<VolumeDisk>, HypervisorError> {
        let asked = self.control.ask(async |libvirt| libvirt.domain_xml(&ours.domain, flags).await).await;
        let definition = asked.map_err(Ask::told)?;
        let places = self.places.clone();
        xml::disks(&definition, |path| places.volume_at(path))
            .ok_or_else(|| HypervisorError::Channel("libvirt's definition of it cannot be read".to_owned()))
    }

    /// Of the file systems that a guest's files are on, the one with the least room.
    pub async fn room(&self, guest: GuestId, volumes: bool) -> Result<Space, HypervisorError> {
        let places = self.places.clone();
        off_thread(move || {
            let dirs = [Some(places.guest(guest)), volumes.then(|| places.volumes())];
            let mut spaces = Vec::new();
            for dir in dirs.into_iter().flatten().filter(|dir| dir.is_dir()) {
                spaces.push(Space::at(&dir)?);
            }
            let least = spaces.into_iter().min_by_key(|space| space.free_bytes);
            least.ok_or(HypervisorError::NotRunning)
        })
        .await
    }
}

/// In the seam's words: what libvirt refuses is refused.
fn said(ask: Ask) -> HypervisorError {
    match ask {
        Ask::Said(Error::Libvirt { code: codes::NO_DOMAIN | codes::TIMED_OUT, .. }) => ask.told(),
        Ask::Said(Error::Libvirt { message, .. }) if message.contains("No more available PCI slots") => {
            let text = "it has no slot left for a disk while it runs: restart it, and attach the volume then";
            HypervisorError::Refused(text.to_owned())
        }
        Ask::Said(Error::Libvirt { code, message, .. }) => match refused(code, message) {
            HypervisorError::DidNotStart(text) => HypervisorError::Refused(text),
            HypervisorError::NoRoom(text) => HypervisorError::DiskFull(text),
            error => error,
        },
        ask => ask.told(),
    }
}
