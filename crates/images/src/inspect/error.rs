//! Why an image is not taken, and what would be right.

use std::io;

/// Why an image is not taken. Texts are for its owner; what they quote of the image is short and plain.
#[derive(thiserror::Error, Debug)]
pub enum InspectError {
    /// Nothing is in it.
    #[error("the file is empty")]
    Empty,
    /// It is some other format, known by name.
    #[error("this is {name}; raw and qcow2 disks and ISO images are taken: {remedy}")]
    Foreign {
        /// `a VMDK disk of VMware`.
        name: &'static str,
        /// How to make something of it that is taken.
        remedy: &'static str,
    },
    /// It was called raw or ISO, and its first bytes are a qcow2 header.
    #[error(
        "it was declared raw, and its first bytes are a qcow2 header: say `qcow2` if it is one; a disk on which a \
         guest wrote such a header is not taken"
    )]
    HiddenQcow2,
    /// It was called qcow2.
    #[error("it was declared qcow2, and has no qcow2 header: say `raw` if it is a disk's bytes as they are")]
    NoQcow2,
    /// It was called ISO.
    #[error("it was declared iso, and has no ISO 9660 volume descriptor: say `raw` if it is a disk")]
    NoIso,
    /// It ends before something that it says it has.
    #[error("it ends before {what}: the file was cut off; fetch it again")]
    Truncated {
        /// `its L1 table`.
        what: &'static str,
    },
    /// A raw disk consists of whole sectors.
    #[error(
        "its length of {file_bytes} bytes is no whole number of 512-byte sectors: the file was cut off, or is no disk"
    )]
    OddLength {
        /// What it has.
        file_bytes: u64,
    },
    /// A guest would see a larger disk than is allowed.
    #[error("it says that it is a disk of {virtual_bytes} bytes; the largest that is taken has {limit}")]
    TooLarge {
        /// What it says.
        virtual_bytes: u64,
        /// What is taken.
        limit: u64,
    },
    /// It names another file below it.
    #[error(
        "it is a layer above another file ({name}): a host would read that file as the guest's disk; flatten it \
         first: qemu-img convert -O qcow2 IMAGE FLAT"
    )]
    BackingFile {
        /// What it names, shortened, without control characters.
        name: String,
    },
    /// Its bytes are in another file.
    #[error("its data is in another file ({name}); put both into one first: qemu-img convert -O qcow2 IMAGE WHOLE")]
    DataFile {
        /// What it names, shortened, without control characters.
        name: String,
    },
    /// Only who has the key can use it.
    #[error("it is encrypted ({method}): guests start from images without a key; decrypt it first")]
    Encrypted {
        /// `AES`, `LUKS`.
        method: &'static str,
    },
    /// It holds internal snapshots.
    #[error("it holds {count} internal snapshots; keep the disk alone: qemu-img convert -O qcow2 IMAGE FLAT")]
    Snapshots {
        /// So many, as it says.
        count: u32,
    },
    /// It was not closed, or is known to be damaged.
    #[error("it is marked as {state}; mend it first: qemu-img check -r all IMAGE")]
    Unclean {
        /// `corrupt` or `not closed properly`.
        state: &'static str,
    },
    /// It needs something that no version known here has.
    #[error(
        "it needs features of qcow2 that are not known here (bits {bits:#x}); write it anew: qemu-img convert -O qcow2 IMAGE NEW"
    )]
    UnknownFeatures {
        /// The incompatible-features bits that are not known.
        bits: u64,
    },
    /// A field has a value that the format does not allow.
    #[error("it is not a sound qcow2: {0}")]
    Unsound(String),
    /// Checking it would read too much.
    #[error(
        "its tables are larger than 256 MiB: write it anew with larger clusters: qemu-img convert -O qcow2 IMAGE NEW"
    )]
    TablesTooLarge,
    /// It could not be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
}
