//! What a guest has on the host's file system.
//!
//! ```text
//! <dir>/<guest>/             made first and removed last, so that a crash always leaves it to be found
//! <dir>/<guest>/disk.qcow2   its disk
//! <dir>/<guest>/seed.img     what its cloud-init reads
//! <dir>/<guest>/backup.scratch  what it writes over while its disk is backed up
//! <dir>/<guest>/disk.restore    its disk while it comes out of a backup
//! <dir>/<guest>/kernel, initrd, image, iso   second names of its image's parts, where QEMU's user cannot reach the first
//! <dir>/volumes/<id>.qcow2   volumes, which outlive guests
//! <run_dir>/<guest>/agent    socket of the channel     (guest: 32 hex digits)
//! <run_dir>/<guest>/vnc      socket of the screen
//! <run_dir>/<guest>/disk     socket at which its disk is shown while it is backed up or restored
//! ```
//! Owns: names, modes, and whether QEMU's user can get there. Refuses: socket paths the kernel cannot
//! take.

use crate::HypervisorError;
use crate::work::{gone, os, room_or_os};
use nix::unistd::{Gid, Uid, chown};
use perigee_model::{GuestId, PartRole, VolumeId};
use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// `sockaddr_un` holds 108 bytes, the last one zero (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;
const SOCKET_NAME_BYTES: usize = "/0123456789abcdef0123456789abcdef/agent".len();
const VOLUME_ENDING: &str = "qcow2";
/// The second name of the image that a disk lies above.
pub const IMAGE_NAME: &str = "image";
/// Others may pass through to what they know the name of.
const PASSABLE: u32 = 0o711;

/// The directories of all guests of one instance.
#[derive(Clone, Debug)]
pub struct Places {
    dir: PathBuf,
    run_dir: PathBuf,
}

impl Places {
    /// Makes both directories where they are missing.
    pub fn at(dir: PathBuf, run_dir: PathBuf) -> Result<Self, HypervisorError> {
        if run_dir.as_os_str().len() + SOCKET_NAME_BYTES > SOCKET_PATH_BYTES_MAX {
            let text = format!("{} is too long a directory for sockets", run_dir.display());
            return Err(HypervisorError::BadPlan(text));
        }
        for path in [&dir, &run_dir] {
            let made = DirBuilder::new().recursive(true).mode(PASSABLE).create(path);
            made.map_err(os(format!("making {}", path.display())))?;
        }
        Ok(Self { dir, run_dir })
    }

    /// Guests that have a directory.
    pub fn guests(&self) -> Result<Vec<GuestId>, HypervisorError> {
        let doing = || format!("reading {}", self.dir.display());
        let mut guests = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(os(doing()))? {
            let name = entry.map_err(os(doing()))?.file_name();
            guests.extend(name.to_str().and_then(|name| name.parse::<GuestId>().ok()));
        }
        Ok(guests)
    }

    /// A guest's directory.
    pub fn guest(&self, guest: GuestId) -> PathBuf {
        self.dir.join(guest.to_string())
    }
    /// Its disk.
    pub fn disk(&self, guest: GuestId) -> PathBuf {
        self.guest(guest).join("disk.qcow2")
    }
    /// Its disk while it comes out of a backup.
    pub fn unfinished_disk(&self, guest: GuestId) -> PathBuf {
        self.guest(guest).join("disk.restore")
    }
    /// What it writes over while its disk is being backed up.
    pub fn scratch(&self, guest: GuestId) -> PathBuf {
        self.guest(guest).join("backup.scratch")
    }
    /// What its cloud-init reads.
    pub fn seed(&self, guest: GuestId) -> PathBuf {
        self.guest(guest).join("seed.img")
    }
    /// The second name of a part of its image, in a place that QEMU's user reaches.
    pub fn part(&self, guest: GuestId, role: PartRole) -> PathBuf {
        self.guest(guest).join(match role {
            PartRole::Kernel => "kernel",
            PartRole::Initrd => "initrd",
            PartRole::Disk => IMAGE_NAME,
            PartRole::Iso => "iso",
            PartRole::UserData => "user-data",
        })
    }
    /// Whether a file can have a second name where guests are.
    pub fn can_link(&self, path: &Path) -> bool {
        let device = |path: &Path| fs::metadata(path).ok().map(|metadata| metadata.dev());
        device(path).is_some_and(|device_of| device(&self.dir) == Some(device_of))
    }
    /// Where volumes are.
    pub fn volumes(&self) -> PathBuf {
        self.dir.join("volumes")
    }
    /// A volume.
    pub fn volume(&self, volume: VolumeId) -> PathBuf {
        self.volumes().join(format!("{volume}.{VOLUME_ENDING}"))
    }
    /// Which volume a file is, if it is one.
    pub fn volume_at(&self, path: &Path) -> Option<VolumeId> {
        let name = path.file_name()?.to_str()?.strip_suffix(VOLUME_ENDING)?.strip_suffix('.')?;
        let volume = name.parse().ok()?;
        (path == self.volume(volume)).then_some(volume)
    }
    /// Makes the place of volumes where it is missing.
    pub fn make_volumes(&self) -> Result<PathBuf, HypervisorError> {
        let dir = self.volumes();
        let made = DirBuilder::new().recursive(true).mode(PASSABLE).create(&dir);
        made.map_err(room_or_os(format!("making {}", dir.display())))?;
        Ok(dir)
    }
    fn sockets(&self, guest: GuestId) -> PathBuf {
        self.run_dir.join(guest.uuid().simple().to_string())
    }
    /// The socket of its channel.
    pub fn channel(&self, guest: GuestId) -> PathBuf {
        self.sockets(guest).join("agent")
    }
    /// The socket of its screen.
    pub fn vnc(&self, guest: GuestId) -> PathBuf {
        self.sockets(guest).join("vnc")
    }

    /// The socket at which its disk is shown.
    pub fn shown_disk(&self, guest: GuestId) -> PathBuf {
        self.sockets(guest).join("disk")
    }

    /// Whether the guest's directory is there.
    pub fn has(&self, guest: GuestId) -> bool {
        self.guest(guest).is_dir()
    }

    /// Makes the guest's directory, and an empty one for its sockets: QEMU's own, as it makes some of
    /// them itself. Its files are given to QEMU by libvirt. Fine when they are there.
    pub fn make(&self, guest: GuestId, (user, group): (u32, u32)) -> Result<(), HypervisorError> {
        for path in [self.guest(guest), self.sockets(guest)] {
            let made = DirBuilder::new().recursive(true).mode(PASSABLE).create(&path);
            made.map_err(room_or_os(format!("making {}", path.display())))?;
        }
        let sockets = self.sockets(guest);
        for stale in [self.channel(guest), self.vnc(guest)] {
            gone(&stale, fs::remove_file(&stale))?;
        }
        if nix::unistd::geteuid().is_root() {
            let given = chown(&sockets, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
            given.map_err(io::Error::from).map_err(os(format!("giving {} to QEMU", sockets.display())))?;
        }
        Ok(())
    }

    /// Removes all of a guest, its directory last. Fine when there is nothing.
    pub fn remove(&self, guest: GuestId) -> Result<(), HypervisorError> {
        for path in [self.sockets(guest), self.guest(guest)] {
            gone(&path, fs::remove_dir_all(&path))?;
        }
        Ok(())
    }
}

/// Says which directory above a file QEMU's user cannot pass, if there is one.
pub fn barrier(path: &Path, (user, group): (u32, u32)) -> Option<String> {
    let passes = |metadata: &Metadata| {
        let bit = match (metadata.uid() == user, metadata.gid() == group) {
            (true, _) => 0o100,
            (false, true) => 0o010,
            (false, false) => 0o001,
        };
        metadata.permissions().mode() & bit != 0
    };
    let closed = |dir: &&Path| fs::metadata(dir).is_ok_and(|metadata| !passes(&metadata));
    if user == 0 {
        return None;
    }
    let dir = path.ancestors().skip(1).find(closed)?;
    let dir = dir.display();
    Some(format!("QEMU runs as user {user} here and cannot pass {dir}: allow it with `chmod o+x {dir}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_guest_comes_and_goes_whole() {
        let root = tempfile::tempdir().unwrap();
        let places = Places::at(root.path().join("vms"), root.path().join("run")).unwrap();
        let guest = GuestId::new(Uuid::from_u128(1));
        places.remove(guest).expect("nothing is fine");
        places.make(guest, (0, 0)).unwrap();
        fs::write(places.channel(guest), "stale").unwrap();
        fs::write(places.disk(guest), "disk").unwrap();
        places.make(guest, (0, 0)).unwrap();
        assert!(!places.channel(guest).exists() && places.disk(guest).exists());
        assert_eq!(places.guests().unwrap(), [guest]);
        places.remove(guest).unwrap();
        assert!(places.guests().unwrap().is_empty() && !places.has(guest));
        let long = root.path().join("x".repeat(90));
        assert!(matches!(Places::at(root.path().into(), long), Err(HypervisorError::BadPlan(_))));
    }

    #[test]
    fn a_volume_is_known_by_where_it_is() {
        let root = tempfile::tempdir().unwrap();
        let places = Places::at(root.path().join("vms"), root.path().join("run")).unwrap();
        let volume = VolumeId::new(Uuid::from_u128(7));
        assert_eq!(places.volume_at(&places.volume(volume)), Some(volume));
        assert_eq!(places.volume(volume).parent(), Some(places.make_volumes().unwrap().as_path()));
        assert!(places.guests().unwrap().is_empty(), "it is no guest");
        let name = places.volume(volume).file_name().unwrap().to_owned();
        for other in [root.path().join(name), places.volumes().join("x.qcow2"), places.disk(GuestId::new(Uuid::nil()))]
        {
            assert_eq!(places.volume_at(&other), None, "{}", other.display());
        }
    }

    #[test]
    fn a_closed_directory_is_named() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("open/file");
        fs::create_dir(root.path().join("open")).unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let said = barrier(&file, (64_055, 64_055)).unwrap();
        assert!(said.ends_with(&format!("`chmod o+x {}`", root.path().display())), "{said}");
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o711)).unwrap();
        assert_eq!(barrier(&file, (64_055, 64_055)), None);
        assert_eq!(barrier(&file, (0, 0)), None, "root passes");
    }
}
