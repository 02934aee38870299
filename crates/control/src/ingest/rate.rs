//! Token buckets: how often each host may report.

use perigee_clock::{Clock, Instant};
use perigee_model::HostId;
use perigee_model::limits::{INGEST_BURST, INGEST_PER_SECOND};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// One report's share of a second.
const EACH: Duration = Duration::from_nanos(1_000_000_000 / INGEST_PER_SECOND as u64);

/// A bucket for each host.
#[derive(Default)]
pub struct Rates(Mutex<HashMap<HostId, Bucket>>);

/// As full as `filled` says, at `at`; time fills it.
struct Bucket {
    at: Instant,
    filled: Duration,
}

impl Rates {
    /// Takes one report out of a host's bucket.
    ///
    /// # Errors
    /// How long to wait when it is empty.
    pub fn take(&self, host: HostId, clock: &Clock) -> Result<(), Duration> {
        let full = EACH * INGEST_BURST;
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.entry(host).or_insert_with(|| Bucket { at: clock.instant(), filled: full });
        let filled = (bucket.filled + bucket.at.elapsed()).min(full);
        *bucket = Bucket { at: clock.instant(), filled: filled.checked_sub(EACH).unwrap_or(filled) };
        if filled >= EACH { Ok(()) } else { Err(EACH - filled) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn host(n: u128) -> HostId {
        HostId::new(Uuid::from_u128(n))
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_then_a_steady_pace_and_each_host_its_own() {
        let (rates, clock) = (Rates::default(), Clock::simulated(1));
        let taken = |host| (0..1000).take_while(|_| rates.take(host, &clock).is_ok()).count();
        assert_eq!(taken(host(1)), INGEST_BURST as usize);
        assert_eq!(rates.take(host(1), &clock), Err(EACH));
        assert_eq!(taken(host(2)), INGEST_BURST as usize, "another host is not held up");
        tokio::time::advance(EACH * 3).await;
        assert_eq!(taken(host(1)), 3);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(taken(host(1)), INGEST_BURST as usize, "a long rest saves no more than a burst");
    }
}
