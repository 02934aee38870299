//! Building Debian: its packages, as the disk of a VM or as the root of a sandbox.
//!
//! ```text
//! mmdebstrap ──▶ tree ──settled──▶ ext4 ─┐
//!            GRUB for BIOS and for UEFI ─┴─▶ a raw disk ──▶ work/debian/disk.qcow2    of a VM
//!
//! mmdebstrap ──▶ tree ──settled──▶ ext4 ───────────────▶ work/debian/disk.qcow2    of a sandbox,
//!            perigee-guest, modules for a disk ─▶ work/debian/initrd               and base's kernel
//! ```
//! Owns: the packages that each needs, the steps and how far they are.
//! Refuses: mounts and loop devices of the host's: packages are set up in a mount name space of their own,
//! and the disk is written as a file.
//!
//! A VM's disk boots by BIOS and by UEFI, reads a NoCloud seed by cloud-init at its first boot (host name,
//! keys, user-data, network), grows its root to the disk it is given, and has ssh and QEMU's guest agent.

mod disk;
mod sandbox;
mod tree;

use crate::base::{ARCH, BaseBuild, BuiltImage, BuiltPart, Progress};
use crate::error::ImageError;
use crate::tool::watch;
use crate::work::Work;
use perigee_blobs::digest_file;
use perigee_confine::{Confined, Reach};
use perigee_model::{GuestKind, PackageName, Part, PartRole};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// Of Debian 12.
const SUITE: &str = "bookworm";

/// What a VM has.
const OF_VM: [&str; 21] = [
    "ca-certificates",
    "cloud-guest-utils",
    "cloud-init",
    "dbus",
    "e2fsprogs",
    "fdisk",
    "initramfs-tools",
    "iproute2",
    "iputils-ping",
    "less",
    "linux-image-cloud-amd64",
    "netbase",
    "openssh-server",
    "qemu-guest-agent",
    "sudo",
    "systemd-resolved",
    "systemd-sysv",
    "systemd-timesyncd",
    "udev",
    "vim-tiny",
    "zstd",
];

/// What a sandbox has: nothing in it boots, and nothing runs but what is asked for.
const OF_SANDBOX: [&str; 9] =
    ["ca-certificates", "curl", "iproute2", "iputils-ping", "less", "netbase", "procps", "vim-tiny", "zstd"];

/// Programs of the host, or files of them, and the package that brings each.
const NEEDED: [(&str, &str); 3] = [("mmdebstrap", "mmdebstrap"), ("mke2fs", "e2fsprogs"), ("qemu-img", "qemu-utils")];
/// The same, for what boots by itself.
const NEEDED_TO_BOOT: [(&str, &str); 3] = [
    ("grub-mkimage", "grub-common"),
    ("/usr/lib/grub/i386-pc/boot.img", "grub-pc-bin"),
    ("/usr/lib/grub/x86_64-efi/normal.mod", "grub-efi-amd64-bin"),
];
const PROGRAMS_IN: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// What to build, and where.
#[derive(Clone, Debug)]
pub struct DebianBuild {
    /// Its work directory has the newest build, and 2 GB while one is under way; of the rest a sandbox's root has
    /// the kernel and perigee-guest.
    pub base: BaseBuild,
    /// What it is for.
    pub kind: GuestKind,
    /// Packages beside the usual ones.
    pub include: Vec<PackageName>,
}

const STEPS: u64 = 4;
/// What a packed disk may have more than the raw one.
const PACKING_BYTES: u64 = 64 << 20;

/// Builds it anew, of what the archive has now. Cancel by dropping; what it was at is removed by the next.
///
/// # Errors
/// [`ImageError`] says what would help.
pub async fn build_debian(
    build: &DebianBuild,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<BuiltImage, ImageError> {
    let mut say = |done: u64, step: String| progress(Progress { step: step.into(), done, total: STEPS });
    check_host(build.kind)?;
    let work = Work::open(&build.base.work).await?;
    let temp = work.temp().await?;
    let root = temp.join("root");
    let usual = match build.kind {
        GuestKind::Vm => &OF_VM[..],
        GuestKind::Sandbox => &OF_SANDBOX[..],
    };
    install(&root, usual, &build.include, &mut |step| say(0, step)).await?;
    say(1, "setting it up".to_owned());
    tree::settle(&root, build.kind)?;
    say(2, "making its disk".to_owned());
    let raw = temp.join("disk.raw");
    let made = match build.kind {
        GuestKind::Vm => {
            disk::make(&root, &raw).await?;
            Made { kernel_release: tree::kernel_release(&root)?, leading: None }
        }
        GuestKind::Sandbox => {
            disk::make_root(&root, &raw).await?;
            sandbox::lead(&build.base, &work, &temp).await?
        }
    };
    say(3, "packing its disk".to_owned());
    pack(&raw, &temp.join("disk.qcow2")).await?;
    let kept = keep(&work, &temp, &["disk.qcow2", "initrd"]).await?;
    work.discard(&temp).await;
    let mut parts = Vec::new();
    if let Some(kernel) = made.leading {
        parts.push(part(PartRole::Kernel, kernel).await?);
        parts.push(part(PartRole::Initrd, kept.join("initrd")).await?);
    }
    parts.push(part(PartRole::Disk, kept.join("disk.qcow2")).await?);
    Ok(BuiltImage { arch: ARCH.into(), kernel_release: made.kernel_release, parts, cached: false })
}

/// What boots it.
struct Made {
    /// `uname -r`.
    kernel_release: String,
    /// The kernel that is started in front of the disk; `None`: the disk boots by itself.
    leading: Option<PathBuf>,
}

async fn part(role: PartRole, path: PathBuf) -> Result<BuiltPart, ImageError> {
    let found = digest_file(path.clone()).await?;
    Ok(BuiltPart { part: Part { role, digest: found.digest, bytes: found.bytes }, path })
}

/// What its qemu-img sees is the two files.
async fn pack(raw: &Path, packed: &Path) -> Result<(), ImageError> {
    let failed = |said: String| ImageError::Tool { program: "qemu-img convert".to_owned(), said };
    let bytes = std::fs::metadata(raw).map_err(ImageError::io(raw))?.len();
    std::fs::File::create_new(packed).map_err(ImageError::io(packed))?;
    let told = ["convert", "-q", "-f", "raw", "-O", "qcow2", "-c", "-o", "compression_type=zstd"];
    let files = [raw, packed].map(OsString::from);
    let confined = Confined {
        program: "qemu-img",
        arguments: told.into_iter().map(OsString::from).chain(files).collect(),
        user: (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()),
        reach: Reach { reads: vec![raw.to_owned()], writes: vec![packed.to_owned()], ..Reach::default() },
        file_bytes_max: bytes.saturating_add(PACKING_BYTES),
    };
    let mut process = confined.start().await.map_err(|error| failed(error.to_string()))?;
    let end = process.end().await.map_err(|error| failed(error.to_string()))?;
    match end.status.success() {
        true => Ok(()),
        false if end.said.contains("No space left on device") => Err(ImageError::NoSpace(packed.to_owned())),
        false => Err(failed(end.why())),
    }
}

/// Everything that is missing, at once.
fn check_host(kind: GuestKind) -> Result<(), ImageError> {
    let is_there = |name: &str| match Path::new(name).is_absolute() {
        true => Path::new(name).exists(),
        false => PROGRAMS_IN.iter().any(|dir| Path::new(dir).join(name).exists()),
    };
    let to_boot = NEEDED_TO_BOOT.iter().filter(|_| kind == GuestKind::Vm);
    let needed = NEEDED.iter().chain(to_boot);
    let missing: Vec<&str> = needed.filter(|(name, _)| !is_there(name)).map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        return Err(ImageError::PackagesMissing(missing.join(" ")));
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(ImageError::NeedsRoot);
    }
    Ok(())
}

/// Fetches, unpacks and sets up the packages. All of it ends with this process: it has process ids and
/// mounts of its own, whatever the packages start or mount.
async fn install(
    root: &Path,
    usual: &[&str],
    include: &[PackageName],
    say: &mut (dyn FnMut(String) + Send),
) -> Result<(), ImageError> {
    say("finding its packages".to_owned());
    let names = usual.iter().copied().chain(include.iter().map(PackageName::as_str));
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.args(["mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory", "--verbose"]);
    command.arg("--aptopt=Apt::Install-Recommends \"false\"");
    command.arg(format!("--include={}", names.collect::<Vec<_>>().join(",")));
    let place = root.parent().unwrap_or(root);
    command.arg(SUITE).arg(root).current_dir(place).env("TMPDIR", place);
    let mut steps = Steps::default();
    let installed = watch(&mut command, |line| {
        if let Some(step) = steps.after(line) {
            say(step);
        }
    });
    installed.await
}

/// How far apt and dpkg are, by what they say.
#[derive(Default)]
struct Steps {
    fetched: usize,
    unpacked: usize,
    set_up: usize,
}

impl Steps {
    fn after(&mut self, line: &str) -> Option<String> {
        let (count, doing) = match line {
            _ if line.starts_with("Get:") => (&mut self.fetched, "fetching its packages"),
            _ if line.starts_with("Unpacking ") => (&mut self.unpacked, "unpacking its packages"),
            _ if line.starts_with("Setting up ") => (&mut self.set_up, "setting up its packages"),
            _ => return None,
        };
        *count += 1;
        Some(format!("{doing} ({count})"))
    }
}

/// Only the newest build stays: of these files those that it made.
async fn keep(work: &Work, temp: &Path, names: &[&str]) -> Result<PathBuf, ImageError> {
    let kept = work.debian();
    tokio::fs::remove_dir_all(&kept).await.map_err(ImageError::io(&kept))?;
    tokio::fs::create_dir(&kept).await.map_err(ImageError::io(&kept))?;
    for name in names {
        let made = temp.join(name);
        if made.exists() {
            tokio::fs::rename(&made, kept.join(name)).await.map_err(ImageError::io(&made))?;
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_it_is_is_read_from_what_is_said() {
        let mut steps = Steps::default();
        assert_eq!(steps.after("I: running apt-get update..."), None);
        assert_eq!(
            steps.after("Get:1 http://deb.debian.org/debian bookworm/main amd64 bash").unwrap(),
            "fetching its packages (1)"
        );
        assert_eq!(steps.after("Get:2 http://x").unwrap(), "fetching its packages (2)");
        assert_eq!(steps.after("Unpacking bash (5.2) ...").unwrap(), "unpacking its packages (1)");
        assert_eq!(steps.after("Setting up bash (5.2) ...").unwrap(), "setting up its packages (1)");
    }

    #[tokio::test]
    async fn a_disk_is_packed_by_a_tool_that_sees_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (raw, packed) = (folder.path().join("disk.raw"), folder.path().join("disk.qcow2"));
        let mut bytes = vec![0; 4 << 20];
        bytes[1 << 20..2 << 20].copy_from_slice(&b"what is on it\n\n\n".repeat(1 << 16));
        std::fs::write(&raw, &bytes).unwrap();
        pack(&raw, &packed).await.unwrap();
        let mut compare = std::process::Command::new("qemu-img");
        compare.args(["compare", "-q", "-f", "raw", "-F", "qcow2"]).args([&raw, &packed]);
        assert!(compare.status().unwrap().success());
        assert!(std::fs::metadata(&packed).unwrap().len() < 1 << 20, "it is packed");
        let again = pack(&raw, &packed).await;
        assert!(matches!(&again, Err(ImageError::Io { path, .. }) if *path == packed), "{again:?}");
    }

    #[tokio::test]
    async fn a_tool_that_is_killed_is_told_as_that() {
        let folder = tempfile::tempdir().unwrap();
        let (raw, packed) = (folder.path().join("disk.raw"), folder.path().join("disk.qcow2"));
        // Nothing that packs well: it is at it for long.
        let mut state = 1u64;
        let word = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()
        };
        std::fs::write(&raw, std::iter::repeat_with(word).take(16 << 20).flatten().collect::<Vec<u8>>()).unwrap();
        let at_it = || {
            let own = |entry: std::fs::DirEntry| {
                let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line);
                let packs = line.contains("qemu-img\0convert\0") && line.contains(&*packed.to_string_lossy());
                entry.file_name().to_str()?.parse::<i32>().ok().filter(|_| packs)
            };
            std::fs::read_dir("/proc").unwrap().flatten().find_map(own)
        };
        let killing = async {
            loop {
                if let Some(pid) = at_it() {
                    return nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
                }
                tokio::task::yield_now().await;
            }
        };
        let killing = tokio::time::timeout(std::time::Duration::from_secs(60), killing);
        let (ended, killed) = tokio::join!(pack(&raw, &packed), killing);
        killed.expect("it was seen at it").unwrap();
        assert!(matches!(&ended, Err(ImageError::Tool { said, .. }) if said.contains("SIGKILL")), "{ended:?}");
    }
}
