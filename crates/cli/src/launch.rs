//! Starting programs that outlive the terminal, and reading why one died.
//!
//! A program that shall not hear the terminal's Ctrl-C needs a session of its own, and a session can
//! only be made by the process itself, between fork and exec. So `perigee` starts itself, makes the
//! session, and becomes the program: the pid stays, and no `unsafe` is needed.

use crate::exit::Exit;
use crate::failure::Failure;
use crate::instance::{Endpoints, Program};
use nix::fcntl::{Flock, FlockArg};
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// `perigee start-session PROGRAM ARGUMENT…` becomes the program, in a session of its own.
pub const START_SESSION: &str = "start-session";
/// First and longest wait between two looks at a program that starts.
const LOOK_FIRST: Duration = Duration::from_millis(5);
const LOOK_MAX: Duration = Duration::from_millis(50);
/// Lines of a log that are shown when its program died.
const TAIL_LINES: usize = 20;
/// Bytes read for them.
const TAIL_BYTES: u64 = 8 << 10;

/// The program's file: beside ours, else in the search path.
pub fn find(program: Program, search_path: &OsStr) -> Result<PathBuf, Failure> {
    let name = program.name();
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(name)));
    let elsewhere = std::env::split_paths(search_path).map(|dir| dir.join(name));
    beside.into_iter().chain(elsewhere).find(|path| path.is_file()).ok_or_else(|| {
        Failure::new(Exit::FAILURE, format!("{name} is not installed"))
            .cause("it is neither beside perigee nor in PATH")
    })
}

/// Directories of an instance, closed to others.
pub fn prepare(root: &Path) -> Result<(), Failure> {
    for dir in [root.to_owned(), root.join("agent"), root.join("fleet")] {
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|e| {
            Failure::io(format!("{} cannot be made", dir.display()), &e)
                .hint("sudo perigee up, or perigee up --data-dir DIR")
        })?;
    }
    Ok(())
}

/// Held while an instance starts: two `up` at once would start everything twice.
pub fn lock(root: &Path) -> Result<Flock<File>, Failure> {
    let path = root.join("up.lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(|e| Failure::io(format!("{} cannot be opened", path.display()), &e))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
        Failure::new(Exit::CONFLICT, "Another perigee up is starting this instance")
            .cause(format!("it holds {}", path.display()))
    })
}

/// A program that was started here.
#[derive(Debug)]
pub struct Started {
    /// Which.
    pub program: Program,
    /// Its process.
    pub child: Child,
    /// Its log before this was another run's.
    log_from: u64,
}

/// Starts a program in a session of its own, its output appended to its log.
pub fn start(program: Program, root: &Path, file: &Path, arguments: &[OsString]) -> Result<Started, Failure> {
    let unstarted = |e: &std::io::Error| Failure::io(format!("{} cannot be started", file.display()), e);
    let path = program.log(root);
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
    let log = log.map_err(|e| Failure::io(format!("{} cannot be written", path.display()), &e))?;
    let copy = log.try_clone().map_err(|e| unstarted(&e))?;
    let log_from = log.metadata().map_err(|e| unstarted(&e))?.len();
    let ours = std::env::current_exe().map_err(|e| unstarted(&e))?;
    let child = Command::new(ours)
        .arg(START_SESSION)
        .arg(file)
        .args(arguments)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(copy)
        .stderr(log)
        .spawn()
        .map_err(|e| unstarted(&e))?;
    Ok(Started { program, child, log_from })
}

/// Makes a session and becomes the program; comes back only with a failure.
pub fn start_session(program: &[OsString]) -> Failure {
    let Some((file, arguments)) = program.split_first() else { return Failure::usage("No program is given") };
    if let Err(fault) = nix::unistd::setsid() {
        return Failure::io("A session of its own could not be made", &fault.into());
    }
    let fault = Command::new(file).args(arguments).exec();
    Failure::io(format!("{} cannot be started", file.to_string_lossy()), &fault)
}

/// Waits until the started program wrote itself down and answers.
pub async fn appeared(started: &mut Started, root: &Path, deadline: Instant) -> Result<Endpoints, Failure> {
    let program = started.program;
    let mut look = LOOK_FIRST;
    loop {
        // An older run's record has another pid.
        let recorded = program.recorded(root).filter(|e| u32::try_from(e.pid) == Ok(started.child.id()));
        if let Some(endpoints) = recorded
            && program.answers(&endpoints).await
        {
            return Ok(endpoints);
        }
        still_there(started, root)?;
        if Instant::now() >= deadline {
            let what = format!("{} did not become ready in time", program.name());
            return Err(with_log(Failure::new(Exit::TIMEOUT, what), started, root));
        }
        sleep(look).await;
        look = (look * 2).min(LOOK_MAX);
    }
}

/// A failure with the end of its log if the program has ended.
pub fn still_there(started: &mut Started, root: &Path) -> Result<(), Failure> {
    match started.child.try_wait() {
        Ok(None) | Err(_) => Ok(()),
        Ok(Some(status)) => {
            let what = format!("{} ended: {status}", started.program.name());
            Err(with_log(Failure::new(Exit::FAILURE, what), started, root))
        }
    }
}

fn with_log(mut failure: Failure, started: &Started, root: &Path) -> Failure {
    let path = started.program.log(root);
    let lines = tail(&path, started.log_from).unwrap_or_default();
    if lines.is_empty() {
        return failure.cause(format!("it wrote nothing to {}", path.display()));
    }
    failure.causes.push(format!("the last lines of {}:", path.display()));
    failure.causes.extend(lines);
    failure
}

/// The last lines of a log, none of them before `from`.
fn tail(path: &Path, from: u64) -> std::io::Result<Vec<String>> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES).max(from)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_its_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, (0..100).map(|i| format!("line {i}\n")).collect::<String>()).unwrap();
        let lines = tail(&path, 0).unwrap();
        assert_eq!((lines.len(), lines.last().map(String::as_str)), (TAIL_LINES, Some("line 99")));
        assert_eq!(tail(&path, fs::metadata(&path).unwrap().len() - 8).unwrap(), ["line 99"]);
        assert!(tail(&dir.path().join("none"), 0).is_err());
    }

    #[test]
    fn one_up_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        assert_eq!(lock(dir.path()).unwrap_err().exit, Exit::CONFLICT);
        drop(held);
        assert!(lock(dir.path()).is_ok());
    }
}
