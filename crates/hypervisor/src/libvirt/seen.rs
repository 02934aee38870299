//! What was last seen of each guest, so that a change is told once.
//!
//! Pure. An event of libvirt's only says where to look; what is told comes from comparing two looks,
//! so a missed event, a repeated one and a restart of libvirt need no thought of their own.

use super::host::Ours;
use crate::GuestEvent;
use perigee_model::GuestId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a domain does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It runs.
    Up {
        /// libvirt's number for this run of it.
        run: i32,
        /// Its CPUs are stopped.
        paused: bool,
    },
    /// It does not.
    Off {
        /// Its guest turned it off.
        clean: bool,
    },
}

impl Life {
    /// Whether it runs.
    pub fn is_up(self) -> bool {
        matches!(self, Self::Up { .. })
    }
}

/// The guests of one instance, and domains that are none of them.
#[derive(Debug, Default)]
pub struct Seen {
    lives: Mutex<BTreeMap<GuestId, Life>>,
    strangers: Mutex<BTreeSet<GuestId>>,
}

impl Seen {
    /// Notes a guest that was not known. What is known already is left to the next comparison.
    pub fn first(&self, guest: GuestId, ours: &Ours) {
        self.lives().entry(guest).or_insert(ours.life);
    }

    /// Notes what we did ourselves: no news.
    pub fn set(&self, guest: GuestId, life: Life) {
        self.lives().insert(guest, life);
    }

    /// Forgets a guest.
    pub fn forget(&self, guest: GuestId) {
        self.lives().remove(&guest);
    }

    /// Whether it is one of ours, as far as is known.
    pub fn knows(&self, guest: GuestId) -> bool {
        self.lives().contains_key(&guest)
    }

    /// Every guest that is known.
    pub fn guests(&self) -> Vec<GuestId> {
        self.lives().keys().copied().collect()
    }

    /// Compares with a look just made (`None`: there is no such domain of ours) and says the news.
    pub fn compare(&self, guest: GuestId, now: Option<Life>) -> Option<GuestEvent> {
        let mut lives = self.lives();
        let before = match now {
            Some(life) => lives.insert(guest, life),
            None => lives.remove(&guest),
        };
        news(guest, before?, now)
    }

    /// Whether one of these was never seen.
    pub fn any_new(&self, domains: &[GuestId]) -> bool {
        let (lives, strangers) = (self.lives(), self.strangers());
        domains.iter().any(|domain| !lives.contains_key(domain) && !strangers.contains(domain))
    }

    /// Notes which of these are not ours.
    pub fn note_strangers(&self, domains: &[GuestId]) {
        let lives = self.lives();
        *self.strangers() = domains.iter().copied().filter(|domain| !lives.contains_key(domain)).collect();
    }

    /// They may have become ours.
    pub fn doubt_strangers(&self) {
        self.strangers().clear();
    }

    fn strangers(&self) -> MutexGuard<'_, BTreeSet<GuestId>> {
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lives(&self) -> MutexGuard<'_, BTreeMap<GuestId, Life>> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn news(guest: GuestId, before: Life, now: Option<Life>) -> Option<GuestEvent> {
    let ended = |text: &str, clean| GuestEvent::Ended { guest, text: text.to_owned(), clean };
    match (before, now) {
        (Life::Up { .. }, Some(Life::Off { clean: true })) => Some(ended("the guest turned itself off", true)),
        (Life::Up { .. }, Some(Life::Off { clean: false })) => {
            Some(ended("the VMM ended: it crashed or was killed", false))
        }
        (Life::Up { .. }, None) => Some(ended("the domain was removed", false)),
        (before, Some(now)) if before.is_up() == now.is_up() && (before == now || !now.is_up()) => None,
        (Life::Up { .. } | Life::Off { .. }, _) => Some(GuestEvent::Changed { guest }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_change_is_told_once_and_our_own_is_not() {
        let (seen, guest) = (Seen::default(), GuestId::new(Uuid::from_u128(1)));
        let up = |run, paused| Some(Life::Up { run, paused });
        let off = |clean| Some(Life::Off { clean });
        let changed = Some(GuestEvent::Changed { guest });
        let ended = |said: Option<GuestEvent>| match said {
            Some(GuestEvent::Ended { clean, .. }) => Some(clean),
            _ => None,
        };
        assert_eq!(seen.compare(guest, up(1, false)), None, "the first look is no change");
        assert_eq!(seen.compare(guest, up(1, false)), None);
        assert_eq!(seen.compare(guest, up(1, true)), changed);
        seen.set(guest, Life::Up { run: 1, paused: false });
        assert_eq!(seen.compare(guest, up(1, false)), None, "we did it");
        assert_eq!(ended(seen.compare(guest, off(true))), Some(true));
        assert_eq!(seen.compare(guest, off(true)), None);
        assert_eq!(seen.compare(guest, up(2, false)), changed, "somebody started it");
        assert_eq!(seen.compare(guest, up(3, false)), changed, "another life");
        assert_eq!(ended(seen.compare(guest, off(false))), Some(false));
        assert_eq!(seen.compare(guest, None), changed, "its definition is gone");
        assert_eq!(seen.compare(guest, None), None);
        seen.set(guest, Life::Up { run: 4, paused: false });
        assert_eq!(ended(seen.compare(guest, None)), Some(false));
        assert!(!seen.knows(guest));
    }
}
