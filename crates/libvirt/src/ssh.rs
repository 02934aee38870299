//! A daemon reached by the system's `ssh`: its keys, its known hosts, its configuration.
//!
//! Owns: the command line, and the command at the far end: `virt-ssh-helper` where it is, `nc -U` elsewhere,
//! as libvirt's own client does it. Refuses: asking anybody anything (`BatchMode`).

use crate::error::Error;
use crate::limits;
use crate::locked;
use crate::transport::Wire;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::process::{ChildStderr, Command};
use tokio_util::sync::CancellationToken;

/// A program that gave up has said why by then.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A daemon behind `ssh`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ssh {
    /// The program, `ssh` from the path.
    pub program: PathBuf,
    /// The far machine, or a name from the user's `ssh_config`.
    pub host: String,
    /// Who to be there; `None`: what ssh would do.
    pub user: Option<String>,
    /// Where its sshd listens; `None`: what ssh would do.
    pub port: Option<u16>,
    /// The only key to try.
    pub keyfile: Option<PathBuf>,
    /// The file of known hosts' keys, in place of the user's.
    pub known_hosts: Option<PathBuf>,
    /// The daemon's socket over there; `None`: the usual one.
    pub socket: Option<PathBuf>,
}

impl Ssh {
    /// With nothing but a host.
    pub fn new(host: impl Into<String>) -> Self {
        let (program, host) = (PathBuf::from("ssh"), host.into());
        Self { program, host, user: None, port: None, keyfile: None, known_hosts: None, socket: None }
    }

    /// The arguments, the command at the far end as the last one.
    pub fn arguments(&self, patience: Duration) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = ["-T", "-e", "none"].map(OsString::from).to_vec();
        let mut option = |text: String| arguments.extend(["-o".into(), text.into()]);
        option("BatchMode=yes".to_owned());
        option(format!("ConnectTimeout={}", patience.as_secs().max(1)));
        // A far end that dies without a word is noticed on the connections that are not pinged.
        option("ServerAliveInterval=10".to_owned());
        option("ServerAliveCountMax=3".to_owned());
        if self.keyfile.is_some() {
            option("IdentitiesOnly=yes".to_owned());
        }
        if let Some(file) = &self.known_hosts {
            option(format!("UserKnownHostsFile=\"{}\"", file.display()));
        }
        if let Some(file) = &self.keyfile {
            arguments.extend(["-i".into(), file.into()]);
        }
        if let Some(port) = self.port {
            arguments.extend(["-p".into(), port.to_string().into()]);
        }
        if let Some(user) = &self.user {
            arguments.extend(["-l".into(), user.into()]);
        }
        arguments.extend(["--".into(), OsString::from(&self.host), far_command(self.socket.as_deref()).into()]);
        arguments
    }

    pub(crate) fn dial(&self, patience: Duration) -> Result<Wire, Error> {
        let mut command = Command::new(&self.program);
        command.args(self.arguments(patience)).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let at = || format!("{} (ssh)", self.host);
        let mut child = command.spawn().map_err(|source| Error::unreachable(at(), source))?;
        let (Some(to), Some(from), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Error::unreachable(at(), std::io::ErrorKind::BrokenPipe.into()));
        };
        let complaints = Complaints::default();
        tokio::spawn(complaints.clone().collect(errors));
        Ok(Wire { from: Box::new(from), to: Box::new(to), child: Some(child), complaints: Some(complaints) })
    }
}

/// For whatever shell the far user has, a `sh` with one word.
fn far_command(socket: Option<&Path>) -> String {
    let script = match socket {
        Some(socket) => format!("exec nc -U {}", quoted(&socket.display().to_string())),
        None => "command -v virt-ssh-helper >/dev/null 2>&1 && exec virt-ssh-helper qemu:///system; \
                 for s in /run/libvirt/virtqemud-sock /run/libvirt/libvirt-sock; do \
                 test -S $s && exec nc -U $s; done; echo no libvirt socket is there >&2; exit 1"
            .to_owned(),
    };
    format!("sh -c {}", quoted(&script))
}

/// One word for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// What the program said on its standard error, the last of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Complaints {
    said: Arc<Mutex<Vec<u8>>>,
    over: CancellationToken,
}

impl Complaints {
    async fn collect(self, mut from: ChildStderr) {
        let mut piece = [0; 512];
        while let Ok(length @ 1..) = from.read(&mut piece).await {
            let mut kept = locked(&self.said);
            kept.extend(&piece[..length]);
            let excess = kept.len().saturating_sub(limits::COMPLAINT);
            kept.drain(..excess);
        }
        self.over.cancel();
    }

    /// Of a program that ends: all of it, in one line, without control characters; `None` when nothing was said.
    pub async fn text(&self) -> Option<String> {
        let _ = tokio::time::timeout(LAST_WORDS, self.over.cancelled()).await;
        let said = String::from_utf8_lossy(&locked(&self.said)).into_owned();
        let mut line = String::new();
        for part in said.lines().map(str::trim).filter(|part| !part.is_empty()) {
            // Writing to a string cannot fail.
            let _ = write!(line, "{}{part}", if line.is_empty() { "" } else { "; " });
        }
        line.retain(|c| !c.is_control());
        Some(line).filter(|line| !line.is_empty())
    }
}
