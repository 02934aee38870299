//! Images.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Asks for an image: built by a recipe, or taken in from one of the other three.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageRequest {
    /// A DNS label.
    pub name: String,
    /// How it is made: `base` or `debian`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<String>,
    /// Packages beside the usual ones, of `debian`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include: Option<Vec<String>>,
    /// What `debian` is built for: `vm` or `sandbox`. `vm` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Fetch its disk from this http or https address; plain http needs a checksum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Take the bytes that were sent to `/api/v1/uploads/{sha256}`: the SHA-256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<String>,
    /// Fetch what the catalogue has under this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalogue: Option<String>,
    /// What its bytes come to: `sha256:` and 64 hex digits, or `sha512:` and 128.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// `raw`, `qcow2` or `iso`; without, its header tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// `x86_64` or `aarch64`; the control plane's own without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
}

/// How much of an upload is here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UploadView {
    /// What the whole comes to.
    pub sha256: String,
    /// Bytes here: the offset of the next.
    pub bytes: u64,
}

/// One image that others publish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CatalogueEntryView {
    /// Its name in the catalogue.
    pub name: String,
    /// For people.
    pub title: String,
    /// Where its disk is.
    pub url: String,
    /// What its bytes come to, where that does not change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// Where a list has their checksum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksums_url: Option<String>,
    /// `raw`, `qcow2` or `iso`.
    pub format: String,
    /// `x86_64` or `aarch64`.
    pub arch: String,
}

/// What a guest starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageView {
    /// UUIDv7.
    pub id: String,
    /// Unique in the tenant.
    pub name: String,
    /// Whose.
    pub tenant: String,
    /// `x86_64`; empty until built.
    pub arch: String,
    /// `building`, `ready` or `failed`.
    pub state: String,
    /// All parts together.
    pub bytes: u64,
    /// Its files by digest.
    pub parts: Vec<PartView>,
    /// `uname -r` of its kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_release: Option<String>,
    /// When it was asked for.
    pub created_at: String,
}

/// One file of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PartView {
    /// `kernel`, `initrd`, `disk` or `iso`.
    pub role: String,
    /// SHA-256, 64 hex digits.
    pub digest: String,
    /// Its length.
    pub bytes: u64,
}
