//! What the control plane wants of the measuring, told to the thread that measures.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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
            self.changed.notify_all();
        }
    }
    /// The next frame should need none before it; it is wanted now.
    pub fn want_key(&self) {
        let mut wish = self.lock();
        wish.key = true;
        wish.changed = true;
        self.changed.notify_all();
    }
    /// Ends the measuring.
    pub fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_all();
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
}
