//! Which hardware addresses the host's domains have, remembered between two starts.
//!
//! Pure. Owns: what each domain's definition said, for as long as nothing is heard of that domain.
//! Without it each start reads the definitions of all domains. Refuses: to remember anything while
//! nobody listens to libvirt. A card that is plugged into a running domain, and into nothing else, is
//! seen with the next event of that domain.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use uuid::Uuid;

/// Addresses by domain.
#[derive(Debug, Default)]
pub struct Cards(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    listening: bool,
    known: BTreeMap<Uuid, Vec<String>>,
    /// Changes that were heard of.
    heard: u64,
}

/// A definition is being read; what is heard meanwhile makes it old.
#[derive(Clone, Copy, Debug)]
pub struct Reading(u64);

impl Cards {
    /// From here on each change is told, or (`false`) none is.
    pub fn listen(&self, listening: bool) {
        let mut state = self.state();
        *state = State { listening, known: BTreeMap::new(), heard: state.heard + 1 };
    }

    /// Something happened to this domain.
    pub fn changed(&self, domain: Uuid) {
        let mut state = self.state();
        state.heard += 1;
        state.known.remove(&domain);
    }

    /// Whether this domain has this address; `None` when its definition has to be read.
    pub fn has(&self, domain: Uuid, address: &str) -> Option<bool> {
        self.state().known.get(&domain).map(|known| known.iter().any(|one| one == address))
    }

    /// To be called before a definition is read.
    pub fn reading(&self) -> Reading {
        Reading(self.state().heard)
    }

    /// What the definition said.
    pub fn note(&self, reading: Reading, domain: Uuid, addresses: Vec<String>) {
        let mut state = self.state();
        if state.listening && state.heard == reading.0 {
            state.known.insert(domain, addresses);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_changed_is_read_again() {
        let (cards, one, other) = (Cards::default(), Uuid::from_u128(1), Uuid::from_u128(2));
        let note = |domain| cards.note(cards.reading(), domain, vec!["a".to_owned()]);
        note(one);
        assert_eq!(cards.has(one, "a"), None, "nobody listens yet");
        cards.listen(true);
        note(one);
        note(other);
        assert_eq!((cards.has(one, "a"), cards.has(one, "b")), (Some(true), Some(false)));
        cards.changed(one);
        assert_eq!((cards.has(one, "a"), cards.has(other, "a")), (None, Some(true)));
        let reading = cards.reading();
        cards.changed(one);
        cards.note(reading, one, vec!["old".to_owned()]);
        assert_eq!(cards.has(one, "old"), None, "it changed while it was read");
        let reading = cards.reading();
        cards.listen(false);
        assert_eq!(cards.has(other, "a"), None, "a change may be missed");
        cards.listen(true);
        cards.note(reading, one, vec!["old".to_owned()]);
        assert_eq!(cards.has(one, "old"), None, "it was read before we listened");
    }
}
