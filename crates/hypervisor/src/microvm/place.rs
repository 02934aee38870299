//! What a guest has on the host's file system, and which user it runs as.
//!
//! ```text
//! <dir>/<guest>/            made first and removed last, so that a crash always leaves it to be found
//! <dir>/<guest>/uid         the user its VMM runs as
//! <dir>/<guest>/about       its name and size, for whoever measures it after a restart of ours
//! <dir>/<guest>/disk.<n>    its own copy of an image's disk
//! <run_dir>/<guest>.c       socket of the channel         (guest: 32 hex digits)
//! <run_dir>/<guest>.q       socket of QMP
//! ```
//! Owns: names, modes, the choice of users. Refuses: socket paths the kernel cannot take.

use crate::HypervisorError;
use crate::work::{gone, os, room_or_os};
use perigee_model::GuestId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Users set aside for guests, from the instance's first one on.
pub const UIDS: u32 = 16_384;
/// `sockaddr_un` holds 108 bytes, the last one zero (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;
const SOCKET_NAME_BYTES: usize = "/0123456789abcdef0123456789abcdef.c".len();

/// What is told of a guest beside its use of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The guest's name.
    pub name: String,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory it was given.
    pub memory_bytes: u64,
}

/// The directories of all guests of one instance.
#[derive(Debug)]
pub struct Places {
    dir: PathBuf,
    run_dir: PathBuf,
    uid_base: Option<u32>,
    uids: Mutex<BTreeMap<u32, GuestId>>,
}

impl Places {
    /// Makes both directories where they are missing, and reads which users are taken.
    pub fn at(dir: PathBuf, run_dir: PathBuf, uid_base: Option<u32>) -> Result<Self, HypervisorError> {
        let length = run_dir.as_os_str().len() + SOCKET_NAME_BYTES;
        if length > SOCKET_PATH_BYTES_MAX {
            let text = format!("{} is too long a directory for sockets", run_dir.display());
            return Err(HypervisorError::BadPlan(text));
        }
        for path in [&dir, &run_dir] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(os(format!("making {}", path.display())))?;
        }
        let places = Self { dir, run_dir, uid_base, uids: Mutex::default() };
        for guest in places.guests()? {
            let uid = fs::read_to_string(places.guest(guest).join("uid")).ok();
            if let Some(uid) = uid.and_then(|text| text.trim().parse().ok()) {
                places.taken().insert(uid, guest);
            }
        }
        Ok(places)
    }

    /// Guests that have a directory.
    pub fn guests(&self) -> Result<Vec<GuestId>, HypervisorError> {
        let doing = || format!("reading {}", self.dir.display());
        let mut guests = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(os(doing()))? {
            let name = entry.map_err(os(doing()))?.file_name();
            guests.extend(name.to_str().and_then(|name| name.parse::<GuestId>().ok()));
        }
        guests.sort();
        Ok(guests)
    }

    /// Where all of them are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
    /// A guest's directory.
    pub fn guest(&self, guest: GuestId) -> PathBuf {
        self.dir.join(guest.to_string())
    }
    /// The socket of its channel.
    pub fn channel(&self, guest: GuestId) -> PathBuf {
        self.run_dir.join(format!("{}.c", guest.uuid().simple()))
    }
    /// The socket of its QMP.
    pub fn qmp(&self, guest: GuestId) -> PathBuf {
        self.run_dir.join(format!("{}.q", guest.uuid().simple()))
    }

    /// The users that guests of this instance may run as.
    pub fn uids(&self) -> RangeInclusive<u32> {
        let own = nix::unistd::getuid().as_raw();
        self.uid_base.map_or(own..=own, |base| base..=base.saturating_add(UIDS - 1))
    }

    /// Makes the guest's directory. `false`: it is there, and so may be its VMM.
    pub fn make(&self, guest: GuestId) -> Result<bool, HypervisorError> {
        let path = self.guest(guest);
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(room_or_os(format!("making {}", path.display()))(error)),
        }
    }

    /// Sets a user aside for the guest and writes it down. `None` where all run as one.
    pub fn take_uid(&self, guest: GuestId) -> Result<Option<u32>, HypervisorError> {
        if self.uid_base.is_none() {
            return Ok(None);
        }
        let uid = {
            let mut taken = self.taken();
            let free = self.uids().find(|uid| taken.get(uid).is_none_or(|holder| *holder == guest));
            let uid = free.ok_or_else(|| HypervisorError::NoRoom(format!("{UIDS} guests are here")))?;
            taken.insert(uid, guest);
            uid
        };
        let path = self.guest(guest).join("uid");
        fs::write(&path, format!("{uid}\n")).map_err(room_or_os(format!("writing {}", path.display())))?;
        Ok(Some(uid))
    }

    /// Writes down what is told of the guest beside its use of the host.
    pub fn keep_about(&self, guest: GuestId, about: &About) -> Result<(), HypervisorError> {
        let path = self.guest(guest).join("about");
        let text = serde_json::to_vec(about).map_err(io::Error::from);
        let written = text.and_then(|text| fs::write(&path, text));
        written.map_err(room_or_os(format!("writing {}", path.display())))
    }
    /// As it was written; `None` for a guest of a version that did not.
    pub fn about(&self, guest: GuestId) -> Option<About> {
        serde_json::from_slice(&fs::read(self.guest(guest).join("about")).ok()?).ok()
    }

    /// A VMM found alive keeps its user.
    pub fn keep_uid(&self, guest: GuestId, uid: u32) {
        if self.uid_base.is_some() {
            self.taken().insert(uid, guest);
        }
    }

    /// Removes all of a guest, its directory last. Fine when there is nothing.
    pub fn remove(&self, guest: GuestId) -> Result<(), HypervisorError> {
        for socket in [self.channel(guest), self.qmp(guest)] {
            gone(&socket, fs::remove_file(&socket))?;
        }
        let dir = self.guest(guest);
        gone(&dir, fs::remove_dir_all(&dir))?;
        self.taken().retain(|_, holder| *holder != guest);
        Ok(())
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<u32, GuestId>> {
        self.uids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn guest(number: u128) -> GuestId {
        GuestId::new(Uuid::from_u128(number))
    }

    fn places(root: &Path) -> Places {
        Places::at(root.join("guests"), root.join("run"), Some(90_000)).unwrap()
    }

    #[test]
    fn each_guest_has_a_user_of_its_own_also_after_a_restart() {
        let root = tempfile::tempdir().unwrap();
        let first = places(root.path());
        for number in 0..3 {
            assert!(first.make(guest(number)).unwrap());
            assert_eq!(first.take_uid(guest(number)).unwrap(), Some(90_000 + number as u32));
        }
        first.remove(guest(1)).unwrap();
        let second = places(root.path());
        assert!(!second.make(guest(2)).unwrap(), "it is there");
        assert!(second.make(guest(7)).unwrap());
        assert_eq!(second.take_uid(guest(7)).unwrap(), Some(90_001));
        assert_eq!(second.take_uid(guest(2)).unwrap(), Some(90_002), "a guest keeps its user");
    }

    #[test]
    fn removing_nothing_is_fine() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        places.remove(guest(1)).unwrap();
        assert_eq!(places.guests().unwrap(), []);
    }

    #[test]
    fn a_socket_path_the_kernel_would_cut_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let long = root.path().join("x".repeat(90));
        assert!(matches!(Places::at(root.path().into(), long, None), Err(HypervisorError::BadPlan(_))));
    }
}
