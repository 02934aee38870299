//! Taking in a disk that was made elsewhere.
//!
//! ```text
//!   address ──download──▶ staged, hashed while it is written ─┐
//!   upload ──────────────▶ partial, checked against its name ─┴▶ checksum ▶ inspected ▶ [`Found`] ──keep──▶ blob
//! ```
//! Owns: the order of these steps. Until the last, nothing has a name that anybody would use; whatever
//! fails on the way, its bytes are gone.
//! Refuses: an address of plain http without a checksum (anybody on the way could change the bytes),
//! and programs: only our own code has seen the bytes when they are kept.

use crate::checksums;
use crate::inspect::{self, InspectError, Inspected};
use bytes::Bytes;
use perigee_blobs::{Blob, BlobDir, BlobError, Partial, Staged};
use perigee_model::limits::VM_DISK_BYTES_MAX;
use perigee_model::{Checksum, Digest, DiskFormat, Import, ImportFrom, Part, PartRole};
use perigee_outbound::{Download, Outbound, OutboundError};
use sha2::{Digest as _, Sha512};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Written at once.
const BATCH_BYTES: usize = 1 << 20;

/// Why a disk was not taken in. Texts are for whoever asked for it.
#[derive(thiserror::Error, Debug)]
pub enum ImportError {
    /// Its source does not give it.
    #[error(transparent)]
    Source(#[from] OutboundError),
    /// Its bytes are not what they should be.
    #[error("its {} is {found}, not {expected}", kind(.expected))]
    WrongChecksum {
        /// What was said.
        expected: Checksum,
        /// What came.
        found: Checksum,
    },
    /// The list of checksums does not have it.
    #[error("{list} has no checksum of {name}")]
    NotListed {
        /// The list's address.
        list: String,
        /// The file's name.
        name: String,
    },
    /// It is no disk that is taken.
    #[error(transparent)]
    Refused(#[from] InspectError),
    /// Nothing, or not all of it, was uploaded.
    #[error("there is no upload {0}: send the bytes first")]
    NoUpload(Digest),
    /// Somebody is still sending it.
    #[error("the upload {0} is still being written")]
    Busy(Digest),
    /// The control plane's disk is full.
    #[error("no space is left under {}", .0.display())]
    NoSpace(PathBuf),
    /// The control plane's disk says no.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl From<BlobError> for ImportError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::NoSpace(path) => Self::NoSpace(path),
            BlobError::WrongDigest { expected, found } => {
                Self::WrongChecksum { expected: Checksum::Sha256(expected), found: Checksum::Sha256(found) }
            }
            BlobError::NotFound(digest) => Self::NoUpload(digest),
            BlobError::Io { path, source } => Self::Io { path, source },
            BlobError::Busy(digest) => Self::Busy(digest),
        }
    }
}

fn kind(checksum: &Checksum) -> &'static str {
    match checksum {
        Checksum::Sha256(_) => "SHA-256",
        Checksum::Sha512(_) => "SHA-512",
    }
}

/// How far an import is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes here.
    pub bytes: u64,
    /// Bytes in all, where they are known.
    pub total: Option<u64>,
}

/// A disk that may be kept.
pub struct Found {
    /// What it will be a part as.
    pub part: Part,
    /// What it is.
    pub inspected: Inspected,
    held: Held,
}

enum Held {
    Staged(Staged),
    Uploaded(Partial),
}

impl Found {
    /// Gives its bytes their name; they are on the disk when this returns.
    ///
    /// # Errors
    /// `NoSpace`, `Io`; `WrongChecksum` for an upload of other bytes than it was named after.
    pub async fn keep(self) -> Result<Blob, ImportError> {
        match self.held {
            Held::Staged(staged) => Ok(blocking(move || staged.keep()).await?),
            Held::Uploaded(partial) => Ok(partial.finish().await?),
        }
    }
}

/// What is wrong with an import that can be told beforehand.
pub fn fault(import: &Import) -> Option<String> {
    let addresses = [&import.checksums_at].into_iter().flatten().chain(match &import.from {
        ImportFrom::Url(address) => Some(address),
        ImportFrom::Upload(_) => None,
    });
    for address in addresses {
        match perigee_outbound::place(address) {
            Err(error) => return Some(error.to_string()),
            Ok(url) if url.scheme() == "http" && import.checksum.is_none() => {
                return Some(
                    "an address of plain http needs a checksum: anybody on the way could change it".to_owned(),
                );
            }
            Ok(_) => {}
        }
    }
    None
}

/// Brings the bytes here, checks and looks at them. `tell` hears how far it is.
///
/// # Errors
/// See [`ImportError`]; nothing is left of it then, but for an upload that may be gone on with.
pub async fn fetch(
    blobs: &BlobDir,
    outbound: &Outbound,
    import: &Import,
    tell: &mut (dyn FnMut(Progress) + Send),
) -> Result<Found, ImportError> {
    match &import.from {
        ImportFrom::Url(address) => download(blobs, outbound, address, import, tell).await,
        ImportFrom::Upload(digest) => uploaded(blobs, digest, import).await,
    }
}

async fn download(
    blobs: &BlobDir,
    outbound: &Outbound,
    address: &str,
    import: &Import,
    tell: &mut (dyn FnMut(Progress) + Send),
) -> Result<Found, ImportError> {
    let expected = match (&import.checksum, &import.checksums_at) {
        (Some(checksum), _) => Some(checksum.clone()),
        (None, Some(list)) => Some(checksums::listed(outbound, list, address).await?),
        (None, None) => None,
    };
    let mut download = Download::begin(outbound, address).await?;
    let blobs = blobs.clone();
    let sha512 = matches!(expected, Some(Checksum::Sha512(_))).then(Sha512::new);
    let mut writing = blocking(move || Ok(Writing { staged: blobs.stage()?, sha512 })).await?;
    let (mut batch, mut length) = (Vec::new(), 0);
    loop {
        let piece = download.next().await?;
        let is_end = piece.is_none();
        length += piece.as_ref().map_or(0, Bytes::len);
        batch.extend(piece);
        if length >= BATCH_BYTES || is_end {
            let pieces = std::mem::take(&mut batch);
            length = 0;
            writing = blocking(move || writing.append(&pieces)).await?;
            tell(Progress { bytes: download.received(), total: download.total() });
        }
        if is_end {
            break;
        }
    }
    let (staged, sha512) = (writing.staged, writing.sha512.unwrap_or_default());
    let blob = staged.blob();
    check(expected, &blob.digest, sha512)?;
    let (inspected, staged) = looked_at(staged.path().to_owned(), import.format, staged).await?;
    Ok(found(&blob, inspected, Held::Staged(staged)))
}

/// A download on its way to the disk, and its SHA-512 where that is what it is checked by.
struct Writing {
    staged: Staged,
    sha512: Option<Sha512>,
}

impl Writing {
    fn append(mut self, pieces: &[Bytes]) -> Result<Self, BlobError> {
        for piece in pieces {
            self.staged.append(piece)?;
            if let Some(sha512) = &mut self.sha512 {
                sha512.update(piece);
            }
        }
        Ok(self)
    }
}

async fn uploaded(blobs: &BlobDir, digest: &Digest, import: &Import) -> Result<Found, ImportError> {
    let partial = match blobs.partial_bytes(digest) {
        Some(bytes) if bytes > 0 => blobs.partial(digest).await?,
        _ => return Err(ImportError::NoUpload(digest.clone())),
    };
    check(Some(Checksum::Sha256(digest.clone())), &partial.digest(), Sha512::new())?;
    let path = partial.path();
    let sha512 = match &import.checksum {
        Some(Checksum::Sha512(_)) => blocking(move || sha512_of(&path)).await?,
        Some(Checksum::Sha256(_)) | None => Sha512::new(),
    };
    check(import.checksum.clone(), digest, sha512)?;
    let blob = Blob { digest: digest.clone(), bytes: partial.offset() };
    let (inspected, partial) = looked_at(partial.path(), import.format, partial).await?;
    Ok(found(&blob, inspected, Held::Uploaded(partial)))
}

fn sha512_of(path: &Path) -> Result<Sha512, BlobError> {
    let mut hash = Sha512::new();
    let hashed = File::open(path).and_then(|mut file| io::copy(&mut file, &mut hash));
    hashed.map_err(|source| BlobError::Io { path: path.to_owned(), source })?;
    Ok(hash)
}

fn check(expected: Option<Checksum>, sha256: &Digest, sha512: Sha512) -> Result<(), ImportError> {
    let Some(expected) = expected else { return Ok(()) };
    let found = match &expected {
        Checksum::Sha256(_) => Checksum::Sha256(sha256.clone()),
        Checksum::Sha512(_) => Checksum::Sha512(hex::encode(sha512.finalize())),
    };
    if found == expected { Ok(()) } else { Err(ImportError::WrongChecksum { expected, found }) }
}

/// Looks at the file, and gives back what holds it.
async fn looked_at<T: Send + 'static>(
    path: PathBuf,
    format: Option<DiskFormat>,
    holder: T,
) -> Result<(Inspected, T), ImportError> {
    let looked = tokio::task::spawn_blocking(move || {
        let inspected = File::open(&path)
            .map_err(InspectError::from)
            .and_then(|file| inspect::inspect(file, format, VM_DISK_BYTES_MAX));
        (inspected, holder)
    });
    let (inspected, holder) = looked.await.map_err(io::Error::other).map_err(InspectError::from)?;
    Ok((inspected?, holder))
}

fn found(blob: &Blob, inspected: Inspected, held: Held) -> Found {
    let role = match inspected.format {
        DiskFormat::Raw | DiskFormat::Qcow2 => PartRole::Disk,
        DiskFormat::Iso => PartRole::Iso,
    };
    Found { part: Part { role, digest: blob.digest.clone(), bytes: blob.bytes }, inspected, held }
}

async fn blocking<T, F>(work: F) -> Result<T, BlobError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, BlobError> + Send + 'static,
{
    let stopped = |error| BlobError::Io { path: PathBuf::new(), source: io::Error::other(error) };
    tokio::task::spawn_blocking(work).await.map_err(stopped)?
}

#[cfg(test)]
mod tests;
