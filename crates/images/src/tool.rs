//! Programs that a build runs.

use crate::error::ImageError;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

/// Of what a program says, this many lines may tell why it failed.
const LINES_KEPT: usize = 20;

/// What it printed, as text.
pub(crate) async fn run(command: &mut Command) -> Result<String, ImageError> {
    Ok(String::from_utf8_lossy(&output(command).await?).into_owned())
}

/// What it printed.
pub(crate) async fn output(command: &mut Command) -> Result<Vec<u8>, ImageError> {
    settle(command);
    let done = command.output().await.map_err(|error| not_run(command, error))?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    check(command, done.status, said.lines()).map(|()| done.stdout)
}

/// Runs it and shows each line that it says, on either stream, as it comes.
pub(crate) async fn watch(command: &mut Command, mut said: impl FnMut(&str) + Send) -> Result<(), ImageError> {
    settle(command).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| not_run(command, error))?;
    let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(not_run(command, io::Error::other("it has no output")));
    };
    let (mut out, mut err) = (BufReader::new(out).split(b'\n'), BufReader::new(err).split(b'\n'));
    let mut kept: Vec<String> = Vec::new();
    let mut open = [true, true];
    while open.contains(&true) {
        let (place, line) = tokio::select! {
            line = out.next_segment(), if open[0] => (0, line),
            line = err.next_segment(), if open[1] => (1, line),
        };
        match line.map_err(|error| not_run(command, error))? {
            None => open[place] = false,
            Some(line) => {
                let line = String::from_utf8_lossy(&line).into_owned();
                said(&line);
                if place == 1 && kept.len() == LINES_KEPT {
                    kept.remove(0);
                }
                if place == 1 {
                    kept.push(line);
                }
            }
        }
    }
    let status = child.wait().await.map_err(|error| not_run(command, error))?;
    check(command, status, kept.iter().map(String::as_str))
}

fn settle(command: &mut Command) -> &mut Command {
    command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).kill_on_drop(true)
}

fn program(command: &Command) -> String {
    let command = command.as_std();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

fn not_run(command: &Command, error: io::Error) -> ImageError {
    let apt = command.as_std().get_program().to_string_lossy().starts_with("apt-");
    if error.kind() == io::ErrorKind::NotFound && apt {
        return ImageError::AptMissing;
    }
    ImageError::Tool { program: program(command), said: error.to_string() }
}

fn check<'a>(command: &Command, status: ExitStatus, said: impl Iterator<Item = &'a str>) -> Result<(), ImageError> {
    if status.success() {
        return Ok(());
    }
    let lines: Vec<&str> = said.filter(|line| !line.trim().is_empty()).collect();
    if lines.iter().any(|line| line.contains("No space left on device")) {
        let place = command.as_std().get_current_dir().unwrap_or(Path::new("/"));
        return Err(ImageError::NoSpace(place.to_owned()));
    }
    // What went wrong is told first, and what came of it after.
    let told = lines.iter().find(|line| line.starts_with("E: ")).or(lines.last());
    let said = told.map_or("it said nothing", |line| line.trim()).to_owned();
    Err(ImageError::Tool { program: program(command), said })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir("/tmp");
        command
    }

    #[tokio::test]
    async fn what_it_says_is_seen_and_what_went_wrong_is_told() {
        let mut seen = Vec::new();
        watch(&mut shell("echo one; echo two >&2"), |line| seen.push(line.to_owned())).await.unwrap();
        seen.sort();
        assert_eq!(seen, ["one", "two"]);
        let failed = watch(&mut shell("echo E: no such package >&2; echo E: so it failed >&2; exit 3"), |_| {}).await;
        assert!(matches!(&failed, Err(ImageError::Tool { said, .. }) if said == "E: no such package"), "{failed:?}");
        let full = watch(&mut shell("echo dd: No space left on device >&2; echo more >&2; exit 1"), |_| {}).await;
        assert!(matches!(&full, Err(ImageError::NoSpace(path)) if path == Path::new("/tmp")), "{full:?}");
        let mute = run(&mut shell("exit 1")).await;
        assert!(matches!(&mute, Err(ImageError::Tool { said, .. }) if said == "it said nothing"), "{mute:?}");
    }

    #[tokio::test]
    async fn a_program_that_is_missing_is_named() {
        let missing = run(&mut Command::new("no-such-program-here")).await;
        assert!(matches!(&missing, Err(ImageError::Tool { program, .. }) if program == "no-such-program-here"));
        assert!(matches!(run(&mut Command::new("apt-of-nowhere")).await, Err(ImageError::AptMissing)));
    }
}
