//! The key's file: 64 hex digits that nobody but its owner may read.

use crate::seal::KeyBytes;
use crate::{Random, RepositoryError, disk};
use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Digits, a line feed, and what an editor may have added.
const FILE_BYTES_MAX: u64 = 128;

/// Where the key is, or will be once it is needed.
pub struct KeyFile {
    path: PathBuf,
    random: Arc<Random>,
}

impl KeyFile {
    pub fn at(path: PathBuf, random: Arc<Random>) -> Self {
        Self { path, random }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The key, if there is one.
    pub fn load(&self) -> Result<Option<KeyBytes>, RepositoryError> {
        let file = match OpenOptions::new().read(true).open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.io(error)),
        };
        let mode = file.metadata().map_err(|e| self.io(e))?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(RepositoryError::KeyOpen { path: self.path.clone(), mode });
        }
        let mut text = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut text).map_err(|e| self.io(e))?;
        let mut key = KeyBytes::default();
        hex::decode_to_slice(text.trim_ascii(), &mut key)
            .map_err(|_| RepositoryError::KeyMalformed(self.path.clone()))?;
        Ok(Some(key))
    }

    /// The key, made if there is none yet. Of two who make one the first wins.
    pub fn load_or_make(&self) -> Result<KeyBytes, RepositoryError> {
        if let Some(key) = self.load()? {
            return Ok(key);
        }
        self.make().map_err(|e| self.io(e))?;
        self.load()?.ok_or_else(|| RepositoryError::KeyMissing(self.path.clone()))
    }

    /// The key gets its name when it is whole and durable, and takes no other's.
    fn make(&self) -> io::Result<()> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let mut key = KeyBytes::default();
        (self.random)(&mut key);
        let fresh = self.path.with_extension(format!("{}.new", std::process::id()));
        _ = std::fs::remove_file(&fresh);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        let named =
            writeln!(file, "{}", hex::encode(key)).and_then(|()| file.sync_all()).and_then(
                |()| match std::fs::hard_link(&fresh, &self.path) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                    linked => linked,
                },
            );
        _ = std::fs::remove_file(&fresh);
        named?;
        disk::sync_dir(dir)
    }

    fn io(&self, source: io::Error) -> RepositoryError {
        RepositoryError::io(&self.path, source)
    }
}
