//! A guest's disk on its way to where backups are kept, and back before its first start.

use super::actor::{Actor, Waited, bounded};
use crate::backups::{Carried, CarryError, Way, ids};
use crate::uplink::UplinkError;
use perigee_agent_api::{Operate, OperationResult};
use perigee_hypervisor::{BackupWish, Backups, Hypervisor, HypervisorError};
use perigee_model::guest::Problem;
use perigee_model::operation::Base;
use perigee_model::{BackupId, Code, Stored};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

impl Actor {
    /// Carries its disk away, as it is now.
    pub(super) async fn back_up(
        &mut self,
        order: &Operate,
        (backup, sealed): (BackupId, bool),
        bases: Vec<Base>,
    ) -> Result<Option<OperationResult>, HypervisorError> {
        let way = self.way(sealed);
        let (hypervisor, id) = (self.hypervisor.clone(), self.id());
        let (tell, told) = watch::channel(None);
        self.give_up = CancellationToken::new();
        let give_up = self.give_up.clone();
        if self.document.operations.gives_up(order.task) {
            give_up.cancel();
        }
        let work = self.effect(async move {
            let driver = backups_of(&*hypervisor)?;
            if give_up.is_cancelled() {
                driver.close_disk(id, backup, false).await?;
                return Err(as_refused(CarryError::Cancelled));
            }
            let disk = driver.open_disk(id, &BackupWish { backup, bases: ids(&bases) }).await?;
            let (at, disk_bytes, since) = (super::operations::time(disk.at), disk.bytes, disk.since);
            let quiesced = disk.quiesced;
            let carried = tokio::select! {
                carried = way.carry(disk, &bases, &tell) => carried,
                () = give_up.cancelled() => Err(CarryError::Cancelled),
            };
            let closed = driver.close_disk(id, backup, carried.is_ok()).await;
            let Carried { index, read_bytes, new_bytes, kept_bytes } = carried.map_err(as_refused)?;
            closed?;
            Ok(Stored { at, index, quiesced, disk_bytes, since, read_bytes, new_bytes, kept_bytes })
        });
        let stored = self.worked(order, "opening its disk", (work, told)).await?;
        Ok(Some(OperationResult::Stored(stored)))
    }

    /// Its disk comes out of its backup, once. `false`: it does not start now.
    pub(super) async fn restore(&mut self) -> bool {
        let origin = self.document.order.spec.vm.as_ref().and_then(|vm| vm.origin.clone());
        let Some(origin) = origin.filter(|_| !self.document.restored) else { return true };
        let wanted = self.document.order.spec.vm.as_ref().and_then(|vm| vm.disk_bytes).unwrap_or(0);
        let disk_bytes = wanted.max(origin.disk_bytes);
        let way = self.way(origin.sealed);
        let (hypervisor, id) = (self.hypervisor.clone(), self.id());
        let (tell, told) = watch::channel(None);
        let effect = self.effect(async move {
            let driver = backups_of(&*hypervisor)?;
            match driver.new_disk(id, disk_bytes).await? {
                Some(disk) => way.bring(&origin, disk, &tell).await,
                None => Ok(()),
            }
        });
        match self.during_with_notes(effect, told, |(note, _)| note.clone()).await {
            Waited::Done(Ok(())) => {
                self.document.restored = true;
                self.save(crate::journal::Keep::Power).await
            }
            Waited::Done(Err(error)) => {
                warn!(guest = %self.id(), error = %crate::chain(&error), "its disk did not come out of its backup");
                let code = match &error {
                    CarryError::Host(HypervisorError::NoRoom(_) | HypervisorError::DiskFull(_)) => Code::DiskFull,
                    _ => Code::BackupFailed,
                };
                self.fail(Problem::new(code, bounded(&crate::chain(&error)))).await;
                false
            }
            Waited::Turned | Waited::Fell => false,
        }
    }

    fn way(&self, sealed: bool) -> Way {
        Way { uplink: self.world.uplink.clone(), clock: self.world.clock.clone(), sealed }
    }
}

fn backups_of(hypervisor: &dyn Hypervisor) -> Result<&dyn Backups, HypervisorError> {
    let none = || HypervisorError::BadPlan("its driver backs up nothing".to_owned());
    hypervisor.backups().ok_or_else(none)
}

/// What the control plane refuses will be refused again.
fn as_refused(error: CarryError) -> HypervisorError {
    match error {
        CarryError::Host(error) => error,
        CarryError::Uplink(UplinkError::Away(why)) => HypervisorError::Channel(why),
        CarryError::Uplink(UplinkError::NoSpace(why)) => HypervisorError::NoRoom(why),
        error => HypervisorError::Refused(crate::chain(&error)),
    }
}
