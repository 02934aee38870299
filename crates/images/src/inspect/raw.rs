//! A disk's bytes as they are: whole, and not shorter than what lies on it says.

use super::{Content, Format, InspectError, Inspected, SECTOR_BYTES, Window};
use std::io::{Read, Seek};

/// ISO 9660's first volume descriptor: ECMA-119, 6.2.1.
const ISO_AT: u64 = 32 << 10;
const ISO_BLOCK_BYTES: u64 = 2048;
/// Of ext2 and its followers: Linux, Documentation/filesystems/ext4/super.rst.
const EXT_AT: usize = 1024;

/// Looks at a file that is in no other format.
pub fn inspect<R: Read + Seek>(
    window: &mut Window<R>,
    declared: Option<Format>,
    virtual_bytes_max: u64,
) -> Result<Inspected, InspectError> {
    let file_bytes = window.file_bytes();
    if !file_bytes.is_multiple_of(SECTOR_BYTES) {
        return Err(InspectError::OddLength { file_bytes });
    }
    if file_bytes > virtual_bytes_max {
        return Err(InspectError::TooLarge { virtual_bytes: file_bytes, limit: virtual_bytes_max });
    }
    let beginning = window.read(0, 4096)?;
    let descriptor = window.read(ISO_AT, ISO_BLOCK_BYTES)?;
    let (content, needed, what) = content(&beginning, &descriptor);
    if needed > file_bytes {
        return Err(InspectError::Truncated { what });
    }
    let is_iso = content == Content::Iso || iso_bytes(&descriptor).is_some();
    let format = match declared {
        Some(Format::Iso) if !is_iso => return Err(InspectError::NoIso),
        Some(declared) => declared,
        None if is_iso => Format::Iso,
        None => Format::Raw,
    };
    Ok(Inspected { format, virtual_bytes: file_bytes, file_bytes, content: Some(content) })
}

/// What lies on it, the bytes that this needs, and what those are.
fn content(beginning: &[u8], descriptor: &[u8]) -> (Content, u64, &'static str) {
    if let Some(bytes) = gpt_bytes(beginning) {
        return (Content::Gpt, bytes, "the end of its last usable partition sector");
    }
    if let Some(bytes) = iso_bytes(descriptor) {
        return (Content::Iso, bytes, "the end of its ISO 9660 volume");
    }
    if let Some(bytes) = ext_bytes(beginning) {
        return (Content::Ext, bytes, "the end of its file system");
    }
    let is_mbr = beginning.get(510..512) == Some(&[0x55, 0xaa]);
    (if is_mbr { Content::Mbr } else { Content::Unknown }, 0, "its end")
}

/// UEFI 2.10, 5.3.2: the header is in the second sector, its last usable sector at 48.
fn gpt_bytes(beginning: &[u8]) -> Option<u64> {
    let header = beginning.get(512..1024).filter(|header| header.starts_with(b"EFI PART"))?;
    little_u64(header, 48)?.checked_add(1)?.checked_mul(SECTOR_BYTES)
}

/// ECMA-119, 8.4: the volume's size in blocks at 80, the block's size at 128, each in both orders.
fn iso_bytes(descriptor: &[u8]) -> Option<u64> {
    if descriptor.first() != Some(&1) || descriptor.get(1..6) != Some(b"CD001") {
        return None;
    }
    let block = u16::from_le_bytes(descriptor.get(128..130)?.try_into().ok()?);
    Some(u64::from(little_u32(descriptor, 80)?) * u64::from(block))
}

fn ext_bytes(beginning: &[u8]) -> Option<u64> {
    let superblock = beginning.get(EXT_AT..)?;
    if superblock.get(56..58) != Some(&[0x53, 0xef]) {
        return None;
    }
    let block_bits = little_u32(superblock, 24).filter(|bits| *bits <= 6)? + 10;
    let has_high = little_u32(superblock, 96)? & 0x80 != 0;
    let high = if has_high { u64::from(little_u32(superblock, 336)?) } else { 0 };
    let blocks = (high << 32) | u64::from(little_u32(superblock, 4)?);
    blocks.checked_mul(1 << block_bits)
}

fn little_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn little_u64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
