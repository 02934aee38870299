//! Clippy while it builds: what is checked apart from the build needs all that others wrote a second time.
//!
//! `cargo clippy` is `cargo check` with clippy's driver in the compiler's place; this is `cargo build` with it.

use crate::shell::Step;
use std::path::PathBuf;

/// How `cargo clippy` hands its own arguments to the driver.
const ARGUMENTS: (&str, &str) = ("CLIPPY_ARGS", "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__");

/// A call of cargo that builds: our own crates are refused what clippy refuses them. What is built so is not what
/// is built without.
pub fn linted(build: Step) -> Step {
    // Beside the cargo that runs us.
    let cargo = std::env::var_os("CARGO").map(PathBuf::from).unwrap_or_default();
    build.env("RUSTC_WORKSPACE_WRAPPER", cargo.with_file_name("clippy-driver")).env(ARGUMENTS.0, ARGUMENTS.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::cargo;

    #[test]
    fn what_clippy_refuses_is_not_built() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = folder.path().join("Cargo.toml");
        let source = folder.path().join("lib.rs");
        std::fs::write(&manifest, "[package]\nname = \"tried\"\nedition = \"2024\"\n[lib]\npath = \"lib.rs\"\n")
            .unwrap();
        let is_built = |code: &str| {
            std::fs::write(&source, code).unwrap();
            let build = cargo(["build", "--offline", "--manifest-path"]).args([&manifest]);
            linted(build.args(["--target-dir"]).args([folder.path().join("target")])).quietly()
        };
        assert!(is_built("pub fn none(of: &[u8]) -> bool {\n    of.is_empty()\n}\n"));
        assert!(!is_built("pub fn none(of: &[u8]) -> bool {\n    of.len() == 0\n}\n"));
    }
}
