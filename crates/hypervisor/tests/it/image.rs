//! The image that real tests boot: built once, kept under `target/`.

use perigee_images::{BaseBuild, build_base};
use perigee_model::PartRole;
use std::path::{Path, PathBuf};
use std::process::Command;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The static perigee-guest: the one CI built, or else the one `cargo xtask guest` builds or finds.
fn guest_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("PERIGEE_GUEST_BINARY") {
        return path.into();
    }
    let build = Command::new(env!("CARGO")).args(["xtask", "guest"]).current_dir(workspace()).output().unwrap();
    let said = String::from_utf8_lossy(&build.stderr);
    assert!(build.status.success(), "perigee-guest does not build: {said}");
    String::from_utf8(build.stdout).unwrap().trim().into()
}

/// Kernel and initrd of `base`.
pub async fn parts() -> Vec<(PartRole, PathBuf)> {
    let build = BaseBuild::new(workspace().join("target/test-image"), guest_binary());
    let built = build_base(&build, &mut |_| {}).await;
    let built = built.unwrap_or_else(|error| panic!("{error}; scripts/setup installs what is needed"));
    built.parts.into_iter().map(|part| (part.part.role, part.path)).collect()
}
