//! What the control plane wants of the measuring, told to who measures.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

#[derive(Default)]
struct Wish {
    interval: Option<Duration>,
    key: bool,
    stop: bool,
    changed: bool,
}

/// How often, and whether the next frame should be a key frame.
#[derive(Default)]
pub struct Pace {
    wish: Mutex<Wish>,
    changed: Condvar,
    /// The same for who waits as a task.
    told: Notify,
}

impl Pace {
    fn lock(&self) -> MutexGuard<'_, Wish> {
        self.wish.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often somebody wants it; `None` leaves it to the host.
    pub fn set_interval(&self, interval: Option<Duration>) {
        let mut wish = self.lock();
        if wish.interval != interval {
            wish.interval = interval;
            wish.changed = true;
            self.tell();
        }
    }
    /// The next frame should need none before it; it is wanted now.
    pub fn want_key(&self) {
        let mut wish = self.lock();
        wish.key = true;
        wish.changed = true;
        self.tell();
    }
    /// Ends the measuring.
    pub fn stop(&self) {
        self.lock().stop = true;
        self.tell();
    }

    fn tell(&self) {
        self.changed.notify_all();
        self.told.notify_one();
    }

    /// The interval that is wanted.
    pub fn interval(&self) -> Option<Duration> {
        self.lock().interval
    }
    /// Whether a key frame is wanted; asked once.
    pub fn take_key(&self) -> bool {
        std::mem::take(&mut self.lock().key)
    }
    /// Waits so long, or until something is wanted. `false`: it is the end.
    pub fn wait(&self, most: Duration) -> bool {
        let wish = self.lock();
        let waited = self.changed.wait_timeout_while(wish, most, |wish| !wish.changed && !wish.stop);
        let (mut wish, _) = waited.unwrap_or_else(PoisonError::into_inner);
        wish.changed = false;
        !wish.stop
    }
    /// The same as a task, of which there may be many on one thread. May be dropped.
    pub async fn waited(&self, most: Duration) -> bool {
        let _ = tokio::time::timeout(most, self.told.notified()).await;
        let mut wish = self.lock();
        wish.changed = false;
        !wish.stop
    }
}
