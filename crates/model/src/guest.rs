//! Guests: what the owner wants (*desired*), what the host sees (*observed*), and what a user is
//! shown (*status*: computed from both, stored nowhere).
//!
//! `control` alone writes desired and bumps its generation; the agent alone writes observed.
//!
//! ```text
//!   phase, as the agent goes through it for one generation
//!                                     ┌▶ paused ─┐
//!   waiting ─▶ fetching ─▶ booting ─▶ running ◀─┘▶ stopping ─▶ stopped
//!                  └──────────┴─────────┴─▶ failed             └▶ gone (desired absent)
//! ```

use crate::{
    BackupSchedule, Code, Egress, Egress6, Forward, GuestId, HostId, ImageId, Labels, Name, Part, Plugged, Reach,
    Resources, Snapshot, Tenant, Timestamp, VmSpec, VolumeId,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use uuid::Uuid;

/// What kind of guest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestKind {
    /// A microVM made to run commands.
    Sandbox,
    /// A full virtual machine.
    Vm,
}

/// What the owner asked for; fixed at creation but for labels, for what it may reach, and for a VM's size.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GuestSpec {
    /// The image it starts from.
    pub image: ImageId,
    /// The image's name then.
    pub image_name: Name,
    /// The image's parts then: a guest keeps its bytes when the name moves on.
    pub parts: Vec<Part>,
    /// CPUs and memory.
    pub resources: Resources,
    /// Environment of every command run in it.
    pub env: BTreeMap<String, String>,
    /// Life in milliseconds from creation; `None` lives until deleted.
    pub ttl_ms: Option<u64>,
    /// Only this host will do.
    pub host_wanted: Option<HostId>,
    /// What only a full VM has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<Box<VmSpec>>,
    /// It has a card on its host's own network of guests, and may reach this. `None`: it has none there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// With a card: it has an IPv6 address, too, and may reach this by it. `None`: it has no IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress6: Option<Egress6>,
    /// Ports of its host that lead to it; only with a card.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<Forward>,
}

impl GuestSpec {
    /// All that it may reach by its card; `None`: it has none.
    pub fn reach(&self) -> Option<Reach> {
        let of = |egress: &Egress| Reach { egress: egress.clone(), egress6: self.egress6.clone() };
        self.egress.as_ref().map(of)
    }
}

/// Which way the power switch points.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// Boot it and keep it.
    Running,
    /// In memory, with its CPUs stopped.
    Paused,
    /// Keep its disks only.
    Stopped,
    /// Leave nothing of it.
    Absent,
}

/// What should be so. Written by `control` alone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Desired {
    /// Counts the writes of this record; an effect of an older generation is refused.
    pub generation: u64,
    /// Where; `None` until placed.
    pub host: Option<HostId>,
    /// The switch.
    pub power: Power,
    /// The agent removes it at this time, control plane or not.
    pub expires_at: Option<Timestamp>,
    /// Counts the restarts that were asked for.
    #[serde(default)]
    pub restarts: u64,
    /// How long it may take to stop by itself before it is ended, in milliseconds.
    #[serde(default)]
    pub grace_ms: u64,
    /// `Absent` by letting it go as it is: a guest that was taken over is its owner's again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub release: bool,
}

/// Where a guest is in its life on a host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// For a boot slot.
    Waiting,
    /// Its image is on the way to the host.
    Fetching,
    /// The VMM runs, the guest has not said hello.
    Booting,
    /// The guest said hello, or its driver has nothing that could.
    Running,
    /// Its CPUs are stopped.
    Paused,
    /// It was asked to end.
    Stopping,
    /// It ended; its disks are kept.
    Stopped,
    /// It could not be started, or ended by itself.
    Failed,
    /// Nothing is left of it on the host.
    Gone,
}

/// Something that went wrong, in published words.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// `PRG-NNNN`.
    pub code: String,
    /// What happened.
    pub text: String,
}

impl Problem {
    /// From a code and a text.
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code: code.number().to_owned(), text: text.into() }
    }
}

/// What is so. Written by the agent alone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Observed {
    /// The desired generation this is about.
    pub generation: u64,
    /// Counts the agent's reports on this guest, over agent restarts; a smaller one is stale.
    pub sequence: u64,
    /// Where it is in its life.
    pub phase: Phase,
    /// When it got there.
    pub since: Timestamp,
    /// For people: `waiting for a boot slot, 3 before it`.
    pub note: Option<String>,
    /// Why it failed.
    pub problem: Option<Problem>,
    /// `uname -r` of the guest, from its hello.
    pub kernel_release: Option<String>,
    /// From VMM start to hello, in milliseconds.
    pub boot_ms: Option<u64>,
    /// The restarts that were done, of those asked for.
    #[serde(default)]
    pub restarts: u64,
    /// What it was started with; other than its wish after a resize, until it starts again.
    #[serde(default)]
    pub booted: Option<Resources>,
    /// Where it can be reached, as far as its host knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Of its forwards those that lead to it now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<Forward>,
    /// The volumes it has, and those it could not be given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Plugged>,
}

/// An act of a guest's host that was taken or refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TakenAct {
    /// The act; older ones were taken before it.
    pub id: Uuid,
    /// What the host had known to be desired.
    pub base: u64,
    /// What was desired after it.
    pub after: u64,
}

/// A VM or a sandbox.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Guest {
    /// Identity.
    pub id: GuestId,
    /// Unique in the tenant among guests that are not gone.
    pub name: Name,
    /// Who owns it.
    pub tenant: Tenant,
    /// The user who made it.
    pub owner: String,
    /// VM or sandbox.
    pub kind: GuestKind,
    /// Marks.
    pub labels: Labels,
    /// What was asked for.
    pub spec: GuestSpec,
    /// What should be so.
    pub desired: Desired,
    /// What is so, as far as is known.
    pub observed: Option<Observed>,
    /// Points in its life that it can go back to, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<Snapshot>,
    /// When it is backed up by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backups: Option<BackupSchedule>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When nothing was left of it.
    pub gone_at: Option<Timestamp>,
    /// The newest act of its host that was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acted: Option<TakenAct>,
    /// Bumped by each write of the row.
    pub revision: u64,
}

/// What a user is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestStatus {
    /// Not placed yet, or its host has not heard of it.
    Pending,
    /// Placed, in the queue for a boot slot.
    Waiting,
    /// Its image is on the way, or it boots.
    Starting,
    /// It said hello.
    Running,
    /// In memory, its CPUs stopped.
    Suspended,
    /// On its way to stopped.
    Stopping,
    /// Ended, disks kept.
    Stopped,
    /// Could not start, or ended by itself.
    Failed,
    /// On its way to gone.
    Deleting,
    /// Gone.
    Deleted,
    /// Its host is not connected, or has not said since it is how it is: what is so is not known.
    Unknown,
}

impl Desired {
    /// To run there, for as long as it is wanted; asked for, and of no host yet, when there is none.
    pub fn running(generation: u64, host: Option<HostId>) -> Self {
        let power = Power::Running;
        Self { generation, host, power, expires_at: None, restarts: 0, grace_ms: 0, release: false }
    }
}

impl Guest {
    /// Its address on its host's own network of guests, once it was given one.
    pub fn address(&self) -> Option<Ipv4Addr> {
        let own = |address: &IpAddr| if let IpAddr::V4(own) = address { Some(*own) } else { None };
        self.spec.egress.as_ref().and(self.observed.as_ref())?.addresses.iter().find_map(own)
    }

    /// The same of IPv6.
    pub fn address6(&self) -> Option<Ipv6Addr> {
        let own = |address: &IpAddr| if let IpAddr::V6(own) = address { Some(*own) } else { None };
        self.spec.egress6.as_ref().and(self.observed.as_ref())?.addresses.iter().find_map(own)
    }

    /// A new one that is to run: nobody's of the first tenant, without labels, and nothing is known of it yet.
    pub fn new(id: GuestId, name: Name, kind: GuestKind, spec: GuestSpec, created_at: Timestamp) -> Self {
        Self {
            id,
            name,
            tenant: Tenant::first(),
            owner: String::new(),
            kind,
            labels: Labels::new(),
            spec,
            desired: Desired::running(0, None),
            observed: None,
            created_at,
            gone_at: None,
            snapshots: Vec::new(),
            backups: None,
            acted: None,
            revision: 1,
        }
    }

    /// Whether a user still sees it in lists.
    pub fn is_gone(&self) -> bool {
        self.gone_at.is_some()
    }

    /// Whether an act that knew of this generation may still be done: nothing was asked for since
    /// but by that host's own acts.
    pub fn allows_act(&self, id: Uuid, base: u64) -> bool {
        match self.acted {
            Some(newest) if id <= newest.id => false,
            Some(newest) if newest.base == base && newest.after == self.desired.generation => true,
            Some(_) | None => base == self.desired.generation,
        }
    }

    /// Whether it was here before us and was taken over.
    pub fn is_adopted(&self) -> bool {
        self.spec.vm.as_ref().is_some_and(|vm| vm.adopted)
    }

    /// What is attached to it, as far as it was asked for.
    pub fn volumes(&self) -> &[VolumeId] {
        self.spec.vm.as_ref().map_or(&[], |vm| &vm.volumes)
    }

    /// It stands because its host's disk is full.
    pub fn is_starved(&self) -> bool {
        let problem = self.observed.as_ref().and_then(|observed| observed.problem.as_ref());
        problem.is_some_and(|problem| problem.code == Code::DiskFull.number())
            && self.observed.as_ref().is_some_and(|observed| observed.phase == Phase::Running)
    }

    /// Whether it takes room on `host`.
    pub fn holds_room_on(&self, host: HostId) -> bool {
        self.gone_at.is_none() && self.desired.host == Some(host)
    }

    /// Whether the host has acted on what is desired now.
    pub fn is_caught_up(&self) -> bool {
        let Some(observed) = &self.observed else { return false };
        if observed.generation < self.desired.generation {
            return false;
        }
        match self.desired.power {
            Power::Running => observed.phase == Phase::Running && observed.restarts >= self.desired.restarts,
            Power::Paused => observed.phase == Phase::Paused,
            Power::Stopped => observed.phase == Phase::Stopped,
            Power::Absent => observed.phase == Phase::Gone,
        }
    }

    /// What a user is shown; `is_told`: its host tells now how it is.
    pub fn status(&self, is_told: bool) -> GuestStatus {
        use GuestStatus as S;
        if self.is_gone() {
            return S::Deleted;
        }
        if self.desired.host.is_none() {
            return if self.desired.power == Power::Absent { S::Deleting } else { S::Pending };
        }
        if !is_told {
            return S::Unknown;
        }
        if self.desired.power == Power::Absent {
            return S::Deleting;
        }
        match self.observed.as_ref().map(|o| o.phase) {
            None => S::Pending,
            Some(Phase::Waiting) => S::Waiting,
            Some(Phase::Fetching | Phase::Booting) => S::Starting,
            Some(Phase::Running) => S::Running,
            Some(Phase::Paused) => S::Suspended,
            Some(Phase::Stopping) => S::Stopping,
            Some(Phase::Stopped) => S::Stopped,
            Some(Phase::Failed) => S::Failed,
            Some(Phase::Gone) => S::Deleting,
        }
    }

    /// Takes a report of the agent into the record. `false`: it was stale and changed nothing.
    pub fn take_report(&mut self, report: &Observed, now: Timestamp) -> bool {
        let newest = self.observed.as_ref().map_or(0, |o| o.sequence);
        if report.sequence <= newest || self.is_gone() {
            return false;
        }
        self.observed = Some(report.clone());
        if report.phase == Phase::Gone {
            self.gone_at = Some(now);
            self.snapshots.clear();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HostId, Resources};

    fn guest(generation: u64, acted: Option<(u128, u64, u64)>) -> Guest {
        let name = Name::parse("g").unwrap();
        Guest {
            id: GuestId::new(Uuid::nil()),
            name: name.clone(),
            tenant: Tenant::first(),
            owner: String::new(),
            kind: GuestKind::Vm,
            labels: Labels::new(),
            spec: GuestSpec {
                image: ImageId::new(Uuid::nil()),
                image_name: name,
                parts: Vec::new(),
                resources: Resources { cpus: 1, memory_bytes: 1 << 30 },
                env: BTreeMap::new(),
                ttl_ms: None,
                host_wanted: None,
                vm: None,
                egress: None,
                egress6: None,
                forwards: Vec::new(),
            },
            desired: Desired {
                generation,
                host: Some(HostId::new(Uuid::nil())),
                power: Power::Running,
                expires_at: None,
                restarts: 0,
                grace_ms: 0,
                release: false,
            },
            observed: None,
            snapshots: Vec::new(),
            backups: None,
            created_at: Timestamp::from_micros(0),
            gone_at: None,
            acted: acted.map(|(id, base, after)| TakenAct { id: Uuid::from_u128(id), base, after }),
            revision: 1,
        }
    }

    #[test]
    fn acts_are_taken_once_and_only_while_nothing_else_was_asked_for() {
        let allows = |guest: Guest, id, base| guest.allows_act(Uuid::from_u128(id), base);
        assert!(allows(guest(5, None), 1, 5));
        assert!(!allows(guest(6, None), 1, 5), "something else was asked for");
        assert!(!allows(guest(6, Some((1, 5, 6))), 1, 5), "taken before");
        assert!(allows(guest(6, Some((1, 5, 6))), 2, 5), "the next of the same absence");
        assert!(!allows(guest(7, Some((1, 5, 6))), 2, 5), "something else came between them");
        assert!(allows(guest(7, Some((1, 5, 6))), 2, 7), "the host had heard of it");
    }
}
