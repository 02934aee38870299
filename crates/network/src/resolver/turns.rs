//! Who is being answered: so many at a time, and so many of one guest.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

const ALL_MAX: usize = 256;
const GUEST_MAX: usize = 16;

#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<Mutex<BTreeMap<Ipv4Addr, usize>>>);

/// One answer under way; over when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Turns,
    guest: Ipv4Addr,
}

impl Turns {
    /// `None`: too many are under way already, of this guest or of all.
    pub fn take(&self, guest: Ipv4Addr) -> Option<Turn> {
        let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = under_way.values().sum();
        let its = under_way.get(&guest).copied().unwrap_or(0);
        if all >= ALL_MAX || its >= GUEST_MAX {
            return None;
        }
        under_way.insert(guest, its + 1);
        Some(Turn { turns: self.clone(), guest })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut under_way = self.turns.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(its) = under_way.get_mut(&self.guest) {
            *its -= 1;
            if *its == 0 {
                under_way.remove(&self.guest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_guest_takes_no_others_turn() {
        let turns = Turns::default();
        let guest = |last| Ipv4Addr::new(172, 16, 0, last);
        let mut first: Vec<_> = (0..GUEST_MAX).map(|_| turns.take(guest(2)).unwrap()).collect();
        assert!(turns.take(guest(2)).is_none());
        assert!(turns.take(guest(3)).is_some());
        first.pop();
        assert!(turns.take(guest(2)).is_some());
    }

    #[test]
    fn all_together_are_bounded() {
        let turns = Turns::default();
        let taken: Vec<_> = (0..=255).map_while(|last| turns.take(Ipv4Addr::new(172, 16, 0, last))).collect();
        assert_eq!(taken.len(), ALL_MAX);
        assert!(turns.take(Ipv4Addr::new(172, 16, 1, 0)).is_none());
        drop(taken);
        assert!(turns.0.lock().unwrap().is_empty());
    }
}
