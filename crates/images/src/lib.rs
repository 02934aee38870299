//! Images: what a guest starts from.
//!
//! Owns: building the image `base` out of Debian's cloud kernel, its virtio modules, busybox and
//! perigee-guest; building Debian out of its packages; taking in disks that were made elsewhere; the catalogue of such.
//! Refuses: mounts and loop devices of the host's (archives and disks are written as files), the network
//! beyond apt and the guarded client, bytes whose digest is not the one asked for, and disks that could
//! make a host read another file.
//!
//! ```text
//! linux-image-…-cloud-amd64.deb ──unpack──► kernel, modules ─┐
//! busybox-static, perigee-guest ─────────────────────────────┴─► initramfs (cpio) ──► BuiltImage
//! Debian's packages ──mmdebstrap, mke2fs, GRUB──► BuiltImage: a disk
//! an address, an upload ──import──► staged, hashed, inspected ──► a disk in the blobs
//! ```
#![forbid(unsafe_code)]

pub mod base;
pub mod catalogue;
mod checksums;
pub mod cpio;
mod debian;
mod error;
pub mod import;
mod initramfs;
pub mod inspect;
mod kernel;
mod payload;
mod tool;
mod work;

pub use base::{BaseBuild, BuiltImage, BuiltPart, Progress, build_base};
pub use debian::{DebianBuild, build_debian};
pub use error::ImageError;
pub use kernel::KernelSource;
