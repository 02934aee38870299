//! How much the cache holds, and what goes first.
//!
//! ```text
//!   documents of guests ─┐
//!   disks on this host  ─┴─▶ what is in use ─┐
//!   cache, with the time of last use ────────┴─▶ choose ─▶ removed, the longest unused first
//! ```
//! Owns: the limit, the choice, and telling what is kept. Refuses: removing what any guest of this host needs,
//! whoever knows of that guest: when it cannot be told, nothing goes.
//!
//! Nothing is remembered beside the files: the time of last use is each file's own, so that a crash at any moment
//! leaves parts that are whole or gone.

use crate::guest::{Document, SHELF};
use crate::journal::{self, Journal, JournalError};
use perigee_blobs::{BlobError, Kept};
use perigee_hypervisor::{Hypervisor, HypervisorError, Space};
use perigee_model::limits::{CACHE_BYTES_MIN, CACHE_PARTS};
use perigee_model::{Digest, Phase, Power};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How much the cache holds when nobody said.
pub fn usual_bytes(space: &Space) -> u64 {
    CACHE_BYTES_MIN.max(space.bytes / CACHE_PARTS)
}

/// The parts that go so that so many bytes are gained: of those that are not in use, the longest unused first, and
/// no more than it takes.
pub fn choose(kept: &[Kept], used: &BTreeSet<Digest>, wanted: u64) -> Vec<Kept> {
    let mut free: Vec<&Kept> = kept.iter().filter(|kept| !used.contains(&kept.blob.digest)).collect();
    free.sort_by(|one, other| (one.touched, &one.blob).cmp(&(other.touched, &other.blob)));
    let mut gained = 0u64;
    let enough = |kept: &&&Kept| {
        let more = gained < wanted;
        gained = gained.saturating_add(kept.blob.bytes);
        more
    };
    free.iter().take_while(enough).copied().cloned().collect()
}

/// Why it is not known what is in use.
#[derive(Debug, thiserror::Error)]
pub(super) enum UseError {
    #[error("the documents of guests cannot be read")]
    Journal(#[from] JournalError),
    #[error("the disks of guests cannot be read")]
    Host(#[from] HypervisorError),
    #[error("the cache cannot be read")]
    Cache(#[from] BlobError),
}

/// Who knows what is in use.
pub struct Uses {
    /// Documents of guests: each is written down before its parts are asked for.
    pub journal: Arc<dyn Journal>,
    /// They know the disks that are here, also of guests whose document was lost.
    pub drivers: Vec<Arc<dyn Hypervisor>>,
}

impl Uses {
    /// Every part that a guest of this host needs.
    pub(super) async fn digests(&self) -> Result<BTreeSet<Digest>, UseError> {
        let mut used = BTreeSet::new();
        for key in self.journal.list(SHELF).await? {
            let document = journal::read::<Document>(self.journal.as_ref(), SHELF, &key).await?;
            if let Some(document) = document.filter(|document| !is_done_with(document)) {
                used.extend(document.order.spec.parts.into_iter().map(|part| part.digest));
            }
        }
        for room in self.drivers.iter().filter_map(|driver| driver.room()) {
            let files = room.below().await?;
            used.extend(files.iter().filter_map(|file| Digest::parse(file.file_name()?.to_str()?)));
        }
        Ok(used)
    }
}

/// Nothing of it is left, and nothing will be.
fn is_done_with(document: &Document) -> bool {
    document.observed.phase == Phase::Gone && document.order.desired.power == Power::Absent
}

/// What the cache tells of itself. Clones tell the same.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<[AtomicU64; 2]>);

impl Tally {
    /// Bytes that are kept.
    pub fn bytes(&self) -> u64 {
        self.0[0].load(Ordering::Relaxed)
    }
    /// Parts that were removed in this life of the agent.
    pub fn evictions(&self) -> u64 {
        self.0[1].load(Ordering::Relaxed)
    }
    pub(super) fn holds(&self, bytes: u64) {
        self.0[0].store(bytes, Ordering::Relaxed);
    }
    pub(super) fn evicted(&self) {
        self.0[1].fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perigee_blobs::{Blob, digest_bytes};
    use std::time::{Duration, SystemTime};

    /// `name bytes seconds`, those in use with a star.
    fn chosen(cache: &str, wanted: u64) -> String {
        let digest = |name: &str| digest_bytes(name.as_bytes());
        let (mut kept, mut used, mut names) = (Vec::new(), BTreeSet::new(), Vec::new());
        for part in cache.split(" | ").filter(|part| !part.is_empty()) {
            let words: Vec<&str> = part.split(' ').collect();
            let name = words[0].trim_end_matches('*');
            let touched = SystemTime::UNIX_EPOCH + Duration::from_secs(words[2].parse().unwrap());
            kept.push(Kept { blob: Blob { digest: digest(name), bytes: words[1].parse().unwrap() }, touched });
            used.extend(words[0].ends_with('*').then(|| digest(name)));
            names.push((digest(name), name));
        }
        let chosen = choose(&kept, &used, wanted);
        let named = chosen.iter().filter_map(|kept| names.iter().find(|(digest, _)| *digest == kept.blob.digest));
        named.map(|(_, name)| *name).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_longest_unused_go_first_and_no_more_than_it_takes() {
        let cache = "a 10 3 | b 20 1 | c 30 2";
        for (wanted, gone) in [(0, ""), (1, "b"), (20, "b"), (21, "b c"), (50, "b c"), (51, "b c a"), (999, "b c a")] {
            assert_eq!(chosen(cache, wanted), gone, "{wanted}");
        }
        assert_eq!(chosen("", 5), "");
    }

    #[test]
    fn what_is_in_use_stays_whatever_is_wanted() {
        assert_eq!(chosen("a* 10 1 | b 20 2 | c* 30 3", u64::MAX), "b");
        assert_eq!(chosen("a* 10 1", u64::MAX), "");
        assert_eq!(chosen("a 18446744073709551615 1 | b 1 2", u64::MAX), "a", "sums do not run over");
    }

    #[test]
    fn a_tenth_of_the_disk_is_usual() {
        const GIB: u64 = 1 << 30;
        let usual = |bytes| usual_bytes(&Space { path: "/".into(), bytes, free_bytes: 0 });
        assert_eq!((usual(20 * GIB), usual(100 * GIB), usual(2000 * GIB)), (10 * GIB, 10 * GIB, 200 * GIB));
    }
}
