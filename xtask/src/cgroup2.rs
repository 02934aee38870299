//! The limits of VMMs under cgroup v2, tried on a machine that has no other: a sandbox of our own.
//! Developers' and CI machines often still mount version 1, where the tests of the workspace run.

use crate::build;
use crate::shell::{self, Step, cargo};
use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use std::path::PathBuf;

const TEST: &str = "microvm::cgroups::tests::limits_of_version_two_hold";

#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
}

/// Builds the test statically, carries it into a sandbox and runs it there.
pub fn run() -> Result<()> {
    build::programs()?;
    build::guest()?;
    let test = static_test()?;
    let data_dir = shell::root().join("target/cgroup2");
    let perigee = |arguments: &[&str]| -> Step {
        let program = shell::program(shell::debug_dir().join("perigee"));
        program.args(arguments).env("PERIGEE_DATA_DIR", &data_dir).env("PERIGEE_GUEST_BINARY", build::guest_path())
    };
    let tried = (|| {
        perigee(&["up", "--detach"]).go()?;
        perigee(&["image", "build", "base"]).go()?;
        perigee(&["sandbox", "create", "--name", "v2", "--image", "base", "--memory", "512MiB"]).go()?;
        perigee(&["sandbox", "cp", &test.display().to_string(), "v2:/tmp/limits"]).go()?;
        let script = format!(
            "chmod +x /tmp/limits && mkdir -p /cgroup && mount -t cgroup2 none /cgroup && \
             grep cgroup /proc/mounts && exec /tmp/limits --exact {TEST} --ignored --nocapture"
        );
        let (said, success) = perigee(&["sandbox", "exec", "v2", "--", "sh", "-c", &script]).output()?;
        println!("{said}");
        ensure!(success && said.contains("1 passed"), "the limits did not hold");
        Ok(())
    })();
    let ended = perigee(&["down", "--guests", "stop"]).go();
    _ = std::fs::remove_dir_all(&data_dir);
    tried.and(ended)
}

fn static_test() -> Result<PathBuf> {
    let (said, success) = cargo(["test", "--no-run", "--package", "perigee-hypervisor", "--lib"])
        .args(["--target", build::GUEST_TARGET, "--target-dir", "target-guest", "--message-format", "json"])
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .output()?;
    ensure!(success, "the test could not be built");
    let messages = said.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok());
    messages.filter_map(|message| message.executable).next_back().context("cargo named no test program")
}
