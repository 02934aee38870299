//! The data directory: private, owned by one process at a time, and able to tell others where the
//! process listens.

use crate::authority::write_private;
use anyhow::Context;
use perigee_clock::Clock;
use perigee_model::InstanceId;
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// For one that was killed to be gone: five seconds.
const LOCK_TRIES: u32 = 100;
const LOCK_AGAIN: Duration = Duration::from_millis(50);

/// A data directory that this process owns until it ends.
pub struct Place {
    dir: PathBuf,
    _lock: File,
}

impl Place {
    /// Makes the directory if need be (0700), checks that nobody else can read it, and locks it.
    /// Waits some seconds for one that is ending.
    ///
    /// # Errors
    /// When it is open to others, or another perigeed has it.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        Self::open_in(dir, LOCK_TRIES)
    }

    fn open_in(dir: &Path, tries: u32) -> anyhow::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("{} cannot be made", dir.display()))?;
        let mode = std::fs::metadata(dir)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            anyhow::bail!("{} is open to others (mode {mode:o}): chmod 700 {}", dir.display(), dir.display());
        }
        let path = dir.join("perigeed.lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
        let mut left = tries;
        while let Err(error) = lock.try_lock() {
            // One that was killed has its lock until its memory is taken back: seconds, for a large one.
            left -= 1;
            if left == 0 {
                return Err(error).with_context(|| format!("another perigeed runs on {}", dir.display()));
            }
            std::thread::sleep(LOCK_AGAIN);
        }
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The instance id, made at the first start.
    ///
    /// # Errors
    /// When the file cannot be read or written, or holds something else.
    pub fn instance(&self, clock: &Clock) -> anyhow::Result<InstanceId> {
        let path = self.path("instance");
        match std::fs::read_to_string(&path) {
            Ok(text) => InstanceId::parse(text.trim())
                .with_context(|| format!("{} does not hold eight hex digits", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let id = InstanceId::from_bits(u32::from_le_bytes(clock.random()));
                self.write("instance", id.as_str())?;
                Ok(id)
            }
            Err(error) => Err(error).with_context(|| format!("{} cannot be read", path.display())),
        }
    }

    /// Writes a private file, whole or not at all.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.path(name);
        write_private(&path, text.as_bytes()).with_context(|| format!("{} cannot be written", path.display()))
    }

    /// Reads a file, if it is there.
    pub fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.path(name)).ok()
    }

    /// Removes a file; fine when there is none.
    pub fn remove(&self, name: &str) {
        drop(std::fs::remove_file(self.path(name)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_owner_and_no_spectators() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("d");
        let place = Place::open(&dir).unwrap();
        assert!(Place::open_in(&dir, 1).is_err_and(|e| e.to_string().contains("another perigeed")));
        let next = std::thread::spawn({
            let dir = dir.clone();
            move || Place::open(&dir).map(drop)
        });
        drop(place);
        assert!(next.join().unwrap().is_ok(), "it waits for one that ends");
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Place::open(&dir).is_err_and(|e| e.to_string().contains("chmod 700")));
    }

    #[test]
    fn the_instance_stays() {
        let root = tempfile::tempdir().unwrap();
        let place = Place::open(&root.path().join("d")).unwrap();
        let id = place.instance(&Clock::real()).unwrap();
        assert_eq!(place.instance(&Clock::real()).unwrap(), id);
        place.write("instance", "not one").unwrap();
        assert!(place.instance(&Clock::real()).is_err());
    }
}
