//! The work directory of builds.
//!
//! ```text
//! work/lock               one build at a time
//! work/temp.<n>/          what a build is at; what a killed one left goes when the next begins
//! ```

use crate::error::ImageError;
use perigee_blobs::Locked;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bumped when the same inputs come to give other bytes.
pub(crate) const LAYOUT: u32 = 3;
const LOCK_RETRY: Duration = Duration::from_millis(200);

/// The work directory, ours alone while this lives.
pub(crate) struct Work {
    root: PathBuf,
    temps: AtomicU64,
    _lock: Locked,
}

impl Work {
    pub(crate) async fn open(root: &Path) -> Result<Self, ImageError> {
        for dir in ["downloads", "kernels", "base", "debian"].map(|name| root.join(name)) {
            tokio::fs::create_dir_all(&dir).await.map_err(ImageError::io(&dir))?;
        }
        let path = root.join("lock");
        let lock = File::options().create(true).append(true).open(&path).map_err(ImageError::io(&path))?;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_RETRY).await,
                Err(TryLockError::Error(e)) => return Err(ImageError::io(&path)(e)),
            }
        }
        let work = Self { root: root.to_owned(), temps: AtomicU64::new(0), _lock: Locked(lock) };
        work.remove_leftovers().await?;
        Ok(work)
    }

    pub(crate) fn downloads(&self) -> PathBuf {
        self.root.join("downloads")
    }
    pub(crate) fn kernel(&self, key: &str) -> PathBuf {
        self.root.join("kernels").join(format!("{LAYOUT}-{key}"))
    }
    pub(crate) fn base(&self, key: &str) -> PathBuf {
        self.root.join("base").join(key)
    }
    pub(crate) fn debian(&self) -> PathBuf {
        self.root.join("debian")
    }

    /// A directory that the next build removes, whatever happens to this one.
    pub(crate) async fn temp(&self) -> Result<PathBuf, ImageError> {
        let path = self.root.join(format!("temp.{}", self.temps.fetch_add(1, Ordering::Relaxed)));
        tokio::fs::create_dir(&path).await.map_err(ImageError::io(&path))?;
        Ok(path)
    }

    pub(crate) async fn discard(&self, temp: &Path) {
        if let Err(error) = tokio::fs::remove_dir_all(temp).await {
            tracing::debug!(path = %temp.display(), %error, "left for the next build to remove");
        }
    }

    async fn remove_leftovers(&self) -> Result<(), ImageError> {
        let mut entries = tokio::fs::read_dir(&self.root).await.map_err(ImageError::io(&self.root))?;
        while let Some(entry) = entries.next_entry().await.map_err(ImageError::io(&self.root))? {
            if entry.file_name().to_string_lossy().starts_with("temp.") {
                let path = entry.path();
                tokio::fs::remove_dir_all(&path).await.map_err(ImageError::io(&path))?;
            }
        }
        Ok(())
    }
}
