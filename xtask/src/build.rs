//! The programs: three of the dev profile, and perigee-guest, small and static.

use crate::shell::{cargo, debug_dir, release_dir, root};
use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};

/// The guest has its own target folder: its flags would otherwise rebuild everything else.
pub const GUEST_TARGET: &str = "x86_64-unknown-linux-gnu";

/// `perigee`, `perigeed`, `perigee-agent`.
pub fn programs() -> Result<()> {
    cargo(["build", "--bin", "perigee", "--bin", "perigeed", "--bin", "perigee-agent"]).go()
}

/// perigee-agent as it is released, beside the other programs of a release.
pub fn agent() -> Result<()> {
    cargo(["build", "--profile", "agent", "--bin", "perigee-agent"]).go()?;
    let built = release_dir().with_file_name("agent").join("perigee-agent");
    put(&built, &release_dir().join("perigee-agent"))
}

/// perigee-guest as it travels in images; also put beside the other programs, where they look.
pub fn guest() -> Result<PathBuf> {
    cargo([
        "build",
        "--quiet",
        "--package",
        "perigee-guest",
        "--bin",
        "perigee-guest",
        "--features",
        "program",
        "--profile",
        "guest",
    ])
    .args(["--target", GUEST_TARGET, "--target-dir", "target-guest"])
    .env("RUSTFLAGS", "-C target-feature=+crt-static")
    .go()?;
    let built = guest_path();
    std::fs::create_dir_all(debug_dir())?;
    put(&built, &debug_dir().join("perigee-guest"))?;
    Ok(built)
}

/// By rename: who runs or reads the old one keeps it.
fn put(built: &Path, at: &Path) -> Result<()> {
    let fresh = at.with_extension("new");
    std::fs::copy(built, &fresh).with_context(|| format!("{}", built.display()))?;
    std::fs::rename(&fresh, at)?;
    Ok(())
}

/// Where [`guest`] leaves it.
pub fn guest_path() -> PathBuf {
    root().join("target-guest").join(GUEST_TARGET).join("guest/perigee-guest")
}
