//! Running programs, and where things are.

use anyhow::{Context as _, Result, bail};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

/// Where cargo puts the dev profile's programs.
pub fn debug_dir() -> PathBuf {
    target_dir().join("debug")
}

/// Where cargo puts the release profile's programs.
pub fn release_dir() -> PathBuf {
    target_dir().join("release")
}

fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// A program to run.
#[derive(Debug)]
pub struct Step(Command);

/// The cargo that runs us.
pub fn cargo<const N: usize>(arguments: [&str; N]) -> Step {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut step = program(cargo).args(arguments);
    // What `cargo run` told us is about xtask, not about the next package.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
            step.0.env_remove(name);
        }
    }
    step
}

/// Any program.
pub fn program(name: impl AsRef<OsStr>) -> Step {
    Step(Command::new(name))
}

impl Step {
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, arguments: I) -> Self {
        self.0.args(arguments);
        self
    }
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }
    /// To its end, on our terminal; anything but success is an error.
    pub fn go(mut self) -> Result<()> {
        let shown = self.shown();
        let status = self.0.status().with_context(|| format!("cannot run {shown}"))?;
        if status.success() { Ok(()) } else { bail!("{shown}: {status}") }
    }
    /// To its end; what it printed on stdout, and whether it succeeded. Its stderr is ours.
    pub fn output(mut self) -> Result<(String, bool)> {
        let shown = self.shown();
        let done = self.0.stderr(Stdio::inherit()).output().with_context(|| format!("cannot run {shown}"))?;
        Ok((String::from_utf8_lossy(&done.stdout).into_owned(), done.status.success()))
    }
    /// To its end, in silence: whether it succeeded.
    pub fn quietly(mut self) -> bool {
        self.0.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }
    fn shown(&self) -> String {
        let words = std::iter::once(self.0.get_program()).chain(self.0.get_args());
        let words: Vec<_> = words.map(|word| word.to_string_lossy().into_owned()).collect();
        words.join(" ")
    }
}
