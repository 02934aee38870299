//! What a driver keeps with a guest, so that a lost document can be made again.
//!
//! Owns: the memo's text. It leaves out what is secret or long (environment, SSH keys): whoever can
//! see a host's domains can read it. Refuses: guessing what should be: a guest taken up from its memo
//! stays as it is, running or not, until its control plane speaks.

use super::Document;
use perigee_agent_api::DesiredGuest;
use perigee_hypervisor::Found;
use perigee_model::{Egress, Phase, Power, Timestamp};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// What is kept.
#[derive(Serialize, Deserialize)]
struct Memo {
    #[serde(flatten)]
    order: DesiredGuest,
    /// Of its card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<Ipv4Addr>,
}

impl Document {
    /// The memo of a start by this document; `None` when it cannot be written as text.
    pub(super) fn memo(&self) -> Option<String> {
        let mut order = self.order.clone();
        order.spec.env.clear();
        order.spec.vm.iter_mut().for_each(|vm| vm.ssh_keys.clear());
        serde_json::to_string(&Memo { order, address: self.address }).ok()
    }

    /// From what a driver found; `None` without a memo that can be read, or with another guest's.
    /// One generation behind: the control plane's own word replaces it.
    pub(crate) fn from_memo(found: &Found, now: Timestamp) -> Option<Self> {
        let Memo { mut order, address } = serde_json::from_str(found.memo.as_deref()?).ok()?;
        if order.id != found.guest {
            return None;
        }
        order.desired.generation = order.desired.generation.saturating_sub(1);
        order.desired.power = match (found.alive, found.paused) {
            (true, false) => Power::Running,
            (true, true) => Power::Paused,
            (false, _) => Power::Stopped,
        };
        // What it may reach is as of its start, and may have been taken back since.
        if let Some(egress) = order.spec.egress.as_mut() {
            *egress = Egress::None;
        }
        let mut document = Self::new(order, 0, now);
        document.address = address;
        document.observed.phase = match (found.alive, found.paused) {
            (true, false) => Phase::Running,
            (true, true) => Phase::Paused,
            (false, _) => Phase::Stopped,
        };
        document.taken_over = true;
        document.observed.restarts = document.order.desired.restarts;
        document.observed.booted = found.alive.then_some(document.order.spec.resources);
        Some(document)
    }
}
