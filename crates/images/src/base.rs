//! Building `base`, the image that needs no distribution: kernel, busybox, perigee-guest.
//!
//! ```text
//! work/downloads/         packages, as apt named them
//! work/kernels/<key>/     one unpacked kernel: kernel, digest, release, modules/, order, later
//! work/base/<key>/        one built image: initrd, digest
//! ```
//! A key is the digest of everything that went in: the same inputs are built once, and the same
//! inputs give the same bytes everywhere.

use crate::error::ImageError;
use crate::initramfs::{self, Parts};
use crate::kernel::{self, CLOUD_KERNEL, Kernel, KernelSource};
use crate::tool::run;
use crate::work::{LAYOUT, Work};
use perigee_blobs::{digest_bytes, digest_file};
use perigee_model::{Digest, Part, PartRole};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use tokio::process::Command;

pub(crate) const ARCH: &str = "x86_64";

/// What to build `base` from, and where.
#[derive(Clone, Debug)]
pub struct BaseBuild {
    /// Downloads, unpacked kernels and built images; about 100 MB, kept for the next build.
    pub work: PathBuf,
    /// The static perigee-guest.
    pub guest_binary: PathBuf,
    /// The static busybox.
    pub busybox: PathBuf,
    /// Where the kernel comes from.
    pub kernel: KernelSource,
}

impl BaseBuild {
    /// Debian's cloud kernel by apt, Debian's busybox-static.
    pub fn new(work: impl Into<PathBuf>, guest_binary: impl Into<PathBuf>) -> Self {
        Self {
            work: work.into(),
            guest_binary: guest_binary.into(),
            busybox: "/bin/busybox".into(),
            kernel: KernelSource::Apt(CLOUD_KERNEL.into()),
        }
    }
}

/// How far a build is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// What it does now, for people.
    pub step: Cow<'static, str>,
    /// Steps done.
    pub done: u64,
    /// Steps in all.
    pub total: u64,
}

const STEPS: [&str; 4] = ["finding the kernel", "unpacking the kernel", "packing the root", "checking the parts"];

/// A built image: files in the work directory, ready to be stored as blobs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BuiltImage {
    /// `x86_64`.
    pub arch: String,
    /// `uname -r` of the kernel.
    pub kernel_release: String,
    /// Kernel and initrd; a disk where it is one.
    pub parts: Vec<BuiltPart>,
    /// Nothing had to be built: the same inputs were here before.
    pub cached: bool,
}

/// One file of a built image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BuiltPart {
    /// Role, digest and length.
    pub part: Part,
    /// Where its bytes are until they are stored.
    pub path: PathBuf,
}

/// Builds `base`, or finds it built. Cancel by dropping; what it was at is removed by the next.
pub async fn build_base(
    build: &BaseBuild,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<BuiltImage, ImageError> {
    let mut steps =
        (0..).zip(STEPS).map(|(done, step)| Progress { step: step.into(), done, total: STEPS.len() as u64 });
    let mut next = || steps.next().map(&mut *progress);
    check_program(&build.busybox, || ImageError::BusyboxMissing(build.busybox.clone())).await?;
    check_program(&build.guest_binary, || ImageError::GuestMissing(build.guest_binary.clone())).await?;
    let work = Work::open(&build.work).await?;
    next();
    let package = kernel::find(&build.kernel, &work).await?;
    next();
    let unpacked = kernel::unpack(&package, &work).await?;
    let key = key(&package.key, build).await?;
    let kept = work.base(&key);
    let mut built = read(&kept, &unpacked).await;
    next();
    if built.is_none() {
        pack(build, &unpacked, &work, &kept).await?;
    }
    next();
    let cached = built.is_some();
    if built.is_none() {
        built = read(&kept, &unpacked).await;
    }
    let parts =
        built.ok_or_else(|| ImageError::BadKernel { path: kept, why: "what was written reads differently".into() })?;
    Ok(BuiltImage { arch: ARCH.into(), kernel_release: unpacked.release, parts, cached })
}

/// Everything that decides the bytes.
async fn key(kernel: &str, build: &BaseBuild) -> Result<String, ImageError> {
    let guest = digest_file(build.guest_binary.clone()).await?.digest;
    let busybox = digest_file(build.busybox.clone()).await?.digest;
    Ok(digest_bytes(format!("{LAYOUT} {kernel} {guest} {busybox}").as_bytes()).into())
}

/// Packs the root and writes it down, whole or not at all.
async fn pack(build: &BaseBuild, unpacked: &Kernel, work: &Work, kept: &Path) -> Result<(), ImageError> {
    let applets = run(Command::new(&build.busybox).arg("--list")).await?;
    let parts = Parts {
        init: load(&build.guest_binary).await?,
        busybox: load(&build.busybox).await?,
        applets: applets.lines().collect(),
        modules: load_modules(&unpacked.modules).await?,
        later: load_modules(&unpacked.later).await?,
        release: &unpacked.release,
    };
    let initrd = initramfs::build(parts)?;
    let temp = work.temp().await?;
    save(&temp.join("initrd"), &initrd).await?;
    save(&temp.join("digest"), digest_bytes(&initrd).as_str().as_bytes()).await?;
    _ = tokio::fs::remove_dir_all(kept).await; // one that did not read back
    tokio::fs::rename(&temp, kept).await.map_err(ImageError::io(kept))
}

/// The image as it was written, or nothing when a byte differs.
async fn read(kept: &Path, unpacked: &Kernel) -> Option<Vec<BuiltPart>> {
    let digest = Digest::parse(&tokio::fs::read_to_string(kept.join("digest")).await.ok()?)?;
    let initrd = kept.join("initrd");
    let found = digest_file(initrd.clone()).await.ok()?;
    let kernel_bytes = tokio::fs::metadata(&unpacked.kernel).await.ok()?.len();
    let part = |role, digest, bytes, path| BuiltPart { part: Part { role, digest, bytes }, path };
    (found.digest == digest).then(|| {
        vec![
            part(PartRole::Kernel, unpacked.digest.clone(), kernel_bytes, unpacked.kernel.clone()),
            part(PartRole::Initrd, digest, found.bytes, initrd),
        ]
    })
}

/// A program must be there and need no loader: the image has no libraries.
pub(crate) async fn check_program(path: &Path, missing: impl FnOnce() -> ImageError) -> Result<(), ImageError> {
    let bytes = match tokio::fs::read(path).await {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(missing()),
        Err(e) => return Err(ImageError::io(path)(e)),
    };
    if is_static(&bytes) { Ok(()) } else { Err(ImageError::NotStatic(path.to_owned())) }
}

/// ELF64, little-endian, x86-64, without PT_INTERP (System V ABI, chapters 4 and 5).
fn is_static(bytes: &[u8]) -> bool {
    const PT_INTERP: u64 = 3;
    const EM_X86_64: u64 = 62;
    let number = |at: usize, length: usize| -> Option<u64> {
        let little = bytes.get(at..at.checked_add(length)?)?;
        Some(little.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    let interpreter = || -> Option<bool> {
        let (start, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        for index in 0..count {
            let header = usize::try_from(start.checked_add(index * size)?).ok()?;
            if number(header, 4)? == PT_INTERP {
                return Some(true);
            }
        }
        Some(false)
    };
    bytes.starts_with(b"\x7fELF\x02\x01") && number(18, 2) == Some(EM_X86_64) && interpreter() == Some(false)
}

pub(crate) async fn load_modules(paths: &[PathBuf]) -> Result<Vec<(String, Vec<u8>)>, ImageError> {
    let mut modules = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        modules.push((name, load(path).await?));
    }
    Ok(modules)
}

pub(crate) async fn load(path: &Path) -> Result<Vec<u8>, ImageError> {
    tokio::fs::read(path).await.map_err(ImageError::io(path))
}

/// Writes the bytes and waits until the disk has them: their name is given by a rename later.
pub(crate) async fn save(path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    let written = async {
        use tokio::io::AsyncWriteExt as _;
        let mut file = tokio::fs::File::create(path).await?;
        file.write_all(bytes).await?;
        file.sync_all().await
    };
    written.await.map_err(ImageError::io(path))
}

#[cfg(test)]
mod tests;
