//! The image that real tests boot: built once, kept under `target/`.

use perigee_images::{BaseBuild, build_base};
use perigee_model::PartRole;
use std::path::{Path, PathBuf};
use std::process::Command;

const GUEST_TARGET: &str = "x86_64-unknown-linux-gnu";

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Builds perigee-guest as `cargo xtask` does, or finds it built.
fn guest_binary() -> PathBuf {
    let folder = workspace().join("target-guest");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(workspace()).env("RUSTFLAGS", "-C target-feature=+crt-static");
    cargo.args(["build", "--quiet", "--package", "perigee-guest", "--bin", "perigee-guest", "--profile", "guest"]);
    cargo.args(["--target", GUEST_TARGET, "--target-dir"]).arg(&folder);
    assert!(cargo.status().unwrap().success(), "perigee-guest does not build");
    folder.join(GUEST_TARGET).join("guest/perigee-guest")
}

/// Kernel and initrd of `base`.
pub async fn parts() -> Vec<(PartRole, PathBuf)> {
    let build = BaseBuild::new(workspace().join("target/test-image"), guest_binary());
    let built = build_base(&build, &mut |_| {}).await;
    let built = built.unwrap_or_else(|error| panic!("{error}; scripts/setup installs what is needed"));
    built.parts.into_iter().map(|part| (part.part.role, part.path)).collect()
}
