//! Running a program of the host's on files that somebody else may have had a hand in.
//!
//! ```text
//!   Confined ─start─▶ a thread that owns the child ─▶ Running: its end, told once; killed when dropped
//! ```
//! Owns: what such a process reaches (the files that are named, its libraries, no network), how much it may use,
//! whose it is, and that it ends with us.
//! Refuses: a shell, an environment, standard input, programs outside the system's folders.
//!
//! | what | by | where it is missing |
//! |---|---|---|
//! | files | Landlock (Linux 5.13) | said once in the log |
//! | network | a name space of its own, and Landlock's TCP rules (Linux 6.7) | not started when both are |
//! | privileges | another user, no capabilities, none to be had by exec | as the agent's own user, when that is not root |
//! | memory, file size, files, cores | rlimits | – |
#![deny(unsafe_code)]

mod child;
mod reach;

pub use reach::Reach;

use child::Child;
use nix::libc::rlim_t;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use tokio::sync::oneshot;

/// Where programs are looked for. Nothing of our own environment decides it.
const PROGRAMS_IN: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// So much of what it says on its standard error is kept.
const SAID_BYTES_MAX: u64 = 4096;
/// Address space: QEMU's tools take 240 MiB of it when they start, and more for each thread and table.
const MEMORY_BYTES_MAX: rlim_t = 4 << 30;
/// Open files.
const FILES_MAX: rlim_t = 256;

/// Why a program was not started.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// It is not on this host.
    #[error("this host has no {0}")]
    Missing(String),
    /// A file that it is to reach cannot be.
    #[error("{} cannot be handed over", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system refused to make the process, or to shut it in.
    #[error("{program} cannot be started")]
    Start {
        /// Which.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A program, and what it may.
#[derive(Clone, Debug)]
pub struct Confined {
    /// Its name, without a folder.
    pub program: &'static str,
    /// What it is told.
    pub arguments: Vec<OsString>,
    /// User and group that it runs as. Counts when we are root.
    pub user: (u32, u32),
    /// What it reaches of the file system.
    pub reach: Reach,
    /// The longest that it can make a file.
    pub file_bytes_max: u64,
}

/// How a process ended.
#[derive(Debug)]
pub struct End {
    /// What the system says of it.
    pub status: ExitStatus,
    /// The beginning of what it said on its standard error.
    pub said: String,
}

impl End {
    /// Why: its own words, or the system's of one that had none, as when it was killed.
    pub fn why(&self) -> String {
        match self.said.trim() {
            "" => self.status.to_string(),
            said => said.to_owned(),
        }
    }
}

/// A process. It is killed when this is dropped, and when we end, however that is.
#[derive(Debug)]
pub struct Running {
    process: OwnedFd,
    end: oneshot::Receiver<io::Result<End>>,
}

impl Confined {
    /// Starts it.
    ///
    /// # Errors
    /// `ConfineError`: nothing runs then.
    pub async fn start(self) -> Result<Running, ConfineError> {
        let (started, starts) = oneshot::channel();
        let name = self.program;
        let lost = move |source| ConfineError::Start { program: name.to_owned(), source };
        // The kernel ends the child with the thread that made it: one that lives as long as the child does.
        let thread = std::thread::Builder::new().name(name.chars().take(15).collect());
        thread.spawn(move || own(&self, started)).map_err(lost)?;
        starts.await.unwrap_or_else(|_| Err(lost(io::Error::other("its thread ended"))))
    }

    fn command(&self) -> Result<Command, ConfineError> {
        let program = found(self.program).ok_or_else(|| ConfineError::Missing(self.program.to_owned()))?;
        let rules = self.reach.rules(&program)?;
        let mut command = Command::new(program);
        command.args(&self.arguments).env_clear().current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = Child {
            user: nix::unistd::geteuid().is_root().then_some(self.user),
            parent: nix::unistd::getpid(),
            limits: [MEMORY_BYTES_MAX, self.file_bytes_max, FILES_MAX],
            denies_tcp: rules.denies_tcp,
            rules: rules.fd,
        };
        child.shut_in(&mut command);
        Ok(command)
    }
}

/// The thread of one process: starts it, hears what it says, and waits for its end.
fn own(confined: &Confined, started: oneshot::Sender<Result<Running, ConfineError>>) {
    let program = || confined.program.to_owned();
    let spawned = confined
        .command()
        .and_then(|mut command| command.spawn().map_err(|source| ConfineError::Start { program: program(), source }));
    let mut process = match spawned {
        Ok(process) => process,
        Err(error) => {
            drop(started.send(Err(error)));
            return;
        }
    };
    let (ended, end) = oneshot::channel();
    let held = child::pidfd_open(process.id()).map_err(|source| ConfineError::Start { program: program(), source });
    let held = held.inspect_err(|_| drop(process.kill()));
    drop(started.send(held.map(|held| Running { process: held, end })));
    let mut said = Vec::new();
    if let Some(mut from) = process.stderr.take() {
        drop(from.by_ref().take(SAID_BYTES_MAX).read_to_end(&mut said));
        drop(io::copy(&mut from, &mut io::sink()));
    }
    let status = process.wait();
    drop(ended.send(status.map(|status| End { status, said: String::from_utf8_lossy(&said).into_owned() })));
}

impl Running {
    /// Waits for its end, which is told once. Safe to drop and to call again.
    ///
    /// # Errors
    /// When the system does not tell how it ended.
    pub async fn end(&mut self) -> io::Result<End> {
        (&mut self.end).await.unwrap_or_else(|_| Err(io::Error::other("its end was told")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = child::kill(&self.process) {
            tracing::warn!(%error, "a confined process cannot be killed");
        }
    }
}

fn found(program: &str) -> Option<PathBuf> {
    PROGRAMS_IN.iter().map(|folder| Path::new(folder).join(program)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests;
