//! What packages leave open: where the root is, who is known, what must not be alike in two machines.

use crate::error::ImageError;
use perigee_model::GuestKind;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

/// The label of the file system that is the root.
pub(super) const ROOT_LABEL: &str = "perigee-root";

const FSTAB: &str = "LABEL=perigee-root / ext4 defaults,errors=remount-ro 0 1\n";
const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n";
/// Of cloud-init: where it looks, and one kind of host key, which a slow machine makes at once.
const CLOUD: &str = "\
datasource_list: [NoCloud, None]
ssh_genkeytypes: [ed25519]
manage_etc_hosts: localhost
";
/// The kernel that the package's links name: an upgrade within the guest is booted without GRUB's programs.
const GRUB: &str = "\
linux /vmlinuz root=LABEL=perigee-root ro quiet console=tty0 console=ttyS0,115200
initrd /initrd.img
boot
";
const FILES: [(&str, &str); 2] = [("etc/hosts", HOSTS), ("etc/hostname", "debian\n")];
/// Of a machine that boots by itself.
const FILES_OF_VM: [(&str, &str); 3] =
    [("etc/fstab", FSTAB), ("etc/cloud/cloud.cfg.d/10_perigee.cfg", CLOUD), ("boot/grub/grub.cfg", GRUB)];
/// The units that a network by systemd needs.
const UNITS: [&str; 1] = ["systemd-networkd.service"];
/// Made at the first boot: two machines with the same ones could not be told apart.
const ONE_OF_A_KIND: [&str; 5] = [
    "etc/ssh/ssh_host_ecdsa_key",
    "etc/ssh/ssh_host_ed25519_key",
    "etc/ssh/ssh_host_rsa_key",
    "var/lib/systemd/random-seed",
    "var/lib/dbus/machine-id",
];

/// The names' server that DHCP told, by systemd.
const RESOLVER: (&str, &str) = ("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf");

/// Writes what is missing and removes what is one of a kind. Blocks for a moment.
///
/// # Errors
/// What the file system says.
pub(super) fn settle(root: &Path, kind: GuestKind) -> Result<(), ImageError> {
    for (name, text) in FILES {
        write(&root.join(name), text)?;
    }
    match kind {
        GuestKind::Vm => settle_vm(root)?,
        // perigee-guest writes whom to ask, where there is somebody.
        GuestKind::Sandbox => write(&root.join(RESOLVER.0), "")?,
    }
    for name in ONE_OF_A_KIND {
        for path in [root.join(name), root.join(format!("{name}.pub"))] {
            missing_is_fine(fs::remove_file(&path)).map_err(ImageError::io(&path))?;
        }
    }
    // Empty, and not missing: systemd takes a new one without asking anything.
    write(&root.join("etc/machine-id"), "")
}

fn settle_vm(root: &Path) -> Result<(), ImageError> {
    for (name, text) in FILES_OF_VM {
        write(&root.join(name), text)?;
    }
    let wanted = root.join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir_all(&wanted).map_err(ImageError::io(&wanted))?;
    for unit in UNITS {
        link(&Path::new("/lib/systemd/system").join(unit), &wanted.join(unit))?;
    }
    link(Path::new(RESOLVER.1), &root.join(RESOLVER.0))
}

/// `uname -r` of its kernel.
///
/// # Errors
/// `BadKernel` when there is not exactly one.
pub(super) fn kernel_release(root: &Path) -> Result<String, ImageError> {
    let boot = root.join("boot");
    let names = fs::read_dir(&boot).map_err(ImageError::io(&boot))?.flatten();
    let releases: Vec<String> =
        names.filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix("vmlinuz-")?.to_owned())).collect();
    match releases.as_slice() {
        [one] => Ok(one.clone()),
        others => Err(ImageError::BadKernel { path: boot, why: format!("it has {} kernels", others.len()) }),
    }
}

fn write(path: &Path, text: &str) -> Result<(), ImageError> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(ImageError::io(parent))?;
    // A link out of the tree is not followed.
    missing_is_fine(fs::remove_file(path)).map_err(ImageError::io(path))?;
    fs::write(path, text).map_err(ImageError::io(path))?;
    fs::set_permissions(path, Permissions::from_mode(0o644)).map_err(ImageError::io(path))
}

fn link(to: &Path, path: &Path) -> Result<(), ImageError> {
    missing_is_fine(fs::remove_file(path)).map_err(ImageError::io(path))?;
    symlink(to, path).map_err(ImageError::io(path))
}

fn missing_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_one_of_a_kind_goes_and_the_rest_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("etc/ssh")).unwrap();
        fs::create_dir_all(root.join("boot")).unwrap();
        for name in
            ["etc/ssh/ssh_host_rsa_key", "etc/ssh/ssh_host_rsa_key.pub", "etc/ssh/sshd_config", "etc/machine-id"]
        {
            fs::write(root.join(name), "x").unwrap();
        }
        // Out of the tree.
        let outside = folder.path().join("outside");
        fs::write(&outside, "untouched").unwrap();
        symlink(&outside, root.join("etc/hosts")).unwrap();
        settle(&root, GuestKind::Vm).unwrap();
        settle(&root, GuestKind::Vm).unwrap();
        assert_eq!(fs::read_to_string(&outside).unwrap(), "untouched");
        assert!(!root.join("etc/ssh/ssh_host_rsa_key").exists() && !root.join("etc/ssh/ssh_host_rsa_key.pub").exists());
        assert_eq!(fs::read_to_string(root.join("etc/ssh/sshd_config")).unwrap(), "x");
        assert_eq!(fs::read_to_string(root.join("etc/machine-id")).unwrap(), "");
        assert!(root.join("boot/grub/grub.cfg").exists());
        let bare = folder.path().join("bare");
        fs::create_dir_all(bare.join("etc")).unwrap();
        settle(&bare, GuestKind::Sandbox).unwrap();
        assert!(!bare.join("boot").exists() && !bare.join("etc/fstab").exists());
        assert_eq!(fs::read_to_string(bare.join("etc/resolv.conf")).unwrap(), "");
        assert!(FSTAB.contains(ROOT_LABEL) && GRUB.contains(ROOT_LABEL));
        assert!(matches!(kernel_release(&root), Err(ImageError::BadKernel { .. })));
        fs::write(root.join("boot/vmlinuz-6.1.0-56-cloud-amd64"), "").unwrap();
        assert_eq!(kernel_release(&root).unwrap(), "6.1.0-56-cloud-amd64");
    }
}
