//! Where the matrix is played: one machine of ours, one of somebody else's, and two bystanders.

use super::super::ground::Ground;
use super::super::instance::in_time;
use super::table::{State, Victim};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

const QEMU: &str = "qemu-system-x86_64";

/// One instance, one libvirtd, and on it: `db`, ours, while it exists; `old`, somebody else's, or
/// `taken` while it is taken over; `other`, ours, which runs; `idle`, somebody else's, which is off.
pub struct Field {
    pub ground: Ground,
    other: (String, Pid),
    idle: String,
}

/// A domain as virsh lists it.
struct Domain {
    name: String,
    state: String,
}

impl Field {
    pub fn new() -> Self {
        let ground = Ground::new();
        for name in ["old", "idle"] {
            ground.daemon.define(name);
        }
        ground.daemon.virsh(&["start", "old"]);
        ground.fine(&["vm", "create", "other", "--memory", "192MiB", "-q"]);
        let (id, idle) = (ground.id("other"), ground.daemon.virsh(&["dumpxml", "--inactive", "idle"]));
        let mut field = Self { ground, other: (id, Pid::from_raw(0)), idle };
        let domain = field.domain_of("other").unwrap().name;
        field.other.1 = field.ground.daemon.guest(&domain).unwrap();
        field
    }

    /// Ends it the hard way. A machine's process is awaited where it is on its way up.
    pub fn strike(&mut self, victim: Victim, subject: &str, is_over: &mut dyn FnMut() -> bool) {
        match victim {
            Victim::Plane => self.ground.instance.kill("perigeed"),
            Victim::Agent => self.ground.instance.kill("perigee-agent"),
            Victim::Libvirtd => self.ground.daemon.kill(),
            Victim::Qemu => {
                let pid = in_time(|| self.pid_of(subject).map(Some).or_else(|| is_over().then_some(None)));
                let Some(pid) = pid.flatten() else { return };
                let _ = kill(pid, Signal::SIGKILL);
                in_time(|| is_dead(pid).then_some(())).unwrap();
            }
        }
    }

    /// Starts what was ended.
    pub fn mend(&mut self, victim: Victim) {
        match victim {
            Victim::Plane | Victim::Agent => self.ground.up(),
            Victim::Libvirtd => self.ground.daemon.start_again(),
            Victim::Qemu => {}
        }
    }

    /// The process of a machine of ours or of somebody else's.
    fn pid_of(&self, subject: &str) -> Option<Pid> {
        let domain = self.domain_of(subject)?;
        self.ground.daemon.guest(&domain.name).filter(|pid| !is_dead(*pid))
    }

    fn domains(&self) -> Vec<Domain> {
        let told = self.ground.daemon.virsh(&["list", "--all"]);
        let domain = |line: &str| {
            let mut words = line.split_whitespace().skip(1);
            let name = words.next()?.to_owned();
            Some(Domain { name, state: words.collect::<Vec<_>>().join(" ") })
        };
        told.lines().filter_map(domain).collect()
    }

    fn domain_of(&self, subject: &str) -> Option<Domain> {
        let ours = format!("perigee-{}-{subject}-", self.ground.instance.agent_instance());
        self.domains().into_iter().find(|domain| domain.name == subject || domain.name.starts_with(&ours))
    }

    /// How often QEMU was started for the machine.
    pub fn starts(&self, subject: &str) -> usize {
        self.domain_of(subject).map_or(0, |domain| self.ground.daemon.starts(&domain.name))
    }

    /// How it is, once nothing is under way and everybody says the same.
    pub fn settled(&self, subject: &str) -> Result<State, String> {
        let mut last = String::new();
        let settled = in_time(|| self.look(subject).map_err(|text| last = text).ok());
        settled.ok_or(last)
    }

    fn look(&self, subject: &str) -> Result<State, String> {
        let open: Vec<_> = ["pending", "running"]
            .into_iter()
            .flat_map(|state| self.list(&["task", "list", "--state", state]))
            .map(|task| format!("{} is {}, {}", task["kind"], task["state"], task["note"]))
            .collect();
        if !open.is_empty() {
            return Err(format!("tasks are open: {open:?}"));
        }
        let vms = self.list(&["vm", "list"]);
        let named = |name: &str| vms.iter().find(|vm| vm["name"] == name);
        let state = match subject {
            "db" => self.own(named("db"))?,
            _ => self.of_others(named("old"), named("taken"))?,
        };
        self.remains(&vms)?;
        self.bystanders(named("other"))?;
        Ok(state)
    }

    fn list(&self, words: &[&str]) -> Vec<Value> {
        match self.ground.instance.json(words) {
            Value::Array(all) => all,
            other => panic!("{words:?} gave {other}"),
        }
    }

    fn own(&self, told: Option<&Value>) -> Result<State, String> {
        let domain = self.domain_of("db");
        let virsh = domain.as_ref().map(|domain| domain.state.as_str());
        let status = told.and_then(|vm| vm["status"].as_str());
        let state = match (status, virsh) {
            (None, None) => return Ok(State::Absent),
            (Some("running"), Some("running")) => State::Running,
            (Some("suspended"), Some("paused")) => State::Paused,
            (Some("stopped" | "failed"), Some("shut off")) => return Ok(State::Off),
            _ => return Err(format!("db is {} by perigee and {virsh:?} by virsh", told.unwrap_or(&Value::Null))),
        };
        // What is killed is not yet missed by everybody at once.
        let pid = self.pid_of("db").ok_or("db has no process")?;
        let vm = told.unwrap_or(&Value::Null);
        let info = self.ground.daemon.virsh(&["dominfo", &domain.unwrap().name]);
        let kib = info.lines().find_map(|line| line.strip_prefix("Max memory:")?.trim().strip_suffix(" KiB"));
        let same = kib.and_then(|kib| kib.parse::<u64>().ok()).map(|kib| kib << 10) == vm["memory_bytes"].as_u64();
        match same || vm["restart_needed"] == true || state == State::Paused {
            true => Ok(state),
            false => Err(format!("db ({pid}) has {} by perigee and {kib:?} KiB by virsh", vm["memory_bytes"])),
        }
    }

    fn of_others(&self, theirs: Option<&Value>, taken: Option<&Value>) -> Result<State, String> {
        let virsh = self.domain_of("old").ok_or("old is gone")?.state;
        let lives = self.pid_of("old").is_some();
        let status = |vm: Option<&Value>| vm.and_then(|vm| vm["status"].as_str()).unwrap_or("").to_owned();
        match (status(theirs).as_str(), status(taken).as_str(), virsh.as_str(), lives) {
            ("running", "", "running", true) => Ok(State::Theirs),
            ("stopped" | "failed", "", "shut off", _) => Ok(State::TheirsOff),
            ("", "running", "running", true) => Ok(State::Taken),
            ("", "stopped" | "failed", "shut off", _) => Ok(State::TakenOff),
            told => Err(format!("old: as somebody else's, as ours, by virsh, with a process: {told:?}")),
        }
    }

    /// Domains, folders, sockets and processes are of machines that are listed, and nothing else.
    fn remains(&self, vms: &[Value]) -> Result<(), String> {
        let ours: Vec<&Value> = vms.iter().filter(|vm| vm["image"].is_string() && vm["adopted"] != true).collect();
        let ids: BTreeSet<&str> = ours.iter().filter_map(|vm| vm["id"].as_str()).collect();
        let short: BTreeSet<String> = ids.iter().map(|id| id.replace('-', "")).collect();
        let vm_dir = self.ground.instance.path().join("vms");
        for name in names(&vm_dir.join("disks")) {
            if !ids.contains(name.as_str()) {
                return Err(format!("the folder {name} is left behind"));
            }
        }
        for name in names(&vm_dir.join("run")) {
            if !short.contains(&name) {
                return Err(format!("the sockets of {name} are left behind"));
            }
        }
        let domains = self.domains();
        let named = |name: &&str| short.iter().any(|id| name.ends_with(&id[24..]));
        if let Some(stray) = domains.iter().map(|d| d.name.as_str()).find(|n| n.starts_with("perigee-") && !named(n)) {
            return Err(format!("the domain {stray} is left behind"));
        }
        let up = domains.iter().filter(|d| d.state != "shut off").count();
        let theirs = usize::from(self.pid_of("old").is_some());
        let processes = self.ground.instance.pids(QEMU).len() + theirs;
        if processes != up {
            return Err(format!("{processes} processes run, and by virsh {up} machines"));
        }
        let left = self.ground.daemon.remains().into_iter();
        let alive = |file: &String| domains.iter().any(|d| d.state != "shut off" && file.contains(&d.name));
        left.filter(|file| !alive(file)).map(Err).next().unwrap_or(Ok(()))
    }

    /// Whom nobody asked for is as it was.
    fn bystanders(&self, other: Option<&Value>) -> Result<(), String> {
        let same = other.is_some_and(|vm| vm["id"] == self.other.0.as_str() && vm["status"] == "running");
        if !same || is_dead(self.other.1) {
            return Err(format!("the other machine was touched: {other:?}"));
        }
        let idle = self.ground.daemon.virsh(&["dumpxml", "--inactive", "idle"]);
        if idle != self.idle { Err("somebody else's machine was touched".to_owned()) } else { Ok(()) }
    }

    /// Leads the machine to where a verb begins, in peace.
    pub fn bring(&self, wanted: State) {
        for _ in 0..4 {
            let subject = if matches!(wanted, State::Absent | State::Running | State::Paused | State::Off) {
                "db"
            } else {
                "old"
            };
            let is = self.settled(subject).unwrap();
            let words: &[&str] = match (is, wanted) {
                _ if is == wanted => return,
                (State::Absent, _) => &["vm", "create", "db", "--memory", "192MiB", "--disk", "64MiB"],
                (_, State::Absent) => &["vm", "delete", "db", "--yes"],
                (State::Paused, State::Running) => &["vm", "resume", "db"],
                (State::Off, _) => &["vm", "start", "db"],
                (State::Running, State::Paused) => &["vm", "pause", "db"],
                (_, State::Off) => &["vm", "stop", "db", "--force"],
                (State::TheirsOff, _) => {
                    self.ground.daemon.virsh(&["start", "old"]);
                    continue;
                }
                (State::TakenOff, _) => &["vm", "start", "taken"],
                (State::Theirs, _) => &["vm", "adopt", "old", "--name", "taken"],
                (State::Taken, _) => &["vm", "release", "taken"],
                (State::Running | State::Paused, _) => unreachable!("these are of db"),
            };
            self.ground.fine(words);
        }
        panic!("{wanted:?} does not come about");
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Its parent may not have heard of it yet.
fn is_dead(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X'])))
}
