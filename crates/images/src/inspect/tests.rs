use super::*;
use proptest::prelude::*;
use std::cell::Cell;
use std::io::{Cursor, SeekFrom};
use std::process::Command;

const LIMIT: u64 = 64 << 40;
const MIB: u64 = 1 << 20;

/// What qemu-img makes of these arguments, which end with the file's size unless they say it all.
fn made(arguments: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), arguments);
    std::fs::read(folder.path().join("image")).unwrap()
}

fn run(folder: &std::path::Path, arguments: &[&str]) {
    let done = Command::new("qemu-img").args(arguments).current_dir(folder).output().expect("qemu-utils is installed");
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn created(format: &str, options: &[&str]) -> Vec<u8> {
    let mut arguments = vec!["create", "-q", "-f", format];
    arguments.extend(options);
    arguments.extend(["image", "64M"]);
    made(&arguments)
}

/// A qcow2 with data in it: a raw disk of 8 MiB, every other part of it filled, converted.
fn filled(options: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let mut disk = vec![0; 8 << 20];
    for (index, part) in disk.chunks_mut(128 << 10).enumerate().filter(|(index, _)| index % 2 == 0) {
        part.fill(u8::try_from(index).unwrap() | 1);
    }
    std::fs::write(folder.path().join("disk"), disk).unwrap();
    let mut arguments = vec!["convert", "-f", "raw", "-O", "qcow2"];
    arguments.extend(options);
    arguments.extend(["disk", "image"]);
    run(folder.path(), &arguments);
    std::fs::read(folder.path().join("image")).unwrap()
}

fn told(bytes: &[u8], declared: Option<Format>) -> String {
    match inspect(Cursor::new(bytes), declared, LIMIT) {
        Ok(found) => format!("{} of {} bytes, {:?}", found.format, found.virtual_bytes, found.content),
        Err(error) => error.to_string(),
    }
}

/// `bytes` with others at `at`.
fn with(mut bytes: Vec<u8>, at: usize, others: &[u8]) -> Vec<u8> {
    bytes.resize(bytes.len().max(at + others.len()), 0);
    bytes[at..at + others.len()].copy_from_slice(others);
    bytes
}

#[track_caller]
fn refused(bytes: &[u8], words: &str) {
    let told = told(bytes, None);
    assert!(told.contains(words), "{told:?} does not say {words:?}");
}

#[test]
fn what_qemu_img_makes_is_taken() {
    let variants: [&[&str]; 10] = [
        &[],
        &["-o", "compat=0.10"],
        &["-o", "cluster_size=512"],
        &["-o", "cluster_size=2M"],
        &["-o", "extended_l2=on"],
        &["-o", "compression_type=zstd"],
        &["-o", "lazy_refcounts=on"],
        &["-o", "preallocation=metadata"],
        &["-o", "refcount_bits=1"],
        &["-o", "refcount_bits=64"],
    ];
    for options in variants {
        assert_eq!(told(&created("qcow2", options), None), "qcow2 of 67108864 bytes, None", "{options:?}");
        let disk = filled(options);
        for declared in [None, Some(Format::Qcow2)] {
            assert_eq!(told(&disk, declared), "qcow2 of 8388608 bytes, None", "{options:?}");
        }
        if !options.iter().any(|option| option.contains("preallocation")) {
            let options = [options, &["-c"]].concat();
            assert_eq!(told(&filled(&options), None), "qcow2 of 8388608 bytes, None", "{options:?}");
        }
    }
    assert_eq!(told(&created("raw", &[]), None), "raw of 67108864 bytes, Some(Unknown)");
}

#[test]
fn a_bitmap_of_a_backup_is_no_hindrance() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), &["create", "-q", "-f", "qcow2", "image", "64M"]);
    run(folder.path(), &["bitmap", "--add", "-f", "qcow2", "image", "nightly"]);
    let image = std::fs::read(folder.path().join("image")).unwrap();
    assert_eq!(told(&image, None), "qcow2 of 67108864 bytes, None");
}

#[test]
fn another_file_below_or_beside_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    run(at, &["create", "-q", "-f", "raw", "base", "1M"]);
    run(at, &["create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "image"]);
    let layer = std::fs::read(at.join("image")).unwrap();
    refused(&layer, "a layer above another file (base)");
    let name_at = usize::try_from(u64::from_be_bytes(layer[8..16].try_into().unwrap())).unwrap();
    for name in ["/etc/shadow", "json:{\"driver\":\"file\",\"filename\":\"/etc/shadow\"}", "nbd://10.0.0.1/x"] {
        let layer = with(layer.clone(), name_at, name.as_bytes());
        let layer = with(layer, 16, &u32::try_from(name.len()).unwrap().to_be_bytes());
        refused(&layer, name);
    }
    let plain = created("qcow2", &[]);
    refused(&with(plain.clone(), 8, &u64::MAX.to_be_bytes()), "a layer above another file ()");
    refused(&with(plain.clone(), 16, &[0, 0, 0, 9]), "a layer above another file");
    run(at, &["create", "-q", "-f", "qcow2", "-o", "data_file=bytes,data_file_raw=on", "beside", "1M"]);
    refused(&std::fs::read(at.join("beside")).unwrap(), "its data is in another file");
    // The flag taken away, the name is still there.
    let named = with(std::fs::read(at.join("beside")).unwrap(), 72, &[0; 8]);
    refused(&named, "its data is in another file (bytes)");
}

#[test]
fn lies_in_a_header_are_refused() {
    let plain = created("qcow2", &[]);
    let word = |at: usize, value: u32| with(plain.clone(), at, &value.to_be_bytes());
    let long = |at: usize, value: u64| with(plain.clone(), at, &value.to_be_bytes());
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (word(4, 4), "version 4"),
        (word(4, 0), "version 0"),
        (word(20, 0), "clusters of 2^0"),
        (word(20, 8), "clusters of 2^8"),
        (word(20, 22), "clusters of 2^22"),
        (word(20, u32::MAX), "clusters of 2^4294967295"),
        (long(24, 2 << 60), "a disk of 2305843009213693952 bytes; the largest that is taken has 70368744177664"),
        (long(24, 0), "a disk of 0 bytes"),
        (long(24, MIB + 1), "no number of sectors"),
        (long(24, 1 << 40), "an L1 table of 1 entries where 2048 are needed"),
        (word(32, 1), "encrypted (AES)"),
        (word(32, 2), "encrypted (LUKS)"),
        (word(36, 0), "an L1 table of 0 entries where 1 are needed"),
        (word(36, u32::MAX), "an L1 table of 4294967295 entries"),
        (long(40, 0), "its L1 table lies at 0"),
        (long(40, 12345), "its L1 table lies at 12345"),
        (long(40, 1 << 50), "it ends before the end of its L1 table"),
        (long(40, u64::MAX << 16), "it ends before the end of its L1 table"),
        (long(48, 0), "its reference count table lies at 0"),
        (long(48, 1 << 62), "it ends before the end of its reference count table"),
        (word(56, 0), "a reference count table of 0 bytes"),
        (word(56, u32::MAX), "a reference count table of"),
        (word(60, 3), "3 internal snapshots"),
        (long(72, 1), "not closed properly"),
        (long(72, 2), "corrupt"),
        (long(72, 4), "its data is in another file"),
        (long(72, 8), "compression type 0"),
        (long(72, 1 << 63), "bits 0x8000000000000000"),
        (word(96, 7), "reference counts of 2^7 bits"),
        (word(100, 8), "a header of 8 bytes"),
        (word(100, 113), "a header of 113 bytes"),
        (word(100, u32::MAX), "a header of"),
        (with(plain.clone(), 104, &[2]), "compression type 2"),
        (word(112, 0x0537_be77), "encrypted (LUKS)"),
        (with(plain.clone(), 112, &[0x44, 0x41, 0x54, 0x41, 0, 0, 0, 4, b'/', b'e', 7, b'c']), "another file (/ec)"),
        (with(plain.clone(), 112, &[1, 2, 3, 4, 0xff, 0xff, 0xff, 0xff]), "a header extension of 4294967295 bytes"),
    ];
    for (image, words) in cases {
        refused(&image, words);
    }
    let long_list: Vec<u8> = [1, 2, 3, 4, 0, 0, 0, 0].repeat(65);
    refused(&with(plain, 112, &long_list), "more than 64 header extensions");
    let internal = tempfile::tempdir().unwrap();
    run(internal.path(), &["create", "-q", "-f", "qcow2", "image", "1M"]);
    run(internal.path(), &["snapshot", "-c", "before", "image"]);
    refused(&std::fs::read(internal.path().join("image")).unwrap(), "1 internal snapshots");
}

#[test]
fn tables_that_point_anywhere_else_are_refused() {
    let disk = filled(&[]);
    let at = |field: usize| usize::try_from(u64::from_be_bytes(disk[field..field + 8].try_into().unwrap())).unwrap();
    let (l1, refcounts) = (at(40), at(48));
    let l2 = usize::try_from(u64::from_be_bytes(disk[l1..l1 + 8].try_into().unwrap()) & 0x00ff_ffff_ffff_fe00).unwrap();
    let entry = |at: usize, value: u64| with(disk.clone(), at, &value.to_be_bytes());
    refused(&entry(l1, 0x8000_0000_0000_0001), "an L1 entry");
    refused(&entry(l1, 512), "an L1 entry 0x200");
    refused(&entry(l1, 1 << 50), "the end of an L2 table");
    refused(&entry(l2, 1 << 50), "it ends before a cluster of the disk");
    refused(&entry(l2, 512), "an L2 entry 0x200");
    refused(&entry(l2, 1 << 61), "an L2 entry");
    refused(&entry(l2, 0x4000_0000_0000_0000 | (1 << 50)), "it ends before a cluster of the disk");
    refused(&entry(l2, u64::MAX), "it ends before a cluster of the disk");
    refused(&entry(refcounts, 1 << 50), "a reference count block");
    refused(&entry(refcounts, 7), "a reference count block at 7");
    // The second version knows no bit for zeros.
    let old = filled(&["-o", "compat=0.10"]);
    refused(&with(old, l2, &1u64.to_be_bytes()), "an L2 entry 0x1");
}

#[test]
fn what_is_cut_off_is_refused() {
    for disk in [filled(&[]), filled(&["-c"]), filled(&["-o", "cluster_size=512"]), filled(&["-o", "extended_l2=on"])] {
        for kept in (1..16).map(|sixteenth| disk.len() * sixteenth / 16).chain([71, 100, 103, 4096]) {
            refused(&disk[..kept], "it ends before");
        }
    }
    assert_eq!(told(&[], None), "the file is empty");
    assert_eq!(told(b"QFI\xfb", None), "it is not a sound qcow2: version 0; 2 and 3 are known");
    assert!(told(&[0; 1000], None).contains("no whole number of 512-byte sectors"));
}

#[test]
fn a_disk_that_says_it_is_longer_was_cut_off() {
    let disk = vec![0; 1 << 20];
    let gpt = with(disk.clone(), 512, b"EFI PART");
    assert_eq!(told(&with(gpt.clone(), 560, &2014u64.to_le_bytes()), None), "raw of 1048576 bytes, Some(Gpt)");
    refused(&with(gpt.clone(), 560, &2048u64.to_le_bytes()), "its last usable partition sector");
    assert_eq!(told(&with(gpt, 560, &u64::MAX.to_le_bytes()), None), "raw of 1048576 bytes, Some(Unknown)");
    let ext = with(disk.clone(), 1024 + 56, &[0x53, 0xef]);
    assert_eq!(told(&with(ext.clone(), 1028, &1024u32.to_le_bytes()), None), "raw of 1048576 bytes, Some(Ext)");
    refused(&with(ext, 1028, &1025u32.to_le_bytes()), "the end of its file system");
    let iso = with(with(disk.clone(), 32 << 10, b"\x01CD001"), (32 << 10) + 128, &2048u16.to_le_bytes());
    assert_eq!(
        told(&with(iso.clone(), (32 << 10) + 80, &512u32.to_le_bytes()), None),
        "iso of 1048576 bytes, Some(Iso)"
    );
    refused(&with(iso.clone(), (32 << 10) + 80, &513u32.to_le_bytes()), "the end of its ISO 9660 volume");
    assert_eq!(told(&iso, Some(Format::Raw)), "raw of 1048576 bytes, Some(Iso)");
    assert_eq!(told(&with(disk.clone(), 510, &[0x55, 0xaa]), None), "raw of 1048576 bytes, Some(Mbr)");
    assert!(told(&disk, Some(Format::Iso)).contains("no ISO 9660 volume descriptor"));
    let large = inspect(Cursor::new(&disk), None, MIB - 512).unwrap_err();
    assert!(matches!(large, InspectError::TooLarge { virtual_bytes: MIB, .. }), "{large}");
}

#[test]
fn what_was_declared_must_be_so() {
    let (qcow2, raw) = (created("qcow2", &[]), created("raw", &[]));
    for declared in [Format::Raw, Format::Iso] {
        let error = inspect(Cursor::new(&qcow2), Some(declared), LIMIT).unwrap_err();
        assert!(matches!(error, InspectError::HiddenQcow2), "{error}");
    }
    assert!(told(&raw, Some(Format::Qcow2)).contains("has no qcow2 header"));
    // A guest writes a header on its own raw disk.
    let header = with(raw, 0, &qcow2[..112]);
    assert!(told(&header, Some(Format::Raw)).contains("a guest wrote such a header"));
}

#[test]
fn every_other_format_is_refused_by_its_name() {
    let formats = [
        ("vmdk", "a VMDK disk of VMware"),
        ("vdi", "a VDI disk of VirtualBox"),
        ("vhdx", "a VHDX disk of Hyper-V"),
        ("vpc", "a VHD disk of Virtual PC"),
        ("qed", "a QED disk"),
        ("qcow", "a qcow disk of version 1"),
        ("parallels", "a Parallels disk"),
    ];
    for (format, name) in formats {
        refused(&created(format, &[]), name);
    }
    refused(&created("vpc", &["-o", "subformat=fixed"]), "a VHD disk of Virtual PC");
    refused(
        &made(&["create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", "image", "1M"]),
        "a VMDK descriptor",
    );
    let luks = [
        "create",
        "-q",
        "--object",
        "secret,id=s,data=x",
        "-f",
        "luks",
        "-o",
        "key-secret=s,iter-time=10",
        "image",
        "1M",
    ];
    refused(&made(&luks), "a LUKS-encrypted disk");
    let sector = |start: &[u8]| with(vec![0; 4096], 0, start);
    let starts: [(&[u8], &str); 8] = [
        (b"json:{\"driver\": \"nbd\"}", "`json:` description"),
        (b"nbd://127.0.0.1/disk", "`nbd:` address"),
        (b"\x1f\x8b\x08\0", "compressed with gzip"),
        (b"\xfd7zXZ\0", "compressed with xz"),
        (b"PK\x03\x04", "a ZIP archive"),
        (b"\n <!DOCTYPE HTML>", "a web page"),
        (b"<html lang=en>", "a web page"),
        (b"\x7fELF", "a program or kernel"),
    ];
    for (start, name) in starts {
        refused(&sector(start), name);
    }
    refused(&with(vec![0; 4096], 257, b"ustar"), "a tar or OVA archive");
}

/// Counts what is read of it.
struct Counted<'a> {
    file: Cursor<&'a [u8]>,
    read: &'a Cell<u64>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.read.set(self.read.get() + read as u64);
        Ok(read)
    }
}

impl Seek for Counted<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.file.seek(to)
    }
}

/// A small file whose L1 table names one L2 table a million times: each look costs a cluster.
#[test]
fn tables_that_repeat_are_read_only_so_often() {
    let mut bomb = created("qcow2", &["-o", "cluster_size=2M"]);
    let (l1, l2) = (bomb.len().next_multiple_of(2 << 20), bomb.len().next_multiple_of(2 << 20) + (4 << 20));
    let entries: Vec<u8> = (l2 as u64).to_be_bytes().repeat(1 << 18);
    bomb = with(bomb, l1, &entries);
    bomb.resize(l2 + (2 << 20), 0);
    bomb = with(bomb, 36, &(1u32 << 18).to_be_bytes());
    bomb = with(bomb, 40, &(l1 as u64).to_be_bytes());
    let read = Cell::new(0);
    let refused = inspect(Counted { file: Cursor::new(&bomb), read: &read }, None, LIMIT).unwrap_err();
    assert!(matches!(refused, InspectError::TablesTooLarge), "{refused}");
    assert!(read.get() <= READ_BYTES_MAX, "{}", read.get());
}

proptest! {
    /// Whatever is in a file, there is an answer, and it costs a bounded read.
    #[test]
    fn no_bytes_are_a_panic(
        base in 0usize..4,
        changes in prop::collection::vec((0usize..400, any::<u8>()), 0..12),
        tables in prop::collection::vec((0usize..(1 << 20), any::<u8>()), 0..12),
        kept in 0usize..(9 << 20),
        declared in 0usize..4,
    ) {
        use std::sync::LazyLock;
        static BASES: LazyLock<[Vec<u8>; 4]> = LazyLock::new(|| {
            [vec![0; 1 << 20], filled(&[]), filled(&["-c", "-o", "cluster_size=512"]), filled(&["-o", "extended_l2=on"])]
        });
        let mut bytes = BASES[base].clone();
        for (at, value) in changes.into_iter().chain(tables) {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes.truncate(kept);
        let read = Cell::new(0);
        let declared = [None, Some(Format::Raw), Some(Format::Qcow2), Some(Format::Iso)][declared];
        let found = inspect(Counted { file: Cursor::new(&bytes), read: &read }, declared, LIMIT);
        prop_assert!(read.get() <= READ_BYTES_MAX);
        if let Ok(found) = found {
            prop_assert!(found.virtual_bytes <= LIMIT && found.file_bytes == bytes.len() as u64);
        }
    }

    /// Bytes that are nothing at all.
    #[test]
    fn noise_is_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..5000), is_qcow2 in any::<bool>()) {
        let bytes = if is_qcow2 { [&super::qcow2::MAGIC[..], &bytes].concat() } else { bytes };
        drop(inspect(Cursor::new(&bytes), None, LIMIT));
    }
}
