//! What the disk of a guest lies above, by its own header, before anything opens it that follows the name.
//!
//! Owns: reading that name, and the one rule for it. Refuses: a name that is no image of this host, a disk in other
//! form than we make them.
//!
//! Format: QEMU, docs/interop/qcow2.txt.

use super::places::{IMAGE_NAME, Places};
use crate::HypervisorError;
use crate::qcow2::{BACKING_FORMAT, CLUSTER, EXTERNAL_DATA, Format, MAGIC, inspect};
use crate::work::os;
use nix::libc;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path, PathBuf};

/// Where a header says how long it is: the extensions follow.
const HEADER_BYTES_AT: usize = 100;

/// The image that a disk of ours lies above. A QEMU that a guest broke out of can write what it likes into the
/// disk's header, and whoever reads that with more rights would go where it leads. Blocks.
///
/// # Errors
/// `Tampered` for a disk that names anything but a whole image in that folder, or is no qcow2 as we make them.
pub fn below(disk: &Path, images: &Path) -> Result<Option<PathBuf>, HypervisorError> {
    let bad = |why: String| HypervisorError::Tampered(format!("{} is not as it was made: {why}", disk.display()));
    let header = header(disk).map_err(os(format!("reading {}", disk.display())))?;
    let Some(name) = named(&header).map_err(|why| bad(why.to_owned()))? else { return Ok(None) };
    let foreign = || bad(format!("it names {}, which is no image of this host", name.display()));
    // Or its second name beside the disk, where QEMU's user cannot reach the first.
    let beside = name == disk.with_file_name(IMAGE_NAME);
    if !(beside || is_in(&name, images)) || !fs::symlink_metadata(&name).is_ok_and(|found| found.is_file()) {
        return Err(foreign());
    }
    inspect(&name).map_err(|error| bad(error.to_string()))?;
    Ok(Some(name))
}

/// What the disks that are here lie above, as they say. Blocks.
///
/// # Errors
/// `Os`.
pub fn of_all(places: &Places) -> Result<Vec<PathBuf>, HypervisorError> {
    let mut found = Vec::new();
    for guest in places.guests()? {
        let disk = places.disk(guest);
        match header(&disk) {
            // What cannot be read by us cannot be used by anybody.
            Ok(header) => found.extend(named(&header).ok().flatten()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(os(format!("reading {}", disk.display()))(error)),
        }
    }
    Ok(found)
}

/// The first cluster of a disk, or as much of it as there is.
fn header(disk: &Path) -> io::Result<Vec<u8>> {
    let mut header = Vec::new();
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(disk)?;
    file.take(CLUSTER).read_to_end(&mut header)?;
    Ok(header)
}

/// In that folder or below it, however the folder is called.
fn is_in(name: &Path, images: &Path) -> bool {
    let plain = name.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let really = |path: &Path| fs::canonicalize(path).ok();
    let same = || Some(really(name.parent()?)?.starts_with(really(images)?));
    plain && name.is_absolute() && (name.starts_with(images) || same().unwrap_or(false))
}

/// The file below, by the first cluster of a disk.
fn named(header: &[u8]) -> Result<Option<PathBuf>, &'static str> {
    let cut = "its header ends early";
    let bytes = |at: usize, length: usize| header.get(at..at.saturating_add(length)).ok_or(cut);
    let word = |at| bytes(at, 4).map(|found| found.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)));
    let long = |at| bytes(at, 8).map(|found| found.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
    if !header.starts_with(MAGIC) || word(4)? != 3 {
        return Err("it is no qcow2 of version 3");
    }
    if long(72)? & EXTERNAL_DATA != 0 {
        return Err("its data is in another file");
    }
    let (at, length) = (long(8)?, word(16)?);
    if at == 0 {
        return Ok(None);
    }
    let (mut extension, mut format) = (word(HEADER_BYTES_AT)? as usize, None);
    loop {
        let (kind, length) = (word(extension)?, word(extension.saturating_add(4))? as usize);
        let content = extension.saturating_add(8);
        match kind {
            0 => break,
            BACKING_FORMAT => format = Some(bytes(content, length)?),
            _ => {}
        }
        extension = content.saturating_add(length).next_multiple_of(8);
    }
    if ![Format::Raw, Format::Qcow2].iter().any(|known| format == Some(known.name().as_bytes())) {
        return Err("it does not say in which format the image below is");
    }
    let at = usize::try_from(at).map_err(|_| cut)?;
    Ok(Some(PathBuf::from(OsStr::from_bytes(bytes(at, length as usize)?))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qcow2::create;
    use proptest::prelude::*;
    use std::os::unix::fs::FileExt as _;
    use std::process::Command;

    struct Host {
        folder: tempfile::TempDir,
        images: PathBuf,
        image: PathBuf,
    }

    impl Host {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let images = folder.path().join("cache");
            fs::create_dir(&images).unwrap();
            let image = images.join("image");
            File::create(&image).unwrap().set_len(1 << 20).unwrap();
            fs::write(folder.path().join("secret"), [7; 1024]).unwrap();
            Self { folder, images, image }
        }
        fn at(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }
        /// What qemu-img makes above this file, in this format.
        fn above(&self, below: &Path, format: &[&str]) -> PathBuf {
            let disk = self.at("disk.qcow2");
            let mut tool = Command::new("qemu-img");
            tool.args(["create", "-q", "-f", "qcow2", "-u", "-b"]).arg(below).args(format).arg(&disk).arg("1M");
            assert!(tool.status().expect("package qemu-utils").success());
            disk
        }
        fn refuses(&self, disk: &Path, why: &str) {
            let said = below(disk, &self.images);
            assert!(matches!(&said, Err(HypervisorError::Tampered(text)) if text.contains(why)), "{why}: {said:?}");
        }
    }

    #[test]
    fn a_disk_lies_above_an_image_or_nothing() {
        let host = Host::new();
        let disk = host.at("own.qcow2");
        create(&disk, None, Some(1 << 20)).unwrap();
        assert_eq!(below(&disk, &host.images).unwrap(), None);
        create(&disk, Some((&host.image, Format::Raw)), None).unwrap();
        assert_eq!(below(&disk, &host.images).unwrap(), Some(host.image.clone()));
        assert_eq!(below(&host.above(&host.image, &["-F", "raw"]), &host.images).unwrap(), Some(host.image.clone()));
        // Its second name beside the disk.
        let beside = host.at(IMAGE_NAME);
        fs::hard_link(&host.image, &beside).unwrap();
        assert_eq!(below(&host.above(&beside, &["-F", "raw"]), &host.images).unwrap(), Some(beside));
        // The same folder by another name.
        std::os::unix::fs::symlink(&host.images, host.at("other")).unwrap();
        assert_eq!(below(&disk, &host.at("other")).unwrap(), Some(host.image.clone()));
    }

    #[test]
    fn any_other_name_is_refused() {
        let host = Host::new();
        let secret = host.at("secret");
        std::os::unix::fs::symlink(&secret, host.images.join("link")).unwrap();
        let names = [
            secret.clone(),
            host.images.join("../secret"),
            host.images.join("link"),
            host.images.join("none"),
            host.images.clone(),
            "secret".into(),
            "nbd:127.0.0.1:10809".into(),
            "json:{\"driver\":\"file\",\"filename\":\"/etc/shadow\"}".into(),
        ];
        for name in names {
            host.refuses(&host.above(&name, &["-F", "raw"]), "no image of this host");
        }
        host.refuses(&host.above(&host.image, &["-F", "vmdk"]), "in which format");
        // An image that itself names another file.
        let layer = host.above(&secret, &["-F", "raw"]);
        fs::rename(&layer, host.images.join("layer")).unwrap();
        host.refuses(&host.above(&host.images.join("layer"), &["-F", "qcow2"]), "backing file");
        fs::write(host.at("raw"), [0; 4096]).unwrap();
        host.refuses(&host.at("raw"), "no qcow2");
        let disk = host.at("data.qcow2");
        create(&disk, None, Some(1 << 20)).unwrap();
        File::options().write(true).open(&disk).unwrap().write_all_at(&EXTERNAL_DATA.to_be_bytes(), 72).unwrap();
        host.refuses(&disk, "in another file");
    }

    proptest! {
        #[test]
        fn no_header_is_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..160), version in 2u32..5) {
            let _ = named(&[MAGIC, version.to_be_bytes().as_slice(), bytes.as_slice()].concat());
        }
    }
}
