//! Looking at the machine: programs, files, permissions.

use nix::unistd::AccessFlags;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::timeout;

/// A program that cannot say its version by then is broken.
const PATIENCE: Duration = Duration::from_secs(3);
/// Where a user's search path does not lead, root's programs are.
const SYSTEM_DIRS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// A program's file.
pub fn program(name: &str, search_path: &OsStr) -> Option<PathBuf> {
    let system = SYSTEM_DIRS.iter().map(PathBuf::from);
    std::env::split_paths(search_path).chain(system).map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// The first line of what `PROGRAM --version` says.
pub async fn version(program: &Path) -> Option<String> {
    let asked = Command::new(program).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
    let said = timeout(PATIENCE, asked).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}

/// We may write there.
pub fn writable(path: &str) -> bool {
    nix::unistd::access(path, AccessFlags::W_OK).is_ok()
}

/// A short file of the kernel; empty when it is not there.
pub fn text(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
