//! Images.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Asks for an image to be built.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageRequest {
    /// A DNS label.
    pub name: String,
    /// How it is made: `base`.
    pub recipe: String,
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
    /// `kernel`, `initrd` or `disk`.
    pub role: String,
    /// SHA-256, 64 hex digits.
    pub digest: String,
    /// Its length.
    pub bytes: u64,
}
