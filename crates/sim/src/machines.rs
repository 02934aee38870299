//! Full VMs: what users ask of them, and what must be so of them in the end.
//!
//! Owns: a VM's wishes, its switch, the laws of pauses and of acts on hosts.
//! Refuses: what holds for every guest: that is [`crate::users`] and [`crate::verdict`].

use crate::users::User;
use crate::verdict::Verdict;
use perigee_control::vms::NewVm;
use perigee_control::{Cause, Control};
use perigee_model::{Firmware, Mac, Phase, RestartPolicy, Switch, VmSpec};
use std::collections::BTreeMap;

const POLICIES: [RestartPolicy; 3] = [RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never];

impl User {
    pub(crate) fn some_vm(&mut self) -> NewVm {
        let spec = VmSpec {
            description: String::new(),
            metadata: Default::default(),
            disk_bytes: None,
            network: None,
            mac: Mac::from_bits(0),
            ssh_keys: Vec::new(),
            firmware: Firmware::Bios,
            tpm: false,
            restart: POLICIES[self.draw.below(POLICIES.len())],
            start_order: self.draw.below(3) as u32,
            adopted: false,
            origin: None,
            volumes: Vec::new(),
        };
        NewVm { spec, mac: None, user_data: None }
    }

    /// Moves a VM's switch.
    pub(crate) async fn switch(&mut self) {
        let mut vms = self.ledger.usable();
        vms.retain(|(_, guest)| guest.vm);
        let newest = vms.len().saturating_sub(8);
        let Some((id, guest)) = self.draw.pick(&vms[newest..]).cloned() else { return };
        let switch = some_switch(self.draw.below(6));
        let what = format!("{} {}", switch.text(), guest.name);
        let asked = self.ask(&what, async move |c: Control, who| {
            c.switch_vm(&who, &id.to_string(), switch, &Cause::default()).await
        });
        let Some(task) = asked.await else { return };
        self.scene.checks.deed("switches");
        self.ledger.asked(task.id);
        self.scene.story.tell(format!("user {}: {what}", self.number));
    }
}

/// One of six.
pub fn some_switch(number: usize) -> Switch {
    match number {
        0 => Switch::Start,
        1 => Switch::Stop { grace_ms: 0 },
        2 => Switch::Stop { grace_ms: 5000 },
        3 => Switch::Restart { grace_ms: 0 },
        4 => Switch::Pause,
        _ => Switch::Resume,
    }
}

impl Verdict<'_> {
    /// A guest whose CPUs stand still is told as paused, and no other.
    pub(crate) fn pauses_are_told(&self) {
        let rows = self.control.view().read();
        for host in self.hosts {
            for found in host.machine.guests().into_iter().filter(|found| found.alive) {
                let Some(guest) = rows.guests.get(&found.guest) else { continue };
                let told = guest.observed.as_ref().is_some_and(|o| o.phase == Phase::Paused);
                self.that(found.paused == told, "a paused guest is told as paused", || {
                    format!("{} is paused: {}, and told as {:?}", guest.name, found.paused, guest.observed)
                });
            }
        }
    }

    /// What was done on a host counts once, or was refused once; none of it is lost.
    pub(crate) async fn acts_count_once(&self) {
        let Ok(events) = self.control.store().events(0, u32::MAX).await else {
            return self.that(false, "the truth can be read", || "the audit log cannot".to_owned());
        };
        let mut told: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, event) in &events {
            *told.entry(event.actor.as_str()).or_default() += 1;
        }
        for (actor, act) in self.ledger.acts() {
            let count = told.get(actor.as_str()).copied().unwrap_or(0);
            self.that(
                count <= 1 && (count == 1 || !act.done),
                "an act on a host is taken once or refused once",
                || format!("{}, done: {}, is in the audit log {count} times", act.what, act.done),
            );
        }
    }
}
