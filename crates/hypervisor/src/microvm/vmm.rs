//! One living VMM, and the watch on it.
//!
//! Owns: holding on to the process by pidfd, killing it, saying once how it ended.
//! Refuses: pids. A VMM that this process did not start is held the same way.

use super::record::Record;
use super::sys;
use perigee_model::GuestId;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

/// A VMM that lived when it was last looked at.
#[derive(Debug)]
pub struct Vmm {
    /// Whose.
    pub guest: GuestId,
    /// Its process.
    pub pid: u32,
    pidfd: OwnedFd,
    console: Option<Record>,
    errors: Option<Record>,
    /// Its end is somebody's wish or answer already, and no news.
    expected: AtomicBool,
    end: watch::Sender<Option<String>>,
}

impl Vmm {
    /// One that this process started.
    pub fn started(guest: GuestId, pid: u32, pidfd: OwnedFd, console: Record, errors: Record) -> Self {
        Self::held(guest, pid, pidfd, (Some(console), Some(errors)), true)
    }

    /// One found among the host's processes.
    pub fn adopted(guest: GuestId, pid: u32, pidfd: OwnedFd) -> Self {
        Self::held(guest, pid, pidfd, (Record::of_process(pid, 1), Record::of_process(pid, 2)), false)
    }

    fn held(
        guest: GuestId,
        pid: u32,
        pidfd: OwnedFd,
        (console, errors): (Option<Record>, Option<Record>),
        expected: bool,
    ) -> Self {
        let expected = AtomicBool::new(expected);
        Self { guest, pid, pidfd, console, errors, expected, end: watch::Sender::new(None) }
    }

    /// Whether its end is no news: while it starts, and when it is being killed.
    pub fn expect_end(&self, expected: bool) {
        self.expected.store(expected, Ordering::SeqCst);
    }
    /// As last set.
    pub fn is_end_expected(&self) -> bool {
        self.expected.load(Ordering::SeqCst)
    }

    /// Kills it. Fine when it is dead.
    pub fn kill(&self) -> io::Result<()> {
        sys::kill(&self.pidfd)
    }

    /// Whether it was seen to end.
    pub fn has_ended(&self) -> bool {
        self.end.borrow().is_some()
    }

    /// Waits until it ended; how it did.
    pub async fn ended(&self) -> String {
        let mut end = self.end.subscribe();
        match end.wait_for(Option::is_some).await {
            Ok(text) => text.clone().unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    /// Waits for its end and reaps it; then everyone in [`Vmm::ended`] hears of it. `more` is
    /// what only the caller can add to the words.
    pub async fn watch(&self, more: impl FnOnce() -> Option<String>) -> io::Result<String> {
        sys::dead(&self.pidfd).await?;
        let mut text = sys::reap(&self.pidfd);
        if let Some(more) = more() {
            text.push_str(": ");
            text.push_str(&more);
        }
        for (name, record) in [("it said", &self.errors), ("console", &self.console)] {
            let lines = record.as_ref().map(Record::last_lines).unwrap_or_default();
            if !lines.is_empty() {
                text.push_str(&format!("\n{name}: {lines}"));
            }
        }
        self.end.send_replace(Some(text.clone()));
        Ok(text)
    }
}
