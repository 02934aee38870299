//! A root on a disk: what the kernel was started with only leads there.
//!
//! Owns: mounting the disk's ext4 and making it the root of everything that runs from here on. Refuses: other
//! file systems, and looking for a disk: the kernel's command line names it.

use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// Where the disk is until it is the root.
const AT: &str = "/mnt";
/// What goes along; `/tmp` is the disk's own.
const ALONG: [&str; 4] = ["proc", "sys", "dev", "run"];
/// A disk appears within this time after its driver was loaded.
const DISK_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Makes the disk the root (as of switch_root(8)). What was the root stays in memory, unseen.
pub fn enter(disk: &Path) -> io::Result<()> {
    let until = Instant::now() + DISK_WITHIN;
    while !disk.exists() {
        if Instant::now() >= until {
            return Err(io::Error::new(io::ErrorKind::NotFound, "there is no such disk"));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    // A sandbox is gone when it ends: what a crash would spoil is nobody's, but a write that was waited for is not.
    mount(Some(disk), AT, Some("ext4"), MsFlags::MS_NOATIME, None::<&str>)?;
    for name in ALONG {
        let (from, to) = (Path::new("/").join(name), Path::new(AT).join(name));
        std::fs::create_dir_all(&to)?;
        mount(Some(&from), &to, None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    }
    chdir(AT)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    chroot(".")?;
    chdir("/")?;
    Ok(())
}
