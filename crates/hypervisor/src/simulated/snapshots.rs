//! Snapshots of simulated guests: what they have in memory is their files.

use super::host::Frozen;
use super::{Fault, Simulated, found, struck};
use crate::{Found, HypervisorError, Keep, Kept, Progress, Snapshots};
use async_trait::async_trait;
use perigee_model::{GuestId, SnapshotId};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// From asking to done, for each of the three.
const WORK: Duration = Duration::from_millis(40);

impl Simulated {
    async fn work(&self, doing: &str) -> Result<(), HypervisorError> {
        tokio::time::sleep(WORK).await;
        if self.strikes(Fault::SnapshotFails) {
            return Err(struck(doing));
        }
        Ok(())
    }
}

#[async_trait]
impl Snapshots for Simulated {
    async fn kept(&self, guest: GuestId) -> Result<Vec<Kept>, HypervisorError> {
        let key = self.key(guest);
        Ok(self.host.look(|world| {
            let all = world.snapshots.get(&key).into_iter().flatten();
            all.map(|frozen| frozen.kept.clone()).collect()
        }))
    }

    async fn keep(&self, guest: GuestId, wish: &Keep, tell: &watch::Sender<Progress>) -> Result<Kept, HypervisorError> {
        tell.send_replace(Some(("simulating".to_owned(), Some(50))));
        self.work("keeping a simulated guest").await?;
        let key = self.key(guest);
        let now = u64::try_from(self.config.clock.now().micros()).unwrap_or(0);
        let at = SystemTime::UNIX_EPOCH + Duration::from_micros(now);
        self.host.change(|world| {
            let vmm = world.guests.get(&key).ok_or(HypervisorError::NotRunning)?;
            let files = vmm.as_ref().map(|vmm| vmm.files.clone()).filter(|_| wish.memory_bytes.is_some());
            let memory_bytes = files.as_ref().map_or(0, |files| 1 + files.len() as u64);
            let all = world.snapshots.entry(key).or_default();
            if let Some(frozen) = all.iter().find(|frozen| frozen.kept.snapshot == wish.snapshot) {
                return Ok(frozen.kept.clone());
            }
            if wish.memory_bytes.is_some() && files.is_none() {
                return Err(HypervisorError::NotRunning);
            }
            let kept = Kept { snapshot: wish.snapshot, at, memory_bytes };
            all.push(Frozen { kept: kept.clone(), files });
            Ok(kept)
        })
    }

    async fn go_back(&self, guest: GuestId, snapshot: SnapshotId) -> Result<Found, HypervisorError> {
        self.work("putting a simulated guest back").await?;
        let (key, now) = (self.key(guest), self.config.clock.instant());
        self.host.change(|world| {
            if !world.guests.contains_key(&key) {
                return Err(HypervisorError::NotRunning);
            }
            world.remembered.remove(&key);
            let mut all = world.snapshots.get(&key).into_iter().flatten();
            let frozen = all.find(|frozen| frozen.kept.snapshot == snapshot).ok_or(HypervisorError::NoSnapshot)?;
            let Some(files) = frozen.files.clone() else {
                world.guests.insert(key, None);
                return Ok(found(guest, None));
            };
            let up = world.start_vmm(key, now, Some(now));
            if let Some(vmm) = world.vmm(&key) {
                vmm.files = files;
            }
            Ok(up)
        })
    }

    async fn forget(&self, guest: GuestId, snapshot: SnapshotId) -> Result<(), HypervisorError> {
        self.work("forgetting a simulated snapshot").await?;
        let key = self.key(guest);
        self.host.change(|world| {
            let all = world.snapshots.entry(key).or_default();
            all.retain(|frozen| frozen.kept.snapshot != snapshot);
        });
        Ok(())
    }
}
