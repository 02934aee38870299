//! Every format that is not raw, by the bytes that make it known.
//!
//! Sources: QEMU's block drivers' probe functions (formats, not code), the formats' own descriptions.

use super::{InspectError, SECTOR_BYTES, Window};
use std::io::{Read, Seek};

/// What a file is, when it is not a disk's bytes as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// qcow2 of version 2 or later.
    Qcow2,
    /// Anything else.
    Other {
        /// With its article.
        name: &'static str,
        /// How to make something of it that is taken.
        remedy: &'static str,
    },
}

const CONVERT: &str = "convert it first, with `qemu-img convert -O qcow2`";
const UNPACK: &str = "unpack it first";
const DECRYPT: &str = "decrypt it first";
const FETCH: &str = "look at what the address or the file really holds";

/// Enough for everything that is known by its beginning but ISO 9660.
const BEGINNING_BYTES: u64 = 4096;

/// (offset, bytes, name, remedy).
type Mark = (usize, &'static [u8], &'static str, &'static str);

const MARKS: &[Mark] = &[
    (0, b"QFI\xfb\0\0\0\x01", "a qcow disk of version 1", CONVERT),
    (0, b"KDMV", "a VMDK disk of VMware", CONVERT),
    (0, b"COWD", "a VMDK disk of VMware ESX", CONVERT),
    (0, b"# Disk DescriptorFile", "a VMDK descriptor of VMware", CONVERT),
    (0, b"conectix", "a VHD disk of Virtual PC", CONVERT),
    (0, b"vhdxfile", "a VHDX disk of Hyper-V", CONVERT),
    (64, b"\x7f\x10\xda\xbe", "a VDI disk of VirtualBox", CONVERT),
    (0, b"QED\0", "a QED disk", CONVERT),
    (0, b"WithoutFreeSpace", "a Parallels disk", CONVERT),
    (0, b"WithouFreSpacExt", "a Parallels disk", CONVERT),
    (0, b"Bochs Virtual HD Image", "a Bochs disk", CONVERT),
    (0, b"OOOM", "a COW disk of User-mode Linux", CONVERT),
    (0, b"#!/bin/sh\n#V2.0 Format", "a cloop disk", CONVERT),
    (0, b"LUKS\xba\xbe", "a LUKS-encrypted disk", DECRYPT),
    (0, b"json:", "a `json:` description that names other files", CONVERT),
    (0, b"nbd:", "an `nbd:` address", FETCH),
    (0, b"nbd+", "an `nbd:` address", FETCH),
    (0, b"\x1f\x8b\x08", "compressed with gzip", UNPACK),
    (0, b"\xfd7zXZ\0", "compressed with xz", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", UNPACK),
    (0, b"BZh", "compressed with bzip2", UNPACK),
    (0, b"\x04\x22\x4d\x18", "compressed with lz4", UNPACK),
    (0, b"PK\x03\x04", "a ZIP archive", UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (257, b"ustar", "a tar or OVA archive", UNPACK),
    (0, b"!<arch>\n", "an ar archive or Debian package", FETCH),
    (0, b"\x7fELF", "a program or kernel (ELF)", FETCH),
    (0, b"<?xml", "an XML document", FETCH),
    (0, b"-----BEGIN ", "a PEM or PGP text", FETCH),
];

/// A web page begins with one of these, in any case, after white space.
const PAGES: [&[u8]; 3] = [b"<!doctype html", b"<html", b"<head"];

/// What the file is, if it is not a disk's bytes as they are.
pub fn recognise<R: Read + Seek>(window: &mut Window<R>) -> Result<Option<Foreign>, InspectError> {
    let beginning = window.read(0, BEGINNING_BYTES)?;
    let marked = |mark: &&Mark| beginning.get(mark.0..).is_some_and(|rest| rest.starts_with(mark.1));
    if let Some((_, _, name, remedy)) = MARKS.iter().find(marked) {
        return Ok(other(name, remedy));
    }
    if beginning.starts_with(super::qcow2::MAGIC) {
        return Ok(Some(Foreign::Qcow2));
    }
    let text = beginning.trim_ascii_start();
    let is_page = |page: &[u8]| text.get(..page.len()).is_some_and(|start| start.eq_ignore_ascii_case(page));
    if PAGES.into_iter().any(is_page) {
        return Ok(other("a web page", FETCH));
    }
    let end = window.read(window.file_bytes().saturating_sub(SECTOR_BYTES), SECTOR_BYTES)?;
    if end.starts_with(b"conectix") {
        return Ok(other("a VHD disk of Virtual PC", CONVERT));
    }
    if end.starts_with(b"koly") {
        return Ok(other("a DMG image of macOS", CONVERT));
    }
    Ok(None)
}

fn other(name: &'static str, remedy: &'static str) -> Option<Foreign> {
    Some(Foreign::Other { name, remedy })
}
