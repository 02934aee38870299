//! Volumes of simulated hosts: numbers. And the room on their disk.

use super::{Fault, Simulated, struck};
use crate::{HypervisorError, Plugs, Room, Space, Volumes};
use async_trait::async_trait;
use perigee_model::{GuestId, VolumeId};
use std::path::PathBuf;
use std::time::Duration;

/// From asking to done.
const WORK: Duration = Duration::from_millis(10);
/// How large a simulated disk is.
const DISK_BYTES: u64 = 1 << 40;

impl Simulated {
    async fn at_volumes(&self) -> Result<u32, HypervisorError> {
        tokio::time::sleep(WORK).await;
        if self.strikes(Fault::VolumeFails) {
            return Err(struck("working on a simulated volume"));
        }
        Ok(self.config.instance.bits())
    }
}

#[async_trait]
impl Volumes for Simulated {
    async fn store(&self, volume: VolumeId, bytes: u64, _: Option<GuestId>) -> Result<u64, HypervisorError> {
        let own = self.at_volumes().await?;
        self.host.change(|world| {
            if world.free_bytes == Some(0) && !world.volumes.contains_key(&(own, volume)) {
                return Err(HypervisorError::DiskFull("simulated".to_owned()));
            }
            let has = world.volumes.entry((own, volume)).or_default();
            *has = bytes.max(*has);
            Ok(*has)
        })
    }

    async fn discard(&self, volume: VolumeId) -> Result<(), HypervisorError> {
        let own = self.at_volumes().await?;
        self.host.change(|world| world.volumes.remove(&(own, volume)));
        Ok(())
    }

    async fn plug(&self, guest: GuestId, volumes: &[VolumeId]) -> Result<Plugs, HypervisorError> {
        let own = self.at_volumes().await?;
        let key = self.key(guest);
        Ok(self.host.change(|world| {
            let mut plugs = Plugs::default();
            if !world.guests.contains_key(&key) {
                return plugs;
            }
            let mut has = Vec::new();
            for volume in volumes.iter().copied() {
                if world.volumes.contains_key(&(own, volume)) {
                    has.push(volume);
                    continue;
                }
                let text = "the volume's file is not on this host any more".to_owned();
                plugs.refused.push((volume, HypervisorError::BadPlan(text)));
            }
            world.plugged.insert(key, has);
            plugs
        }))
    }
}

#[async_trait]
impl Room for Simulated {
    async fn room(&self, _: GuestId, _: bool) -> Result<Space, HypervisorError> {
        let free_bytes = self.host.look(|world| world.free_bytes).unwrap_or(DISK_BYTES);
        Ok(Space { path: "/simulated".into(), bytes: DISK_BYTES, free_bytes })
    }

    async fn below(&self) -> Result<Vec<PathBuf>, HypervisorError> {
        if self.strikes(Fault::InventoryFails) {
            return Err(struck("reading the simulated host"));
        }
        let own = self.config.instance.bits();
        Ok(self.host.look(|world| {
            let of_ours = world.below.iter().filter(|((instance, _), _)| *instance == own);
            of_ours.map(|(_, image)| image.clone()).collect()
        }))
    }
}
