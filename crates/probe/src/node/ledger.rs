//! What a collector costs, and when it is left alone for a while.
//!
//! ```text
//! closed ──FAULTS_MAX in a row──▶ open ──its pause is over──▶ half open ──fault──▶ open, twice the pause
//!    ▲                                                           │
//!    └──────────────────────────── a good round ─────────────────┘
//! ```

use super::Round;
use perigee_model::frame::{Series, Slot};
use std::time::Duration;

const FAULTS_MAX: u32 = 5;
const PAUSE_FIRST: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// Whether a collector may run.
#[derive(Debug, Default)]
pub struct Breaker {
    faults: u32,
    opened: u32,
    until: Option<Duration>,
}

impl Breaker {
    /// Open breakers let nothing through until their pause is over; then one round is the test.
    pub fn allows(&self, at: Duration) -> bool {
        self.until.is_none_or(|until| at >= until)
    }
    /// Whether the last word on it was "leave it alone".
    pub fn is_open(&self) -> bool {
        self.until.is_some()
    }
    /// One round went so. `chance` is 0 to 1: pauses are spread so that what broke together is not
    /// tried again together.
    pub fn note(&mut self, good: bool, at: Duration, chance: f64) {
        if good {
            *self = Self::default();
            return;
        }
        self.faults = self.faults.saturating_add(1);
        if self.faults >= FAULTS_MAX || self.until.is_some() {
            let pause = PAUSE_FIRST.saturating_mul(1 << self.opened.min(6)).min(PAUSE_MAX);
            self.opened = self.opened.saturating_add(1);
            self.until = Some(at + pause.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0));
        }
    }
}

/// Numbers that look random and repeat with their seed (xorshift64*).
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }
    /// From 0 to just below 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
    pub fn next(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// One round of one collector.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    pub good: bool,
    pub took: Duration,
    pub cpu: Duration,
}

/// A collector's own series.
pub struct Account {
    duration: Option<Slot>,
    cpu: Option<Slot>,
    success: Option<Slot>,
    open: Option<Slot>,
    cpu_total: Duration,
}

impl Account {
    pub fn open(collector: &str, round: &mut Round<'_>) -> Self {
        let mut define = |series: Series| round.sheet.define(series.with("collector", collector));
        Self {
            duration: define(Series::gauge("perigee_collector_duration_seconds", 6)),
            cpu: define(Series::counter("perigee_collector_cpu_seconds_total", 6)),
            success: define(Series::gauge("perigee_collector_success", 0)),
            open: define(Series::gauge("perigee_collector_breaker_open", 0)),
            cpu_total: Duration::ZERO,
        }
    }

    /// Writes down one round; `None` when the breaker let none happen.
    pub fn write(&mut self, spent: Option<Spent>, is_open: bool, round: &mut Round<'_>) {
        let micros = |time: Duration| i64::try_from(time.as_micros()).ok();
        self.cpu_total += spent.map_or(Duration::ZERO, |spent| spent.cpu);
        round.put(self.duration, spent.and_then(|spent| micros(spent.took)));
        round.put(self.cpu, micros(self.cpu_total));
        round.put(self.success, Some(i64::from(spent.is_some_and(|spent| spent.good))));
        round.put(self.open, Some(i64::from(is_open)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn it_opens_after_faults_in_a_row_and_waits_longer_each_time() {
        let mut breaker = Breaker::default();
        for at in 0..4 {
            breaker.note(false, seconds(at), 1.0);
            assert!(breaker.allows(seconds(at)) && !breaker.is_open(), "{at}");
        }
        breaker.note(false, seconds(4), 1.0);
        assert!(breaker.is_open() && !breaker.allows(seconds(13)) && breaker.allows(seconds(14)));
        // Half open: one fault is enough, and the pause doubles.
        breaker.note(false, seconds(14), 1.0);
        assert!(!breaker.allows(seconds(33)) && breaker.allows(seconds(34)));
        breaker.note(true, seconds(34), 1.0);
        assert!(breaker.allows(seconds(34)) && !breaker.is_open());
        breaker.note(false, seconds(35), 1.0);
        assert!(breaker.allows(seconds(35)), "a good round forgets all faults");
    }

    #[test]
    fn pauses_are_spread_and_bounded() {
        let mut breaker = Breaker::default();
        (0..100).for_each(|_| breaker.note(false, seconds(0), 1.0));
        assert!(!breaker.allows(seconds(599)) && breaker.allows(seconds(600)));
        let mut early = Breaker::default();
        (0..5).for_each(|_| early.note(false, seconds(0), 0.0));
        assert!(early.allows(seconds(5)));
        let (mut one, mut other) = (Chance::new(7), Chance::new(8));
        let numbers: Vec<f64> = (0..1000).map(|_| one.next()).collect();
        assert!(numbers.iter().all(|n| (0.0..1.0).contains(n)));
        assert!(numbers.iter().any(|n| *n < 0.1) && numbers.iter().any(|n| *n > 0.9));
        assert!((numbers[0] - other.next()).abs() > f64::EPSILON);
    }
}
