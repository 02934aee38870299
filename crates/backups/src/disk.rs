//! Files that are there whole or not at all, and the lock between those who name and those who remove.

use nix::fcntl::OFlag;
use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Unlocked when dropped, not merely closed: a process forked meanwhile shares the lock until its exec.
pub struct Held(File);

impl Drop for Held {
    fn drop(&mut self) {
        _ = self.0.unlock();
    }
}

/// Waits until nobody removes anything.
pub fn hold_shared(lock: &Path) -> io::Result<Held> {
    let file = lock_file(lock)?;
    file.lock_shared()?;
    Ok(Held(file))
}

/// Waits until nobody else holds it.
pub fn hold_alone(lock: &Path) -> io::Result<Held> {
    let file = lock_file(lock)?;
    file.lock()?;
    Ok(Held(file))
}

fn lock_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
}

/// Makes a folder for us alone, durable; fine when it is there.
pub fn make_dir(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => path.parent().map_or(Ok(()), sync_dir),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// After it a power cut leaves the names in a folder as they are.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The length of a file that may be read, its time set to now. `None`: nothing is there, or what is there
/// is no file with bytes in it.
pub fn touch(path: &Path) -> io::Result<Option<u64>> {
    let Some((file, bytes)) = open(path)? else { return Ok(None) };
    if bytes == 0 {
        return Ok(None);
    }
    futimens(&file, &TimeSpec::UTIME_NOW, &TimeSpec::UTIME_NOW)?;
    Ok(Some(bytes))
}

/// A file's bytes; one that is longer than `most` is read that far and one more.
pub fn read(path: &Path, most: usize) -> io::Result<Option<Vec<u8>>> {
    let Some((file, bytes)) = open(path)? else { return Ok(None) };
    let expected = usize::try_from(bytes).unwrap_or(usize::MAX).min(most);
    let mut found = Vec::with_capacity(expected + 1);
    file.take(most as u64 + 1).read_to_end(&mut found)?;
    Ok(Some(found))
}

/// Waits for no other end, follows no link.
fn open(path: &Path) -> io::Result<Option<(File, u64)>> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // A link, which is not ours; a socket.
        Err(error) if matches!(error.raw_os_error(), Some(code) if is_no_file(code)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let found = file.metadata()?;
    Ok(found.is_file().then_some((file, found.len())))
}

fn is_no_file(code: i32) -> bool {
    use nix::errno::Errno;
    matches!(Errno::from_raw(code), Errno::ELOOP | Errno::ENXIO)
}

/// Writes a small file anew: whole and durable, or as it was.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// A file without a name of its own yet; gone when dropped, unless it got one.
pub struct Temp {
    path: Option<PathBuf>,
    file: Held,
}

impl Temp {
    /// Makes one that [`remove_leftovers`] leaves alone; both under the repository's lock.
    pub fn make(dir: &Path) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = dir.join(format!("{}.{count}", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => {
                    file.lock()?;
                    return Ok(Self { path: Some(path), file: Held(file) });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {} // of an earlier process with our pid
                Err(error) => return Err(error),
            }
        }
    }

    /// Puts all of it there, durable.
    pub fn fill(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.0.write_all(bytes)?;
        self.file.0.sync_all()
    }

    /// Gives it a name, in the place of what has it.
    pub fn name(mut self, path: &Path) -> io::Result<()> {
        let Some(from) = &self.path else { return Ok(()) };
        std::fs::rename(from, path)?;
        // That name may be another's from now on.
        self.path = None;
        Ok(())
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            _ = std::fs::remove_file(path);
        }
    }
}

/// Removes what killed writers left: a temp whose lock is free has no living writer.
pub fn remove_leftovers(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if let Ok(file) = File::open(&path)
            && file.try_lock().is_ok()
        {
            _ = std::fs::remove_file(&path);
        }
    }
    Ok(())
}
