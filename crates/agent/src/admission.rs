//! How many guests may boot at once.
//!
//! Owns: a fair queue in front of a bounded number of boot slots (SPEC S2). First come, first
//! served; who waits can tell how many are before it.
//! Refuses: priorities, and knowing what a boot is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// The queue. Cheap to clone.
#[derive(Clone)]
pub struct Admission(Arc<Inner>);

struct Inner {
    most: u32,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    in_flight: BTreeMap<u32, u32>,
    next: u64,
    waiting: BTreeSet<(u32, u64)>,
}

impl State {
    fn all_in_flight(&self) -> u32 {
        self.in_flight.values().sum()
    }
}

/// A place in the queue; leaving it is dropping this.
pub struct Ticket {
    admission: Admission,
    place: (u32, u64),
    changed: watch::Receiver<u64>,
}

/// The right to boot; given back by dropping it.
pub struct Slot(Admission, u32);

impl Admission {
    /// At most so many at once.
    pub fn new(most: u32) -> Self {
        let state = Mutex::new(State::default());
        Self(Arc::new(Inner { most: most.max(1), state, changed: watch::Sender::new(0) }))
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
    fn tell(&self) {
        self.0.changed.send_modify(|n| *n += 1);
    }

    /// Joins the end of the queue of this order. No slot is given to an order while a lower one
    /// waits or boots: what comes up first when a host is switched on is up first.
    pub fn join(&self, order: u32) -> Ticket {
        let changed = self.0.changed.subscribe();
        let place = self.with(|s| {
            s.next += 1;
            s.waiting.insert((order, s.next));
            (order, s.next)
        });
        Ticket { admission: self.clone(), place, changed }
    }

    /// A slot for a guest that boots already: an adopted one. May go beyond the bound, never
    /// beyond what the previous agent had allowed.
    pub fn take_over(&self) -> Slot {
        self.with(|s| *s.in_flight.entry(0).or_default() += 1);
        Slot(self.clone(), 0)
    }

    /// Boots in flight now.
    pub fn in_flight(&self) -> u32 {
        self.with(|s| s.all_in_flight())
    }
}

impl Ticket {
    /// The slot, if it is this one's turn.
    pub fn try_take(&mut self) -> Option<Slot> {
        self.changed.mark_unchanged();
        let most = self.admission.0.most;
        let taken = self.admission.with(|s| {
            let (order, _) = self.place;
            let lower_boots = s.in_flight.range(..order).any(|(_, boots)| *boots > 0);
            let turn = s.all_in_flight() < most && !lower_boots && s.waiting.first() == Some(&self.place);
            if turn {
                s.waiting.remove(&self.place);
                *s.in_flight.entry(order).or_default() += 1;
            }
            turn
        });
        taken.then(|| {
            self.admission.tell();
            Slot(self.admission.clone(), self.place.0)
        })
    }
    /// How many are before this one.
    pub fn before(&self) -> usize {
        self.admission.with(|s| s.waiting.range(..self.place).count())
    }
    /// Resolves when it is worth looking again. May be dropped at any time.
    pub async fn changed(&mut self) {
        if self.changed.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.admission.with(|s| s.waiting.remove(&self.place)) {
            self.admission.tell();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.with(|s| {
            if let Some(boots) = s.in_flight.get_mut(&self.1) {
                *boots -= 1;
            }
            s.in_flight.retain(|_, boots| *boots > 0);
        });
        self.0.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_go_in_the_order_of_asking() {
        let admission = Admission::new(2);
        let mut tickets: Vec<_> = (0..4).map(|_| admission.join(0)).collect();
        assert!(tickets[1].try_take().is_none(), "the first is before it");
        let first = tickets[0].try_take().unwrap();
        let _second = tickets[1].try_take().unwrap();
        assert!(tickets[2].try_take().is_none());
        assert_eq!((tickets[2].before(), tickets[3].before()), (0, 1));
        drop(first);
        assert!(tickets[3].try_take().is_none(), "not its turn");
        drop(tickets.remove(2));
        assert!(tickets[2].try_take().is_some(), "who left does not block the queue");
        assert_eq!(admission.in_flight(), 1, "the slot above was dropped at once");
    }

    #[test]
    fn a_lower_order_is_up_before_a_higher_one_boots() {
        let admission = Admission::new(2);
        let (mut late, mut early) = (admission.join(5), admission.join(1));
        assert!(late.try_take().is_none(), "a lower order waits");
        let boots = early.try_take().unwrap();
        assert!(late.try_take().is_none(), "a lower order boots, though a slot is free");
        assert!(admission.join(0).try_take().is_some(), "one that is asked for now does not wait for either");
        drop(boots);
        assert!(late.try_take().is_some());
    }
}
