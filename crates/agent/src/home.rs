//! The agent's data directory.
//!
//! Owns: its modes, its lock, the instance id, the local token, `endpoints.json`. Refuses: a
//! directory others can read, and a second agent on the same one.

use crate::identity::{IdentityError, check_mode};
use crate::journal::{Keep, replace};
use nix::fcntl::{Flock, FlockArg};
use perigee_clock::Clock;
use perigee_model::InstanceId;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Another agent runs on it.
    #[error("another agent runs on {}", .0.display())]
    Taken(PathBuf),
    /// It belongs to another instance.
    #[error("{} belongs to instance {known}", .path.display())]
    OtherInstance {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        known: InstanceId,
    },
    /// Its modes or the modes of something in it.
    #[error(transparent)]
    Mode(#[from] IdentityError),
    /// The operating system refused.
    #[error("{} cannot be used", .path.display())]
    Os {
        /// What.
        path: PathBuf,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
}

fn os(path: &Path) -> impl FnOnce(std::io::Error) -> HomeError + '_ {
    |source| HomeError::Os { path: path.to_owned(), source }
}

/// Makes a data directory (0700) or checks the modes of the one that is there.
///
/// # Errors
/// `Mode`, `Os`.
pub fn prepare(path: &Path) -> Result<(), HomeError> {
    if !path.exists() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(os(path))?;
    }
    check_mode(path, 0o700)?;
    Ok(())
}

/// A data directory, held by this process.
pub struct Home {
    path: PathBuf,
    _lock: Flock<std::fs::File>,
    /// Marks everything this agent makes on the host.
    pub instance: InstanceId,
    /// Opens the detailed health page.
    pub token: String,
}

impl Home {
    /// Takes the directory; made (0700) when it is not there. `instance` is used at first start.
    ///
    /// # Errors
    /// Every `HomeError`.
    pub fn open(path: &Path, instance: Option<InstanceId>, clock: &Clock) -> Result<Self, HomeError> {
        prepare(path)?;
        let lock_path = path.join("agent.lock");
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
        let file = file.map_err(os(&lock_path))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        let lock = lock.map_err(|(_, errno)| match errno {
            nix::errno::Errno::EWOULDBLOCK => HomeError::Taken(path.to_owned()),
            other => os(&lock_path)(other.into()),
        })?;
        let fresh = instance.clone().unwrap_or_else(|| InstanceId::from_bits(u32::from_le_bytes(clock.random())));
        let known = word(&path.join("instance"), fresh.as_str())?;
        let known = InstanceId::parse(&known).ok_or_else(|| IdentityError::Damaged(path.join("instance")))?;
        if instance.is_some_and(|wanted| wanted != known) {
            return Err(HomeError::OtherInstance { path: path.to_owned(), known });
        }
        let token = word(&path.join("token"), &hex::encode(clock.random::<32>()))?;
        Ok(Self { path: path.to_owned(), _lock: lock, instance: known, token })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Says where the agent answers: each of its places by name.
    ///
    /// # Errors
    /// `Os`.
    pub fn tell_endpoints(&self, places: &[(&str, String)]) -> Result<(), HomeError> {
        let path = self.path.join("endpoints.json");
        let mut json: serde_json::Map<String, serde_json::Value> =
            places.iter().map(|(name, place)| ((*name).to_owned(), place.clone().into())).collect();
        json.insert("pid".to_owned(), std::process::id().into());
        replace(&path, serde_json::Value::Object(json).to_string().as_bytes(), Keep::Process).map_err(os(&path))
    }

    /// Keeps the control plane's URL for the next start.
    ///
    /// # Errors
    /// `Os`.
    pub fn keep_server(&self, url: &str) -> Result<(), HomeError> {
        self.keep("server", url)
    }

    /// The control plane's URL of the last join or start.
    pub fn server(&self) -> Option<String> {
        self.kept("server")
    }

    /// Keeps where this host's libvirt listened, for a start at which it does not.
    ///
    /// # Errors
    /// `Os`.
    pub fn keep_libvirt(&self, socket: &Path) -> Result<(), HomeError> {
        self.keep("libvirt", &socket.to_string_lossy())
    }

    /// Where libvirt listened when it was seen last.
    pub fn libvirt(&self) -> Option<PathBuf> {
        self.kept("libvirt").map(PathBuf::from)
    }

    fn keep(&self, name: &str, line: &str) -> Result<(), HomeError> {
        if self.kept(name).as_deref() == Some(line) {
            return Ok(());
        }
        let path = self.path.join(name);
        replace(&path, format!("{line}\n").as_bytes(), Keep::Power).map_err(os(&path))
    }

    fn kept(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.path.join(name)).ok().map(|line| line.trim().to_owned())
    }

    /// Nobody answers here any more.
    pub fn forget_endpoints(&self) {
        let _ = std::fs::remove_file(self.path.join("endpoints.json"));
    }
}

/// The word in a 0600 file; written when there is none.
fn word(path: &Path, fresh: &str) -> Result<String, HomeError> {
    if !path.exists() {
        replace(path, format!("{fresh}\n").as_bytes(), Keep::Power).map_err(os(path))?;
    }
    check_mode(path, 0o600)?;
    Ok(std::fs::read_to_string(path).map_err(os(path))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn one_agent_per_directory_and_its_words_stay() {
        let root = tempfile::tempdir().unwrap();
        let (path, clock) = (root.path().join("d"), Clock::real());
        let home = Home::open(&path, None, &clock).unwrap();
        assert!(matches!(Home::open(&path, None, &clock), Err(HomeError::Taken(_))));
        let (instance, token) = (home.instance.clone(), home.token.clone());
        assert_eq!((home.server(), home.libvirt()), (None, None));
        home.keep_server("https://far:8443").unwrap();
        home.keep_libvirt(Path::new("/run/a")).unwrap();
        home.keep_libvirt(Path::new("/run/b")).unwrap();
        drop(home);
        let again = Home::open(&path, Some(instance.clone()), &clock).unwrap();
        assert_eq!((&again.instance, &again.token), (&instance, &token));
        assert_eq!((again.server(), again.libvirt()), (Some("https://far:8443".into()), Some("/run/b".into())));
        drop(again);
        let other = InstanceId::from_bits(!instance.bits());
        assert!(matches!(Home::open(&path, Some(other), &clock), Err(HomeError::OtherInstance { .. })));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        assert!(matches!(Home::open(&path, None, &clock), Err(HomeError::Mode(IdentityError::Exposed { .. }))));
    }
}
