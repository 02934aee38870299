//! Series that are alive, each once: a thousand hosts measure the same things under the same names.

use super::Series;
use std::collections::HashSet;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// Those that nobody holds any more are looked for when there are so many, or twice those that lived.
const PURGED_FROM: usize = 8192;

static ALIVE: LazyLock<Mutex<Alive>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Alive {
    series: HashSet<Arc<Series>>,
    purge_at: usize,
}

/// The one copy of each of them. What nobody holds is forgotten in time.
pub fn interned(series: Vec<Series>) -> Vec<Arc<Series>> {
    let mut alive = ALIVE.lock().unwrap_or_else(PoisonError::into_inner);
    let shared = series.into_iter().map(|series| alive.one(series)).collect();
    if alive.series.len() >= alive.purge_at {
        alive.series.retain(|series| Arc::strong_count(series) > 1);
        alive.purge_at = (alive.series.len() * 2).max(PURGED_FROM);
    }
    shared
}

impl Alive {
    fn one(&mut self, series: Series) -> Arc<Series> {
        if let Some(known) = self.series.get(&series) {
            return known.clone();
        }
        let new = Arc::new(series);
        self.series.insert(new.clone());
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_series_are_one_while_they_live() {
        let made = |n: usize| Series::gauge("interned_test", 0).with("n", &n.to_string());
        let held = interned(vec![made(1), made(2), made(1)]);
        assert!(Arc::ptr_eq(&held[0], &held[2]) && !Arc::ptr_eq(&held[0], &held[1]));
        assert!(Arc::ptr_eq(&interned(vec![made(2)])[0], &held[1]));
        for n in 0..PURGED_FROM * 5 {
            interned(vec![made(n + 10)]);
        }
        let alive = ALIVE.lock().unwrap().series.len();
        assert!(alive <= PURGED_FROM * 2, "{alive} are kept that nobody holds");
        assert!(Arc::ptr_eq(&interned(vec![made(1)])[0], &held[0]), "what is held stays");
    }
}
