//! What starts a sandbox whose root is on a disk: the kernel of `base`, and an initial RAM file system that only
//! leads to the disk.

use super::Made;
use crate::base::{BaseBuild, check_program, load, load_modules, save};
use crate::error::ImageError;
use crate::work::Work;
use crate::{initramfs, kernel};
use std::path::Path;

/// Puts `initrd` into that directory.
///
/// # Errors
/// As of [`crate::build_base`].
pub(super) async fn lead(base: &BaseBuild, work: &Work, to: &Path) -> Result<Made, ImageError> {
    let missing = || ImageError::GuestMissing(base.guest_binary.clone());
    check_program(&base.guest_binary, missing).await?;
    let kernel = kernel::unpack(&kernel::find(&base.kernel, work).await?, work).await?;
    let modules: Vec<_> = kernel.modules.iter().chain(&kernel.root).cloned().collect();
    let bytes = initramfs::build_leading(load(&base.guest_binary).await?, load_modules(&modules).await?)?;
    save(&to.join("initrd"), &bytes).await?;
    Ok(Made { kernel_release: kernel.release, leading: Some(kernel.kernel) })
}
