//! From nothing to a command's output out of a microVM, shown as one would type it.

use crate::shell::{self, Step};
use crate::{build, web};
use anyhow::{Result, bail, ensure};
use std::path::PathBuf;
use std::time::Instant;

/// Runs the transcript. Whatever happens, the instance is ended.
pub fn run() -> Result<()> {
    let start = Instant::now();
    println!("building (the first time takes minutes)");
    web::build_if_possible();
    build::programs()?;
    build::guest()?;
    println!("built in {:.1} s\n", start.elapsed().as_secs_f64());
    let shown = transcript();
    let ended = show(&["down", "--guests", "stop"]);
    shown?;
    ended?;
    println!("the demo took {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Builds, then `perigee up` in the foreground.
pub fn up(arguments: &[String]) -> Result<()> {
    web::build_if_possible();
    build::programs()?;
    build::guest()?;
    perigee().args(["up"]).args(arguments).go()
}

/// Ends the demo's instance, then removes what was built and kept.
pub fn clean() -> Result<()> {
    if data_dir().is_dir() && program_path().is_file() {
        show(&["down", "--guests", "stop"])?;
    }
    for dir in [shell::root().join(".perigee"), shell::root().join("target-guest")] {
        if dir.is_dir() {
            std::fs::remove_dir_all(dir)?;
        }
    }
    shell::cargo(["clean", "--quiet"]).go()
}

fn transcript() -> Result<()> {
    let data_dir = data_dir().display().to_string();
    show(&["up", "--detach", "--data-dir", &data_dir])?;
    if !perigee().args(["image", "get", "base"]).quietly() {
        show(&["image", "build", "base"])?;
    }
    // It reports lacks (no KVM, say) by its exit code; the demo shows them and goes on.
    if let Err(lacks) = show(&["doctor"]) {
        println!("({lacks:#})\n");
    }
    let script = "uname -r; echo hello from inside";
    let said = show(&["sandbox", "run", "--image", "base", "--", "sh", "-c", script])?;
    compare(&said)?;
    show(&["sandbox", "list"])?;
    show(&["task", "list"])?;
    Ok(())
}

/// The output must have come out of another machine than this one.
fn compare(said: &str) -> Result<()> {
    let host = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let (host, guest) = (host.trim(), said.lines().next().unwrap_or_default().trim());
    println!("kernel of this host:    {host}");
    println!("kernel of the sandbox:  {guest}\n");
    ensure!(said.lines().any(|line| line.trim() == "hello from inside"), "the sandbox did not answer");
    ensure!(!guest.is_empty() && guest != host, "that is the host's own kernel, not a guest's");
    Ok(())
}

/// Prints the command as one would type it, runs it, prints what it said.
fn show(arguments: &[&str]) -> Result<String> {
    let words: Vec<_> = arguments.iter().map(|word| quoted(word)).collect();
    println!("$ perigee {}", words.join(" "));
    let (said, success) = perigee().args(arguments).output()?;
    println!("{said}");
    if success { Ok(said) } else { bail!("perigee {} failed", arguments.join(" ")) }
}

fn perigee() -> Step {
    shell::program(program_path()).env("PERIGEE_DATA_DIR", data_dir()).env("PERIGEE_GUEST_BINARY", build::guest_path())
}

fn program_path() -> PathBuf {
    shell::debug_dir().join("perigee")
}

fn data_dir() -> PathBuf {
    shell::root().join(".perigee/demo")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_as_a_shell_reads_them() {
        assert_eq!(quoted("--image"), "--image");
        assert_eq!(quoted("uname -r; exit 7"), "'uname -r; exit 7'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn the_hosts_own_kernel_is_no_demo() {
        let host = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert!(compare(&format!("{host}hello from inside\n")).is_err());
        assert!(compare("6.1.0-test\n").is_err());
        assert!(compare("6.1.0-test\nhello from inside\n").is_ok());
    }
}
