//! The programs of an instance on this machine: where they write themselves down, and whether
//! what is written is still true.
//!
//! A process is ours only if the recorded pid lives, runs the right program, and has our data
//! directory among its arguments. A number alone may have gone to somebody else since.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use perigee_client::{Address, Client};
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A health route that takes longer is not healthy.
const HEALTH_PATIENCE: Duration = Duration::from_secs(2);
/// Between looks at a process that shall end.
const LOOK: Duration = Duration::from_millis(20);

/// One of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Program {
    /// `perigeed`.
    ControlPlane,
    /// `perigee-agent`.
    Agent,
    /// `perigee-sim fleet`: hosts that are played.
    Fleet,
}

/// `endpoints.json`: what a program writes when it listens.
#[derive(Clone, Debug, Deserialize)]
pub struct Endpoints {
    /// Its process.
    pub pid: i32,
    /// The control plane's API.
    #[serde(default)]
    pub http: Option<String>,
    /// Where agents dial.
    #[serde(default)]
    pub agents: Option<String>,
    /// The agent's health.
    #[serde(default)]
    pub health: Option<String>,
}

impl Program {
    /// The name of its file.
    pub fn name(self) -> &'static str {
        match self {
            Self::ControlPlane => "perigeed",
            Self::Agent => "perigee-agent",
            Self::Fleet => "perigee-sim",
        }
    }
    /// Its own directory in the instance's.
    pub fn dir(self, root: &Path) -> PathBuf {
        match self {
            Self::ControlPlane => root.to_owned(),
            Self::Agent => root.join("agent"),
            Self::Fleet => root.join("fleet"),
        }
    }
    /// Where its standard error goes.
    pub fn log(self, root: &Path) -> PathBuf {
        match self {
            Self::ControlPlane => root.join("perigeed.log"),
            Self::Agent => root.join("agent").join("agent.log"),
            Self::Fleet => root.join("fleet").join("fleet.log"),
        }
    }

    /// What it wrote when it listened, true or not.
    pub fn recorded(self, root: &Path) -> Option<Endpoints> {
        let text = fs::read(self.dir(root).join("endpoints.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// The process with this number is this program of this instance, and lives.
    pub fn is(self, root: &Path, pid: i32) -> bool {
        let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
        let words: Vec<String> = line.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
        let program = words.first().and_then(|w| Path::new(w).file_name());
        program.is_some_and(|name| name == self.name()) && names_dir(&words[1..], &self.dir(root)) && !is_zombie(pid)
    }

    /// What it wrote, if it is running now and answers.
    pub async fn alive(self, root: &Path) -> Option<Endpoints> {
        let endpoints = self.recorded(root).filter(|e| self.is(root, e.pid))?;
        self.answers(&endpoints).await.then_some(endpoints)
    }

    /// Its health route answers.
    pub async fn answers(self, endpoints: &Endpoints) -> bool {
        let url = match self {
            Self::ControlPlane => endpoints.http.as_deref(),
            Self::Agent => endpoints.health.as_deref(),
            // It listens nowhere.
            Self::Fleet => return true,
        };
        let Some(Ok(address)) = url.map(Address::parse) else { return false };
        Client::new(address, None).with_patience(HEALTH_PATIENCE).live().await.is_ok()
    }

    /// Asks the process to end, or ends it; `false` when it was not there.
    pub fn signal(self, root: &Path, pid: i32, signal: Signal) -> bool {
        self.is(root, pid) && kill(Pid::from_raw(pid), signal).is_ok()
    }

    /// The process is gone before the deadline.
    pub async fn gone(self, root: &Path, pid: i32, deadline: Instant) -> bool {
        while self.is(root, pid) {
            if Instant::now() >= deadline {
                return false;
            }
            sleep(LOOK).await;
        }
        true
    }
}

/// `--data-dir DIR` or `--data-dir=DIR`.
fn names_dir(arguments: &[String], dir: &Path) -> bool {
    arguments.iter().enumerate().any(|(i, word)| match word.strip_prefix("--data-dir") {
        Some("") => arguments.get(i + 1).is_some_and(|next| Path::new(next) == dir),
        Some(rest) => rest.strip_prefix('=').is_some_and(|given| Path::new(given) == dir),
        None => false,
    })
}

/// Ended, and only not yet waited for by its parent.
fn is_zombie(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    // The name before it is in parentheses and may hold anything, parentheses too.
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z') || rest.starts_with('X'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_is_a_whole_argument() {
        let words = |t: &str| t.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let dir = Path::new("/tmp/a");
        assert!(names_dir(&words("run --data-dir /tmp/a --x"), dir));
        assert!(names_dir(&words("--data-dir=/tmp/a"), dir));
        for other in ["--data-dir /tmp/ab", "--data-dir=/tmp", "/tmp/a", "--data-dir", "--data-dirs /tmp/a"] {
            assert!(!names_dir(&words(other), dir), "{other}");
        }
    }

    #[test]
    fn this_test_is_neither_program_nor_zombie() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(!is_zombie(pid));
        assert!(!Program::Agent.is(Path::new("/tmp/a"), pid));
        assert!(!Program::ControlPlane.signal(Path::new("/tmp/a"), pid, Signal::SIGTERM));
    }
}
