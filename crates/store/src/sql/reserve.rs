//! The reserve: disk space kept back so that things can be deleted on a full disk.
//!
//! Owns: one file beside the database. It is filled when there is room, and given up when a
//! delete finds the disk full: a delete, too, must first be written to the log.

use std::cell::Cell;
use std::io::{Error, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Enough for the log to be folded into the database and to be begun anew.
const RESERVE_BYTES: usize = 4 << 20;

/// The file that holds the space.
pub(super) struct Reserve {
    path: PathBuf,
    is_whole: Cell<bool>,
}

impl Reserve {
    /// Beside the database at `path`.
    pub fn beside(path: &Path) -> Self {
        let mut name = path.as_os_str().to_owned();
        name.push("-reserve");
        Self { path: name.into(), is_whole: Cell::new(false) }
    }

    /// Fills it unless it is full already. `false`: the disk has no room for it. Any other reason
    /// why there is none (a folder that cannot be written) stops nobody from working.
    pub fn fill(&self) -> bool {
        let length = || std::fs::metadata(&self.path).map_or(0, |m| m.len());
        if self.is_whole.get() || length() == RESERVE_BYTES as u64 {
            self.is_whole.set(true);
            return true;
        }
        let written = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&self.path)
            .and_then(|mut file| file.write_all(&vec![0x55; RESERVE_BYTES]).and_then(|()| file.sync_all()));
        let no_room = |e: &Error| matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
        if let Err(error) = &written {
            tracing::warn!(%error, "the store's reserve cannot be written");
            self.give_up();
        }
        let has_room = !written.is_err_and(|error| no_room(&error));
        self.is_whole.set(has_room);
        has_room
    }

    /// Gives the space back to the disk.
    pub fn give_up(&self) {
        self.is_whole.set(false);
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(%error, "the store's reserve cannot be removed");
        }
    }
}
