//! Giving a ruleset to the kernel, by the tool `nft`.
#![allow(unsafe_code, reason = "something is done between fork and exec")]

use super::HostError;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::process::Stdio;
use tokio::process::Command;

/// Applies a text as one transaction: all of it, or nothing and what `nft` said.
///
/// The text lies in memory as a whole before `nft` begins to read: a pipe would end early if we were killed, and
/// half a text may be a ruleset too.
pub(super) async fn apply(text: &str) -> Result<(), HostError> {
    let mut file = File::from(memfd_create("ruleset", MFdFlags::MFD_CLOEXEC).map_err(std::io::Error::from)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    run(&["-f", "-"], Stdio::from(file)).await.map(drop)
}

/// What `nft` answers.
pub(super) async fn ask(arguments: &[&str]) -> Result<String, HostError> {
    run(arguments, Stdio::null()).await
}

async fn run(arguments: &[&str], stdin: Stdio) -> Result<String, HostError> {
    let mut nft = Command::new("nft");
    nft.args(arguments).stdin(stdin).env("LC_ALL", "C").kill_on_drop(true);
    // Of two agents, one killed and its successor, the first must not have the last word.
    let end_with_us = || prctl::set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from);
    // SAFETY: one call of the kernel, which allocates nothing and takes no lock.
    unsafe { nft.pre_exec(end_with_us) };
    let said = nft.output().await.map_err(HostError::NoNft)?;
    if said.status.success() {
        return Ok(String::from_utf8_lossy(&said.stdout).into_owned());
    }
    let mut text = String::from_utf8_lossy(&said.stderr).into_owned();
    text.truncate(text.floor_char_boundary(SAID_BYTES_MAX));
    Err(HostError::Nft(text))
}

/// Most that is kept of what `nft` complains about.
const SAID_BYTES_MAX: usize = 2048;
