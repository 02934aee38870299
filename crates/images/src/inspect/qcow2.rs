//! qcow2, versions 2 and 3: everything that QEMU would go by when it opens one.
//!
//! Owns: the header, its extensions, and walking the tables: each entry points into the file, to a
//! whole cluster, with no reserved bit set.
//! Refuses: other files below or beside it, encryption, internal snapshots, unknown features, tables
//! or clusters beyond the file's end.
//! Deliberately absent: reference counts against use (`qemu-img check` does that; a wrong count harms
//! only writers, and an image is never written again).
//!
//! Format: QEMU, docs/interop/qcow2.txt; the largest tables are those that QEMU opens.

use super::{Format, InspectError, Inspected, SECTOR_BYTES, Window};
use std::io::{Read, Seek};

/// `QFI` and 0xfb.
pub const MAGIC: &[u8; 4] = b"QFI\xfb";

const HEADER_2_BYTES: u64 = 72;
const HEADER_3_BYTES: u64 = 104;
/// With the compression type, padded.
const HEADER_BYTES_MAX: u64 = 112;
const L1_BYTES_MAX: u64 = 32 << 20;
const REFCOUNT_TABLE_BYTES_MAX: u64 = 8 << 20;
const NAME_BYTES_MAX: u64 = 1023;
/// Of a name that is quoted.
const NAME_CHARS_SHOWN: usize = 80;
const EXTENSIONS_MAX: usize = 64;

const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
const KNOWN_FEATURES: u64 = DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION_TYPE | EXTENDED_L2;

const EXTENSION_END: u32 = 0;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
const EXTENSION_ENCRYPTION: u32 = 0x0537_be77;

/// Bits 9 to 55 of a table entry: where it points.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;

/// What the header says, once it can be believed.
struct Header {
    version: u32,
    cluster_bits: u32,
    virtual_bytes: u64,
    l1_at: u64,
    l1_entries: u64,
    refcounts_at: u64,
    refcounts_clusters: u64,
    features: u64,
    header_bytes: u64,
}

/// Looks at a file that begins with [`MAGIC`].
pub fn inspect<R: Read + Seek>(window: &mut Window<R>, virtual_bytes_max: u64) -> Result<Inspected, InspectError> {
    let header = read_header(window)?;
    if header.virtual_bytes > virtual_bytes_max {
        return Err(InspectError::TooLarge { virtual_bytes: header.virtual_bytes, limit: virtual_bytes_max });
    }
    header.check_sizes()?;
    check_extensions(window, &header)?;
    check_refcounts(window, &header)?;
    check_mappings(window, &header)?;
    let (virtual_bytes, file_bytes) = (header.virtual_bytes, window.file_bytes());
    Ok(Inspected { format: Format::Qcow2, virtual_bytes, file_bytes, content: None })
}

fn read_header<R: Read + Seek>(window: &mut Window<R>) -> Result<Header, InspectError> {
    let mut bytes = window.read(0, HEADER_BYTES_MAX)?;
    let read = bytes.len() as u64;
    bytes.resize(usize::try_from(HEADER_BYTES_MAX).unwrap_or(usize::MAX), 0);
    let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let long = |at: usize| (u64::from(word(at)) << 32) | u64::from(word(at + 4));
    let version = word(4);
    let least = match version {
        2 => HEADER_2_BYTES,
        3 => HEADER_3_BYTES,
        other => return Err(unsound(format!("version {other}; 2 and 3 are known"))),
    };
    if read < least {
        return Err(InspectError::Truncated { what: "the end of its header" });
    }
    if long(8) != 0 || word(16) != 0 {
        return Err(InspectError::BackingFile { name: name_at(window, long(8), u64::from(word(16)))? });
    }
    let features = if version == 2 { 0 } else { long(72) };
    refuse_features(features)?;
    match word(32) {
        0 => {}
        1 => return Err(InspectError::Encrypted { method: "AES" }),
        _ => return Err(InspectError::Encrypted { method: "LUKS" }),
    }
    if word(60) != 0 {
        return Err(InspectError::Snapshots { count: word(60) });
    }
    let (refcount_order, header_bytes) =
        if version == 2 { (4, HEADER_2_BYTES) } else { (word(96), u64::from(word(100))) };
    if refcount_order > 6 {
        return Err(unsound(format!("reference counts of 2^{refcount_order} bits")));
    }
    let has_compression_type = features & COMPRESSION_TYPE != 0;
    let compression = if header_bytes > HEADER_3_BYTES { bytes[104] } else { 0 };
    if compression > 1 || has_compression_type != (compression != 0) {
        return Err(unsound(format!("compression type {compression}; deflate and zstd are known")));
    }
    Ok(Header {
        version,
        cluster_bits: word(20),
        virtual_bytes: long(24),
        l1_at: long(40),
        l1_entries: u64::from(word(36)),
        refcounts_at: long(48),
        refcounts_clusters: u64::from(word(56)),
        features,
        header_bytes,
    })
}

fn refuse_features(features: u64) -> Result<(), InspectError> {
    if features & EXTERNAL_DATA != 0 {
        return Err(InspectError::DataFile { name: "as its header says".to_owned() });
    }
    if features & !KNOWN_FEATURES != 0 {
        return Err(InspectError::UnknownFeatures { bits: features & !KNOWN_FEATURES });
    }
    if features & CORRUPT != 0 {
        return Err(InspectError::Unclean { state: "corrupt" });
    }
    if features & DIRTY != 0 {
        return Err(InspectError::Unclean { state: "not closed properly" });
    }
    Ok(())
}

impl Header {
    fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }
    fn has_wide_entries(&self) -> bool {
        self.features & EXTENDED_L2 != 0
    }
    /// Clusters that one L2 table maps.
    fn l2_entries(&self) -> u64 {
        self.cluster_bytes() / if self.has_wide_entries() { 16 } else { 8 }
    }

    fn check_sizes(&self) -> Result<(), InspectError> {
        let least_bits = if self.has_wide_entries() { 14 } else { 9 };
        if !(least_bits..=21).contains(&self.cluster_bits) {
            return Err(unsound(format!("clusters of 2^{} bytes", self.cluster_bits)));
        }
        if self.virtual_bytes == 0 || !self.virtual_bytes.is_multiple_of(SECTOR_BYTES) {
            return Err(unsound(format!("a disk of {} bytes, which is no number of sectors", self.virtual_bytes)));
        }
        let is_header = self.header_bytes >= if self.version == 2 { HEADER_2_BYTES } else { HEADER_3_BYTES };
        if !is_header || !self.header_bytes.is_multiple_of(8) || self.header_bytes > self.cluster_bytes() {
            return Err(unsound(format!("a header of {} bytes", self.header_bytes)));
        }
        let needed = self.virtual_bytes.div_ceil(self.cluster_bytes() * self.l2_entries());
        if self.l1_entries < needed || self.l1_entries * 8 > L1_BYTES_MAX {
            return Err(unsound(format!("an L1 table of {} entries where {needed} are needed", self.l1_entries)));
        }
        let refcounts_bytes = self.refcounts_clusters * self.cluster_bytes();
        if refcounts_bytes == 0 || refcounts_bytes > REFCOUNT_TABLE_BYTES_MAX {
            return Err(unsound(format!("a reference count table of {refcounts_bytes} bytes")));
        }
        self.aligned(self.l1_at, "L1 table")?;
        self.aligned(self.refcounts_at, "reference count table")
    }

    /// A table begins at a cluster, and not over the header.
    fn aligned(&self, at: u64, what: &str) -> Result<(), InspectError> {
        if at == 0 || !at.is_multiple_of(self.cluster_bytes()) {
            return Err(unsound(format!("its {what} lies at {at}, which is no cluster of its own")));
        }
        Ok(())
    }
}

/// The area between the header and the end of the first cluster.
fn check_extensions<R: Read + Seek>(window: &mut Window<R>, header: &Header) -> Result<(), InspectError> {
    let end = header.cluster_bytes();
    let mut at = header.header_bytes;
    for _ in 0..EXTENSIONS_MAX {
        if at + 8 > end {
            return Ok(());
        }
        let head = window.read(at, 8)?;
        let [a, b, c, d, e, f, g, h] = head[..] else {
            return Err(InspectError::Truncated { what: "the end of its header extensions" });
        };
        let (kind, length) = (u32::from_be_bytes([a, b, c, d]), u64::from(u32::from_be_bytes([e, f, g, h])));
        if kind == EXTENSION_END {
            return Ok(());
        }
        if length > end - at - 8 {
            return Err(unsound(format!("a header extension of {length} bytes")));
        }
        match kind {
            EXTENSION_DATA_FILE => return Err(InspectError::DataFile { name: name_at(window, at + 8, length)? }),
            EXTENSION_ENCRYPTION => return Err(InspectError::Encrypted { method: "LUKS" }),
            _ => at += 8 + length.next_multiple_of(8),
        }
    }
    Err(unsound(format!("more than {EXTENSIONS_MAX} header extensions")))
}

fn check_refcounts<R: Read + Seek>(window: &mut Window<R>, header: &Header) -> Result<(), InspectError> {
    let what = "the end of its reference count table";
    let (file_bytes, cluster) = (window.file_bytes(), header.cluster_bytes());
    window.each_entry(what, header.refcounts_at, header.refcounts_clusters * cluster / 8, |entry| {
        if !entry.is_multiple_of(cluster) {
            return Err(unsound(format!("a reference count block at {entry}, which is no cluster")));
        }
        if entry >= file_bytes {
            return Err(InspectError::Truncated { what: "a reference count block" });
        }
        Ok(())
    })
}

fn check_mappings<R: Read + Seek>(window: &mut Window<R>, header: &Header) -> Result<(), InspectError> {
    let (file_bytes, cluster) = (window.file_bytes(), header.cluster_bytes());
    let mut tables = Vec::new();
    window.each_entry("the end of its L1 table", header.l1_at, header.l1_entries, |entry| {
        let at = entry & OFFSET;
        if entry & !(OFFSET | COPIED) != 0 || !at.is_multiple_of(cluster) {
            return Err(unsound(format!("an L1 entry {entry:#x}")));
        }
        if at != 0 {
            tables.push(at);
        }
        if at.saturating_add(cluster) > file_bytes && at != 0 {
            return Err(InspectError::Truncated { what: "the end of an L2 table" });
        }
        Ok(())
    })?;
    for table in tables {
        let mut is_bitmap = false;
        window.each_entry("the end of an L2 table", table, cluster / 8, |entry| {
            let skipped = is_bitmap;
            // Of a wide entry, the second half says which parts of the cluster are there.
            is_bitmap = header.has_wide_entries() && !is_bitmap;
            if skipped { Ok(()) } else { check_mapping(header, file_bytes, entry) }
        })?;
    }
    Ok(())
}

/// One cluster of the disk: nothing, zeros, a cluster of the file, or a compressed piece of it.
fn check_mapping(header: &Header, file_bytes: u64, entry: u64) -> Result<(), InspectError> {
    let beyond = InspectError::Truncated { what: "a cluster of the disk" };
    if entry & COMPRESSED != 0 {
        let offset_bits = 62 - (header.cluster_bits - 8);
        let at = entry & ((1 << offset_bits) - 1);
        let more_sectors = (entry & !(COMPRESSED | COPIED)) >> offset_bits;
        let end = (at / SECTOR_BYTES + more_sectors + 1) * SECTOR_BYTES;
        return if end > file_bytes.next_multiple_of(SECTOR_BYTES) { Err(beyond) } else { Ok(()) };
    }
    let at = entry & OFFSET;
    let zero = if header.version == 2 || header.has_wide_entries() { 0 } else { ZERO };
    if entry & !(OFFSET | COPIED | zero) != 0 || !at.is_multiple_of(header.cluster_bytes()) {
        return Err(unsound(format!("an L2 entry {entry:#x}")));
    }
    if at >= file_bytes { Err(beyond) } else { Ok(()) }
}

/// A name that the file holds, as far as it may be quoted.
fn name_at<R: Read + Seek>(window: &mut Window<R>, at: u64, length: u64) -> Result<String, InspectError> {
    let bytes = window.read(at, length.min(NAME_BYTES_MAX))?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.chars().filter(|c| !c.is_control()).take(NAME_CHARS_SHOWN).collect())
}

fn unsound(what: impl Into<String>) -> InspectError {
    InspectError::Unsound(what.into())
}
