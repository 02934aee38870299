//! What every part of one world shares.
//!
//! Owns: the settings of a run, and the checkers' own eyes: every machine and the truth as they
//! are, past networks, disks and processes. Refuses: changing anything it looks at.

use crate::checks::Checks;
use crate::story::Story;
use perigee_clock::Clock;
use perigee_hypervisor::simulated::SimulatedHost;
use perigee_model::{Guest, GuestId, HostId, InstanceId};
use perigee_store::{MemoryStore, Noun, Record, Store};
use std::sync::{Arc, Mutex, PoisonError};

/// A guard that is broken on purpose, to see that the checkers notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// None: the product as it is.
    None,
    /// Orders are delivered to a second host too, with its name and a forged generation.
    CopyElsewhere,
    /// Orders for gone guests come back later, with a forged generation.
    ReplayForged,
    /// A crash of an agent loses its documents about executions, and their orders come again.
    Amnesia,
    /// Agents boot as many guests at once as they are asked to.
    NoAdmission,
    /// Agents take every VM for one that is always started again.
    Restless,
    /// Hosts do not tell that a guest's CPUs stand still.
    HidesPauses,
}

/// How one world is run.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The seed of everything.
    pub seed: u64,
    /// A broken guard.
    pub sabotage: Sabotage,
    /// In real time: a small world, short waits, no retention.
    pub real_time: bool,
}

impl Settings {
    /// The world of a seed, in virtual time.
    pub fn of(seed: u64) -> Self {
        Self { seed, sabotage: Sabotage::None, real_time: false }
    }
}

/// What every part of one world shares.
pub struct Scene {
    /// How it is run.
    pub settings: Settings,
    /// Time and the product's randomness.
    pub clock: Clock,
    /// Marks what this world's agents make.
    pub instance: InstanceId,
    /// What happened.
    pub story: Arc<Story>,
    /// What must be so.
    pub checks: Checks,
    /// The truth, where it can be looked at without waiting.
    pub truth: Option<MemoryStore>,
    machines: Mutex<Vec<(HostId, String, SimulatedHost)>>,
}

impl Scene {
    /// An empty one. Call inside the world's runtime.
    pub fn new(settings: Settings, truth: Option<MemoryStore>) -> Self {
        let story = Arc::new(Story::begin());
        let clock = Clock::simulated(settings.seed);
        let instance = InstanceId::from_bits(u32::from_le_bytes(clock.random()));
        let checks = Checks::new(story.clone());
        Self { settings, clock, instance, story, checks, truth, machines: Mutex::default() }
    }

    /// Takes a machine in.
    pub fn add_machine(&self, id: HostId, name: &str, host: SimulatedHost) {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner).push((id, name.to_owned(), host));
    }

    /// Every machine, in the order it joined.
    pub fn machines(&self) -> Vec<(HostId, String, SimulatedHost)> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Names of the machines on which a guest lives, one for each VMM.
    pub fn homes(&self, guest: GuestId) -> Vec<String> {
        let copies = |(_, name, host): (HostId, String, SimulatedHost)| {
            let copies = host.copies().get(&guest).copied().unwrap_or(0);
            std::iter::repeat_n(name, copies as usize)
        };
        self.machines().into_iter().flat_map(copies).collect()
    }

    /// A guest as the truth has it now; `None` too when the truth cannot be looked at.
    pub async fn true_guest(&self, id: GuestId) -> Option<Guest> {
        let rows = self.truth.as_ref()?.all(Noun::Guest).await.ok()?;
        rows.into_iter().find_map(|row| match row {
            Record::Guest(guest) if guest.id == id => Some(guest),
            _ => None,
        })
    }

    /// No command ever ran twice, on one machine or on two.
    pub fn check_starts(&self) {
        let mut starts = std::collections::BTreeMap::new();
        for (_, _, host) in self.machines() {
            for (id, count) in host.execution_starts() {
                *starts.entry(id).or_insert(0) += count;
            }
        }
        for (id, count) in starts {
            self.checks.that(count <= 1, "a command runs once", || {
                format!("{} ran {count} times", self.story.execution(perigee_model::ExecutionId::new(id)))
            });
        }
    }
}
