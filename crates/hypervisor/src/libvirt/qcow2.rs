//! Disk files: what an image's disk is, and making a guest's own above it.
//!
//! Owns: reading the few fields of a header that matter before any other program sees the file.
//! Refuses: a disk that names another file. It would show the guest whatever the host may read.
//!
//! Format: QEMU, docs/interop/qcow2.txt.

use crate::HypervisorError;
use crate::work::{os, room_or_os};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

const MAGIC: &[u8; 4] = b"QFI\xfb";
/// Of a version 3 header, up to its incompatible features.
const HEADER_BYTES: u64 = 80;
const EXTERNAL_DATA: u64 = 1 << 2;

/// How a disk's bytes are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As they are.
    Raw,
    /// QEMU's format.
    Qcow2,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// Looks at an image's disk.
///
/// # Errors
/// `BadPlan` for a qcow2 that names another file, or of a version that is not known.
pub fn inspect(path: &Path) -> Result<Format, HypervisorError> {
    let mut header = Vec::new();
    let file = File::open(path).map_err(os(format!("opening {}", path.display())))?;
    file.take(HEADER_BYTES).read_to_end(&mut header).map_err(os(format!("reading {}", path.display())))?;
    format_of(&header).map_err(|why| HypervisorError::BadPlan(format!("{}: {why}", path.display())))
}

fn format_of(header: &[u8]) -> Result<Format, &'static str> {
    if !header.starts_with(MAGIC) {
        return Ok(Format::Raw);
    }
    let word = |at: usize| header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
    let long = |at: usize| header.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
    let cut = "a qcow2 header that ends early";
    if long(8).ok_or(cut)? != 0 {
        return Err("a qcow2 with a backing file");
    }
    match word(4).ok_or(cut)? {
        2 => Ok(Format::Qcow2),
        3 if long(72).ok_or(cut)? & EXTERNAL_DATA != 0 => Err("a qcow2 with a data file"),
        3 => Ok(Format::Qcow2),
        _ => Err("a qcow2 of an unknown version"),
    }
}

/// Makes a qcow2 above an image, or an empty one, that only its owner may read. It appears whole or
/// not at all. Blocks.
///
/// # Errors
/// `NoRoom` on a full disk, `DidNotStart` with what qemu-img said, `BadPlan` when the image is larger
/// than the disk is to be.
pub fn create(path: &Path, image: Option<(&Path, Format)>, bytes: Option<u64>) -> Result<(), HypervisorError> {
    let new = path.with_extension("new");
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2", "-o", "compat=1.1,lazy_refcounts=off"]);
    if let Some((image, format)) = image {
        command.arg("-b").arg(image).args(["-F", format.name()]);
    }
    command.arg(&new).args(bytes.map(|bytes| bytes.to_string()));
    if let (Some((image, format)), Some(bytes)) = (image, bytes)
        && size(image, format)? > bytes
    {
        let text = format!("its disk of {bytes} bytes is smaller than the image's of {}", size(image, format)?);
        return Err(HypervisorError::BadPlan(text));
    }
    let done = command.stdin(Stdio::null()).output();
    let output = done.map_err(os("running qemu-img (package qemu-utils)"))?;
    if !output.status.success() {
        let said: String =
            String::from_utf8_lossy(&output.stderr).chars().filter(|c| !c.is_control()).take(400).collect();
        _ = fs::remove_file(&new);
        let full = said.contains("No space left") || said.contains("quota exceeded");
        let text = format!("making {}: {said}", path.display());
        return Err(if full { HypervisorError::NoRoom(text) } else { HypervisorError::DidNotStart(text) });
    }
    let doing = || format!("writing {}", path.display());
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).map_err(os(doing()))?;
    File::open(&new).and_then(|file| file.sync_all()).map_err(room_or_os(doing()))?;
    fs::rename(&new, path).map_err(room_or_os(doing()))
}

/// How large the guest sees it.
fn size(path: &Path, format: Format) -> Result<u64, HypervisorError> {
    let doing = || format!("reading {}", path.display());
    match format {
        Format::Raw => fs::metadata(path).map(|metadata| metadata.len()).map_err(os(doing())),
        Format::Qcow2 => {
            let mut header = [0; 32];
            File::open(path).and_then(|mut file| file.read_exact(&mut header)).map_err(os(doing()))?;
            let mut size = [0; 8];
            size.copy_from_slice(&header[24..]);
            Ok(u64::from_be_bytes(size))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(version: u32, backing: u64, features: u64) -> Vec<u8> {
        let mut header = vec![0; 80];
        header[..4].copy_from_slice(MAGIC);
        header[4..8].copy_from_slice(&version.to_be_bytes());
        header[8..16].copy_from_slice(&backing.to_be_bytes());
        header[72..].copy_from_slice(&features.to_be_bytes());
        header
    }

    #[test]
    fn a_disk_that_names_another_file_is_refused() {
        assert_eq!(format_of(b"anything else"), Ok(Format::Raw));
        assert_eq!(format_of(&header(2, 0, u64::MAX)), Ok(Format::Qcow2));
        assert_eq!(format_of(&header(3, 0, 1)), Ok(Format::Qcow2));
        assert!(format_of(&header(3, 104, 0)).is_err() && format_of(&header(2, 104, 0)).is_err());
        assert!(format_of(&header(3, 0, EXTERNAL_DATA)).is_err() && format_of(&header(4, 0, 0)).is_err());
        assert!(format_of(&header(3, 0, 0)[..70]).is_err());
    }

    proptest! {
        #[test]
        fn no_header_is_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..90)) {
            let _ = format_of(&[MAGIC, bytes.as_slice()].concat());
        }
    }

    #[test]
    fn a_disk_is_an_overlay_or_empty_and_nothing_else_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let (image, disk) = (folder.path().join("a,b=c.img"), folder.path().join("disk.qcow2"));
        File::create(&image).unwrap().set_len(1 << 20).unwrap();
        create(&disk, Some((&image, Format::Raw)), Some(4 << 20)).unwrap();
        assert_eq!((size(&disk, Format::Qcow2).unwrap(), inspect(&disk).is_err()), (4 << 20, true));
        assert_eq!(fs::metadata(&disk).unwrap().permissions().mode() & 0o777, 0o600);
        create(&disk, Some((&image, Format::Raw)), None).unwrap();
        assert_eq!(size(&disk, Format::Qcow2).unwrap(), 1 << 20);
        let small = create(&disk, Some((&image, Format::Raw)), Some(1 << 19));
        assert!(matches!(small, Err(HypervisorError::BadPlan(_))), "{small:?}");
        create(&disk, None, Some(1 << 30)).unwrap();
        assert_eq!(inspect(&disk).unwrap(), Format::Qcow2);
        let nowhere = create(&folder.path().join("no/disk.qcow2"), None, Some(1 << 20));
        assert!(matches!(nowhere, Err(HypervisorError::DidNotStart(_))), "{nowhere:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
