//! Importing an image: where its disk comes from, and what it must be.

use crate::Digest;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a disk's bytes are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskFormat {
    /// As they are.
    Raw,
    /// QEMU's format, version 2 or 3, in one file.
    Qcow2,
    /// ISO 9660: a medium to install from.
    Iso,
}

impl DiskFormat {
    /// `raw`, `qcow2` or `iso`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Iso => "iso",
        }
    }
    /// Back from [`DiskFormat::name`].
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Raw, Self::Qcow2, Self::Iso].into_iter().find(|format| format.name() == name)
    }
}

impl fmt::Display for DiskFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a file's bytes must come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Checksum {
    /// FIPS 180-4.
    Sha256(Digest),
    /// The same, as 128 lower-case hex digits.
    Sha512(String),
}

impl Checksum {
    /// Hex digits in either case, 64 or 128, with or without `sha256:` or `sha512:` before them.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, digits) = text.split_once(':').map_or((None, text), |(kind, digits)| (Some(kind), digits));
        let digits = digits.to_ascii_lowercase();
        let is_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
        match (kind, digits.len()) {
            (None | Some("sha256"), 64) => Digest::parse(&digits).map(Self::Sha256),
            (None | Some("sha512"), 128) if is_hex => Some(Self::Sha512(digits)),
            _ => None,
        }
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(digest) => write!(f, "sha256:{digest}"),
            Self::Sha512(digits) => write!(f, "sha512:{digits}"),
        }
    }
}
impl TryFrom<String> for Checksum {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("a checksum is sha256: and 64 hex digits, or sha512: and 128")
    }
}
impl From<Checksum> for String {
    fn from(checksum: Checksum) -> Self {
        checksum.to_string()
    }
}

/// Where an image's disk comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportFrom {
    /// An http or https address.
    Url(String),
    /// What was uploaded under its SHA-256.
    Upload(Digest),
}

/// An import as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// Where from.
    pub from: ImportFrom,
    /// What its bytes must come to.
    pub checksum: Option<Checksum>,
    /// Where a list has their checksum, as sha256sum and sha512sum write it.
    pub checksums_at: Option<String>,
    /// What it is; without, its header tells.
    pub format: Option<DiskFormat>,
    /// The processor that its system is for: `x86_64` or `aarch64`.
    pub arch: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_read_as_tools_write_them() {
        let (short, long) = ("ab".repeat(32), "CD".repeat(64));
        let told = |text: &str| Checksum::parse(text).map(|c| c.to_string());
        assert_eq!(told(&short), Some(format!("sha256:{short}")));
        assert_eq!(told(&format!("sha512:{long}")), Some(format!("sha512:{}", long.to_lowercase())));
        for text in ["", "sha256:", "sha1:ab", &format!("sha256:{long}"), &format!("sha512:{short}"), &"zz".repeat(64)]
        {
            assert_eq!(told(text), None, "{text}");
        }
        let kept: Checksum = serde_json::from_str(&serde_json::to_string(&Checksum::parse(&long)).unwrap()).unwrap();
        assert_eq!(Some(kept), Checksum::parse(&long));
    }
}
