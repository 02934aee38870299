//! Time and randomness as parameters.
//!
//! Owns: the only reads of the OS clock and of OS randomness in Perigee. Everything else takes a
//! [`Clock`]. Durations are slept with `tokio::time`, whose clock a simulation pauses; this crate's
//! simulated twin follows that same paused clock, so one seed gives one story.
#![forbid(unsafe_code)]

use perigee_model::Timestamp;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// Wall time, monotonic time, randomness and ids made of both. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    Real,
    Simulated(Arc<Simulated>),
}

#[derive(Debug)]
struct Simulated {
    started: tokio::time::Instant,
    start_micros: i64,
    random: Mutex<StdRng>,
}

/// A point on the monotonic clock, for measuring. Follows paused time in a simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(tokio::time::Instant);

impl Instant {
    /// Time since then.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
    /// From an earlier one to this; zero when it is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_duration_since(earlier.0)
    }
    /// Later by so much.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(self.0 + by)
    }
    /// For `tokio::time::sleep_until` and `timeout_at`.
    pub fn into_tokio(self) -> tokio::time::Instant {
        self.0
    }
}

impl Clock {
    /// The operating system's.
    pub fn real() -> Self {
        Self(Source::Real)
    }

    /// Wall time starts at 2026-01-01T00:00:00Z and follows tokio's (paused) clock; randomness
    /// follows `seed`. Call inside a runtime.
    pub fn simulated(seed: u64) -> Self {
        Self(Source::Simulated(Arc::new(Simulated {
            started: tokio::time::Instant::now(),
            start_micros: 1_767_225_600_000_000,
            random: Mutex::new(StdRng::seed_from_u64(seed)),
        })))
    }

    /// Wall time.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::Real => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
            }
            Source::Simulated(s) => Timestamp::from_micros(s.start_micros) + s.started.elapsed(),
        }
    }

    /// Monotonic time.
    pub fn instant(&self) -> Instant {
        Instant(tokio::time::Instant::now())
    }

    /// Fills a buffer with random bytes (from the OS, unless simulated).
    pub fn fill(&self, bytes: &mut [u8]) {
        match &self.0 {
            Source::Real => rand::rng().fill_bytes(bytes),
            Source::Simulated(s) => {
                s.random.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(bytes);
            }
        }
    }

    /// `N` random bytes.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }

    /// A new UUIDv7 (RFC 9562): 48 bits of Unix milliseconds, the rest random.
    pub fn uuid(&self) -> Uuid {
        let millis = u64::try_from(self.now().micros() / 1000).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(millis, &self.random()).into_uuid()
    }

    /// Full jitter: uniformly random between zero and `most`. Applied after the cap, so that a
    /// fleet at its cap still spreads.
    pub fn jitter(&self, most: Duration) -> Duration {
        let share = f64::from(u32::from_le_bytes(self.random())) / f64::from(u32::MAX);
        most.mul_f64(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_seed_is_a_story() {
        let story = |clock: &Clock| (clock.uuid(), clock.jitter(Duration::from_secs(9)), clock.now());
        let first = story(&Clock::simulated(7));
        assert_eq!(first, story(&Clock::simulated(7)));
        assert_ne!(first, story(&Clock::simulated(8)));
    }

    #[tokio::test(start_paused = true)]
    async fn simulated_time_follows_the_paused_clock() {
        let clock = Clock::simulated(1);
        let before = clock.now();
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(clock.now().since(before), Duration::from_secs(3600));
    }

    #[test]
    fn jitter_spreads_over_the_whole_range() {
        let clock = Clock::real();
        let most = Duration::from_secs(1);
        let waits: Vec<_> = (0..1000).map(|_| clock.jitter(most)).collect();
        assert!(waits.iter().all(|w| *w <= most));
        assert!(waits.iter().any(|w| *w < most / 10) && waits.iter().any(|w| *w > most * 9 / 10));
    }
}
