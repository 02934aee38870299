//! A repository in a folder of its own, and what its files are.

use bytes::Bytes;
use perigee_backups::{Repository, RepositoryError, digest_of};
use perigee_model::Digest;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub struct World {
    pub folder: tempfile::TempDir,
    pub repository: Repository,
}

/// Not random: the same in each test.
pub fn open(folder: &Path) -> Result<Repository, RepositoryError> {
    open_with(folder, 7)
}

pub fn open_with(folder: &Path, key: u8) -> Result<Repository, RepositoryError> {
    Repository::open(folder.join("backups"), folder.join("backups.key"), move |bytes| bytes.fill(key))
}

/// Bytes that cannot be packed, others for each number.
pub fn noise(number: u64, length: usize) -> Bytes {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}

impl World {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = open(folder.path()).unwrap();
        Self { folder, repository }
    }

    pub async fn put(&self, sealed: bool, bytes: &[u8]) -> Digest {
        let digest = digest_of(bytes);
        self.repository.put(sealed, &digest, Bytes::copy_from_slice(bytes)).await.unwrap();
        digest
    }

    /// Every chunk's file.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for tree in ["plain", "sealed"] {
            for shard in entries(&self.repository.root().join(tree)) {
                found.extend(entries(&shard));
            }
        }
        found
    }

    pub fn file(&self) -> PathBuf {
        let files = self.files();
        assert_eq!(files.len(), 1, "{files:?}");
        files[0].clone()
    }
}

pub fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

/// As if it had been stored a day ago.
pub fn age(file: &Path) {
    let day = SystemTime::now() - Duration::from_secs(86_400);
    std::fs::File::open(file).unwrap().set_modified(day).unwrap();
}

pub fn hour_ago() -> SystemTime {
    SystemTime::now() - Duration::from_secs(3600)
}
