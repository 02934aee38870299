//! A guest's file systems brought to rest for a moment, by its own QEMU agent where it has one.
//!
//! An agent of ours that dies in between leaves them so until its next life begins the same work again, which
//! ends with a thaw. Owns: patience with an agent in a guest, which may be silent. Refuses: failing: a guest
//! without one is kept as after a power cut.

use super::host::{Host, Ours};
use std::time::Duration;

/// libvirt waits so many seconds for the agent of a guest: what its file systems have not written yet goes to the disk
/// first, which a slow guest with much of it takes long for.
const AGENT_SECONDS: i32 = 30;
/// Both of libvirt's questions to it have their time, the one whether it is there, too.
const ANSWER_WITHIN: Duration = Duration::from_secs(65);

impl Host {
    /// `true`: they are at rest. Whatever it answers, [`Host::thaw`] follows.
    pub async fn freeze(&self, ours: &Ours) -> bool {
        let frozen = self.work.ask(async |libvirt| {
            let libvirt = libvirt.within(ANSWER_WITHIN);
            libvirt.set_agent_timeout(&ours.domain, AGENT_SECONDS).await?;
            libvirt.freeze_file_systems(&ours.domain).await
        });
        match frozen.await {
            Ok(file_systems) => file_systems > 0,
            Err(error) => {
                tracing::debug!(guest = %ours.mark.guest, %error, "its file systems are not at rest");
                false
            }
        }
    }

    /// Its writers go on.
    pub async fn thaw(&self, ours: &Ours) {
        let thawed = self.work.ask(async |libvirt| libvirt.within(ANSWER_WITHIN).thaw_file_systems(&ours.domain).await);
        if let Err(error) = thawed.await {
            tracing::debug!(guest = %ours.mark.guest, %error, "there was nothing to thaw, or nobody to do it");
        }
    }
}
