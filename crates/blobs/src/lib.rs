//! Bytes by their SHA-256: the control plane's blobs and every host's cache.
//!
//! ```text
//! root/sha256/<digest>     whole, durable, right when it was stored; never changed again
//! root/partial/<digest>    a fetch that may go on at its length; locked by whoever appends
//! root/temp/<pid>.<n>      being written, digest not known yet; locked by its writer
//! ```
//! A kill at any moment leaves a partial that can be resumed, or a temp that the next `at` removes.
//! Refuses: bytes of another digest, two writers of one partial.
//! Deliberately absent: reference counts and eviction; whoever owns the directory knows what is in
//! use, marks it with `touch`, and calls `list` or `kept`, and `remove`.
#![forbid(unsafe_code)]

use perigee_model::Digest;
use sha2::{Digest as _, Sha256};
use std::fs::{File, FileTimes, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;
use tokio::io::{AsyncRead, AsyncReadExt};

const CHUNK: usize = 256 << 10;

/// Why bytes were not stored or not found.
#[derive(thiserror::Error, Debug)]
pub enum BlobError {
    /// The disk or the quota is full; reads and removals still work.
    #[error("no space left to store a blob under {}", .0.display())]
    NoSpace(PathBuf),
    /// The bytes are not the ones asked for; they were not kept.
    #[error("the bytes have digest {found}, not {expected}")]
    WrongDigest {
        /// Asked for.
        expected: Digest,
        /// Computed from the bytes.
        found: Digest,
    },
    /// Nothing of that digest is here.
    #[error("there is no blob {0}")]
    NotFound(Digest),
    /// Another fetch of the same digest is under way.
    #[error("blob {0} is being fetched already")]
    Busy(Digest),
    /// The file system said no.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl BlobError {
    fn io(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace(path.to_owned()),
            _ => Self::Io { path: path.to_owned(), source },
        }
    }
}

/// One stored blob.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Blob {
    /// Its name.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
}

/// A stored blob and when it was last of use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept {
    /// Which.
    pub blob: Blob,
    /// When it was stored, or touched after that.
    pub touched: SystemTime,
}

/// A directory of blobs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct BlobDir {
    root: PathBuf,
}

impl BlobDir {
    /// Opens or makes the directory, mode 0700, and removes what a killed writer left.
    pub fn at(root: impl Into<PathBuf>) -> Result<Self, BlobError> {
        let root = root.into();
        for dir in [root.clone(), root.join("sha256"), root.join("partial"), root.join("temp")] {
            std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700)
                .create(&dir)
                .map_err(|e| BlobError::io(&dir, e))?;
        }
        let blobs = Self { root };
        blobs.remove_leftovers()?;
        Ok(blobs)
    }

    /// Where the blob's bytes are, or would be: for those who hand a path to QEMU.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join("sha256").join(digest.as_str())
    }

    /// Whether it is stored whole.
    pub fn has(&self, digest: &Digest) -> bool {
        self.path(digest).is_file()
    }

    /// Its bytes, for reading, and their number.
    pub async fn open(&self, digest: &Digest) -> Result<(tokio::fs::File, u64), BlobError> {
        let path = self.path(digest);
        let file = tokio::fs::File::open(&path).await.map_err(|e| self.missing(digest, e))?;
        let bytes = file.metadata().await.map_err(|e| BlobError::io(&path, e))?.len();
        Ok((file, bytes))
    }

    /// Everything stored whole, sorted by digest.
    pub fn list(&self) -> Result<Vec<Blob>, BlobError> {
        Ok(self.kept()?.into_iter().map(|kept| kept.blob).collect())
    }

    /// The same, with when each was last of use.
    pub fn kept(&self) -> Result<Vec<Kept>, BlobError> {
        let dir = self.root.join("sha256");
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(|e| BlobError::io(&dir, e))? {
            let entry = entry.map_err(|e| BlobError::io(&dir, e))?;
            let Some(digest) = entry.file_name().to_str().and_then(Digest::parse) else {
                continue;
            };
            match entry.metadata() {
                Ok(metadata) => {
                    let touched = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    found.push(Kept { blob: Blob { digest, bytes: metadata.len() }, touched });
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {} // removed meanwhile
                Err(e) => return Err(BlobError::io(&entry.path(), e)),
            }
        }
        found.sort_by(|one, other| one.blob.cmp(&other.blob));
        Ok(found)
    }

    /// Says that it is of use now. It is kept with the file, and outlives us.
    pub fn touch(&self, digest: &Digest, now: SystemTime) -> Result<(), BlobError> {
        let touched = File::open(self.path(digest)).and_then(|file| file.set_times(FileTimes::new().set_modified(now)));
        touched.map_err(|e| self.missing(digest, e))
    }

    /// Removes the blob, and what was fetched of it. Whoever has it open keeps reading.
    pub fn remove(&self, digest: &Digest) -> Result<(), BlobError> {
        let partial = std::fs::remove_file(self.partial_path(digest));
        match std::fs::remove_file(self.path(digest)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && partial.is_ok() => Ok(()),
            other => other.map_err(|e| self.missing(digest, e)),
        }
    }

    /// Reads the blob again and compares. One that rotted is removed, so that it is fetched anew.
    pub async fn verify(&self, digest: &Digest) -> Result<Blob, BlobError> {
        let path = self.path(digest);
        let hashed = digest_file(path.clone()).await;
        let found = match hashed {
            Ok(found) => found,
            Err(BlobError::Io { source, .. }) => return Err(self.missing(digest, source)),
            Err(other) => return Err(other),
        };
        if found.digest == *digest {
            return Ok(found);
        }
        _ = std::fs::remove_file(&path);
        Err(BlobError::WrongDigest { expected: digest.clone(), found: found.digest })
    }

    /// Begins a blob whose digest is not known yet. Blocks.
    pub fn stage(&self) -> Result<Staged, BlobError> {
        let temp = Temp::make(&self.root.join("temp"))?;
        Ok(Staged { blobs: self.clone(), temp, bytes: 0 })
    }

    /// Stores a stream to its end. With `expected`, other bytes are refused and not kept.
    pub async fn put_stream<R>(&self, expected: Option<&Digest>, mut reader: R) -> Result<Blob, BlobError>
    where
        R: AsyncRead + Unpin,
    {
        let mut temp = Temp::make(&self.root.join("temp"))?;
        let mut chunk = vec![0; CHUNK];
        loop {
            let length = reader.read(&mut chunk).await.map_err(|e| BlobError::io(&temp.path, e))?;
            if length == 0 {
                break;
            }
            (temp, chunk) = blocking(move || {
                temp.append(&chunk[..length])?;
                Ok((temp, chunk))
            })
            .await?;
        }
        let (blobs, expected) = (self.clone(), expected.cloned());
        blocking(move || {
            let found = temp.digest();
            if let Some(expected) = expected
                && expected != found
            {
                return Err(BlobError::WrongDigest { expected, found });
            }
            blobs.keep(&temp.file, &temp.path, found)
        })
        .await
    }

    /// Stores a copy of a file.
    pub async fn put_file(&self, path: &Path) -> Result<Blob, BlobError> {
        let file = tokio::fs::File::open(path).await.map_err(|e| BlobError::io(path, e))?;
        self.put_stream(None, file).await
    }

    /// Begins or resumes a fetch: ask the other side for the bytes from [`Partial::offset`] on.
    pub async fn partial(&self, digest: &Digest) -> Result<Partial, BlobError> {
        let (blobs, digest) = (self.clone(), digest.clone());
        blocking(move || Partial::resume(blobs, digest)).await
    }

    /// Removes what was begun and not gone on with since `before`. One that is being appended to stays.
    pub fn remove_partials(&self, before: SystemTime) -> Result<(), BlobError> {
        let dir = self.root.join("partial");
        for entry in std::fs::read_dir(&dir).map_err(|e| BlobError::io(&dir, e))?.flatten() {
            let is_old = entry.metadata().and_then(|found| found.modified()).is_ok_and(|at| at < before);
            if is_old
                && let Ok(file) = File::open(entry.path())
                && file.try_lock().is_ok()
            {
                _ = std::fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    /// How many fetches were begun and not finished.
    pub fn partials(&self) -> Result<usize, BlobError> {
        let dir = self.root.join("partial");
        Ok(std::fs::read_dir(&dir).map_err(|e| BlobError::io(&dir, e))?.count())
    }

    /// How many bytes of a fetch are here; `None` when none was begun.
    pub fn partial_bytes(&self, digest: &Digest) -> Option<u64> {
        std::fs::metadata(self.partial_path(digest)).map(|found| found.len()).ok()
    }

    fn partial_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("partial").join(digest.as_str())
    }

    fn missing(&self, digest: &Digest, source: io::Error) -> BlobError {
        match source.kind() {
            io::ErrorKind::NotFound => BlobError::NotFound(digest.clone()),
            _ => BlobError::io(&self.path(digest), source),
        }
    }

    /// Bytes first, then the name, then the directory: after power loss a name has its bytes.
    fn keep(&self, file: &File, at: &Path, digest: Digest) -> Result<Blob, BlobError> {
        let path = self.path(&digest);
        let kept = || -> io::Result<u64> {
            file.sync_all()?;
            let bytes = file.metadata()?.len();
            std::fs::rename(at, &path)?;
            File::open(self.root.join("sha256"))?.sync_all()?;
            Ok(bytes)
        };
        let bytes = kept().map_err(|e| BlobError::io(&path, e))?;
        Ok(Blob { digest, bytes })
    }

    /// A temp whose lock is free has no living writer.
    fn remove_leftovers(&self) -> Result<(), BlobError> {
        let dir = self.root.join("temp");
        for entry in std::fs::read_dir(&dir).map_err(|e| BlobError::io(&dir, e))?.flatten() {
            if let Ok(file) = File::open(entry.path())
                && file.try_lock().is_ok()
            {
                _ = std::fs::remove_file(entry.path());
            }
        }
        Ok(())
    }
}

/// A blob on its way in, over as many connections as it takes.
#[derive(Debug)]
pub struct Partial {
    blobs: BlobDir,
    digest: Digest,
    file: Locked,
    hash: Sha256,
    offset: u64,
}

impl Partial {
    fn resume(blobs: BlobDir, digest: Digest) -> Result<Self, BlobError> {
        let path = blobs.partial_path(&digest);
        let file =
            OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(|e| BlobError::io(&path, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(BlobError::Busy(digest)),
            Err(TryLockError::Error(e)) => return Err(BlobError::io(&path, e)),
        }
        let mut hash = Sha256::new();
        let offset = feed(&mut hash, &file).map_err(|e| BlobError::io(&path, e))?;
        Ok(Self { blobs, digest, file: Locked(file), hash, offset })
    }

    /// How many bytes are here: the next one to ask for.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Where they are, for those who look at them before they are kept.
    pub fn path(&self) -> PathBuf {
        self.blobs.partial_path(&self.digest)
    }

    /// What the bytes that are here come to.
    pub fn digest(&self) -> Digest {
        digest_of(self.hash.clone())
    }

    /// Adds the bytes that follow.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        let path = self.blobs.partial_path(&self.digest);
        if let Err(e) = self.file.0.write_all(bytes) {
            _ = self.file.0.set_len(self.offset); // what is hashed and what is stored stay equal
            return Err(BlobError::io(&path, e));
        }
        self.hash.update(bytes);
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Checks the digest and gives the blob its name. Wrong bytes are thrown away: the next fetch
    /// starts at 0.
    pub async fn finish(self) -> Result<Blob, BlobError> {
        blocking(move || {
            let path = self.blobs.partial_path(&self.digest);
            let found = digest_of(self.hash);
            if found != self.digest {
                std::fs::remove_file(&path).map_err(|e| BlobError::io(&path, e))?;
                return Err(BlobError::WrongDigest { expected: self.digest, found });
            }
            self.blobs.keep(&self.file.0, &path, self.digest)
        })
        .await
    }

    /// Throws away what was fetched.
    pub fn discard(self) -> Result<(), BlobError> {
        let path = self.blobs.partial_path(&self.digest);
        std::fs::remove_file(&path).map_err(|e| BlobError::io(&path, e))
    }
}

/// A blob on its way in whose digest is known at its end. Gone when dropped, unless it was kept.
pub struct Staged {
    blobs: BlobDir,
    temp: Temp,
    bytes: u64,
}

impl Staged {
    /// Adds the bytes that follow. Blocks.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.temp.append(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }
    /// Where they are, for those who look at them before they are kept.
    pub fn path(&self) -> &Path {
        &self.temp.path
    }
    /// What is there by now.
    pub fn blob(&self) -> Blob {
        Blob { digest: self.temp.digest(), bytes: self.bytes }
    }
    /// Gives the blob its name. Blocks until it is on the disk.
    pub fn keep(self) -> Result<Blob, BlobError> {
        self.blobs.keep(&self.temp.file, &self.temp.path, self.temp.digest())
    }
}

/// Unlocked when dropped, not merely closed: a process forked meanwhile shares the lock until its
/// exec, and would keep it for that long.
#[derive(Debug)]
pub struct Locked(pub File);
impl Drop for Locked {
    fn drop(&mut self) {
        _ = self.0.unlock();
    }
}

/// Digest and length of a file.
pub async fn digest_file(path: PathBuf) -> Result<Blob, BlobError> {
    blocking(move || {
        let mut hash = Sha256::new();
        let hashed = File::open(&path).and_then(|file| feed(&mut hash, &file));
        let bytes = hashed.map_err(|e| BlobError::io(&path, e))?;
        Ok(Blob { digest: digest_of(hash), bytes })
    })
    .await
}

/// Digest of bytes in memory.
pub fn digest_bytes(bytes: &[u8]) -> Digest {
    digest_of(Sha256::new_with_prefix(bytes))
}

/// A file without a name of its own yet; gone when dropped, unless it was renamed.
struct Temp {
    path: PathBuf,
    file: File,
    hash: Sha256,
}

impl Temp {
    fn make(dir: &Path) -> Result<Self, BlobError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = dir.join(format!("{}.{count}", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    file.lock().map_err(|e| BlobError::io(&path, e))?;
                    return Ok(Self { path, file, hash: Sha256::new() });
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {} // of an earlier process with our pid
                Err(e) => return Err(BlobError::io(&path, e)),
            }
        }
    }
    fn append(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.file.write_all(bytes).map_err(|e| BlobError::io(&self.path, e))?;
        self.hash.update(bytes);
        Ok(())
    }
    fn digest(&self) -> Digest {
        digest_of(self.hash.clone())
    }
}
impl Drop for Temp {
    fn drop(&mut self) {
        _ = std::fs::remove_file(&self.path);
    }
}

fn feed(hash: &mut Sha256, mut file: &File) -> io::Result<u64> {
    let mut chunk = vec![0; CHUNK];
    let mut total = 0;
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(total),
            Ok(length) => {
                hash.update(&chunk[..length]);
                total += length as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn digest_of(hash: Sha256) -> Digest {
    let text = hex::encode(hash.finalize());
    match Digest::parse(&text) {
        Some(digest) => digest,
        None => unreachable!("SHA-256 in hex is 64 digits"),
    }
}

async fn blocking<T, F>(work: F) -> Result<T, BlobError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, BlobError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(stopped) => Err(BlobError::Io { path: PathBuf::new(), source: io::Error::other(stopped) }),
    }
}

#[cfg(test)]
mod tests;
