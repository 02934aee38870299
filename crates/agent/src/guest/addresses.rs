//! Where a guest can be reached: asked for until it is known, and now and then after.

use super::actor::Actor;
use perigee_clock::{Clock, Instant};
use perigee_model::{Phase, Timestamp};
use std::time::Duration;

/// A guest whose address is not known yet is asked about this often.
const SEEK_EVERY: Duration = Duration::from_secs(2);
/// For this long after it came up; then it is asked about as seldom as the others.
const SEEK_FOR: Duration = Duration::from_secs(120);
/// A known address is looked at again after this.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// When addresses are asked for next; at once when that is not set.
#[derive(Default)]
pub(super) struct Sought {
    next: Option<Instant>,
}

impl Sought {
    /// Resolves when they should be asked for. May be dropped at any time.
    pub(super) async fn due(&self, clock: &Clock) {
        let next = self.next.unwrap_or_else(|| clock.instant());
        tokio::time::sleep_until(next.into_tokio()).await;
    }
    /// After an answer: known ones can wait.
    fn again(&mut self, clock: &Clock, known: bool, up_since: Timestamp) {
        let new = clock.now().since(up_since) < SEEK_FOR;
        let wait = if known || !new { LOOK_EVERY } else { SEEK_EVERY };
        self.next = Some(clock.instant().after(wait));
    }
}

impl Actor {
    /// Whether it runs, has a network card, and its driver can tell.
    pub(super) fn seeks_addresses(&self) -> bool {
        let card = self.document.order.spec.vm.as_ref().is_some_and(|vm| vm.network.is_some() || vm.adopted);
        card && self.document.observed.phase == Phase::Running && self.hypervisor.addresses().is_some()
    }

    /// Asks once, and reports what is new. What is not known any more keeps its last word.
    pub(super) async fn seek_addresses(&mut self) {
        let (hypervisor, id) = (self.hypervisor.clone(), self.id());
        let mut effect = self.effect(async move {
            match hypervisor.addresses() {
                Some(source) => source.addresses(id).await.unwrap_or_default(),
                None => Vec::new(),
            }
        });
        let Some(found) = effect.wait().await else { return };
        self.sought.again(&self.world.clock, !found.is_empty(), self.document.observed.since);
        if !found.is_empty() && found != self.document.observed.addresses {
            let note = self.document.observed.note.clone();
            self.observe(Phase::Running, |o| {
                o.addresses = found;
                o.note = note;
            })
            .await;
        }
    }
}
