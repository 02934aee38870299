//! What a confined process can do and cannot, by real ones.

use super::*;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }
    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
    fn put(&self, name: &str) -> PathBuf {
        fs::write(self.at(name), "words\n").unwrap();
        self.at(name)
    }
    /// A place where it stands until somebody writes to it.
    fn gate(&self) -> PathBuf {
        let gate = self.at("gate");
        nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
        gate
    }
    fn shell(&self, script: &str, reach: Reach) -> Confined {
        let owner = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let arguments = ["-c", script].map(OsString::from).to_vec();
        Confined { program: "sh", arguments, user: owner, reach, file_bytes_max: 1 << 20 }
    }
}

fn pid(running: &Running) -> u32 {
    let known = fs::read_to_string(format!("/proc/self/fdinfo/{}", running.process.as_raw_fd())).unwrap();
    known.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap().trim().parse().unwrap()
}

fn of_process(pid: u32, name: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap()
}

fn line(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {text}"));
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what} did not come to be");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn is_gone(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn it_has_nothing_of_ours_and_no_privilege() {
    let bench = Bench::new();
    let gate = bench.gate();
    let script = format!("read word < '{}'; exit 7", gate.display());
    let reach = Reach { reads: vec![gate.clone()], ..Reach::default() };
    let mut running = bench.shell(&script, reach).start().await.unwrap();
    let pid = pid(&running);
    until("exec", || of_process(pid, "cmdline").contains("read word"));
    let status = of_process(pid, "status");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(line(&status, set), "0000000000000000", "{set}");
    }
    assert_eq!(line(&status, "NoNewPrivs:"), "1");
    if nix::unistd::geteuid().is_root() {
        assert_eq!((line(&status, "CapBnd:"), line(&status, "Groups:")), ("0000000000000000".into(), "".into()));
        let net = |of: &str| fs::read_link(format!("/proc/{of}/ns/net")).unwrap();
        assert_ne!(net(&pid.to_string()), net("self"));
    }
    assert_eq!(of_process(pid, "environ").split('\0').filter(|word| !word.is_empty()).count(), 0);
    let limits = of_process(pid, "limits");
    assert!(line(&limits, "Max core file size").starts_with("0 0 "), "{limits}");
    assert!(line(&limits, "Max file size").starts_with("1048576 1048576 "), "{limits}");
    assert!(line(&limits, "Max open files").starts_with("256 256 "), "{limits}");
    let memory = line(&limits, "Max address space");
    assert!(memory.split(' ').next().unwrap().parse::<u64>().unwrap() <= 4 << 30, "{memory}");
    fs::write(&gate, "go\n").unwrap();
    assert_eq!(running.end().await.unwrap().status.code(), Some(7));
}

#[tokio::test]
async fn it_is_another_user_when_we_are_root() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let bench = Bench::new();
    fs::set_permissions(bench.folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    let gate = bench.gate();
    nix::unistd::chown(&gate, Some(64_055.into()), None).unwrap();
    let script = format!("read word < '{}'", gate.display());
    let shell = bench.shell(&script, Reach { reads: vec![gate.clone()], ..Reach::default() });
    let mut running = Confined { user: (64_055, 993), ..shell }.start().await.unwrap();
    let pid = pid(&running);
    until("exec", || of_process(pid, "cmdline").contains("read word"));
    let status = of_process(pid, "status");
    assert_eq!(line(&status, "Uid:"), "64055 64055 64055 64055");
    assert_eq!((line(&status, "Gid:"), line(&status, "Groups:")), ("993 993 993 993".into(), "".into()));
    fs::write(&gate, "go\n").unwrap();
    let end = running.end().await.unwrap();
    assert!(end.status.success(), "{end:?}");
}

/// What is not named is not there for it, whoever it is.
#[tokio::test]
async fn it_reaches_what_is_named_and_nothing_else() {
    let bench = Bench::new();
    let (read, written, other) = (bench.put("read"), bench.put("written"), bench.put("other"));
    let reach = || Reach { reads: vec![read.clone()], writes: vec![written.clone()], ..Reach::default() };
    let at = |path: &Path| path.display().to_string();
    let tries = [
        (format!("read word < {} && echo $word >&2", at(&read)), true),
        (format!("read word < {} && echo $word >&2", at(&written)), true),
        (format!("echo words > {} && echo words >&2", at(&written)), true),
        (format!("read word < {} && echo $word >&2", at(&other)), false),
        ("read word < /etc/hostname && echo words >&2".to_owned(), false),
        (format!("echo words > {} && echo words >&2", at(&read)), false),
        (format!("echo words > {} && echo words >&2", at(&bench.at("new"))), false),
        ("/usr/bin/env && echo words >&2".to_owned(), false),
    ];
    if child::landlock_version() < 1 {
        return;
    }
    for (script, allowed) in tries {
        let end = bench.shell(&script, reach()).start().await.unwrap().end().await.unwrap();
        assert_eq!(end.said == "words\n", allowed, "{script}: {end:?}");
        assert!(allowed || end.said.contains("denied"), "{script}: {end:?}");
    }
    assert!(!bench.at("new").exists());
}

#[tokio::test]
async fn what_cannot_be_handed_over_is_told_before_anything_runs() {
    let bench = Bench::new();
    let file = bench.put("file");
    std::os::unix::fs::symlink(&file, bench.at("link")).unwrap();
    for path in [bench.at("link"), bench.at("none")] {
        let reach = Reach { reads: vec![path.clone()], ..Reach::default() };
        let started = bench.shell("true", reach).start().await;
        assert!(matches!(&started, Err(ConfineError::File { path: told, .. }) if *told == path), "{started:?}");
    }
    let shell = bench.shell("true", Reach::default());
    let started = Confined { program: "no-such-program", ..shell }.start().await;
    assert!(matches!(started, Err(ConfineError::Missing(_))), "{started:?}");
}

#[tokio::test]
async fn too_much_said_or_written_does_not_hold_it_up() {
    let bench = Bench::new();
    let written = bench.put("written");
    let reach = Reach { writes: vec![written.clone()], ..Reach::default() };
    let loud = "i=0; while [ $i -lt 20000 ]; do echo 'many words, and more' >&2; i=$((i+1)); done";
    let end = bench.shell(loud, reach.clone()).start().await.unwrap().end().await.unwrap();
    assert!(end.status.success() && end.said.len() == SAID_BYTES_MAX as usize, "{}", end.said.len());
    let long = format!("while echo 'many words, and more'; do :; done > {}", written.display());
    let end = bench.shell(&long, reach).start().await.unwrap().end().await.unwrap();
    assert!(!end.status.success(), "{end:?}");
    assert!(fs::metadata(written).unwrap().len() <= 1 << 20);
}

#[tokio::test]
async fn it_ends_when_nobody_holds_it() {
    let bench = Bench::new();
    let gate = bench.gate();
    let reach = Reach { reads: vec![gate.clone()], ..Reach::default() };
    let running = bench.shell(&format!("read word < {}", gate.display()), reach).start().await.unwrap();
    let pid = pid(&running);
    drop(running);
    until("its end", || is_gone(pid));
}

/// Played by another process, which is killed.
#[tokio::test]
async fn it_ends_with_us() {
    const INSIDE: &str = "PERIGEE_CONFINE_TEST_FOLDER";
    if let Some(folder) = std::env::var_os(INSIDE) {
        let gate = Path::new(&folder).join("gate");
        let bench = Bench::new();
        let reach = Reach { reads: vec![gate.clone()], ..Reach::default() };
        let running = bench.shell(&format!("read word < {}", gate.display()), reach).start().await.unwrap();
        fs::write(Path::new(&folder).join("pid.new"), pid(&running).to_string()).unwrap();
        fs::rename(Path::new(&folder).join("pid.new"), Path::new(&folder).join("pid")).unwrap();
        return std::future::pending().await;
    }
    let bench = Bench::new();
    bench.gate();
    let mut us = Command::new(std::env::current_exe().unwrap());
    us.args([OsStr::new("--exact"), OsStr::new("tests::it_ends_with_us"), OsStr::new("--nocapture")]);
    let mut us = us.env(INSIDE, bench.folder.path()).stdout(Stdio::null()).spawn().unwrap();
    until("its start", || bench.at("pid").exists());
    let pid = fs::read_to_string(bench.at("pid")).unwrap().parse().unwrap();
    assert!(!is_gone(pid));
    us.kill().unwrap();
    us.wait().unwrap();
    until("its end", || is_gone(pid) || of_process(pid, "stat").contains(") Z "));
}
