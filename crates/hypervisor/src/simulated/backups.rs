//! Disks of simulated guests: what is on one is what is in the guest's memory, as text and zeros.

use super::host::Key;
use super::{Fault, Simulated, struck};
use crate::{BackupWish, Backups, DiskBytes, HypervisorError, NewDisk, OpenDisk};
use async_trait::async_trait;
use bytes::Bytes;
use perigee_model::{BackupId, GuestId};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// From asking to an open disk.
const OPEN: Duration = Duration::from_millis(40);
/// A disk's size is a multiple of this.
const BLOCK: usize = 64 << 10;

impl Simulated {
    fn disk_now(&self, key: &Key) -> Result<Bytes, HypervisorError> {
        self.host.look(|world| {
            let vmm = world.guests.get(key).ok_or(HypervisorError::NotRunning)?;
            match vmm {
                Some(vmm) => Ok(as_disk(&vmm.files)),
                None => Ok(world.disks.get(key).cloned().unwrap_or_else(|| as_disk(&BTreeMap::new()))),
            }
        })
    }
}

fn as_disk(files: &BTreeMap<String, Bytes>) -> Bytes {
    let files: BTreeMap<&str, &[u8]> = files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_ref())).collect();
    let mut disk = serde_json::to_vec(&files).unwrap_or_default();
    disk.resize(disk.len().next_multiple_of(BLOCK).max(BLOCK), 0);
    disk.into()
}

/// The files that a disk was made of; none of one that was not.
pub(super) fn files_of(disk: &[u8]) -> BTreeMap<String, Bytes> {
    let end = disk.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let files: BTreeMap<String, Vec<u8>> = serde_json::from_slice(&disk[..end]).unwrap_or_default();
    files.into_iter().map(|(path, bytes)| (path, bytes.into())).collect()
}

#[async_trait]
impl Backups for Simulated {
    async fn open_disk(&self, guest: GuestId, wish: &BackupWish) -> Result<OpenDisk, HypervisorError> {
        tokio::time::sleep(OPEN).await;
        if self.strikes(Fault::BackupFails) {
            return Err(struck("opening a simulated disk"));
        }
        let key = self.key(guest);
        let disk = self.disk_now(&key)?;
        let now = u64::try_from(self.config.clock.now().micros()).unwrap_or(0);
        let since = self.host.change(|world| {
            let remembered = world.remembered.entry(key).or_default();
            let since = wish.bases.iter().copied().find(|base| remembered.contains(base));
            remembered.retain(|backup| wish.bases.contains(backup));
            remembered.push(wish.backup);
            since
        });
        Ok(OpenDisk {
            quiesced: false,
            at: SystemTime::UNIX_EPOCH + Duration::from_micros(now),
            bytes: disk.len() as u64,
            since,
            bytes_of: Box::new(Shown(disk)),
        })
    }

    async fn close_disk(&self, guest: GuestId, backup: BackupId, made: bool) -> Result<(), HypervisorError> {
        let key = self.key(guest);
        self.host.change(|world| {
            let remembered = world.remembered.entry(key).or_default();
            remembered.retain(|known| made || *known != backup);
        });
        Ok(())
    }

    async fn new_disk(&self, guest: GuestId, bytes: u64) -> Result<Option<Box<dyn NewDisk>>, HypervisorError> {
        let key = self.key(guest);
        if self.host.look(|world| world.disks.contains_key(&key)) {
            return Ok(None);
        }
        let size = usize::try_from(bytes).map_err(|_| HypervisorError::NoRoom("simulated".to_owned()))?;
        // What an interrupted one leaves is found, as on a real host.
        self.host.change(|world| world.guests.entry(key).or_insert(None).is_none());
        Ok(Some(Box::new(Coming { host: self.host.clone(), key, bytes: vec![0; size] })))
    }
}

struct Shown(Bytes);

#[async_trait]
impl DiskBytes for Shown {
    async fn next_stretch(&mut self, from: u64) -> Result<Option<(u64, u64)>, HypervisorError> {
        let end = self.0.len() as u64;
        Ok((from < end).then_some((from, end - from)))
    }
    async fn read(&mut self, at: u64, length: u32) -> Result<Bytes, HypervisorError> {
        let beyond = || HypervisorError::Channel("beyond the disk's end".to_owned());
        let at = usize::try_from(at).map_err(|_| beyond())?;
        let end = at.checked_add(length as usize).filter(|end| *end <= self.0.len()).ok_or_else(beyond)?;
        Ok(self.0.slice(at..end))
    }
}

struct Coming {
    host: super::SimulatedHost,
    key: Key,
    bytes: Vec<u8>,
}

#[async_trait]
impl NewDisk for Coming {
    async fn write(&mut self, at: u64, bytes: Bytes) -> Result<(), HypervisorError> {
        let beyond = || HypervisorError::Channel("beyond the disk's end".to_owned());
        let at = usize::try_from(at).map_err(|_| beyond())?;
        let place = self.bytes.get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len())).ok_or_else(beyond)?;
        place.copy_from_slice(&bytes);
        Ok(())
    }
    async fn finish(self: Box<Self>) -> Result<(), HypervisorError> {
        let Self { host, key, bytes } = *self;
        host.change(|world| world.disks.insert(key, bytes.into()));
        Ok(())
    }
}
