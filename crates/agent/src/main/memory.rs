//! How the allocator keeps memory: an agent is a guest on a machine that is there for something else.
#![allow(unsafe_code, reason = "mallopt")]

/// What is at least this large goes back to the system when it is freed.
const LARGE_BYTES: nix::libc::c_int = 128 << 10;

/// Often enough for what a start or the making of a guest needed.
const TRIM_EVERY: std::time::Duration = std::time::Duration::from_secs(30);

/// One arena for all threads, and no threshold that grows with use: glibc's own way is an arena for each
/// thread, which keeps what a burst once needed (`mallopt(3)`). Before there is a second thread.
pub fn spare() {
    use nix::libc::{M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, mallopt};
    for (what, value) in [(M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, LARGE_BYTES), (M_TRIM_THRESHOLD, LARGE_BYTES)] {
        // SAFETY: two integers. What glibc refuses, it leaves as it was.
        _ = unsafe { mallopt(what, value) };
    }
}

/// Gives back what a burst has left free between what is in use (`malloc_trim(3)`), now and then.
pub async fn trim_now_and_then() {
    loop {
        tokio::time::sleep(TRIM_EVERY).await;
        // SAFETY: glibc takes its own lock.
        _ = unsafe { nix::libc::malloc_trim(0) };
    }
}
