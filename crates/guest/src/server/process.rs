//! Turns a start into a process.
//!
//! Owns: command, environment, user and pipes. Refuses: to inherit anything but what is named; the
//! process leads its own session and group.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;

use nix::libc;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use super::reaper::Reaper;
use crate::protocol::{ExecOutcome, ExecStart};
use crate::syscall::{self, Identity};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A process and its ends.
pub struct Process {
    /// Process id and group.
    pub pid: u32,
    /// How it ended.
    pub exit: oneshot::Receiver<ExitStatus>,
    /// Present if the start asked for it.
    pub stdin: Option<pipe::Sender>,
    /// What it prints.
    pub stdout: pipe::Receiver,
    /// What it complains.
    pub stderr: pipe::Receiver,
}

/// Why there is no process.
pub struct NotStarted {
    errno: i32,
    message: String,
}

impl NotStarted {
    /// The same, for the caller.
    pub fn outcome(self) -> ExecOutcome {
        ExecOutcome::FailedToStart { errno: self.errno, message: self.message }
    }
}

impl From<io::Error> for NotStarted {
    fn from(error: io::Error) -> Self {
        let errno = match error.raw_os_error() {
            Some(errno) => errno,
            None if error.kind() == io::ErrorKind::InvalidInput => libc::EINVAL,
            None => libc::EIO,
        };
        Self { errno, message: error.to_string() }
    }
}

/// Starts the process.
pub fn spawn(start: &ExecStart, reaper: &Arc<Reaper>) -> Result<Process, NotStarted> {
    let (program, arguments) = start
        .argv
        .split_first()
        .ok_or_else(|| NotStarted { errno: libc::EINVAL, message: "argv is empty".to_owned() })?;
    let account = start.user.as_deref().map(Account::find).transpose()?;
    let home = match &account {
        Some(account) => account.home.clone(),
        None => Account::by_uid(nix::unistd::geteuid().as_raw()).home,
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", home)
        .envs(&start.env)
        .current_dir(start.cwd.as_deref().unwrap_or("/"))
        .stdin(if start.stdin { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    syscall::isolate(&mut command, account.map(|account| account.identity));
    let (mut child, exit) = reaper.spawn(&mut command)?;
    let stdin = match child.stdin.take() {
        Some(stdin) => Some(pipe::Sender::from_owned_fd(OwnedFd::from(stdin))?),
        None => None,
    };
    let stdout = child.stdout.take().map(OwnedFd::from);
    let stderr = child.stderr.take().map(OwnedFd::from);
    Ok(Process { pid: child.id(), exit, stdin, stdout: output_pipe(stdout)?, stderr: output_pipe(stderr)? })
}

fn output_pipe(end: Option<OwnedFd>) -> io::Result<pipe::Receiver> {
    pipe::Receiver::from_owned_fd(end.ok_or(io::ErrorKind::BrokenPipe)?)
}

/// A line of `/etc/passwd`. Read here because a static binary has no name service.
struct Account {
    identity: Identity,
    home: String,
}

impl Account {
    fn find(user: &str) -> Result<Self, NotStarted> {
        if let Ok(uid) = user.parse() {
            return Ok(Self::by_uid(uid));
        }
        Self::lookup(|name, _| name == user)
            .ok_or_else(|| NotStarted { errno: libc::EINVAL, message: format!("the guest has no user {user:?}") })
    }

    fn by_uid(uid: u32) -> Self {
        Self::lookup(|_, other| other == uid).unwrap_or_else(|| Self {
            identity: Identity { uid, gid: uid, groups: vec![uid] },
            home: if uid == 0 { "/root" } else { "/" }.to_owned(),
        })
    }

    fn lookup(wanted: impl Fn(&str, u32) -> bool) -> Option<Self> {
        let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            let home = fields.nth(1)?.to_owned();
            wanted(name, uid).then(|| Self { identity: Identity { uid, gid, groups: groups_of(name, gid) }, home })
        })
    }
}

fn groups_of(name: &str, gid: u32) -> Vec<u32> {
    let group = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let member_of = group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let id: u32 = fields.nth(2)?.parse().ok()?;
        let member = fields.next()?.split(',').any(|member| member == name);
        (member && id != gid).then_some(id)
    });
    std::iter::once(gid).chain(member_of).collect()
}
