//! Series that come and go with the thing they are about: a CPU, a disk, an interface.

use super::Round;
use perigee_model::frame::{Sheet, Slot};

/// Things of one kind whose series are kept; what comes beyond is left out and counted as refused.
const MEMBERS_MAX: usize = 4096;

struct Member<S> {
    name: Box<[u8]>,
    seen: u64,
    state: S,
}

/// The members by name. The kernel lists them in the same order each time, so that the next member is
/// nearly always where the last round found it.
pub struct Family<S> {
    members: Vec<Member<S>>,
    next: usize,
    round: u64,
}

impl<S> Default for Family<S> {
    fn default() -> Self {
        Self { members: Vec::new(), next: 0, round: 0 }
    }
}

impl<S> Family<S> {
    /// A round begins; whoever is not asked for until [`Family::sweep`] is gone.
    pub fn begin(&mut self) {
        self.round += 1;
        self.next = 0;
    }

    /// The member of that name, made if it is new. `None` when there are too many.
    pub fn member(&mut self, name: &[u8], make: impl FnOnce() -> S) -> Option<&mut S> {
        let expected = self.members.get(self.next).is_some_and(|member| &*member.name == name);
        let found = if expected { Some(self.next) } else { self.members.iter().position(|m| &*m.name == name) };
        let at = match found {
            Some(at) => at,
            None if self.members.len() < MEMBERS_MAX => {
                self.members.push(Member { name: name.into(), seen: 0, state: make() });
                self.members.len() - 1
            }
            None => return None,
        };
        self.next = at + 1;
        self.members[at].seen = self.round;
        Some(&mut self.members[at].state)
    }

    /// Ends the round: gives back the state of whoever was not seen in it.
    pub fn sweep(&mut self, mut gone: impl FnMut(S)) {
        let round = self.round;
        if self.members.iter().all(|member| member.seen == round) {
            return;
        }
        let (kept, left) = std::mem::take(&mut self.members).into_iter().partition(|m: &Member<S>| m.seen == round);
        self.members = kept;
        left.into_iter().for_each(|member| gone(member.state));
    }
}

/// A member's places on the sheet.
pub type Slots = Vec<Option<Slot>>;

/// Takes all of a member's series off the sheet.
pub fn retire(sheet: &mut Sheet, slots: &Slots) {
    slots.iter().flatten().for_each(|slot| sheet.retire(*slot));
}

/// How fast a counter went up between two rounds.
#[derive(Default)]
pub struct Rate {
    last: Option<(i64, std::time::Duration)>,
}

impl Rate {
    /// In units each second; `None` the first time and where the counter began again.
    pub fn next(&mut self, total: i64, round: &Round<'_>) -> Option<f64> {
        let (before, at) = self.last.replace((total, round.at))?;
        let seconds = round.at.checked_sub(at)?.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate is not exact anyway")]
        let grown = total.checked_sub(before).filter(|grown| *grown >= 0)? as f64;
        (seconds > 0.0).then(|| grown / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Census;

    #[test]
    fn members_are_found_in_any_order_and_swept_when_absent() {
        let mut family: Family<u32> = Family::default();
        family.begin();
        for (state, name) in (0..).zip(["a", "b", "c"]) {
            assert_eq!(family.member(name.as_bytes(), || state).copied(), Some(state));
        }
        family.begin();
        assert_eq!(family.member(b"c", || 9).copied(), Some(2));
        assert_eq!(family.member(b"a", || 9).copied(), Some(0));
        let mut gone = Vec::new();
        family.sweep(|state| gone.push(state));
        assert_eq!(gone, [1]);
        assert_eq!(family.member(b"b", || 7).copied(), Some(7));
    }

    #[test]
    fn a_counter_that_begins_again_has_no_rate() {
        let mut sheet = Sheet::default();
        let mut buffer = Vec::new();
        let mut rate = Rate::default();
        let totals = [(1, 100, None), (3, 300, Some(100.0)), (4, 5, None), (5, 15, Some(10.0)), (5, 20, None)];
        for (at, total, expected) in totals {
            let at = std::time::Duration::from_secs(at);
            let round = Round { sheet: &mut sheet, buffer: &mut buffer, at, census: &mut Census::default() };
            assert_eq!(rate.next(total, &round), expected, "{total}");
        }
    }
}
