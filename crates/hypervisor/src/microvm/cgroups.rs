//! Limits of the VMMs, by control groups of version 1 and 2.
//!
//! ```text
//! v2  <mount>/perigee-<instance>/<guest>/               memory.max cpu.weight pids.max
//! v1  <mount of controller>/perigee-<instance>/<guest>/ memory.limit_in_bytes cpu.shares pids.max
//! ```
//! Owns: finding which controller is where, a group per guest, what the kernel says of an
//! exhausted one. Sources: Linux, admin-guide/cgroup-v2.rst and admin-guide/cgroup-v1/.
//! Refuses: to fail for a limit the host cannot set; [`Cgroups::missing`] says which.

use perigee_model::{GuestId, InstanceId};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A group whose last process just died may be busy for a moment.
const REMOVE_ATTEMPTS: u32 = 50;
const REMOVE_PAUSE: Duration = Duration::from_millis(2);
/// Between making the instance's group and the guest's, another guest's end may remove the first.
const MAKE_ATTEMPTS: u32 = 8;

/// What one VMM may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory of the whole process, guest memory included.
    pub memory_bytes: u64,
    /// Its share of the processor is that of so many processes at work.
    pub cpus: u32,
    /// Processes and threads.
    pub tasks: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// One tree of groups, and what it controls.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tree {
    version: Version,
    mount: PathBuf,
    controllers: Vec<&'static str>,
}

/// The trees this host has for our controllers.
#[derive(Clone, Debug, Default)]
pub struct Cgroups {
    trees: Vec<Tree>,
    instance: String,
}

impl Cgroups {
    /// Looks at what is mounted, and tries whether we may make groups there.
    pub fn find(instance: &InstanceId) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let available = |mount: &Path| fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
        let instance = format!("perigee-{instance}");
        let mut trees = trees(&mounts, available);
        for tree in &mut trees {
            tree.keep_usable(&instance);
        }
        trees.retain(|tree| !tree.controllers.is_empty());
        Self { trees, instance }
    }

    /// For those who may not make groups.
    pub fn none() -> Self {
        Self::default()
    }

    /// Controllers that nothing here offers.
    pub fn missing(&self) -> Vec<&'static str> {
        let offered = |wanted: &&str| self.trees.iter().any(|tree| tree.controllers.contains(wanted));
        CONTROLLERS.into_iter().filter(|wanted| !offered(wanted)).collect()
    }

    /// Makes the guest's groups.
    pub fn make(&self, guest: GuestId, limits: Limits) -> io::Result<()> {
        for tree in &self.trees {
            tree.set(&self.make_group(tree, guest)?, limits)?;
        }
        Ok(())
    }

    /// Puts a process and all its threads into the guest's groups, where it is not yet. The first
    /// move after a quiet time waits some 10 ms for the kernel. Fine when the process is dead or
    /// there are no groups.
    pub fn join(&self, guest: GuestId, pid: u32) -> io::Result<()> {
        let inside = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let own = format!("/{}/{guest}", self.instance);
        if inside.lines().filter(|line| line.ends_with(&own)).count() >= self.trees.len() {
            return Ok(());
        }
        for tree in &self.trees {
            let group = tree.mount.join(&self.instance).join(guest.to_string());
            match fs::write(group.join("cgroup.procs"), pid.to_string()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => {}
                joined => joined?,
            }
        }
        Ok(())
    }

    fn make_group(&self, tree: &Tree, guest: GuestId) -> io::Result<PathBuf> {
        let parent = tree.mount.join(&self.instance);
        let group = parent.join(guest.to_string());
        let mut attempt = 0;
        loop {
            make_dir(&parent)?;
            tree.hand_down(&parent);
            match make_dir(&group) {
                Ok(()) => return Ok(group),
                Err(error) if error.kind() == io::ErrorKind::NotFound && attempt < MAKE_ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Removes the guest's groups, and the instance's when it was the last. Blocks for a moment
    /// while a group is busy. Fine when there are none.
    pub fn remove(&self, guest: GuestId) -> io::Result<()> {
        for tree in &self.trees {
            let parent = tree.mount.join(&self.instance);
            remove_dir(&parent.join(guest.to_string()))?;
            // Not empty: others are there.
            _ = fs::remove_dir(parent);
        }
        Ok(())
    }

    /// CPU time in nanoseconds and memory in bytes that the guest's VMM uses, as far as its groups tell.
    pub fn used(&self, guest: GuestId) -> (Option<u64>, Option<u64>) {
        let number = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let (mut cpu_ns, mut memory) = (None, None);
        for tree in &self.trees {
            let group = tree.mount.join(&self.instance).join(guest.to_string());
            if tree.controllers.contains(&"memory") {
                memory = number(group.join(match tree.version {
                    Version::One => "memory.usage_in_bytes",
                    Version::Two => "memory.current",
                }));
            }
            if tree.controllers.contains(&"cpu") {
                cpu_ns = match tree.version {
                    // Where the accounting is mounted together with the shares, as everywhere.
                    Version::One => number(group.join("cpuacct.usage")),
                    Version::Two => usage_ns(&fs::read_to_string(group.join("cpu.stat")).unwrap_or_default()),
                };
            }
        }
        (cpu_ns, memory)
    }

    /// Whether the kernel killed the guest's VMM because it reached its memory limit.
    pub fn ran_out_of_memory(&self, guest: GuestId) -> bool {
        self.trees.iter().any(|tree| {
            let file = match tree.version {
                Version::One => "memory.oom_control",
                Version::Two => "memory.events",
            };
            let group = tree.mount.join(&self.instance).join(guest.to_string());
            let text = fs::read_to_string(group.join(file)).unwrap_or_default();
            text.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0"))
        })
    }
}

impl Tree {
    /// In version 2 a group has a controller only when its parent hands it down.
    fn hand_down(&self, parent: &Path) {
        if self.version == Version::Two {
            for controller in &self.controllers {
                for above in [self.mount.as_path(), parent] {
                    // Refused where another owner of the tree has decided; then `set` fails.
                    _ = fs::write(above.join("cgroup.subtree_control"), format!("+{controller}"));
                }
            }
        }
    }

    /// Forgets what we may not use: a container often shows a tree that it cannot change.
    fn keep_usable(&mut self, instance: &str) {
        let parent = self.mount.join(instance);
        if make_dir(&parent).is_err() {
            self.controllers.clear();
            return;
        }
        if self.version == Version::Two {
            self.hand_down(&parent);
            let handed = fs::read_to_string(parent.join("cgroup.subtree_control")).unwrap_or_default();
            self.controllers.retain(|wanted| handed.split_ascii_whitespace().any(|one| one == *wanted));
        }
        // Not empty: guests are there.
        _ = fs::remove_dir(parent);
    }

    fn set(&self, group: &Path, limits: Limits) -> io::Result<()> {
        let Limits { memory_bytes, cpus, tasks } = limits;
        for controller in &self.controllers {
            let (file, value) = match (self.version, *controller) {
                (Version::One, "memory") => ("memory.limit_in_bytes", memory_bytes),
                (Version::Two, "memory") => ("memory.max", memory_bytes),
                (Version::One, "cpu") => ("cpu.shares", (u64::from(cpus) * 1024).min(262_144)),
                (Version::Two, "cpu") => ("cpu.weight", (u64::from(cpus) * 100).min(10_000)),
                (_, _) => ("pids.max", u64::from(tasks)),
            };
            fs::write(group.join(file), value.to_string())?;
        }
        Ok(())
    }
}

/// `mounts` is `/proc/self/mounts`. A controller is in one tree only; version 2 goes first.
fn trees(mounts: &str, available: impl Fn(&Path) -> String) -> Vec<Tree> {
    let mut found: Vec<Tree> = Vec::new();
    for wanted in ["cgroup2", "cgroup"] {
        for line in mounts.lines() {
            let mut fields = line.split(' ').skip(1);
            let (Some(mount), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            if kind != wanted {
                continue;
            }
            let mount = PathBuf::from(mount);
            let (version, offered) = match kind {
                "cgroup2" => (Version::Two, available(&mount).replace(char::is_whitespace, ",")),
                _ => (Version::One, options.to_owned()),
            };
            let free = |name: &&str| !found.iter().any(|tree| tree.controllers.contains(name));
            let ours = |name: &&str| offered.split(',').any(|one| one == *name);
            let controllers: Vec<_> = CONTROLLERS.into_iter().filter(ours).filter(free).collect();
            if !controllers.is_empty() {
                found.push(Tree { version, mount, controllers });
            }
        }
    }
    found
}

/// `usage_usec` of a version 2 `cpu.stat`.
fn usage_ns(stat: &str) -> Option<u64> {
    let micros = stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
    micros.trim().parse::<u64>().ok()?.checked_mul(1000)
}

fn make_dir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn remove_dir(path: &Path) -> io::Result<()> {
    let mut attempt = 0;
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && attempt < REMOVE_ATTEMPTS => {
                attempt += 1;
                std::thread::sleep(REMOVE_PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Command, Stdio};

    /// Runs a script within a guest's groups, to its end.
    fn inside(groups: &Cgroups, guest: GuestId, script: &str) -> std::process::ExitStatus {
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", &format!("read go; {script}")]).stdin(Stdio::piped());
        let mut child = shell.stderr(Stdio::null()).spawn().unwrap();
        groups.join(guest, child.id()).unwrap();
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        child.wait().unwrap()
    }

    /// `cargo xtask cgroup2` carries this into a sandbox, which has cgroup v2 and nothing else.
    #[test]
    #[ignore = "runs in a guest: cargo xtask cgroup2"]
    fn limits_of_version_two_hold() {
        let groups = Cgroups::find(&InstanceId::from_bits(7));
        assert_eq!(groups.missing(), Vec::<&str>::new());
        assert!(groups.trees.iter().all(|tree| tree.version == Version::Two), "{:?}", groups.trees);
        let guest = GuestId::new(uuid::Uuid::from_u128(1));
        let limits = Limits { memory_bytes: 24 << 20, cpus: 2, tasks: 6 };
        groups.make(guest, limits).unwrap();
        let group = groups.trees[0].mount.join(&groups.instance).join(guest.to_string());
        let read = |file: &str| fs::read_to_string(group.join(file)).unwrap().trim().to_owned();
        assert_eq!(
            (read("memory.max"), read("cpu.weight"), read("pids.max")),
            ((24 << 20).to_string(), "200".into(), "6".into())
        );

        assert!(inside(&groups, guest, "dd if=/dev/zero of=/dev/null bs=4M count=1").success());
        assert!(!groups.ran_out_of_memory(guest));
        let (cpu_ns, memory) = groups.used(guest);
        assert!(cpu_ns.is_some_and(|ns| ns > 0) && memory.is_some(), "{cpu_ns:?} {memory:?}");
        let forks = "for n in 1 2 3 4 5 6 7 8 9 10; do sleep 1 & done; wait";
        assert!(!inside(&groups, guest, forks).success(), "ten processes where six may be");
        let killed = inside(&groups, guest, "exec dd if=/dev/zero of=/dev/null bs=96M count=1");
        assert_eq!(killed.signal(), Some(9), "{killed:?}");
        assert!(groups.ran_out_of_memory(guest));
        // The sleepers of the script that could not fork on.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !read("cgroup.procs").is_empty() {
            assert!(std::time::Instant::now() < deadline, "still there: {}", read("cgroup.procs"));
            std::thread::sleep(REMOVE_PAUSE);
        }
        groups.remove(guest).unwrap();
        assert!(!group.exists() && !group.parent().unwrap().exists());
    }

    #[test]
    fn a_pure_second_version_has_it_all() {
        let mounts = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        let found = trees(mounts, |_| "cpuset cpu io memory hugetlb pids rdma misc\n".to_owned());
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].version, found[0].controllers.as_slice()), (Version::Two, &["memory", "cpu", "pids"][..]));
    }

    #[test]
    fn first_version_controllers_are_found_one_by_one() {
        let mounts = "cgroup /c/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\ncgroup /c/memory cgroup rw,memory 0 0\n\
                      cgroup2 /c/unified cgroup2 rw 0 0\n";
        let found = trees(mounts, |_| "hugetlb\n".to_owned());
        let groups = Cgroups { trees: found, instance: "perigee-x".to_owned() };
        assert_eq!(groups.missing(), ["pids"]);
        assert!(groups.trees.iter().all(|tree| tree.version == Version::One));
    }
}
