//! What no index names any more, and what all of it takes.
//!
//! Files that are younger than the moment given stay whatever an index says: a backup that is under way
//! has no index yet, and each of its chunks is young, because whoever finds one there touches it.

use crate::repository::{Repository, Room};
use crate::{RepositoryError, disk};
use perigee_model::Digest;
use std::collections::HashSet;
use std::fs::{DirEntry, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Chunks that are needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// As they are.
    pub plain: HashSet<Digest>,
    /// Sealed.
    pub sealed: HashSet<Digest>,
}

/// What a sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// So many chunks.
    pub files: u64,
    /// Their bytes on the disk.
    pub bytes: u64,
}

/// What is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// So many chunks.
    pub files: u64,
    /// Their bytes on the disk.
    pub bytes: u64,
}

impl Repository {
    /// Removes every chunk that is not among the kept ones and was last stored or asked for before
    /// `older_than`, and what killed writers left. Others may work on the repository meanwhile.
    ///
    /// # Errors
    /// `Key…` before anything is removed; `Io`.
    pub async fn sweep(&self, kept: Kept, older_than: SystemTime) -> Result<Swept, RepositoryError> {
        self.blocking(move |room| room.sweep(&kept, older_than)).await
    }

    /// How many chunks there are and what they take.
    ///
    /// # Errors
    /// `Io`.
    pub async fn usage(&self) -> Result<Usage, RepositoryError> {
        self.blocking(|room| {
            let mut usage = Usage::default();
            for shard in ["plain", "sealed"].iter().flat_map(|tree| shards(&room.root().join(tree))) {
                each_chunk(&shard, |_, found| {
                    usage.files += 1;
                    usage.bytes += found.len();
                    Ok(())
                })
                .map_err(|e| RepositoryError::io(&shard, e))?;
            }
            Ok(usage)
        })
        .await
    }
}

impl Room {
    fn sweep(&self, kept: &Kept, older_than: SystemTime) -> Result<Swept, RepositoryError> {
        let seal = if kept.sealed.is_empty() { None } else { self.seal(false)? };
        if seal.is_none() && !kept.sealed.is_empty() {
            return Err(RepositoryError::KeyMissing(self.key_file().to_owned()));
        }
        let plain: HashSet<String> = kept.plain.iter().map(ToString::to_string).collect();
        let sealed = seal.iter().flat_map(|seal| kept.sealed.iter().map(|digest| seal.name(digest))).collect();
        let mut swept = Swept::default();
        for (tree, names) in [("plain", plain), ("sealed", sealed)] {
            for shard in shards(&self.root().join(tree)) {
                let done = self.sweep_shard(&shard, &names, older_than, &mut swept);
                done.map_err(|e| RepositoryError::io(&shard, e))?;
            }
        }
        let temp = self.root().join("temp");
        let tidied = self.alone().and_then(|_alone| disk::remove_leftovers(&temp));
        tidied.map_err(|e| RepositoryError::io(&temp, e))?;
        Ok(swept)
    }

    /// One of 256: whoever wants to store something waits no longer than for this.
    fn sweep_shard(
        &self,
        shard: &Path,
        kept: &HashSet<String>,
        older_than: SystemTime,
        swept: &mut Swept,
    ) -> io::Result<()> {
        let _alone = self.alone()?;
        each_chunk(shard, |entry, found| {
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| kept.contains(name)) || found.modified()? >= older_than {
                return Ok(());
            }
            std::fs::remove_file(entry.path())?;
            swept.files += 1;
            swept.bytes += found.len();
            Ok(())
        })
    }
}

/// The folders of a tree that are there.
fn shards(tree: &Path) -> Vec<PathBuf> {
    (0..=u8::MAX).map(|first| tree.join(hex::encode([first]))).filter(|shard| shard.is_dir()).collect()
}

/// Files that are named as chunks are; what else lies there is not ours.
fn each_chunk(shard: &Path, mut visit: impl FnMut(&DirEntry, &Metadata) -> io::Result<()>) -> io::Result<()> {
    for entry in std::fs::read_dir(shard)? {
        let entry = entry?;
        if entry.file_name().to_str().and_then(Digest::parse).is_none() {
            continue;
        }
        match entry.metadata() {
            Ok(found) if found.is_file() => visit(&entry, &found)?,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {} // removed meanwhile
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
