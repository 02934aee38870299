//! Debian's cloud kernel, as a package: where it comes from and what is taken out of it.
//!
//! Kept: the kernel, and the virtio modules a sandbox needs, unpacked and in load order. One kept
//! kernel is a directory named by its package's digest; it appears by rename, whole or not at all.

use crate::base::save;
use crate::error::ImageError;
use crate::payload;
use crate::tool::{output, run};
use crate::work::Work;
use perigee_blobs::{digest_bytes, digest_file};
use perigee_model::Digest;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// Debian's package that always depends on the newest cloud kernel.
pub const CLOUD_KERNEL: &str = "linux-image-cloud-amd64";

/// Where the kernel comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KernelSource {
    /// A package that apt resolves and downloads; a meta package is followed to the real one.
    Apt(String),
    /// A kernel package: a `.deb` file.
    Package(PathBuf),
    /// An unpacked kernel package: the directory that holds `boot/` and `lib/modules/`.
    Unpacked(PathBuf),
}

/// Modules in load order: each after those it needs. Those built into the kernel are skipped,
/// those marked optional may be missing. Those of a root are for one on a disk (ext4). Those for later are for full
/// machines, and loaded when the guest has said hello.
const MODULES: &[(&str, Need)] = &[
    ("virtio_ring", Need::Always),
    ("virtio", Need::Always),
    ("virtio_mmio", Need::Always),
    ("virtio_pci_legacy_dev", Need::Optional),
    ("virtio_pci_modern_dev", Need::Optional),
    ("virtio_pci", Need::Optional),
    ("virtio_blk", Need::Always),
    ("failover", Need::Always),
    ("net_failover", Need::Always),
    ("virtio_net", Need::Always),
    ("vsock", Need::Always),
    ("vmw_vsock_virtio_transport_common", Need::Always),
    ("vmw_vsock_virtio_transport", Need::Always),
    ("virtio_console", Need::Always),
    ("virtio_rng", Need::Optional),
    ("crc16", Need::Root),
    ("crc32c_generic", Need::Root),
    ("mbcache", Need::Root),
    ("jbd2", Need::Root),
    ("ext4", Need::Root),
    ("evdev", Need::Later),
    ("button", Need::Later),
    ("virtio_balloon", Need::Later),
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Need {
    Always,
    Optional,
    /// As `Optional`, and only where the root is on a disk.
    Root,
    /// As `Optional`, and not among the first.
    Later,
}

/// A kernel and its modules, unpacked.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// `uname -r`.
    pub release: String,
    /// The ELF kernel, or the bzImage where that holds none we can unpack.
    pub kernel: PathBuf,
    /// Its digest, as it was when it was unpacked.
    pub digest: Digest,
    /// `name.ko`, in load order.
    pub modules: Vec<PathBuf>,
    /// The same for those that a root on a disk takes, after these.
    pub root: Vec<PathBuf>,
    /// The same for those that are loaded later, by full machines only.
    pub later: Vec<PathBuf>,
}

/// What names a kernel: the package's digest and bytes' place.
pub struct Package {
    pub key: String,
    pub path: PathBuf,
}

/// Finds the kernel's package, downloading it when it is not in the work directory yet.
pub async fn find(source: &KernelSource, work: &Work) -> Result<Package, ImageError> {
    match source {
        KernelSource::Apt(package) => {
            let path = download(package, work).await?;
            keyed(path).await
        }
        KernelSource::Package(path) => keyed(path.clone()).await,
        KernelSource::Unpacked(dir) => {
            let image = only_entry(&dir.join("boot"), "vmlinuz-").await?;
            Ok(Package { key: digest_file(image).await?.digest.into(), path: dir.clone() })
        }
    }
}

async fn keyed(path: PathBuf) -> Result<Package, ImageError> {
    let key = digest_file(path.clone()).await?.digest.into();
    Ok(Package { key, path })
}

/// Unpacks what is needed of the package, once; again when the kernel is not what it was.
pub async fn unpack(package: &Package, work: &Work) -> Result<Kernel, ImageError> {
    let kept = work.kernel(&package.key);
    if let Ok(kernel) = read(&kept).await
        && digest_file(kernel.kernel.clone()).await?.digest == kernel.digest
    {
        return Ok(kernel);
    }
    _ = tokio::fs::remove_dir_all(&kept).await;
    unpack_anew(package, work, &kept).await?;
    read(&kept).await
}

async fn unpack_anew(package: &Package, work: &Work, kept: &Path) -> Result<(), ImageError> {
    let temp = work.temp().await?;
    let tree = if package.path.is_dir() {
        package.path.clone()
    } else {
        let tree = temp.join("tree");
        run(Command::new("dpkg-deb").arg("-x").arg(&package.path).arg(&tree)).await?;
        tree
    };
    let slim = temp.join("slim");
    take(&tree, &slim, &package.path).await?;
    tokio::fs::rename(&slim, kept).await.map_err(ImageError::io(kept))?;
    work.discard(&temp).await;
    Ok(())
}

/// Copies the kernel and its modules out of an unpacked package.
async fn take(tree: &Path, slim: &Path, package: &Path) -> Result<(), ImageError> {
    let bad = |why: String| ImageError::BadKernel { path: package.to_owned(), why };
    let image = only_entry(&tree.join("boot"), "vmlinuz-").await?;
    let name = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let release = name.strip_prefix("vmlinuz-").unwrap_or_default().to_owned();
    let modules = tree.join("lib/modules").join(&release);
    if release.is_empty() || !modules.is_dir() {
        return Err(bad(format!("it has no lib/modules/{release}")));
    }
    let dir = slim.join("modules");
    tokio::fs::create_dir_all(&dir).await.map_err(ImageError::io(&dir))?;
    let there = modules_under(&modules.join("kernel")).await?;
    let built_in = tokio::fs::read_to_string(modules.join("modules.builtin")).await.unwrap_or_default();
    let built_in: Vec<_> = built_in.lines().filter_map(|line| module_name(Path::new(line))).collect();
    let (mut order, mut root, mut later) = (String::new(), String::new(), String::new());
    for (module, need) in MODULES {
        match there.iter().find(|(name, _)| name == module) {
            Some((_, path)) => {
                unpack_module(path, &dir.join(format!("{module}.ko"))).await?;
                let list = match need {
                    Need::Always | Need::Optional => &mut order,
                    Need::Root => &mut root,
                    Need::Later => &mut later,
                };
                *list += &format!("{module}.ko\n");
            }
            None if *need != Need::Always || built_in.iter().any(|name| name == module) => {}
            None => return Err(bad(format!("it has no module {module}"))),
        }
    }
    let bzimage = tokio::fs::read(&image).await.map_err(ImageError::io(&image))?;
    let kernel = payload::vmlinux(&bzimage).unwrap_or(bzimage);
    save(&slim.join("kernel"), &kernel).await?;
    save(&slim.join("digest"), digest_bytes(&kernel).as_str().as_bytes()).await?;
    save(&slim.join("order"), order.as_bytes()).await?;
    save(&slim.join("root"), root.as_bytes()).await?;
    save(&slim.join("later"), later.as_bytes()).await?;
    save(&slim.join("release"), release.as_bytes()).await
}

async fn read(kept: &Path) -> Result<Kernel, ImageError> {
    let text = async |name: &str| {
        let path = kept.join(name);
        tokio::fs::read_to_string(&path).await.map_err(ImageError::io(&path))
    };
    let listed = |names: String| names.lines().map(|name| kept.join("modules").join(name)).collect();
    let (modules, root, later) =
        (listed(text("order").await?), listed(text("root").await?), listed(text("later").await?));
    let digest = Digest::parse(&text("digest").await?);
    let digest =
        digest.ok_or_else(|| ImageError::BadKernel { path: kept.to_owned(), why: "its digest is gone".into() })?;
    Ok(Kernel { release: text("release").await?, kernel: kept.join("kernel"), digest, modules, root, later })
}

/// Downloads the package, or finds it from last time. Lists that lag behind the archive name files
/// that are gone: then, as root, they are refreshed once.
async fn download(package: &str, work: &Work) -> Result<PathBuf, ImageError> {
    let mut refreshed = false;
    loop {
        let failed = match fetch(package, work).await {
            Ok(path) => return Ok(path),
            Err(failed @ (ImageError::PackageMissing { .. } | ImageError::Tool { .. })) => failed,
            Err(other) => return Err(other),
        };
        if refreshed {
            return Err(failed);
        }
        refreshed = true;
        if run(Command::new("apt-get").args(["-qq", "update"])).await.is_err() {
            return Err(failed);
        }
    }
}

async fn fetch(package: &str, work: &Work) -> Result<PathBuf, ImageError> {
    let real = resolve(package).await?;
    let uris = run(Command::new("apt-get").args(["download", "--print-uris", &real])).await?;
    let name = file_name_in(&uris).ok_or_else(|| ImageError::PackageMissing { package: real.clone(), said: uris })?;
    let kept = work.downloads().join(&name);
    if kept.is_file() {
        return Ok(kept);
    }
    let temp = work.temp().await?;
    run(Command::new("apt-get").args(["-qq", "-o", "APT::Sandbox::User=root", "download", &real]).current_dir(&temp))
        .await?;
    let fetched = temp.join(&name);
    tokio::fs::rename(&fetched, &kept).await.map_err(ImageError::io(&fetched))?;
    work.discard(&temp).await;
    Ok(kept)
}

/// Follows a meta package to the kernel it depends on.
async fn resolve(package: &str) -> Result<String, ImageError> {
    let missing = |said: String| ImageError::PackageMissing { package: package.to_owned(), said };
    let depends = match run(Command::new("apt-cache").args(["depends", "--important", package])).await {
        Ok(said) => said,
        Err(ImageError::Tool { said, .. }) => return Err(missing(said)),
        Err(other) => return Err(other),
    };
    Ok(kernel_among(&depends).unwrap_or_else(|| package.to_owned()))
}

fn kernel_among(depends: &str) -> Option<String> {
    let mut named = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    named.find(|name| name.starts_with("linux-image-")).map(str::to_owned)
}

/// A line of `--print-uris` is `'URI' file-name size hash`.
fn file_name_in(uris: &str) -> Option<String> {
    let name = uris.lines().find(|line| line.starts_with('\''))?.split_whitespace().nth(1)?;
    (name.ends_with(".deb") && !name.contains('/')).then(|| name.to_owned())
}

async fn unpack_module(from: &Path, to: &Path) -> Result<(), ImageError> {
    let bytes = match from.extension().and_then(|e| e.to_str()) {
        Some("xz") => output(Command::new("xz").arg("-dc").arg(from)).await?,
        Some("zst") => output(Command::new("zstd").arg("-dc").arg(from)).await?,
        _ => tokio::fs::read(from).await.map_err(ImageError::io(from))?,
    };
    save(to, &bytes).await
}

/// Every module below a directory, by its name as the kernel says it.
async fn modules_under(root: &Path) -> Result<Vec<(String, PathBuf)>, ImageError> {
    let (mut found, mut dirs) = (Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = dirs.pop() {
        let mut entries = tokio::fs::read_dir(&dir).await.map_err(ImageError::io(&dir))?;
        while let Some(entry) = entries.next_entry().await.map_err(ImageError::io(&dir))? {
            let path = entry.path();
            match entry.file_type().await {
                Ok(kind) if kind.is_dir() => dirs.push(path),
                _ => found.extend(module_name(&path).map(|name| (name, path))),
            }
        }
    }
    Ok(found)
}

/// `drivers/char/virtio-rng.ko.xz` is the module `virtio_rng`.
fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let name = [".ko", ".ko.xz", ".ko.zst"].iter().find_map(|end| name.strip_suffix(end))?;
    Some(name.replace('-', "_"))
}

async fn only_entry(dir: &Path, prefix: &str) -> Result<PathBuf, ImageError> {
    let bad = |why: &str| ImageError::BadKernel { path: dir.to_owned(), why: format!("it has {why} {prefix}*") };
    let mut entries = tokio::fs::read_dir(dir).await.map_err(|_| bad("no"))?;
    let mut found = None;
    while let Some(entry) = entries.next_entry().await.map_err(ImageError::io(dir))? {
        if entry.file_name().to_string_lossy().starts_with(prefix) && found.replace(entry.path()).is_some() {
            return Err(bad("more than one"));
        }
    }
    found.ok_or_else(|| bad("no"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meta_package_leads_to_the_kernel() {
        let said = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(kernel_among(said), Some("linux-image-6.1.0-56-cloud-amd64".into()));
        assert_eq!(kernel_among("linux-image-6.1.0-56-cloud-amd64\n  Depends: kmod\n"), None);
    }

    #[test]
    fn apts_line_names_the_file() {
        let said = "'http://archive/l/linux_6.1_amd64.deb' linux_6.1_amd64.deb 26 SHA256:00\n";
        assert_eq!(file_name_in(said), Some("linux_6.1_amd64.deb".into()));
        assert_eq!(file_name_in("'http://archive/x' ../../x.deb 26\n"), None);
        assert_eq!(file_name_in(""), None);
    }

    #[test]
    fn a_module_has_one_name() {
        assert_eq!(module_name(Path::new("a/virtio-rng.ko.xz")), Some("virtio_rng".into()));
        assert_eq!(module_name(Path::new("kernel/virtio_net.ko")), Some("virtio_net".into()));
        assert_eq!(module_name(Path::new("modules.builtin")), None);
    }
}
