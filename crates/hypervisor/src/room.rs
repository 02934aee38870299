//! Room on the host's disk: how much there is, and what is kept free of it.
//!
//! Owns: reading a file system, and the one rule for whatever wants to make a new file. Refuses: freeing.

use crate::HypervisorError;
use crate::work::os;
use async_trait::async_trait;
use nix::sys::statvfs::statvfs;
use perigee_model::GuestId;
use perigee_model::limits::{DISK_RESERVE_BYTES_MIN, DISK_RESERVE_PARTS};
use std::path::{Path, PathBuf};

/// A file system, as a directory in it shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// The directory.
    pub path: PathBuf,
    /// How large it is.
    pub bytes: u64,
    /// What is free for us.
    pub free_bytes: u64,
}

impl Space {
    /// Asks for it. Blocks.
    ///
    /// # Errors
    /// `Os`.
    pub fn at(path: &Path) -> Result<Self, HypervisorError> {
        let doing = || format!("asking for room at {}", path.display());
        let found = statvfs(path).map_err(std::io::Error::from).map_err(os(doing()))?;
        let of = |blocks: u64| blocks.saturating_mul(found.fragment_size());
        Ok(Self { path: path.to_owned(), bytes: of(found.blocks()), free_bytes: of(found.blocks_available()) })
    }
}

/// Telling how much room guests' files have, and which others they need.
#[async_trait]
pub trait Room: Send + Sync {
    /// Of the file systems that a guest's files are on, the one with the least room. `volumes`: it has some.
    ///
    /// # Errors
    /// `Os`, `NotRunning` for a guest without files.
    async fn room(&self, guest: GuestId, volumes: bool) -> Result<Space, HypervisorError>;
    /// The files of images that disks of this instance's guests lie above, whoever knows of those guests: without
    /// them the disks are worth nothing.
    ///
    /// # Errors
    /// `Os`: then nothing is known.
    async fn below(&self) -> Result<Vec<PathBuf>, HypervisorError>;
}

/// What new disks, volumes and images leave free of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserve(Option<u64>);

impl Reserve {
    /// So many bytes; `None`: 1 GiB or a fiftieth, whichever is more.
    pub const fn of(bytes: Option<u64>) -> Self {
        Self(bytes)
    }

    /// What is kept free of that file system.
    pub fn bytes(self, space: &Space) -> u64 {
        self.0.unwrap_or_else(|| DISK_RESERVE_BYTES_MIN.max(space.bytes / DISK_RESERVE_PARTS))
    }

    /// Refuses so many more bytes in this directory when less than the reserve would be left. Blocks.
    ///
    /// # Errors
    /// `DiskFull` with what to do, `Os`.
    pub fn check(self, at: &Path, more: u64) -> Result<(), HypervisorError> {
        match self.fault(&Space::at(at)?, more) {
            Some(text) => Err(HypervisorError::DiskFull(text)),
            None => Ok(()),
        }
    }

    /// How many bytes are missing for so many more.
    pub fn short(self, space: &Space, more: u64) -> u64 {
        self.bytes(space).saturating_add(more).saturating_sub(space.free_bytes)
    }

    /// Says why there is no room for so many more bytes, if there is none.
    pub fn fault(self, space: &Space, more: u64) -> Option<String> {
        let kept = self.bytes(space);
        let short = Some(self.short(space, more)).filter(|short| *short > 0)?;
        let Space { path, free_bytes, .. } = space;
        Some(format!(
            "{} MiB are free at {}, and {} MiB are kept free: free {} MiB there, or start its agent with a smaller --disk-reserve",
            free_bytes >> 20,
            path.display(),
            kept >> 20,
            short.div_ceil(1 << 20),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: u64, free_bytes: u64, reserve: Option<u64>, more: u64) -> Option<String> {
        Reserve::of(reserve).fault(&Space { path: "/vms".into(), bytes, free_bytes }, more)
    }

    #[test]
    fn what_is_kept_free_is_kept_free() {
        const GIB: u64 = 1 << 30;
        assert_eq!(check(10 * GIB, GIB, None, 0), None);
        assert!(check(10 * GIB, GIB, None, 1).unwrap().contains("free 1 MiB there"));
        assert!(check(10 * GIB, GIB - 1, None, 0).is_some());
        assert_eq!(check(100 * GIB, 2 * GIB, None, 0), None, "a fiftieth");
        assert!(check(100 * GIB, 2 * GIB - 1, None, 0).is_some());
        assert_eq!(check(100 * GIB, 0, Some(0), 0), None, "nothing is kept");
        assert!(check(100 * GIB, GIB, Some(GIB), u64::MAX).is_some(), "too much for any");
    }

    #[test]
    fn a_real_file_system_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let space = Space::at(folder.path()).unwrap();
        assert!(space.bytes >= space.free_bytes && space.bytes > 0);
        assert!(Reserve::of(Some(0)).check(folder.path(), 0).is_ok());
        let full = Reserve::of(Some(u64::MAX)).check(folder.path(), 0);
        assert!(matches!(full, Err(HypervisorError::DiskFull(_))), "{full:?}");
        assert!(Space::at(&folder.path().join("none")).is_err());
    }
}
