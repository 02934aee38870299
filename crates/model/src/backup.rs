//! Backups: a VM's disk as it was at a moment, kept away from the VM and outliving it.
//!
//! Owns: what is known of one, what a backup's index is, when a schedule is due, which backups it lets go
//! of. A backup is whole by itself, whatever it was made after: *incremental* says only what had to be
//! read and carried for it.
//!
//! ```text
//!   (asked for) ─▶ creating ─▶ ready ─▶ (nothing)
//!                     └─ failed: nothing
//! ```

use crate::limits::{BACKUP_CHUNK_BYTES, BACKUP_DISK_BYTES_MAX, BACKUP_EVERY_MIN, BACKUPS_PER_GUEST_MAX};
use crate::{BackupId, Digest, Firmware, GuestId, GuestKind, GuestSpec, Labels, Name, PartRole, Tenant, Timestamp};
use serde::{Deserialize, Serialize};

/// One backup of a VM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Backup {
    /// Identity.
    pub id: BackupId,
    /// Unique in the tenant.
    pub name: Name,
    /// Who owns it.
    pub tenant: Tenant,
    /// The user who asked, or whose schedule did.
    pub owner: String,
    /// For people.
    pub description: String,
    /// Of which VM.
    pub guest: GuestId,
    /// What the VM was called then.
    pub guest_name: Name,
    /// The VM's labels then.
    pub labels: Labels,
    /// What the VM was then: what it is made from again.
    pub spec: GuestSpec,
    /// The architecture of the VM's host.
    pub arch: String,
    /// Its bytes are encrypted where they are kept.
    pub sealed: bool,
    /// Its VM's schedule asked for it, and lets go of it.
    pub scheduled: bool,
    /// Where it is in its life.
    pub state: BackupState,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// What is known of it once it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<Stored>,
    /// How the newest look at all of its bytes went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
    /// Bumped by each write of the row.
    pub revision: u64,
}

/// Where a backup is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupState {
    /// A task makes it.
    Creating,
    /// A VM can be made from it.
    Ready,
}

/// What a host says of a backup that it made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Stored {
    /// The moment it keeps.
    pub at: Timestamp,
    /// Its index: a chunk like others.
    pub index: Digest,
    /// Its guest's file systems were at rest then; otherwise they are as after a power cut.
    #[serde(default)]
    pub quiesced: bool,
    /// Size of the disk.
    pub disk_bytes: u64,
    /// The backup after which only what was written had to be read; `None`: all of the disk was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<BackupId>,
    /// What was read of the disk.
    pub read_bytes: u64,
    /// What of it was not there yet, before it was packed.
    pub new_bytes: u64,
    /// What that takes up where it is kept.
    pub kept_bytes: u64,
}

/// A look at all bytes of a backup.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Verified {
    /// When.
    pub at: Timestamp,
    /// What is wrong with it; `None`: every byte is as it was stored.
    pub fault: Option<String>,
    /// How a VM that was made from it came up; `None` where that was not tried, or it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booted: Option<Booted>,
}

/// A VM that was made from a backup, and came up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Booted {
    /// By what that was seen.
    pub sign: LifeSign,
    /// So long after its machine was switched on.
    pub after_ms: u64,
}

/// What a machine does when its system is up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LifeSign {
    /// perigee-guest said hello.
    GuestAgent,
    /// Its serial port asks who wants to log in.
    LoginPrompt,
}

/// What a VM is made from again. Its disk is there before it starts for the first time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Origin {
    /// The backup.
    pub backup: BackupId,
    /// Its index.
    pub index: Digest,
    /// Its chunks are encrypted where they are kept.
    pub sealed: bool,
    /// Size of the disk.
    pub disk_bytes: u64,
    /// The VM it was made of: what its cloud-init knows itself by.
    pub identity: GuestId,
    /// The architecture of a host that can run it.
    pub arch: String,
    /// That VM's image had a disk, which this one is above of no more.
    pub image_disk: bool,
}

/// Which chunks a disk consists of: one for each [`BACKUP_CHUNK_BYTES`] of it, in order; none where all
/// bytes are zero. The last one may be shorter.
///
/// Written as: `PBI1`, the disk's size in bytes (u64, little endian), then for each chunk the 32 bytes of
/// its SHA-256, or zeros.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskIndex {
    disk_bytes: u64,
    chunks: Vec<[u8; DIGEST_BYTES]>,
}

/// A chunk's size, as disks are measured.
pub const CHUNK_BYTES: u64 = BACKUP_CHUNK_BYTES as u64;
const INDEX_MAGIC: &[u8; 4] = b"PBI1";
const INDEX_HEADER_BYTES: usize = 12;
const DIGEST_BYTES: usize = 32;
const ZEROS: [u8; DIGEST_BYTES] = [0; DIGEST_BYTES];

impl DiskIndex {
    /// Of a disk with nothing but zeros. `None` when no disk is that large.
    pub fn new(disk_bytes: u64) -> Option<Self> {
        let count = usize::try_from(disk_bytes.div_ceil(CHUNK_BYTES)).ok()?;
        (disk_bytes <= BACKUP_DISK_BYTES_MAX).then(|| Self { disk_bytes, chunks: vec![ZEROS; count] })
    }
    /// Size of the disk.
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }
    /// How many chunks there are.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }
    /// Whether the disk has no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }
    /// What one chunk is; `None`: zeros, or there is no such chunk.
    pub fn chunk(&self, place: usize) -> Option<Digest> {
        self.chunks.get(place).filter(|bytes| **bytes != ZEROS).map(Digest::of_bytes)
    }
    /// Says what one chunk is.
    pub fn set(&mut self, place: usize, digest: Option<&Digest>) {
        if let Some(chunk) = self.chunks.get_mut(place) {
            *chunk = digest.map_or(ZEROS, Digest::bytes);
        }
    }
    /// Where a chunk begins, and how long it is.
    pub fn span(&self, place: usize) -> (u64, u64) {
        let at = (place as u64).saturating_mul(CHUNK_BYTES).min(self.disk_bytes);
        (at, CHUNK_BYTES.min(self.disk_bytes - at))
    }
    /// The chunks that it names, in order, some of them perhaps more than once.
    pub fn digests(&self) -> impl Iterator<Item = Digest> {
        self.chunks.iter().filter(|bytes| **bytes != ZEROS).map(Digest::of_bytes)
    }
    /// The same for a disk that is larger now; one that is smaller keeps nothing beyond its end, nor the
    /// chunk that its end goes through.
    pub fn resized(mut self, disk_bytes: u64) -> Option<Self> {
        let count = Self::new(disk_bytes)?.chunks.len();
        let whole = usize::try_from(self.disk_bytes.min(disk_bytes) / CHUNK_BYTES).ok()?;
        if disk_bytes != self.disk_bytes {
            self.chunks.truncate(whole);
        }
        self.chunks.resize(count, ZEROS);
        self.disk_bytes = disk_bytes;
        Some(self)
    }
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(INDEX_HEADER_BYTES + self.chunks.len() * DIGEST_BYTES);
        bytes.extend(INDEX_MAGIC);
        bytes.extend(self.disk_bytes.to_le_bytes());
        bytes.extend(self.chunks.as_flattened());
        bytes
    }
    /// From bytes; `None` when they are no index.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (header, digests) = bytes.split_at_checked(INDEX_HEADER_BYTES)?;
        let disk_bytes = u64::from_le_bytes(header.strip_prefix(INDEX_MAGIC)?.try_into().ok()?);
        let mut index = Self::new(disk_bytes)?;
        if digests.len() != index.chunks.len() * DIGEST_BYTES {
            return None;
        }
        for (chunk, bytes) in index.chunks.iter_mut().zip(digests.chunks_exact(DIGEST_BYTES)) {
            chunk.copy_from_slice(bytes);
        }
        Some(index)
    }
}

/// When a VM is backed up by itself, and how long that is kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackupSchedule {
    /// So often: at every multiple of this since 1970 UTC, moved by `offset_ms`.
    pub every_ms: u64,
    /// Moves it: 03:00 each day is 24 h and 3 h.
    #[serde(default)]
    pub offset_ms: u64,
    /// So many of those that it asked for are kept, the newest.
    pub keep: u32,
    /// They are encrypted.
    pub sealed: bool,
    /// In whose name.
    pub owner: String,
    /// It counts from here: when it was made, or when it asked last.
    pub last: Timestamp,
}

impl BackupSchedule {
    /// Says what is wrong with it: (JSON field, text).
    pub fn fault(&self) -> Option<(&'static str, String)> {
        let least = u64::try_from(BACKUP_EVERY_MIN.as_millis()).unwrap_or(u64::MAX);
        if !(least..=366 * 86_400_000).contains(&self.every_ms) {
            let text = format!("every_ms is {least} (a quarter of an hour) to a year, not {}", self.every_ms);
            return Some(("every_ms", text));
        }
        if self.offset_ms >= self.every_ms {
            return Some(("offset_ms", "offset_ms is less than every_ms".to_owned()));
        }
        let most = u32::try_from(BACKUPS_PER_GUEST_MAX).unwrap_or(u32::MAX) / 2;
        if !(1..=most).contains(&self.keep) {
            return Some(("keep", format!("keep is 1 to {most}, not {}", self.keep)));
        }
        None
    }

    /// When it asks next.
    pub fn next(&self) -> Timestamp {
        let micros = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1000);
        let (every, offset) = (micros(self.every_ms).max(1), micros(self.offset_ms));
        let turns = (self.last.micros() - offset).div_euclid(every) + 1;
        Timestamp::from_micros(turns.saturating_mul(every).saturating_add(offset))
    }
}

/// Of the backups that a schedule asked for those that it lets go: all but the newest `keep` that are there.
/// One that is known to be damaged counts for nothing, and goes when a newer one is there.
pub fn surplus<'a>(backups: impl IntoIterator<Item = &'a Backup>, keep: u32) -> Vec<BackupId> {
    let mut ready: Vec<_> = backups.into_iter().filter(|b| b.scheduled && b.state == BackupState::Ready).collect();
    ready.sort_by_key(|backup| std::cmp::Reverse((backup.created_at, backup.id)));
    let mut good = 0;
    let let_go = ready.into_iter().filter(|backup| {
        if backup.verified.as_ref().is_some_and(|verified| verified.fault.is_some()) {
            return good > 0;
        }
        good += 1;
        good > keep
    });
    let_go.map(|backup| backup.id).collect()
}

/// Says why such a guest cannot be backed up, if it cannot.
pub fn backup_fault(kind: GuestKind, spec: &GuestSpec) -> Option<&'static str> {
    let Some(vm) = spec.vm.as_ref().filter(|_| kind == GuestKind::Vm) else {
        return Some("sandboxes are not backed up: copy files out of it, or make a VM of the same image");
    };
    if vm.adopted {
        return Some("it was taken over, and its disks are its owner's: back it up where it was made");
    }
    if vm.disk_bytes.is_none() && !spec.parts.iter().any(|part| part.role == PartRole::Disk) {
        return Some("it has no disk: there is nothing to back up");
    }
    if vm.firmware == Firmware::Uefi {
        return Some("it boots by UEFI, whose variables are in a file that backups do not hold yet");
    }
    vm.tpm.then_some("it has a TPM, whose state backups do not hold yet")
}

/// Says why a VM that has so many can have no other one, if it cannot.
pub fn room_fault(has: usize) -> Option<String> {
    (has >= BACKUPS_PER_GUEST_MAX)
        .then(|| format!("a VM has at most {BACKUPS_PER_GUEST_MAX} backups: delete one of them first"))
}

/// What a backup is called when nobody says: its VM's name and the second it was asked for, UTC; where that name is
/// taken, with the first number from 2 on that is not.
pub fn made_up_name(guest: &Name, at: Timestamp, is_taken: impl Fn(&Name) -> bool) -> Option<Name> {
    let text = at.to_string(); // 2026-11-22T05:12:09.123456Z
    let digits: String = text.chars().take(19).filter(char::is_ascii_digit).collect();
    let (day, time) = digits.split_at_checked(8)?;
    let guest: String = guest.as_str().chars().take(40).collect();
    let plain = format!("{}-{day}-{time}", guest.trim_end_matches('-'));
    let numbered = (2..=BACKUPS_PER_GUEST_MAX).map(|number| format!("{plain}-{number}"));
    let names = std::iter::once(plain.clone()).chain(numbered).filter_map(|name| Name::parse(&name).ok());
    names.into_iter().find(|name| !is_taken(name))
}

#[cfg(test)]
mod tests;
