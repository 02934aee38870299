//! The dashboard: installed, checked and built by npm, so that perigeed can embed it.

use crate::shell::{self, program};
use anyhow::{Context as _, Result};
use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

/// Where npm leaves word of what it installed.
const INSTALLED: &str = "node_modules/.package-lock.json";

/// Types, unit tests, and the build.
pub fn test() -> Result<()> {
    install()?;
    npm(&["run", "--silent", "check"])?;
    npm(&["run", "--silent", "test"])?;
    build()
}

/// What perigeed embeds, made anew where a source is newer.
pub fn build() -> Result<()> {
    let dist = folder().join("dist/index.html");
    let sources = ["src", "public", "index.html", "package-lock.json", "pack.mjs", "vite.config.ts", "policy.ts"];
    let newest = sources.iter().filter_map(|name| newest(&folder().join(name))).max();
    if changed(&dist).is_some_and(|built| newest.is_some_and(|source| source <= built)) {
        return Ok(());
    }
    install()?;
    npm(&["run", "--silent", "build"])
}

/// As [`build`]; where that cannot be done perigeed has its plain status page, and the reason is told.
pub fn build_if_possible() {
    if let Err(error) = build() {
        println!("the dashboard is not built ({error:#}); a plain status page is in its place");
    }
}

fn install() -> Result<()> {
    let installed = changed(&folder().join(INSTALLED));
    let wanted = changed(&folder().join("package-lock.json"));
    if installed.is_some() && installed >= wanted {
        return Ok(());
    }
    npm(&["ci", "--no-audit", "--no-fund", "--loglevel=error"])
}

fn npm(arguments: &[&str]) -> Result<()> {
    let folder = folder().display().to_string();
    let step = program("npm").args(["--prefix", &folder]).args(arguments);
    step.go().context("npm comes with scripts/setup")
}

fn folder() -> PathBuf {
    shell::root().join("web")
}

fn changed(path: &std::path::Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}

/// The last change of a file, or of any in a folder.
fn newest(path: &std::path::Path) -> Option<SystemTime> {
    let inside = fs::read_dir(path).into_iter().flatten().flatten().filter_map(|entry| newest(&entry.path()));
    inside.chain(changed(path)).max()
}
