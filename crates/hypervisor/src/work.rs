//! What every real driver needs: words for what the system said, work off the event loop, and one
//! thing at a time for each guest.

use crate::HypervisorError;
use perigee_model::GuestId;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OwnedMutexGuard;

/// Says what was being done.
pub fn os(doing: impl Into<String>) -> impl FnOnce(io::Error) -> HypervisorError {
    let doing = doing.into();
    move |source| HypervisorError::Os { doing, source }
}

/// As [`os`], but a host without room says so.
pub fn room_or_os(doing: impl Into<String>) -> impl FnOnce(io::Error) -> HypervisorError {
    use nix::libc::{EAGAIN, EDQUOT, EMFILE, ENFILE, ENOMEM, ENOSPC};
    let doing = doing.into();
    move |source| match source.raw_os_error() {
        Some(EAGAIN | EDQUOT | EMFILE | ENFILE | ENOMEM | ENOSPC) => {
            HypervisorError::NoRoom(format!("{doing}: {source}"))
        }
        _ => HypervisorError::Os { doing, source },
    }
}

/// What was not there needs no removing.
pub fn gone(path: &Path, removed: io::Result<()>) -> Result<(), HypervisorError> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(os(format!("removing {}", path.display()))(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// File system work, where it delays nobody else.
pub async fn off_thread<T, F>(work: F) -> Result<T, HypervisorError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, HypervisorError> + Send + 'static,
{
    finish(tokio::task::spawn_blocking(work)).await
}

/// The answer of a task of its own.
pub async fn finish<T>(
    task: impl Future<Output = Result<Result<T, HypervisorError>, tokio::task::JoinError>>,
) -> Result<T, HypervisorError> {
    match task.await {
        Ok(done) => done,
        Err(stopped) => Err(os("a task of the driver stopped")(io::Error::other(stopped))),
    }
}

/// One piece of work on a guest after the other.
#[derive(Debug, Default)]
pub struct Gates(Mutex<BTreeMap<GuestId, Arc<tokio::sync::Mutex<()>>>>);

impl Gates {
    /// Waits for its turn; the next one's comes when the guard is dropped.
    pub async fn alone(&self, guest: GuestId) -> OwnedMutexGuard<()> {
        let gate = {
            let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // One that only this map knows is nobody's.
            gates.retain(|_, gate| Arc::strong_count(gate) > 1);
            gates.entry(guest).or_default().clone()
        };
        gate.lock_owned().await
    }
}
