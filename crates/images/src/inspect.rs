//! What a disk image is, told from its bytes alone, before any other program sees it.
//!
//! Owns: reading headers and tables of raw and qcow2 images, recognising every other format by name.
//! Refuses: whatever could make a host read or write outside the image (backing files, data files),
//! whatever lies about its size, what is cut off, and everything that is not raw, qcow2 or an ISO.
//! It opens nothing, runs nothing, and reads at most [`READ_BYTES_MAX`].
//!
//! A file is looked at once, at its import. The format found then is what it is from there on; nothing
//! asks the bytes again, since a guest may have written them.

mod error;
mod foreign;
mod qcow2;
mod raw;
mod window;

pub use error::InspectError;

use foreign::Foreign;
use perigee_model::DiskFormat as Format;
use std::io::{Read, Seek};
use window::Window;

/// Most bytes that are read of one file: enough for the tables of 4 TiB in clusters of 64 KiB.
pub const READ_BYTES_MAX: u64 = 256 << 20;
/// Sectors as disks count them.
const SECTOR_BYTES: u64 = 512;

/// What lies on a raw disk, as far as its first bytes tell. For people: nothing is decided by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A GUID partition table.
    Gpt,
    /// An MBR partition table, or a boot sector.
    Mbr,
    /// An ext2, ext3 or ext4 file system without partitions.
    Ext,
    /// ISO 9660.
    Iso,
    /// Not known; an empty disk, for example.
    Unknown,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// How its bytes are kept.
    pub format: Format,
    /// How large a guest sees it.
    pub virtual_bytes: u64,
    /// How large the file is.
    pub file_bytes: u64,
    /// What lies on it; `None` inside a qcow2.
    pub content: Option<Content>,
}

/// Looks at an image. `declared` is what its owner says it is; without, the bytes tell, and what they
/// tell is as strictly checked. `virtual_bytes_max` is the largest disk that is taken.
///
/// # Errors
/// Everything that is not a whole raw disk, qcow2 or ISO; the error says what is wrong and what would
/// be right.
pub fn inspect<R: Read + Seek>(
    file: R,
    declared: Option<Format>,
    virtual_bytes_max: u64,
) -> Result<Inspected, InspectError> {
    let mut window = Window::of(file, READ_BYTES_MAX)?;
    if window.file_bytes() == 0 {
        return Err(InspectError::Empty);
    }
    let foreign = foreign::recognise(&mut window)?;
    match (declared, foreign) {
        (None | Some(Format::Qcow2), Some(Foreign::Qcow2)) => qcow2::inspect(&mut window, virtual_bytes_max),
        (Some(Format::Raw | Format::Iso), Some(Foreign::Qcow2)) => Err(InspectError::HiddenQcow2),
        (_, Some(Foreign::Other { name, remedy })) => Err(InspectError::Foreign { name, remedy }),
        (Some(Format::Qcow2), None) => Err(InspectError::NoQcow2),
        (declared, None) => raw::inspect(&mut window, declared, virtual_bytes_max),
    }
}

#[cfg(test)]
mod tests;
