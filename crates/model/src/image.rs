//! Images: what a guest starts from, named by the SHA-256 of their parts.

use crate::{ImageId, Name, Tenant, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;

/// SHA-256 of a part's bytes, as 64 lower-case hex digits (FIPS 180-4).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// Takes 64 lower-case hex digits, refuses anything else (a digest becomes a file name).
    pub fn parse(text: &str) -> Option<Self> {
        let fits = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        fits.then(|| Self(text.to_owned()))
    }
    /// Of these 32 bytes.
    pub fn of_bytes(bytes: &[u8; 32]) -> Self {
        let digit = |half: u8| char::from_digit(u32::from(half), 16).unwrap_or('0');
        Self(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect())
    }
    /// The 32 bytes.
    pub fn bytes(&self) -> [u8; 32] {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|half| u8::try_from(half).ok()).unwrap_or(0);
        let text = self.0.as_bytes();
        std::array::from_fn(|place| digit(text[2 * place]) << 4 | digit(text[2 * place + 1]))
    }
    /// The 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl TryFrom<String> for Digest {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("a digest is 64 lower-case hex digits")
    }
}
impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a part is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartRole {
    /// A Linux kernel that QEMU boots directly.
    Kernel,
    /// An initial RAM file system, the root of `base`.
    Initrd,
    /// A root disk: raw ext4 for a sandbox, raw or qcow2 for a VM.
    Disk,
    /// A medium to install from (ISO 9660).
    Iso,
    /// What a VM's cloud-init reads: the user-data of its NoCloud seed.
    UserData,
}

/// One file of an image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Part {
    /// What it is for.
    pub role: PartRole,
    /// Its bytes' digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Where an image is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageState {
    /// A task makes it.
    Building,
    /// Guests can start from it.
    Ready,
    /// The task that should have made it failed.
    Failed,
}

/// An image. Its bytes live in the control plane's blobs; hosts cache them by digest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Image {
    /// Identity.
    pub id: ImageId,
    /// Unique in the tenant.
    pub name: Name,
    /// Who owns it.
    pub tenant: Tenant,
    /// The user who made it.
    pub owner: String,
    /// `x86_64` or `aarch64`.
    pub arch: String,
    /// Its files.
    pub parts: Vec<Part>,
    /// `uname -r` of its kernel, when it has one.
    pub kernel_release: Option<String>,
    /// Where it is in its life.
    pub state: ImageState,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Bumped by each write.
    pub revision: u64,
}

impl Image {
    /// All parts together.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|p| p.bytes).sum()
    }
}
