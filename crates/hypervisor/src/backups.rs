//! Backups: a guest's disk as it is at one moment, to be carried away, and a disk that comes back.

use crate::HypervisorError;
use async_trait::async_trait;
use bytes::Bytes;
use perigee_model::{BackupId, GuestId};
use std::time::SystemTime;

/// Reading a guest's disk as it was at one moment while the guest goes on, and giving a guest that is not
/// there yet the disk it will start with.
#[async_trait]
pub trait Backups: Send + Sync {
    /// Opens the guest's disk as it is now, whether it runs or not; what the guest writes from now on is
    /// not in it. Where the host can, it remembers from now on what is written, under the id of this
    /// backup. What an earlier attempt under this id has left is cleared up first.
    ///
    /// # Errors
    /// `NotRunning` when there is no such guest, `BadPlan` for one without a disk of its own, `NoRoom`,
    /// `Refused`; `Channel`, `Os`: ask again.
    async fn open_disk(&self, guest: GuestId, wish: &BackupWish) -> Result<OpenDisk, HypervisorError>;

    /// Ends what `open_disk` has begun; `made`: the backup is complete, and the next one may be made after
    /// it. Fine when nothing was begun.
    ///
    /// # Errors
    /// `Channel`, `Os`: ask again.
    async fn close_disk(&self, guest: GuestId, backup: BackupId, made: bool) -> Result<(), HypervisorError>;

    /// Begins the disk of a guest that does not exist, or has no disk yet. `None`: it has one.
    /// What an earlier attempt has left is thrown away.
    ///
    /// # Errors
    /// `NoRoom`, `BadPlan`, `Os`.
    async fn new_disk(&self, guest: GuestId, bytes: u64) -> Result<Option<Box<dyn NewDisk>>, HypervisorError>;
}

/// Which backup, and after which ones it may be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupWish {
    /// Which.
    pub backup: BackupId,
    /// Those that are there, the newest first.
    pub bases: Vec<BackupId>,
}

/// A guest's disk at one moment.
pub struct OpenDisk {
    /// The moment.
    pub at: SystemTime,
    /// The guest's file systems were at rest then: it was off, or its agent had brought them there.
    pub quiesced: bool,
    /// Its size.
    pub bytes: u64,
    /// The newest of the wish's bases after which it is known what was written.
    pub since: Option<BackupId>,
    /// Its bytes.
    pub bytes_of: Box<dyn DiskBytes>,
}

/// The bytes of a disk at one moment.
#[async_trait]
pub trait DiskBytes: Send {
    /// The next stretch, from `from` on, that may differ from what the backup before has there, or from
    /// zeros when there is no backup before: where it begins and how long it is. `None`: none is left.
    ///
    /// # Errors
    /// `Channel`.
    async fn next_stretch(&mut self, from: u64) -> Result<Option<(u64, u64)>, HypervisorError>;

    /// So many bytes from there on; all of them are on the disk.
    ///
    /// # Errors
    /// `Channel`.
    async fn read(&mut self, at: u64, length: u32) -> Result<Bytes, HypervisorError>;
}

/// A disk that is being filled. Nothing is there of it, for a start of its guest, until it is finished.
#[async_trait]
pub trait NewDisk: Send {
    /// Puts bytes there; what nothing is put to is zeros.
    ///
    /// # Errors
    /// `NoRoom`, `Channel`.
    async fn write(&mut self, at: u64, bytes: Bytes) -> Result<(), HypervisorError>;

    /// It is whole and durable.
    ///
    /// # Errors
    /// `NoRoom`, `Channel`, `Os`.
    async fn finish(self: Box<Self>) -> Result<(), HypervisorError>;
}
