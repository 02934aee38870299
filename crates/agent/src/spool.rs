//! What commands wrote, one file per stream.
//!
//! Owns: appending and reading bytes by offset. The length of a stream is what the agent has of
//! it, so it is also where the guest goes on after a break.
//! Refuses: limits (the execution's task keeps them) and retention (the janitor's).

use perigee_model::ExecutionId;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Which output of a command.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn suffix(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Output of executions. Calls are short: they touch the page cache, not the disk.
pub trait Spool: Send + Sync {
    /// Adds to the end of a stream.
    ///
    /// # Errors
    /// What the operating system says, `StorageFull` among it.
    fn append(&self, execution: ExecutionId, stream: Stream, bytes: &[u8]) -> std::io::Result<()>;
    /// At most `most` bytes from `offset` on; empty at the end or when nothing was ever written.
    ///
    /// # Errors
    /// What the operating system says.
    fn read(&self, execution: ExecutionId, stream: Stream, offset: u64, most: usize) -> std::io::Result<Vec<u8>>;
    /// How much there is.
    ///
    /// # Errors
    /// What the operating system says.
    fn len(&self, execution: ExecutionId, stream: Stream) -> std::io::Result<u64>;
    /// Removes both streams. Fine when there are none.
    ///
    /// # Errors
    /// What the operating system says.
    fn remove(&self, execution: ExecutionId) -> std::io::Result<()>;
    /// Every execution that has a stream here.
    ///
    /// # Errors
    /// What the operating system says.
    fn list(&self) -> std::io::Result<Vec<ExecutionId>>;
}

/// Files `<execution>.stdout` and `<execution>.stderr` in one folder.
#[derive(Debug, Clone)]
pub struct DirSpool {
    root: PathBuf,
}

impl DirSpool {
    /// Under this folder, which it makes (0700).
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(root: impl Into<PathBuf>) -> std::io::Result<Self> {
        let root = root.into();
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&root)?;
        Ok(Self { root })
    }
    fn path(&self, execution: ExecutionId, stream: Stream) -> PathBuf {
        self.root.join(format!("{execution}.{}", stream.suffix()))
    }
}

impl Spool for DirSpool {
    fn append(&self, execution: ExecutionId, stream: Stream, bytes: &[u8]) -> std::io::Result<()> {
        let path = self.path(execution, stream);
        std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path)?.write_all(bytes)
    }
    fn read(&self, execution: ExecutionId, stream: Stream, offset: u64, most: usize) -> std::io::Result<Vec<u8>> {
        let mut file = match std::fs::File::open(self.path(execution, stream)) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.take(most as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
    fn len(&self, execution: ExecutionId, stream: Stream) -> std::io::Result<u64> {
        match std::fs::metadata(self.path(execution, stream)) {
            Ok(meta) => Ok(meta.len()),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(0),
            Err(e) => Err(e),
        }
    }
    fn remove(&self, execution: ExecutionId) -> std::io::Result<()> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            match std::fs::remove_file(self.path(execution, stream)) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }
    fn list(&self) -> std::io::Result<Vec<ExecutionId>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.root)? {
            let name = entry?.file_name();
            let id: Option<ExecutionId> = name.to_str().and_then(|n| n.split('.').next()).and_then(|n| n.parse().ok());
            found.extend(id);
        }
        found.sort();
        found.dedup();
        Ok(found)
    }
}

type Streams = BTreeMap<(ExecutionId, Stream), Vec<u8>>;

/// In memory; clones share, so that it outlives a simulated crash.
#[derive(Debug, Clone, Default)]
pub struct MemorySpool {
    streams: Arc<Mutex<Streams>>,
}

impl MemorySpool {
    fn with<T>(&self, f: impl FnOnce(&mut Streams) -> T) -> T {
        f(&mut self.streams.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Spool for MemorySpool {
    fn append(&self, execution: ExecutionId, stream: Stream, bytes: &[u8]) -> std::io::Result<()> {
        self.with(|s| s.entry((execution, stream)).or_default().extend_from_slice(bytes));
        Ok(())
    }
    fn read(&self, execution: ExecutionId, stream: Stream, offset: u64, most: usize) -> std::io::Result<Vec<u8>> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let take = |all: &Vec<u8>| all.iter().skip(from).take(most).copied().collect();
        Ok(self.with(|s| s.get(&(execution, stream)).map(take).unwrap_or_default()))
    }
    fn len(&self, execution: ExecutionId, stream: Stream) -> std::io::Result<u64> {
        Ok(self.with(|s| s.get(&(execution, stream)).map_or(0, |all| all.len() as u64)))
    }
    fn remove(&self, execution: ExecutionId) -> std::io::Result<()> {
        self.with(|s| s.retain(|(id, _), _| *id != execution));
        Ok(())
    }
    fn list(&self) -> std::io::Result<Vec<ExecutionId>> {
        let mut found: Vec<_> = self.with(|s| s.keys().map(|(id, _)| *id).collect());
        found.dedup();
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contract(spool: &dyn Spool) {
        let id = ExecutionId::new(uuid::Uuid::from_u128(7));
        assert_eq!(spool.len(id, Stream::Stdout).unwrap(), 0);
        assert_eq!(spool.read(id, Stream::Stdout, 0, 9).unwrap(), b"");
        spool.append(id, Stream::Stdout, b"hello ").unwrap();
        spool.append(id, Stream::Stderr, b"oh").unwrap();
        spool.append(id, Stream::Stdout, b"world").unwrap();
        assert_eq!(spool.len(id, Stream::Stdout).unwrap(), 11);
        assert_eq!(spool.read(id, Stream::Stdout, 4, 4).unwrap(), b"o wo");
        assert_eq!(spool.read(id, Stream::Stdout, 11, 4).unwrap(), b"");
        assert_eq!(spool.read(id, Stream::Stderr, 0, 4).unwrap(), b"oh");
        assert_eq!(spool.list().unwrap(), [id]);
        spool.remove(id).unwrap();
        spool.remove(id).unwrap();
        assert_eq!(spool.list().unwrap(), []);
    }

    #[test]
    fn both_spools_keep_the_contract() {
        let folder = tempfile::tempdir().unwrap();
        contract(&DirSpool::open(folder.path()).unwrap());
        contract(&MemorySpool::default());
    }
}
