//! One Perigee instance in a folder of its own, gone afterwards whatever happens.

use crate::Options;
use crate::libvirtd::Libvirtd;
use crate::say;
use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use perigee_client::{Address, Client, Token};
use perigee_model::InstanceId;
use serde::Deserialize;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// An attempt takes some tenths of a second.
const UP_TRIES: u32 = 50;

pub struct Instance {
    dir: tempfile::TempDir,
    programs: PathBuf,
    guest_binary: PathBuf,
    /// What its programs are told beside where it is.
    environment: Vec<(&'static str, OsString)>,
    is_up: bool,
}

/// `cli.toml`: what `perigeed` leaves for its callers.
#[derive(Clone, Deserialize)]
pub struct Door {
    pub url: String,
    pub token: String,
}

impl Instance {
    /// Up, and measuring its host at this pace.
    pub fn measuring(options: &Options, every: Duration) -> Result<Self> {
        let mut instance = Self::make(options)?;
        instance.environment.push(("PERIGEE_INTERVAL_MS", every.as_millis().to_string().into()));
        instance.perigee(&["up", "--detach"])?;
        Ok(instance)
    }

    /// Up, with the image `base`, and full VMs on this libvirt.
    pub fn with_vms(options: &Options, libvirt: &Libvirtd) -> Result<Self> {
        let mut instance = Self::make(options)?;
        let told = [("PERIGEE_LIBVIRT_SOCKET", libvirt.socket()), ("PERIGEE_VM_DIR", libvirt.vm_dir())];
        instance.environment.extend(told.map(|(name, path)| (name, path.into())));
        instance.perigee(&["up", "--detach"])?;
        instance.perigee(&["image", "build", "base"])?;
        Ok(instance)
    }

    /// Up, with so many played hosts.
    pub fn playing(options: &Options, hosts: usize) -> Result<Self> {
        let instance = Self::make(options)?;
        instance.perigee(&["up", "--detach", "--sim", &hosts.to_string()])?;
        Ok(instance)
    }

    /// A folder in which nothing runs yet; what the caller starts there is the caller's to end.
    pub fn empty(options: &Options) -> Result<Self> {
        let mut instance = Self::make(options)?;
        instance.is_up = false;
        Ok(instance)
    }

    /// What is missing, up again. The kernel takes a while to take a large process apart, and its
    /// locks are held so long.
    pub fn up(&self) -> Result<()> {
        let mut tries = UP_TRIES;
        loop {
            match self.perigee(&["up", "--detach"]) {
                Err(error) if tries > 1 && error.to_string().contains("another perigeed runs") => tries -= 1,
                said => return said,
            }
        }
    }

    /// `kill -9` of one of its programs; back when it is gone.
    pub fn kill(&self, program: &str) -> Result<()> {
        let pid = self.pid(program)?;
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?;
        while !is_gone(pid) {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        Ok(())
    }

    /// The agent alone, while there is no control plane.
    pub fn start_agent(&self, interval: Duration) -> Result<Child> {
        let log = fs::File::options().append(true).open(self.path().join("agent/agent.log"))?;
        let mut command = Command::new(self.program("perigee-agent"));
        command.args(["run", "--data-dir"]).arg(self.path().join("agent"));
        command.env("PERIGEE_INTERVAL_MS", interval.as_millis().to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().context("perigee-agent")
    }

    /// Up, with the image `base`.
    pub fn start(options: &Options) -> Result<Self> {
        let mut instance = Self::make(options)?;
        instance.perigee(&["up", "--detach"])?;
        instance.perigee(&["image", "build", "base"])?;
        instance.is_up = true;
        Ok(instance)
    }

    fn make(options: &Options) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("pg-bench-").tempdir()?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700))?;
        let programs = std::path::absolute(&options.programs)?;
        let guest_binary = std::path::absolute(&options.guest_binary)?;
        ensure!(guest_binary.is_file(), "{} is not built", guest_binary.display());
        Ok(Self { dir, programs, guest_binary, environment: Vec::new(), is_up: true })
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Where the control plane is now, and its token.
    pub fn door(&self) -> Result<Door> {
        let path = self.path().join("cli.toml");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        toml::from_str(&text).context("cli.toml")
    }

    pub fn client(&self) -> Result<Client> {
        let door = self.door()?;
        Ok(Client::new(Address::parse(&door.url)?, Some(Token::new(&door.token))))
    }

    /// Ends guests, agent and control plane.
    pub fn down(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.is_up, false) {
            self.perigee(&["down", "--guests", "stop"])?;
        }
        Ok(())
    }

    /// The process of a program of this instance.
    pub fn pid(&self, program: &str) -> Result<u32> {
        let file = self.program(program);
        let runs = |pid: &i32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == file);
        let pid = self.leftovers().into_iter().find(runs).with_context(|| format!("{program} does not run"))?;
        Ok(u32::try_from(pid)?)
    }

    /// The mark on what its agent makes.
    pub fn mark(&self) -> Result<InstanceId> {
        let text = fs::read_to_string(self.path().join("agent/instance"))?;
        InstanceId::parse(text.trim()).context("the agent's instance id")
    }

    /// What the agent logged.
    pub fn agent_log(&self) -> String {
        fs::read_to_string(self.path().join("agent/agent.log")).unwrap_or_default()
    }

    /// The command line, for this instance.
    pub fn perigee(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(self.program("perigee"));
        command.args(arguments).stdin(Stdio::null());
        command.env("PERIGEE_DATA_DIR", self.path()).env("PERIGEE_GUEST_BINARY", &self.guest_binary);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        for other in ["PERIGEE_URL", "PERIGEE_TOKEN", "PERIGEE_TOKEN_FILE", "PERIGEE_OUTPUT"] {
            command.env_remove(other);
        }
        let said = command.output().with_context(|| self.program("perigee").display().to_string())?;
        let text = String::from_utf8_lossy(&said.stderr);
        ensure!(said.status.success(), "perigee {}: {}", arguments.join(" "), text.trim());
        Ok(())
    }

    /// Processes that have our folder, or our agent's mark, among their arguments.
    fn leftovers(&self) -> Vec<i32> {
        let mark = fs::read_to_string(self.path().join("agent/instance")).unwrap_or_default();
        let guest = format!("guest=perigee-{}-", mark.trim());
        let dir = self.path().display().to_string();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let ours = |entry: fs::DirEntry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line);
            let marked = line.contains(&dir) || (!mark.trim().is_empty() && line.contains(&guest));
            (marked && pid != i32::try_from(std::process::id()).ok()?).then_some(pid)
        };
        processes.filter_map(ours).collect()
    }
}

/// Nothing of it is left but, maybe, a number that nobody asked for yet: its locks are free.
fn is_gone(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    threads <= 1 && stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Err(error) = self.down() {
            say::failure(&format!("bench: {error:#}"));
        }
        for pid in self.leftovers() {
            say::failure(&format!("bench: process {pid} had to be killed"));
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}
