//! What must always be so.
//!
//! Owns: the count of what was checked, of the faults that struck, and every violation.
//! Refuses: stopping the world: a violation is written into the story and the world goes on.

use crate::story::Story;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Violations of one kind that are told; the rest is only counted.
const TOLD_MAX: usize = 20;

/// The ledger of a world's checkers.
#[derive(Debug)]
pub struct Checks {
    story: Arc<Story>,
    state: Mutex<Tally>,
}

/// What the checkers and the faults came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Conditions looked at.
    pub checks: u64,
    /// Faults that struck, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// What users and hosts did, by kind.
    pub deeds: BTreeMap<&'static str, u64>,
    /// What was not as it must be.
    pub violations: Vec<String>,
}

impl Tally {
    /// Adds another world's.
    pub fn add(&mut self, other: &Self) {
        self.checks += other.checks;
        for (kind, count) in &other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        for (kind, count) in &other.deeds {
            *self.deeds.entry(kind).or_default() += count;
        }
        self.violations.extend(other.violations.iter().cloned());
    }
}

impl Checks {
    /// Nothing checked yet.
    pub fn new(story: Arc<Story>) -> Self {
        Self { story, state: Mutex::default() }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Tally) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// It must be so. `law` is the invariant, `why` what was seen instead.
    pub fn that(&self, holds: bool, law: &str, why: impl FnOnce() -> String) {
        self.with(|t| t.checks += 1);
        if holds {
            return;
        }
        let text = format!("{law}: {}", why());
        let told = self.with(|t| {
            let new = !t.violations.contains(&text);
            if new && t.violations.len() < TOLD_MAX {
                t.violations.push(text.clone());
            }
            new
        });
        if told {
            self.story.tell(format!("VIOLATION {text}"));
        }
    }

    /// A fault strikes.
    pub fn fault(&self, kind: &'static str, line: impl AsRef<str>) {
        self.with(|t| *t.faults.entry(kind).or_default() += 1);
        self.story.tell(line);
    }
    /// A fault too small for a line of its own.
    pub fn small_fault(&self, kind: &'static str) {
        self.with(|t| *t.faults.entry(kind).or_default() += 1);
    }
    /// Somebody did something worth counting.
    pub fn deed(&self, kind: &'static str) {
        self.with(|t| *t.deeds.entry(kind).or_default() += 1);
    }

    /// As it stands.
    pub fn tally(&self) -> Tally {
        self.with(|t| t.clone())
    }
}
