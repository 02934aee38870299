//! A guest that stands because its host's disk is full: told, and let go on once there is room.
//!
//! QEMU stops a guest whose write found no room, and does that write again when the guest goes on: nothing is
//! lost. It counts as running, with a problem; who pauses it on purpose is obeyed.

use super::Document;
use super::actor::{Actor, Stoppable, Waited};
use perigee_hypervisor::{HypervisorError, Space};
use perigee_model::guest::Problem;
use perigee_model::limits::{DISK_LOOK_EVERY, DISK_ROOM_BYTES};
use perigee_model::{Code, Phase};
use tracing::{info, warn};

impl Document {
    /// It was told that it stands for want of room.
    pub(super) fn is_starved(&self) -> bool {
        let problem = self.observed.problem.as_ref();
        self.observed.phase == Phase::Running && problem.is_some_and(|p| p.code == Code::DiskFull.number())
    }
}

impl Actor {
    /// Tells that it stands; then, now and then, lets it go on if there is room.
    pub(super) async fn starve(&mut self) {
        let space = self.room().await;
        let has_room = space.as_ref().is_some_and(|space| space.free_bytes >= DISK_ROOM_BYTES);
        if self.document.is_starved() && has_room {
            if self.feed().await {
                return;
            }
        } else if !self.document.is_starved() || self.document.is_behind() {
            let text = text(space.as_ref());
            warn!(guest = %self.id(), %text, "it stands");
            self.observe(Phase::Running, |o| {
                o.problem = Some(Problem::new(Code::DiskFull, &text));
                o.note = Some(text);
            })
            .await;
        }
        self.wait_a_moment(DISK_LOOK_EVERY).await;
        self.verify().await;
    }

    /// It goes on, whoever let it.
    pub(super) async fn fed(&mut self) {
        info!(guest = %self.id(), "it goes on");
        self.observe(Phase::Running, |o| o.problem = None).await;
    }

    /// Lets it go on; `true` if it does, or is asked for something else.
    pub(super) async fn feed(&mut self) -> bool {
        let (hypervisor, id) = (self.hypervisor.clone(), self.id());
        let effect = self.effect(async move {
            match hypervisor.pause() {
                Some(driver) => driver.resume(id).await,
                None => Err(HypervisorError::BadPlan("this driver cannot pause".to_owned())),
            }
        });
        match self.during(effect, Stoppable::No).await {
            Waited::Done(Ok(())) => {
                // Whether it could write is seen by what its driver tells next.
                self.verify().await;
                if self.starved {
                    info!(guest = %self.id(), "it was let go on, and stands again");
                } else {
                    self.fed().await;
                }
                !self.starved
            }
            Waited::Done(Err(error)) => {
                warn!(guest = %self.id(), error = %crate::chain(&error), "it cannot be let go on");
                false
            }
            Waited::Turned | Waited::Fell => true,
        }
    }

    /// The room its files have, where its driver can tell.
    async fn room(&mut self) -> Option<Space> {
        let (hypervisor, id) = (self.hypervisor.clone(), self.id());
        let volumes = !self.document.volumes().is_empty();
        let mut effect = self.effect(async move {
            match hypervisor.room() {
                Some(driver) => driver.room(id, volumes).await.ok(),
                None => None,
            }
        });
        effect.wait().await.flatten()
    }
}

fn text(space: Option<&Space>) -> String {
    let Some(Space { path, free_bytes, .. }) = space else {
        return "its host's disk is full, and it stands until there is room".to_owned();
    };
    let short = DISK_ROOM_BYTES.saturating_sub(*free_bytes).max(1).div_ceil(1 << 20);
    format!("its host's disk is full: free {short} MiB at {}, and it goes on", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_free_is_said() {
        let at = |free_bytes| text(Some(&Space { path: "/vms".into(), bytes: 1 << 30, free_bytes }));
        assert_eq!(at(0), "its host's disk is full: free 16 MiB at /vms, and it goes on");
        assert!(at((15 << 20) + 1).contains("free 1 MiB"));
        assert!(at(1 << 29).contains("free 1 MiB"), "it was freed meanwhile");
        assert!(text(None).contains("until there is room"));
    }
}
