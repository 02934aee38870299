//! What was read of blocks lately, unpacked.
//!
//! Two generations: what was asked for since the last turn, and what was in the turn before. When
//! the newer one is full, the older one goes. No lists, and nothing that is asked for often is lost.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of both generations together.
const BYTES_MAX: usize = 64 << 20;

/// Which: a file's number and an offset in it, of a page or of a column within it.
pub type Key = (u64, u64, Option<u32>);

/// As it was read.
pub enum Opened {
    /// When each frame was measured.
    Times(Vec<i64>),
    /// A page of columns: the bytes, and where each begins.
    Columns(Vec<u8>, Vec<u32>),
    /// One column: a number for each frame, or a gap.
    Values(Vec<f64>),
}

impl Opened {
    fn bytes(&self) -> usize {
        match self {
            Self::Times(times) => times.len() * 8,
            Self::Values(values) => values.len() * 8,
            Self::Columns(raw, starts) => raw.len() + starts.len() * 4,
        }
    }
}

#[derive(Default)]
struct Generations {
    newer: HashMap<Key, Arc<Opened>>,
    older: HashMap<Key, Arc<Opened>>,
    newer_bytes: usize,
}

/// The pages of one store.
#[derive(Default)]
pub struct Cache(Mutex<Generations>);

impl Cache {
    /// What is there, or what `open` reads. Two that miss at once both read.
    pub fn get<E>(&self, key: Key, open: impl FnOnce() -> Result<Opened, E>) -> Result<Arc<Opened>, E> {
        if let Some(known) = self.known(key) {
            return Ok(known);
        }
        Ok(self.put(key, open()?))
    }

    /// Keeps it for a while.
    pub fn put(&self, key: Key, opened: Opened) -> Arc<Opened> {
        let opened = Arc::new(opened);
        self.locked().put(key, opened.clone());
        opened
    }

    /// What is there.
    pub fn known(&self, key: Key) -> Option<Arc<Opened>> {
        let mut generations = self.locked();
        if let Some(known) = generations.newer.get(&key) {
            return Some(known.clone());
        }
        let known = generations.older.remove(&key)?;
        generations.put(key, known.clone());
        Some(known)
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Generations> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    fn put(&mut self, key: Key, opened: Arc<Opened>) {
        self.newer_bytes += opened.bytes();
        self.newer.insert(key, opened);
        if self.newer_bytes > BYTES_MAX / 2 {
            self.older = std::mem::take(&mut self.newer);
            self.newer_bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stays_and_the_rest_is_bounded() {
        let cache = Cache::default();
        let mut reads = 0;
        let mut get = |at: u64, length: usize| {
            let opened = cache.get((1, at, None), || {
                reads += 1;
                Ok::<_, ()>(Opened::Columns(vec![at as u8; length], Vec::new()))
            });
            assert!(matches!(&*opened.unwrap(), Opened::Columns(raw, _) if raw.len() == length));
        };
        for at in 1..1000 {
            get(0, 1000);
            get(at, 1 << 20);
        }
        assert_eq!(reads, 1000, "the one that is asked for often was read once");
        let generations = cache.locked();
        let held: usize = generations.newer.values().chain(generations.older.values()).map(|o| o.bytes()).sum();
        assert!(held <= BYTES_MAX + (2 << 20), "{held}");
        drop(generations);
        assert!(cache.get((1, 7777, None), || Err("unreadable")).is_err());
        assert!(cache.get((1, 7777, None), || Ok::<_, ()>(Opened::Times(vec![1]))).is_ok(), "a failure is not kept");
    }
}
