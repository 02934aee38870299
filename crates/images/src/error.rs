//! Why an image was not built, and what to do about it.

use crate::cpio::CpioError;
use perigee_blobs::BlobError;
use std::io;
use std::path::{Path, PathBuf};

/// Why an image was not built. Each text says what would help.
#[derive(thiserror::Error, Debug)]
pub enum ImageError {
    /// The image's userland is missing on this host.
    #[error("busybox-static is not installed (no {}): apt-get install busybox-static", .0.display())]
    BusyboxMissing(PathBuf),
    /// The agent inside the image is missing.
    #[error("there is no perigee-guest at {}: build it with `cargo xtask guest`, or install the perigee package", .0.display())]
    GuestMissing(PathBuf),
    /// It would not start in the image, which has no libraries.
    #[error("{} is not a static x86-64 program: it cannot start inside the image", .0.display())]
    NotStatic(PathBuf),
    /// The host has no apt.
    #[error("there is no apt-get on this host: name a kernel package (.deb) or an unpacked one")]
    AptMissing,
    /// Programs that the build runs are missing.
    #[error("this host cannot build Debian without some packages: apt-get install {0}")]
    PackagesMissing(String),
    /// Packages are set up as they will be: with users of their own.
    #[error("Debian is built by root only: run the agent as root, or import a disk (`perigee image import`)")]
    NeedsRoot,
    /// Package lists are missing or the archive has no such package.
    #[error("apt offers no {package}: run `apt-get update`, or name a kernel package (.deb); {said}")]
    PackageMissing {
        /// What was looked for.
        package: String,
        /// What apt said.
        said: String,
    },
    /// A program that the build runs failed.
    #[error("`{program}` failed: {said}")]
    Tool {
        /// Which one, with its arguments.
        program: String,
        /// The end of what it said.
        said: String,
    },
    /// The package is not what a kernel package looks like.
    #[error("{} is not a usable kernel package: {why}", path.display())]
    BadKernel {
        /// The package or directory.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The disk is full.
    #[error("no space left under {}: free some, then build again", .0.display())]
    NoSpace(PathBuf),
    /// A name did not fit into the initramfs.
    #[error(transparent)]
    Archive(#[from] CpioError),
    /// The file system said no.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ImageError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace(path),
            _ => Self::Io { path, source },
        }
    }
}

impl From<BlobError> for ImageError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::NoSpace(path) => Self::NoSpace(path),
            BlobError::Io { path, source } => Self::Io { path, source },
            other => Self::Io { path: PathBuf::new(), source: io::Error::other(other) },
        }
    }
}
