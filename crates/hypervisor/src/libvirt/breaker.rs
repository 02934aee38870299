//! A breaker: who does not answer is left alone for a while.
//!
//! ```text
//!          5 failures within a minute                 the rest is over
//!  Closed ────────────────────────────▶ Open ───────────────────────────▶ HalfOpen
//!    ▲                                   ▲   one may try ◀────────────────┘  │
//!    └───────────── it answered ─────────┴──────────── it failed ────────────┘
//! ```
//! Pure: time comes in as a parameter. Refuses: to know what is called.

use perigee_clock::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// So many failures…
const FAILURES: usize = 5;
/// …within this open it.
const WITHIN: Duration = Duration::from_secs(60);
/// The first rest; each next one is twice as long.
const REST_MIN: Duration = Duration::from_secs(1);
/// The longest rest.
const REST_MAX: Duration = Duration::from_secs(30);
/// A probe that says nothing for so long has been given up by its caller.
const PROBE_MAX: Duration = Duration::from_secs(60);

/// What the breaker lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Everything.
    Closed,
    /// Nothing, until its rest is over.
    Open,
    /// One call, whose end decides.
    HalfOpen,
}

/// The breaker.
#[derive(Debug, Default)]
pub struct Breaker {
    failures: VecDeque<Instant>,
    rest: Option<Rest>,
    opened: u64,
}

/// Open or half open.
#[derive(Clone, Copy, Debug)]
struct Rest {
    until: Instant,
    length: Duration,
    probing: bool,
}

impl Breaker {
    /// Whether a call may be made now; how long to leave it, when not.
    pub fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        let Some(rest) = &mut self.rest else { return Ok(()) };
        if now < rest.until {
            return Err(rest.until.since(now));
        }
        // Its end decides; until then, or until it is given up, nobody else tries.
        rest.probing = true;
        rest.until = now.after(PROBE_MAX);
        Ok(())
    }

    /// A call was answered.
    pub fn answered(&mut self) {
        self.failures.clear();
        self.rest = None;
    }

    /// A call was not answered. `jitter` makes a random share of a rest.
    pub fn failed(&mut self, now: Instant, jitter: impl Fn(Duration) -> Duration) {
        if let Some(rest) = self.rest {
            // A call that was let through before it opened says nothing new.
            if rest.probing {
                self.open(now, (rest.length * 2).min(REST_MAX), jitter);
            }
            return;
        }
        self.failures.push_back(now);
        while self.failures.front().is_some_and(|first| now.since(*first) > WITHIN) {
            self.failures.pop_front();
        }
        if self.failures.len() >= FAILURES {
            self.failures.clear();
            self.open(now, REST_MIN, jitter);
        }
    }

    fn open(&mut self, now: Instant, length: Duration, jitter: impl Fn(Duration) -> Duration) {
        self.opened += 1;
        // Half of it for certain, so that it is a rest, and half by chance, so that hosts spread.
        let until = now.after(length / 2 + jitter(length / 2));
        self.rest = Some(Rest { until, length, probing: false });
    }

    /// What it lets through now.
    pub fn state(&self, now: Instant) -> BreakerState {
        match self.rest {
            None => BreakerState::Closed,
            Some(rest) if rest.probing || rest.until <= now => BreakerState::HalfOpen,
            Some(_) => BreakerState::Open,
        }
    }

    /// How often it opened.
    pub fn opened(&self) -> u64 {
        self.opened
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perigee_clock::Clock;

    fn whole(rest: Duration) -> Duration {
        rest
    }
    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn five_failures_in_a_minute_open_it_and_an_answer_closes_it() {
        let (start, mut breaker) = (Clock::real().instant(), Breaker::default());
        for n in 0..4 {
            breaker.failed(start.after(n * SECOND), whole);
        }
        assert_eq!(breaker.admit(start.after(3 * SECOND)), Ok(()));
        // The first one is more than a minute ago by then.
        breaker.failed(start.after(61 * SECOND), whole);
        assert_eq!(breaker.state(start.after(61 * SECOND)), BreakerState::Closed);
        let now = start.after(61 * SECOND);
        breaker.failed(now, whole);
        assert_eq!((breaker.admit(now), breaker.opened()), (Err(REST_MIN), 1));
        let later = now.after(REST_MIN);
        assert_eq!(breaker.state(later), BreakerState::HalfOpen);
        assert_eq!(breaker.admit(later), Ok(()), "one may try");
        assert!(breaker.admit(later).is_err(), "and nobody else");
        breaker.answered();
        assert_eq!((breaker.state(later), breaker.admit(later)), (BreakerState::Closed, Ok(())));
    }

    #[tokio::test(start_paused = true)]
    async fn each_rest_is_longer_until_it_is_the_longest() {
        let (mut now, mut breaker) = (Clock::real().instant(), Breaker::default());
        (0..5).for_each(|_| breaker.failed(now, whole));
        breaker.failed(now, whole);
        assert_eq!(breaker.opened(), 1, "late failures of earlier calls are nothing new");
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            assert_eq!(breaker.admit(now), Err(seconds * SECOND));
            now = now.after(seconds * SECOND);
            assert_eq!(breaker.admit(now), Ok(()));
            breaker.failed(now, whole);
        }
        let abandoned = now.after(REST_MAX);
        assert_eq!(breaker.admit(abandoned), Ok(()));
        assert_eq!(breaker.admit(abandoned.after(PROBE_MAX)), Ok(()), "a probe nobody ends is not waited for");
    }
}
