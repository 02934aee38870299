//! Images: what a guest starts from.
//!
//! Owns: building the image `base` out of Debian's cloud kernel, its virtio modules, busybox and
//! perigee-guest.
//! Refuses: root, mounts and loop devices (archives are written by our own code), the network
//! beyond apt, and bytes whose digest is not the one asked for.
//!
//! ```text
//! linux-image-…-cloud-amd64.deb ──unpack──► kernel, modules ─┐
//! busybox-static, perigee-guest ─────────────────────────────┴─► initramfs (cpio) ──► BuiltImage
//! ```
#![forbid(unsafe_code)]

pub mod base;
pub mod cpio;
mod error;
mod initramfs;
pub mod inspect;
mod kernel;
mod payload;

pub use base::{BaseBuild, BuiltImage, BuiltPart, Progress, build_base};
pub use error::ImageError;
pub use kernel::KernelSource;
