//! Disks that outlive guests.

use crate::HypervisorError;
use async_trait::async_trait;
use perigee_model::{GuestId, VolumeId};

/// Keeping volumes, and giving them to guests. Every call may be repeated; one for each volume, and one for
/// each guest, at a time is the caller's duty.
#[async_trait]
pub trait Volumes: Send + Sync {
    /// Makes the volume be there, of this size at least, whatever it holds; it never shrinks. Answers its
    /// size. `guest`: the only one that may have it; while that runs with it, it sees the new size.
    ///
    /// # Errors
    /// `DiskFull`, `NoRoom`, `BadPlan`, `Refused`: it is as it was. `Channel`, `Os`: ask again.
    async fn store(&self, volume: VolumeId, bytes: u64, guest: Option<GuestId>) -> Result<u64, HypervisorError>;

    /// Leaves nothing of the volume, which no guest has. Fine when there is nothing.
    ///
    /// # Errors
    /// `Os`.
    async fn discard(&self, volume: VolumeId) -> Result<(), HypervisorError>;

    /// Makes the guest have exactly these, as it runs and when it is started next; at its next start the plan
    /// names them anew. Fine when there is no such guest: then that is all there is to do.
    ///
    /// # Errors
    /// `Channel`, `Os`: ask again.
    async fn plug(&self, guest: GuestId, volumes: &[VolumeId]) -> Result<Plugs, HypervisorError>;
}

/// What could not be brought about. Empty: the guest has what it should have, and nothing else.
#[derive(Debug, Default)]
pub struct Plugs {
    /// Volumes that it was not given, and why.
    pub refused: Vec<(VolumeId, HypervisorError)>,
    /// Volumes that it does not let go of yet: ask again.
    pub held: Vec<VolumeId>,
}

impl Plugs {
    /// Whether all is as it should be.
    pub fn are_done(&self) -> bool {
        self.refused.is_empty() && self.held.is_empty()
    }
}
