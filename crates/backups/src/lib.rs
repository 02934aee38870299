//! The repository of backups: chunks by the SHA-256 of their plain bytes, packed, sealed where that is
//! asked for.
//!
//! ```text
//! root/repository.json   {"format":1,"id":…,"key_check":…}; the check since the first sealed chunk
//! root/plain/ab/<name>   name = digest in hex, a zstd frame
//! root/sealed/ab/<name>  name = HMAC(key, digest) in hex, nonce(12) ‖ AES-256-GCM-SIV(a zstd frame)
//! root/temp/<pid>.<n>    being written, locked by its writer
//! root/damaged/<name>    what [`Repository::verify`] took out of the way
//! root/lock              shared for whoever looks and names, alone for whoever removes
//! ```
//! Owns: that what has a name is whole and durable, that what is read is what was stored, and that what
//! somebody was just told to be there is not swept. Several processes may work on one repository at once,
//! and each may be killed at any moment.
//! Refuses: knowing what a chunk is for. An index is one more chunk, a larger one. Reads nothing of its
//! surroundings: time comes from the file system, randomness from the caller.
//! Deliberately absent: reference counts. Whoever knows the indexes says what is kept.
#![forbid(unsafe_code)]

mod disk;
mod key;
mod packing;
mod repository;
mod seal;
mod sweep;

pub use repository::{Repository, Stored};
pub use sweep::{Kept, Swept, Usage};

use perigee_model::Digest;
use std::io;
use std::path::{Path, PathBuf};

/// What fills a buffer with random bytes.
pub type Random = dyn Fn(&mut [u8]) + Send + Sync;

/// Why a chunk was not stored or not given.
#[derive(thiserror::Error, Debug)]
pub enum RepositoryError {
    /// The disk or the quota is full; reading and removing still work.
    #[error("no space left to store a backup under {}", .0.display())]
    NoSpace(PathBuf),
    /// More than one file may hold.
    #[error("a chunk of {0} bytes is too large")]
    TooLarge(usize),
    /// The bytes are not the ones that were named; they were not kept.
    #[error("the bytes have digest {found}, not {expected}")]
    WrongDigest {
        /// Named.
        expected: Digest,
        /// Computed from the bytes.
        found: Digest,
    },
    /// Nothing of that digest is here.
    #[error("there is no chunk {0}")]
    NotFound(Digest),
    /// What is here is not what was stored.
    #[error("chunk {digest} is damaged: {why} ({})", path.display())]
    Damaged {
        /// Which.
        digest: Digest,
        /// Its file.
        path: PathBuf,
        /// What was found.
        why: &'static str,
    },
    /// The repository was made by another version.
    #[error("{} is a repository of format {format}, and this release knows format 1", path.display())]
    OtherFormat {
        /// Its root.
        path: PathBuf,
        /// As it is written there.
        format: u64,
    },
    /// What is there cannot be read as a repository.
    #[error("{} is no repository of backups: {why}", path.display())]
    NoRepository {
        /// Its root.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The key may have been read by others.
    #[error("the key {} is open to others (mode {mode:o}): chmod 600 {}", path.display(), path.display())]
    KeyOpen {
        /// Its file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// There are sealed chunks and no key to them.
    #[error("the key {} is missing, and without it what is sealed in this repository cannot be read", .0.display())]
    KeyMissing(PathBuf),
    /// Another key than the one that sealed.
    #[error("{} is not the key that this repository was sealed with", .0.display())]
    KeyWrong(PathBuf),
    /// The file holds something else.
    #[error("{} does not hold a key, 64 hex digits", .0.display())]
    KeyMalformed(PathBuf),
    /// The file system said no.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl RepositoryError {
    fn io(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace(path.to_owned()),
            _ => Self::Io { path: path.to_owned(), source },
        }
    }
}

/// The name of bytes.
pub fn digest_of(bytes: &[u8]) -> Digest {
    let text = hex::encode(ring::digest::digest(&ring::digest::SHA256, bytes));
    match Digest::parse(&text) {
        Some(digest) => digest,
        None => unreachable!("SHA-256 in hex is 64 digits"),
    }
}
