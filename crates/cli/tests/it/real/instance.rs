//! One Perigee instance in a folder of its own, and what its user types.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Long enough for a cold boot beside a busy neighbour; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// For what a test left to be ended in an orderly way.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

pub struct Instance {
    dir: tempfile::TempDir,
}

/// How a command ended.
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    pub fn fine(self) -> String {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.out, self.err);
        self.out
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// What building `base` leaves, of an earlier test.
const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/test-build");

fn kernel_package() -> Option<PathBuf> {
    let fetched = std::fs::read_dir(Path::new(KEPT).join("downloads")).ok()?;
    fetched.flatten().map(|file| file.path()).find(|path| path.extension().is_some_and(|e| e == "deb"))
}

/// The same files in another folder: what is built is never written to again.
fn link(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    let parts = ["downloads", "kernels", "base"].map(|part| from.join(part));
    for how in ["-al", "-a"] {
        let done = Command::new("cp").arg(how).args(&parts).arg(to).stderr(Stdio::null()).status().unwrap();
        if done.success() {
            return;
        }
        // Another file system has no links to this one's files.
    }
    panic!("{} could not be copied to {}", from.display(), to.display());
}

/// The folder with our programs.
pub fn programs() -> PathBuf {
    let dir = Path::new(env!("CARGO_BIN_EXE_perigee")).parent().unwrap().to_owned();
    for name in ["perigeed", "perigee-agent"] {
        assert!(dir.join(name).exists(), "{name} is not built: cargo build --bins");
    }
    dir
}

impl Instance {
    /// An instance that runs and has the image `base`.
    pub fn new() -> Self {
        let instance = Self::empty();
        instance.up();
        instance.base();
        instance
    }

    /// A folder in which nothing runs yet.
    pub fn empty() -> Self {
        let dir = tempfile::Builder::new().prefix("pg-").tempdir_in("/tmp").unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        Self { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_perigee"));
        command.args(arguments).env("PERIGEE_DATA_DIR", self.path());
        command.stdin(Stdio::null());
        command.envs(kernel_package().map(|package| ("PERIGEE_KERNEL_DEB", package)));
        command
    }

    /// Makes the image `base`. Its kernel is fetched and unpacked by the first test of all that needs it.
    pub fn base(&self) {
        let build = self.path().join("agent/build");
        if Path::new(KEPT).exists() {
            link(Path::new(KEPT), &build);
        }
        self.perigee(&["image", "build", "base"]).fine();
        if !Path::new(KEPT).exists() {
            let fresh = PathBuf::from(format!("{KEPT}.{}", std::process::id()));
            link(&build, &fresh);
            // Another test may have been first.
            if std::fs::rename(&fresh, KEPT).is_err() {
                std::fs::remove_dir_all(&fresh).unwrap();
            }
        }
    }

    pub fn perigee(&self, arguments: &[&str]) -> Said {
        self.command(arguments).output().unwrap().into()
    }

    pub fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        let arguments = [arguments, &["-o", "json"]].concat();
        serde_json::from_str(&self.perigee(&arguments).fine()).unwrap()
    }

    pub fn up(&self) {
        self.perigee(&["up", "--detach"]).fine();
    }

    /// Creates a sandbox and waits until it runs.
    pub fn create(&self, name: &str) {
        self.perigee(&["sandbox", "create", "--name", name, "--image", "base"]).fine();
    }

    pub fn exec(&self, name: &str, command: &[&str]) -> Said {
        self.perigee(&[&["sandbox", "exec", name, "--"], command].concat())
    }

    pub fn sandbox(&self, name: &str) -> Option<Value> {
        let all = self.json(&["sandbox", "list"]);
        all.as_array().unwrap().iter().find(|s| s["name"] == name).cloned()
    }

    /// Waits for a condition.
    pub fn until<T>(&self, what: &str, is_so: impl FnMut() -> Option<T>) -> T {
        in_time(is_so).unwrap_or_else(|| panic!("{what} did not come to be; {}", self.logs()))
    }

    /// Processes of this instance whose program has this name.
    pub fn pids(&self, program: &str) -> Vec<i32> {
        let agents = ["agent", "second"].map(|agent| self.instance_of(agent));
        let guests = agents.into_iter().flatten().map(|instance| format!("guest=perigee-{instance}-"));
        let marks: Vec<_> = guests.chain([self.path().to_str().unwrap().to_owned()]).collect();
        processes()
            .into_iter()
            .filter(|(_, line)| Path::new(&line[0]).file_name().is_some_and(|f| f == program))
            .filter(|(_, line)| line.iter().any(|word| marks.iter().any(|m| word.contains(m.as_str()))))
            .map(|(pid, _)| pid)
            .collect()
    }

    /// kill -9, and it is gone.
    pub fn kill(&self, program: &str) {
        for pid in self.pids(program) {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).ok();
        }
        self.until("the end of the killed process", || self.pids(program).is_empty().then_some(()));
    }

    pub fn agent_instance(&self) -> String {
        self.instance_of("agent").unwrap_or_else(|| "none".to_owned())
    }

    /// By which guests of an agent are known, once it has begun; in its folder.
    fn instance_of(&self, agent: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.path().join(agent).join("instance")).ok()?;
        Some(text.trim().to_owned())
    }

    fn logs(&self) -> String {
        let tail = |name: &str| {
            let text = std::fs::read_to_string(self.path().join(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(15).collect();
            lines.into_iter().rev().collect::<Vec<_>>().join("\n")
        };
        let [server, agent, second] = ["perigeed.log", "agent/agent.log", "second.log"].map(tail);
        format!("perigeed: {server}\nagent: {agent}\nanother host's agent: {second}")
    }
}

impl Drop for Instance {
    #[allow(clippy::print_stderr, reason = "the logs of a failed test go with its output")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        // Refused when a half was killed, and without end when the libvirtd of its VMs is gone: then what is
        // left is ended below.
        if let Ok(mut down) = self.command(&["down", "--guests", "stop"]).stderr(Stdio::null()).spawn() {
            let until = Instant::now() + ENDS_WITHIN;
            while matches!(down.try_wait(), Ok(None)) && Instant::now() < until {
                std::thread::park_timeout(Duration::from_millis(50));
            }
            let _ = down.kill();
            let _ = down.wait();
        }
        let _ = self.perigee(&["down"]);
        for program in ["perigee-sim", "perigee-agent", "perigeed", "qemu-system-x86_64"] {
            for pid in self.pids(program) {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            }
        }
    }
}

/// Waits for a condition; `None`: it did not come to be.
pub fn in_time<T>(mut is_so: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    loop {
        let found = is_so();
        if found.is_some() || begun.elapsed() >= PATIENCE {
            return found;
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// Every process with its arguments.
pub fn processes() -> Vec<(i32, Vec<String>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<String> = line
            .split(|b| *b == 0)
            .filter(|w| !w.is_empty())
            .map(|w| String::from_utf8_lossy(w).into_owned())
            .collect();
        if !words.is_empty() {
            all.push((pid, words));
        }
    }
    all
}
