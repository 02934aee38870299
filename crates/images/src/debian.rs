//! Building Debian: its packages, as the disk of a VM.
//!
//! ```text
//! mmdebstrap ──▶ tree ──settled──▶ ext4 ─┐
//!            GRUB for BIOS and for UEFI ─┴─▶ a raw disk ──▶ work/debian/<n>/disk.qcow2
//! ```
//! Owns: the packages a VM needs, the steps and how far they are.
//! Refuses: mounts and loop devices of the host's: packages are set up in a mount name space of their own,
//! and the disk is written as a file.
//!
//! The disk boots by BIOS and by UEFI, reads a NoCloud seed by cloud-init at its first boot (host name,
//! keys, user-data, network), grows its root to the disk it is given, and has ssh and QEMU's guest agent.

mod disk;
mod tree;

use crate::base::{BuiltImage, BuiltPart, Progress};
use crate::error::ImageError;
use crate::tool::watch;
use crate::work::Work;
use perigee_blobs::digest_file;
use perigee_confine::{Confined, Reach};
use perigee_model::{PackageName, Part, PartRole};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// Of Debian 12.
const SUITE: &str = "bookworm";
const ARCH: &str = "x86_64";

/// What a VM has.
const PACKAGES: [&str; 21] = [
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

/// Programs of the host, or files of them, and the package that brings each.
const NEEDED: [(&str, &str); 6] = [
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("qemu-img", "qemu-utils"),
    ("grub-mkimage", "grub-common"),
    ("/usr/lib/grub/i386-pc/boot.img", "grub-pc-bin"),
    ("/usr/lib/grub/x86_64-efi/normal.mod", "grub-efi-amd64-bin"),
];
const PROGRAMS_IN: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// What to build, and where.
#[derive(Clone, Debug)]
pub struct DebianBuild {
    /// The newest build, and 2 GB while one is under way.
    pub work: PathBuf,
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
    check_host()?;
    let work = Work::open(&build.work).await?;
    let temp = work.temp().await?;
    let root = temp.join("root");
    install(&root, &build.include, &mut |step| say(0, step)).await?;
    say(1, "setting it up".to_owned());
    tree::settle(&root)?;
    let kernel_release = tree::kernel_release(&root)?;
    say(2, "making its disk".to_owned());
    let raw = temp.join("disk.raw");
    disk::make(&root, &raw).await?;
    say(3, "packing its disk".to_owned());
    let packed = temp.join("disk.qcow2");
    pack(&raw, &packed).await?;
    let path = keep(&work, &packed).await?;
    work.discard(&temp).await;
    let found = digest_file(path.clone()).await?;
    let part = Part { role: PartRole::Disk, digest: found.digest, bytes: found.bytes };
    Ok(BuiltImage { arch: ARCH.into(), kernel_release, parts: vec![BuiltPart { part, path }], cached: false })
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
        false => Err(failed(end.said)),
    }
}

/// Everything that is missing, at once.
fn check_host() -> Result<(), ImageError> {
    let is_there = |name: &str| match Path::new(name).is_absolute() {
        true => Path::new(name).exists(),
        false => PROGRAMS_IN.iter().any(|dir| Path::new(dir).join(name).exists()),
    };
    let missing: Vec<&str> = NEEDED.iter().filter(|(name, _)| !is_there(name)).map(|(_, package)| *package).collect();
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
async fn install(root: &Path, include: &[PackageName], say: &mut (dyn FnMut(String) + Send)) -> Result<(), ImageError> {
    say("finding its packages".to_owned());
    let names = PACKAGES.iter().copied().chain(include.iter().map(PackageName::as_str));
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

/// Only the newest build stays.
async fn keep(work: &Work, packed: &Path) -> Result<PathBuf, ImageError> {
    let kept = work.debian();
    tokio::fs::remove_dir_all(&kept).await.map_err(ImageError::io(&kept))?;
    tokio::fs::create_dir(&kept).await.map_err(ImageError::io(&kept))?;
    let path = kept.join("disk.qcow2");
    tokio::fs::rename(packed, &path).await.map_err(ImageError::io(&path))?;
    Ok(path)
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
}
