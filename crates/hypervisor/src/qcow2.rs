//! Disk files: what an image's disk is, and making a guest's own above it.
//!
//! Owns: reading the few fields of a header that matter before any other program sees the file; writing
//! that of a new disk (`qemu-img` takes longer to start than this to write it).
//! Refuses: a disk that names another file. It would show the guest whatever the host may read.
//!
//! Format: QEMU, docs/interop/qcow2.txt.

use crate::HypervisorError;
use crate::work::{os, room_or_os};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use perigee_model::limits::VOLUME_BYTES_MAX;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

pub const MAGIC: &[u8; 4] = b"QFI\xfb";
/// Of a version 3 header, up to its incompatible features.
const HEADER_BYTES: u64 = 80;
pub const EXTERNAL_DATA: u64 = 1 << 2;

/// How a disk's bytes are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As they are.
    Raw,
    /// QEMU's format.
    Qcow2,
}

impl Format {
    /// QEMU's word for it.
    pub fn name(self) -> &'static str {
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
/// `NoRoom` on a full disk, `Os`, `BadPlan` when the image is larger than the disk is to be, or cannot
/// be named in a header.
pub fn create(path: &Path, image: Option<(&Path, Format)>, bytes: Option<u64>) -> Result<(), HypervisorError> {
    let bad = |text: String| Err(HypervisorError::BadPlan(text));
    let of_image = image.map(|(image, format)| size(image, format)).transpose()?;
    let bytes = match (bytes, of_image) {
        (Some(bytes), Some(least)) if least > bytes => {
            return bad(format!("its disk of {bytes} bytes is smaller than the image's of {least}"));
        }
        (Some(bytes), _) | (None, Some(bytes)) => bytes,
        (None, None) => return bad("a disk without an image has a size".to_owned()),
    };
    let bytes = bytes.next_multiple_of(SECTOR);
    let Some(empty) = Empty::new(bytes, bytes, image) else {
        let above = image.map_or_else(String::new, |(image, _)| format!(" above {}", image.display()));
        return bad(format!("no disk of {bytes} bytes can be made{above}"));
    };
    appear(path, &empty)
}

/// Makes an empty one whose first table is long enough for the largest volume there may be: then it grows by
/// one write of its size. It appears whole or not at all. Blocks.
///
/// # Errors
/// As of [`create`].
pub fn create_growing(path: &Path, bytes: u64) -> Result<(), HypervisorError> {
    let empty = Empty::new(bytes, VOLUME_BYTES_MAX, None);
    appear(path, &empty.ok_or_else(|| HypervisorError::BadPlan(format!("no volume of {bytes} bytes can be made")))?)
}

/// Makes one that nobody has open larger; as large or larger is fine. Blocks.
///
/// # Errors
/// `BadPlan` for one whose first table is too short, `Os` for what is no qcow2, and for one that a QEMU has
/// open.
pub fn grow(path: &Path, bytes: u64) -> Result<(), HypervisorError> {
    let doing = || format!("making {} larger", path.display());
    let mut header = [0; HEADER_BYTES as usize];
    let file = File::options().read(true).write(true).open(path).map_err(os(doing()))?;
    file.read_exact_at(&mut header, 0).map_err(os(doing()))?;
    if !header.starts_with(MAGIC) {
        return Err(os(doing())(io::Error::other("it is no qcow2")));
    }
    if long(&header, SIZE_AT) >= bytes {
        return Ok(());
    }
    alone(&file).map_err(os(format!("{}: another program has it open", doing())))?;
    if u64::from(word(&header, L1_ENTRIES_AT)) < bytes.div_ceil(L1_COVERS) {
        return Err(HypervisorError::BadPlan(format!("{} cannot become as large as {bytes} bytes", path.display())));
    }
    file.write_all_at(&bytes.to_be_bytes(), SIZE_AT as u64).and_then(|()| file.sync_all()).map_err(room_or_os(doing()))
}

/// Nobody else has it open, and nobody opens it while the file lives: a QEMU that uses an image holds locks on
/// these of its bytes (QEMU, block/file-posix.c).
fn alone(file: &File) -> io::Result<()> {
    let whole = |number: i32| libc::c_short::try_from(number).unwrap_or_default();
    let lock = libc::flock {
        l_type: whole(libc::F_WRLCK),
        l_whence: whole(libc::SEEK_SET),
        l_start: 100,
        l_len: 200,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock)).map(drop).map_err(io::Error::from)
}

fn appear(path: &Path, empty: &Empty) -> Result<(), HypervisorError> {
    let (new, doing) = (path.with_extension("new"), || format!("making {}", path.display()));
    let mut options = File::options();
    let file = options.create(true).truncate(true).write(true).mode(0o600).open(&new).map_err(room_or_os(doing()))?;
    let made = empty.write(&file).and_then(|()| fs::rename(&new, path));
    made.map_err(|error| {
        _ = fs::remove_file(&new);
        room_or_os(doing())(error)
    })
}

/// Where a header holds the size, and how long the first table is.
const SIZE_AT: usize = 24;
const L1_ENTRIES_AT: usize = 36;
const SECTOR: u64 = 512;
const CLUSTER_BITS: u32 = 16;
pub const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Clusters that one cluster of 16-bit counts covers.
const COUNTED: u64 = CLUSTER / 2;
/// What one entry of the first table stands for: a cluster of 8-byte entries, each for a cluster.
const L1_COVERS: u64 = CLUSTER / 8 * CLUSTER;
const HEADER_3_BYTES: u32 = 104;
pub const BACKING_FORMAT: u32 = 0xE279_2ACA;
const BACKING_BYTES_MAX: usize = 1023;

/// A qcow2 with nothing in it yet: version 3, clusters of 64 KiB.
///
/// ```text
/// cluster 0   header, format and name of the image
/// cluster 1   table of the counts: one entry
/// cluster 2   counts: one for each cluster that is there
/// cluster 3…  first table: zeros, a hole in the file
/// ```
struct Empty {
    header: Vec<u8>,
    clusters: u64,
}

impl Empty {
    /// Of this size, with a first table for one of `most`. `None` when it does not fit into that.
    fn new(bytes: u64, most: u64, image: Option<(&Path, Format)>) -> Option<Self> {
        let entries = most.max(bytes).div_ceil(L1_COVERS);
        let clusters = 3 + (entries * 8).div_ceil(CLUSTER).max(1);
        if clusters > COUNTED || bytes == 0 {
            return None;
        }
        let mut extensions = Vec::new();
        if let Some((_, format)) = image {
            let name = format.name().as_bytes();
            extensions.extend(BACKING_FORMAT.to_be_bytes());
            extensions.extend(u32::try_from(name.len()).ok()?.to_be_bytes());
            extensions.extend(name);
            extensions.resize(extensions.len().next_multiple_of(8), 0);
        }
        extensions.extend([0; 8]);
        let name = image.map_or(&[][..], |(image, _)| image.as_os_str().as_bytes());
        // An absolute path is a file to QEMU, whatever else is in it.
        if name.len() > BACKING_BYTES_MAX || image.is_some_and(|(image, _)| !image.is_absolute()) {
            return None;
        }
        let name_at = match image {
            Some(_) => u64::from(HEADER_3_BYTES) + extensions.len() as u64,
            None => 0,
        };
        let mut header = Vec::new();
        header.extend(MAGIC);
        header.extend(3u32.to_be_bytes());
        header.extend(name_at.to_be_bytes());
        header.extend(u32::try_from(name.len()).ok()?.to_be_bytes());
        header.extend(CLUSTER_BITS.to_be_bytes());
        header.extend(bytes.to_be_bytes());
        header.extend(0u32.to_be_bytes()); // not encrypted
        header.extend(u32::try_from(entries).ok()?.to_be_bytes());
        header.extend((3 * CLUSTER).to_be_bytes());
        header.extend(CLUSTER.to_be_bytes());
        header.extend(1u32.to_be_bytes());
        header.extend([0; 12]); // no snapshots
        header.extend([0; 24]); // no features
        header.extend(4u32.to_be_bytes()); // counts of 2^4 bits
        header.extend(HEADER_3_BYTES.to_be_bytes());
        header.extend(extensions);
        header.extend(name);
        Some(Self { header, clusters })
    }

    fn write(&self, file: &File) -> io::Result<()> {
        file.set_len(self.clusters * CLUSTER)?;
        file.write_all_at(&self.header, 0)?;
        file.write_all_at(&(2 * CLUSTER).to_be_bytes(), CLUSTER)?;
        let counts: Vec<u8> = (0..self.clusters).flat_map(|_| 1u16.to_be_bytes()).collect();
        file.write_all_at(&counts, 2 * CLUSTER)?;
        file.sync_all()
    }
}

/// A snapshot inside a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inside {
    /// What it is called.
    pub name: String,
    /// The moment it keeps: seconds and nanoseconds since 1970.
    pub at: Duration,
    /// What the memory in it takes up; 0 without.
    pub memory_bytes: u64,
}

/// The most snapshots that a disk has (QEMU's limit), and the longest of their lists that is read.
const SNAPSHOTS_MAX: u32 = 65_536;
const LIST_BYTES_MAX: u64 = 64 << 20;
/// One without what follows it: more fields, its id, its name.
const SNAPSHOT_BYTES: usize = 40;

/// The snapshots inside a disk, which may be in use. Blocks.
///
/// # Errors
/// `Os` for what is no qcow2 or ends early.
pub fn snapshots(path: &Path) -> Result<Vec<Inside>, HypervisorError> {
    list(path).map_err(os(format!("reading the snapshots in {}", path.display())))
}

fn list(path: &Path) -> io::Result<Vec<Inside>> {
    let file = File::open(path)?;
    let mut header = [0; HEADER_BYTES as usize];
    file.read_exact_at(&mut header, 0)?;
    let (count, at) = (word(&header, 60), long(&header, 64));
    if !header.starts_with(MAGIC) || count > SNAPSHOTS_MAX {
        return Err(io::Error::other("not a qcow2, or not a sound one"));
    }
    let length = file.metadata()?.len().saturating_sub(at).min(LIST_BYTES_MAX);
    let mut bytes = Vec::new();
    if count > 0 {
        let mut from = BufReader::new(&file);
        from.seek(SeekFrom::Start(at))?;
        from.take(length).read_to_end(&mut bytes)?;
    }
    read_list(&bytes, count).ok_or_else(|| io::Error::other("its list of snapshots ends early"))
}

fn read_list(mut bytes: &[u8], count: u32) -> Option<Vec<Inside>> {
    let mut found = Vec::new();
    for _ in 0..count {
        let head = bytes.get(..SNAPSHOT_BYTES)?;
        let short = |at: usize| usize::from(u16::from_be_bytes([head[at], head[at + 1]]));
        let (id, name, extra) = (short(12), short(14), usize::try_from(word(head, 36)).ok()?);
        let (named, whole) = (SNAPSHOT_BYTES + extra + id, SNAPSHOT_BYTES + extra + id + name);
        let memory_bytes = match extra {
            0..8 => u64::from(word(head, 32)),
            8.. => long(bytes.get(SNAPSHOT_BYTES..SNAPSHOT_BYTES + 8)?, 0),
        };
        let at = Duration::from_secs(word(head, 16).into()) + Duration::from_nanos(word(head, 20).into());
        let name = String::from_utf8_lossy(bytes.get(named..whole)?).into_owned();
        found.push(Inside { name, at, memory_bytes });
        bytes = bytes.get(whole.next_multiple_of(8).min(bytes.len())..)?;
    }
    Some(found)
}

/// Four bytes that are there.
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

/// Eight bytes that are there.
fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) << 32 | u64::from(word(bytes, at + 4))
}

/// How large the guest sees it. Blocks.
///
/// # Errors
/// `Os`.
pub fn size(path: &Path, format: Format) -> Result<u64, HypervisorError> {
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
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::process::Command;

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

        #[test]
        fn no_list_is_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), count in 0u32..4) {
            let _ = read_list(&bytes, count);
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
        assert!(matches!(nowhere, Err(HypervisorError::Os { .. })), "{nowhere:?}");
        for bad in [create(&disk, None, None), create(&disk, None, Some(0)), create(&disk, None, Some(u64::MAX >> 1))] {
            assert!(matches!(bad, Err(HypervisorError::BadPlan(_))), "{bad:?}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn snapshots_that_qemu_made_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk.qcow2");
        create(&disk, None, Some(1 << 20)).unwrap();
        assert_eq!(snapshots(&disk).unwrap(), []);
        for name in ["0192aaaa-0000-7000-8000-000000000001", "übrig"] {
            let done = Command::new("qemu-img").args(["snapshot", "-c", name]).arg(&disk).status().unwrap();
            assert!(done.success());
        }
        let found = snapshots(&disk).unwrap();
        let names: Vec<_> = found.iter().map(|inside| (inside.name.as_str(), inside.memory_bytes)).collect();
        assert_eq!(names, [("0192aaaa-0000-7000-8000-000000000001", 0), ("übrig", 0)]);
        assert!(found[0].at > Duration::from_secs(1 << 30) && found[0].at <= found[1].at);
        fs::write(&disk, b"no disk at all").unwrap();
        assert!(snapshots(&disk).is_err());
    }

    #[test]
    fn a_volume_grows_and_keeps_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("volume.qcow2");
        let tool = |program: &str, arguments: &[&str]| {
            let said = Command::new(program).args(arguments).arg(&disk).output().expect("package qemu-utils");
            assert!(said.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said.stderr));
        };
        create_growing(&disk, 1 << 20).unwrap();
        assert!(fs::metadata(&disk).unwrap().blocks() * 512 < 1 << 20, "a long table takes up nothing");
        tool("qemu-io", &["-f", "qcow2", "-c", "write -P 7 0 64k"]);
        for bytes in [3 << 30, 20 << 40, VOLUME_BYTES_MAX] {
            grow(&disk, bytes).unwrap();
            assert_eq!(size(&disk, Format::Qcow2).unwrap(), bytes);
            tool("qemu-img", &["check", "-q"]);
            let last = format!("write -P 8 {} 64k", bytes - (64 << 10));
            tool("qemu-io", &["-f", "qcow2", "-c", &last, "-c", "read -P 7 0 64k"]);
        }
        grow(&disk, 1 << 20).expect("smaller is nothing to do");
        assert_eq!(size(&disk, Format::Qcow2).unwrap(), VOLUME_BYTES_MAX);
        assert!(matches!(grow(&disk, VOLUME_BYTES_MAX + (1 << 40)), Err(HypervisorError::BadPlan(_))));
        create(&disk, None, Some(1 << 20)).unwrap();
        assert!(matches!(grow(&disk, 1 << 40), Err(HypervisorError::BadPlan(_))), "a short table");
        fs::write(&disk, [b'x'; 200]).unwrap();
        assert!(matches!(grow(&disk, 1 << 30), Err(HypervisorError::Os { .. })));
    }

    /// `qemu-img` is the oracle of the format.
    #[test]
    fn qemu_reads_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let ask = |arguments: &[&str], disk: &Path| {
            let said = Command::new("qemu-img").args(arguments).arg(disk).output().expect("package qemu-utils");
            assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
            serde_json::from_slice::<serde_json::Value>(&said.stdout).unwrap()
        };
        let image = folder.path().join("a,b=c: d.img");
        fs::write(&image, [7; 4096].repeat(300)).unwrap();
        let below = folder.path().join("below.qcow2");
        create(&below, None, Some(3 << 30)).unwrap();
        // Empty, above either format, larger than the image, and so large that its first table is long.
        for (place, (image, bytes)) in [
            (None, Some(1 << 30)),
            (Some((image.as_path(), Format::Raw)), None),
            (Some((image.as_path(), Format::Raw)), Some(20 << 30)),
            (Some((below.as_path(), Format::Qcow2)), None),
            (None, Some(16 << 40)),
        ]
        .into_iter()
        .enumerate()
        {
            let disk = folder.path().join(format!("disk{place}.qcow2"));
            create(&disk, image, bytes).unwrap();
            let info = ask(&["info", "--output=json"], &disk);
            let wanted = bytes.unwrap_or_else(|| size(image.unwrap().0, image.unwrap().1).unwrap());
            assert_eq!(info["virtual-size"], wanted);
            assert_eq!(info["backing-filename"].as_str(), image.map(|(path, _)| path.to_str().unwrap()));
            assert_eq!(info["backing-filename-format"].as_str(), image.map(|(_, format)| format.name()));
            let check = ask(&["check", "--output=json"], &disk);
            assert_eq!((&check["check-errors"], &check["leaks"]), (&0.into(), &serde_json::Value::Null));
        }
    }
}
