//! Images: what a guest starts from.
//!
//! Owns: building the image `base` out of Debian's cloud kernel, its virtio modules, busybox and
//! perigee-guest; taking in disks that were made elsewhere; the catalogue of such.
//! Refuses: root, mounts and loop devices (archives are written by our own code), the network
//! beyond apt and the guarded client, bytes whose digest is not the one asked for, and disks that could
//! make a host read another file.
//!
//! ```text
//! linux-image-…-cloud-amd64.deb ──unpack──► kernel, modules ─┐
//! busybox-static, perigee-guest ─────────────────────────────┴─► initramfs (cpio) ──► BuiltImage
//! an address, an upload ──import──► staged, hashed, inspected ──► a disk in the blobs
//! ```
#![forbid(unsafe_code)]

pub mod base;
pub mod catalogue;
mod checksums;
pub mod cpio;
mod error;
pub mod import;
mod initramfs;
pub mod inspect;
mod kernel;
mod payload;

pub use base::{BaseBuild, BuiltImage, BuiltPart, Progress, build_base};
pub use error::ImageError;
pub use kernel::KernelSource;
