//! Which frames answer a question that asks for the newest value at certain moments only.
//!
//! All series of a stream are measured at the same times, so that this is found out once for all of them.

use super::gathering::HOLE_MS;
use crate::promql::Moments;

/// What is taken of a stretch, in rising time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// The frame of this place, measured then, in milliseconds.
    Frame(usize, i64),
    /// Nothing was measured from then on, in milliseconds.
    Hole(i64),
}

/// Goes through the stretches of one stream.
pub struct Picker {
    moments: Moments,
    /// The first moment that is not before the last frame, and those behind it.
    next_ms: i64,
    left: usize,
    /// The last frame so far, and from its forerunner to it; in milliseconds.
    last: Option<i64>,
    spacing: i64,
}

impl Picker {
    pub fn new(moments: Moments) -> Self {
        Self { moments, next_ms: moments.first_ms, left: moments.count, last: None, spacing: HOLE_MS / 3 }
    }

    /// What to take of a stretch with such times, in microseconds: of each two moments' frames the last one, and
    /// where a hole begins. `None` when it does not come after the one before: only all frames tell then.
    pub fn pick(&mut self, times: &[i64]) -> Option<Vec<Pick>> {
        let mut picks = Vec::with_capacity(self.moments.count.min(times.len()) + 1);
        for (place, at) in times.iter().map(|at| at / 1000).enumerate() {
            if let Some(last) = self.last {
                let pause = at - last;
                if pause <= 0 {
                    return None;
                }
                let hole = (pause > HOLE_MS.max(self.spacing * 3)).then(|| Pick::Hole(last + self.spacing * 2));
                // The one before ended a stretch, or is the newest at a moment: it is taken.
                let is_newest = self.left > 0 && self.next_ms < at;
                if place > 0 && (hole.is_some() || is_newest) {
                    picks.push(Pick::Frame(place - 1, last));
                }
                picks.extend(hole);
                self.spacing = pause;
            }
            self.last = Some(at);
            while self.left > 0 && self.next_ms < at {
                self.next_ms = self.next_ms.saturating_add(self.moments.step_ms);
                self.left -= 1;
            }
        }
        picks.extend(times.len().checked_sub(1).zip(self.last).map(|(place, last)| Pick::Frame(place, last)));
        Some(picks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(times: &[i64]) -> Vec<i64> {
        times.iter().map(|at| at * 1_000_000).collect()
    }

    #[test]
    fn of_each_moment_the_newest_frame_is_taken_and_holes_are_told() {
        let moments = |first: i64, step: i64, count| Moments { first_ms: first * 1000, step_ms: step * 1000, count };
        let second: Vec<i64> = (0..20).collect();
        let hole: Vec<i64> = (0..5).chain(60..63).collect();
        let frame = |place| Pick::Frame(place, second.get(place).map_or(0, |at| at * 1000));
        let table = [
            (moments(5, 5, 3), &second, vec![frame(5), frame(10), frame(15), frame(19)]),
            (moments(5, 1, 3), &second, vec![frame(5), frame(6), frame(7), frame(19)]),
            (moments(7, 0, 1), &second, vec![frame(7), frame(19)]),
            (moments(-9, 3, 2), &second, vec![frame(19)]),
            (moments(100, 3, 2), &second, vec![frame(19)]),
            (moments(2, 30, 3), &hole, vec![frame(2), frame(4), Pick::Hole(6_000), Pick::Frame(7, 62_000)]),
        ];
        for (moments, times, expected) in table {
            assert_eq!(Picker::new(moments).pick(&seconds(times)), Some(expected), "{moments:?}");
        }
    }

    #[test]
    fn stretches_follow_each_other() {
        let mut picker = Picker::new(Moments { first_ms: 0, step_ms: 2000, count: 40 });
        let frame = |place, seconds: i64| Pick::Frame(place, seconds * 1000);
        assert_eq!(picker.pick(&seconds(&[0, 1, 2])), Some(vec![frame(0, 0), frame(2, 2)]));
        assert_eq!(picker.pick(&[]), Some(vec![]));
        assert_eq!(picker.pick(&seconds(&[3, 4])), Some(vec![frame(1, 4)]));
        assert_eq!(picker.pick(&seconds(&[40, 41])), Some(vec![Pick::Hole(6_000), frame(0, 40), frame(1, 41)]));
        assert_eq!(picker.pick(&seconds(&[41, 42])), None, "a moment that was there already");
    }
}
