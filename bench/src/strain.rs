//! Work for the machine while it is measured.

use anyhow::{Context as _, Result};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// How much happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing of ours.
    Idle,
    /// One processor computes, and 50 processes come and go each second.
    Busy,
    /// The same, and disk, page cache, loopback and context switches: hardly a counter stands still.
    Changing,
}

const LOOP: &str = "while :; do :; done";
const CHURN: &str = "while :; do sleep 0.02; done";
const WRITES: &str = "while :; do dd if=/dev/zero of=strain bs=64k count=8 conv=fsync; sleep 0.04; done";
const TRAFFIC: &str = "while :; do bash -c ': >/dev/tcp/127.0.0.1/9'; sleep 0.03; done";

impl Work {
    /// As the table has it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Changing => "all changing",
        }
    }

    fn scripts(self) -> &'static [&'static str] {
        match self {
            Self::Idle => &[],
            Self::Busy => &[LOOP, CHURN],
            Self::Changing => &[LOOP, CHURN, WRITES, TRAFFIC],
        }
    }
}

/// Ends with its value.
pub struct Strain(Vec<Child>);

impl Strain {
    /// Files are written in this folder.
    pub fn begin(work: Work, folder: &Path) -> Result<Self> {
        let mut strain = Self(Vec::new());
        for script in work.scripts() {
            let mut command = Command::new("sh");
            command.args(["-c", script]).current_dir(folder).process_group(0);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            strain.0.push(command.spawn().context("sh")?);
        }
        Ok(strain)
    }
}

impl Drop for Strain {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // What it started last ends by itself.
            drop(child.kill());
            drop(child.wait());
        }
    }
}
