//! Work that takes its time, beside a runtime that must not wait for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;
use tokio::task::{block_in_place, spawn_blocking};

/// So many work on the thread that took their request. The rest wait for one of the runtime's pool: were all of those
/// taken by work in place, nobody could take over what its thread did.
static IN_PLACE: Semaphore = Semaphore::const_new(16);

/// Runs what may take its time without holding up who else waits for this thread; `None` when it panics. Another
/// thread takes those over, and a short answer need not wait for any to wake.
pub async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let several = Handle::current().runtime_flavor() != RuntimeFlavor::CurrentThread;
    match IN_PLACE.try_acquire() {
        Ok(_place) if several => catch_unwind(AssertUnwindSafe(|| block_in_place(work))).ok(),
        _ => spawn_blocking(work).await.ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Barrier};
    use std::time::Duration;

    /// All but one of those who must meet are `aside`: what stood still would keep the last from coming.
    async fn many_meet() {
        let barrier = Arc::new(Barrier::new(25));
        let waiting: Vec<_> = (0..24)
            .map(|_| barrier.clone())
            .map(|barrier| tokio::spawn(aside(move || barrier.wait().is_leader())))
            .collect();
        tokio::spawn(async { tokio::time::sleep(Duration::from_millis(1)).await }).await.unwrap();
        std::thread::spawn(move || barrier.wait());
        for one in waiting {
            let met = tokio::time::timeout(Duration::from_secs(60), one).await.expect("they meet");
            assert!(met.unwrap().is_some());
        }
        assert_eq!(aside(|| panic!("on purpose")).await, None::<()>);
        assert_eq!(aside(|| 7).await, Some(7));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn threads_take_over_what_a_working_one_did() {
        many_meet().await;
        assert_eq!(IN_PLACE.available_permits(), 16, "a place is given back, by a panic too");
    }

    #[tokio::test]
    async fn the_only_thread_hands_work_to_others() {
        many_meet().await;
    }
}
