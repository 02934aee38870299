//! Volumes on this host: made, grown, removed as the control plane asks.
//!
//! Owns: one piece of work on each volume at a time, for its newest wish. Refuses: remembering. The driver's
//! files are what there is; after a crash the control plane asks again, and what is done already is the answer.
//! Which guest has which volume is that guest's task's (`guest::volumes`).

use crate::world::World;
use perigee_agent_api::{DesiredVolume, VolumeReport, VolumeStage};
use perigee_hypervisor::{HypervisorError, Volumes as Driver};
use perigee_model::guest::Problem;
use perigee_model::limits::TEXT_BYTES_MAX;
use perigee_model::{Code, GuestKind, VolumeId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tracing::{info, warn};

/// A driver that does not answer is asked again after this.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// The newest wish of each volume that is worked on.
#[derive(Default)]
pub(crate) struct Volumes(Mutex<BTreeMap<VolumeId, DesiredVolume>>);

impl Volumes {
    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<VolumeId, DesiredVolume>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
    /// Takes a wish. `true`: nobody works on that volume yet.
    fn take(&self, order: &DesiredVolume) -> bool {
        self.with(|wishes| {
            let known = wishes.get(&order.volume).map(|wish| wish.generation);
            if known.is_none_or(|known| known < order.generation) {
                wishes.insert(order.volume, order.clone());
            }
            known.is_none()
        })
    }
    fn newest(&self, volume: VolumeId) -> Option<DesiredVolume> {
        self.with(|wishes| wishes.get(&volume).cloned())
    }
    /// It is done with that wish. `false`: there is a newer one.
    fn end(&self, order: &DesiredVolume) -> bool {
        self.with(|wishes| {
            let newest = wishes.get(&order.volume).is_some_and(|wish| wish.generation == order.generation);
            if newest {
                wishes.remove(&order.volume);
            }
            newest
        })
    }
}

/// Makes a volume be as it is wished for, and says so.
pub(crate) fn order(world: &Arc<World>, order: DesiredVolume) {
    if world.volumes.take(&order) {
        world.nursery.spawn(work(world.clone(), order.volume));
    }
}

/// Until what was wished for last is done, or cannot be.
async fn work(world: Arc<World>, volume: VolumeId) {
    while let Some(order) = world.volumes.newest(volume) {
        let say = |stage| world.outbox.volume(VolumeReport { volume, generation: order.generation, stage });
        match once(&world, &order).await {
            Ok(stage) => {
                info!(%volume, generation = order.generation, ?stage, "the volume is as it should be");
                if world.volumes.end(&order) {
                    return say(stage);
                }
            }
            Err(error @ (HypervisorError::Channel(_) | HypervisorError::Os { .. })) => {
                let note = bounded(&format!("once more: {}", crate::chain(&error)));
                warn!(%volume, %note, "the volume is not as it should be");
                say(VolumeStage::Trying { note });
                tokio::time::sleep(TRY_AGAIN).await;
            }
            Err(error) => {
                warn!(%volume, error = %crate::chain(&error), "the volume cannot be as it should be");
                if world.volumes.end(&order) {
                    return say(VolumeStage::Failed(problem(&error)));
                }
            }
        }
    }
}

/// One attempt, in a task that ends what it began.
async fn once(world: &Arc<World>, order: &DesiredVolume) -> Result<VolumeStage, HypervisorError> {
    let (driver, order) = (world.driver(GuestKind::Vm), order.clone());
    let mut effect = world.nursery.effect(async move {
        let volumes = driver.volumes().ok_or_else(none)?;
        if order.absent {
            return volumes.discard(order.volume).await.map(|()| VolumeStage::Gone);
        }
        stored(volumes, &order).await
    });
    match effect.wait().await {
        Some(done) => done,
        None => std::future::pending().await, // the agent ends
    }
}

async fn stored(volumes: &dyn Driver, order: &DesiredVolume) -> Result<VolumeStage, HypervisorError> {
    let bytes = volumes.store(order.volume, order.bytes, order.guest).await?;
    Ok(VolumeStage::Stored { bytes })
}

/// What this driver says of every volume.
pub(crate) fn none() -> HypervisorError {
    HypervisorError::BadPlan("its driver has no volumes".to_owned())
}

/// In published words.
pub(crate) fn problem(error: &HypervisorError) -> Problem {
    let code = match error {
        HypervisorError::DiskFull(_) | HypervisorError::NoRoom(_) => Code::DiskFull,
        _ => Code::VolumeFailed,
    };
    Problem::new(code, bounded(&crate::chain(error)))
}

fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_BYTES_MAX / 4).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn wish(generation: u64) -> DesiredVolume {
        let volume = VolumeId::new(Uuid::from_u128(1));
        DesiredVolume { volume, generation, bytes: generation << 20, guest: None, absent: false }
    }

    #[test]
    fn one_works_on_the_newest_wish() {
        let volumes = Volumes::default();
        assert!(volumes.take(&wish(1)));
        assert!(!volumes.take(&wish(3)), "somebody works on it");
        assert!(!volumes.take(&wish(2)), "older");
        assert_eq!(volumes.newest(wish(1).volume), Some(wish(3)));
        assert!(!volumes.end(&wish(1)), "there is a newer one");
        assert!(volumes.end(&wish(3)));
        assert!(volumes.take(&wish(3)), "asked for again: it is said again");
    }
}
