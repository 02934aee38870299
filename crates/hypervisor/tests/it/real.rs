//! The real driver's lab: two instances in directories of their own, cleaned up whatever happens.

use crate::contract::Lab;
use crate::image;
use async_trait::async_trait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use perigee_clock::Clock;
use perigee_hypervisor::microvm::{Microvm, MicrovmConfig};
use perigee_hypervisor::{Found, Hypervisor, Pace, Plan};
use perigee_model::{GuestId, InstanceId, Name, PartRole, Resources};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub const QEMU: &str = "/usr/bin/qemu-system-x86_64";
/// Far from the ranges that user name spaces take.
const UID_BASE: u32 = 1_900_000_000;

pub struct RealLab {
    pub root: tempfile::TempDir,
    pub own: InstanceId,
    pub foreign: InstanceId,
    pub clock: Clock,
    pub parts: Vec<(PartRole, PathBuf)>,
}

impl RealLab {
    pub async fn new() -> Self {
        assert!(Path::new(QEMU).exists(), "{QEMU} is missing: scripts/setup installs it");
        let clock = Clock::real();
        let bits = u32::from_le_bytes(clock.random());
        Self {
            root: tempfile::tempdir().unwrap(),
            own: InstanceId::from_bits(bits),
            foreign: InstanceId::from_bits(!bits),
            clock,
            parts: image::parts().await,
        }
    }

    pub fn microvm(&self) -> Microvm {
        self.of(&self.own)
    }

    fn of(&self, instance: &InstanceId) -> Microvm {
        Microvm::new(MicrovmConfig {
            instance: instance.clone(),
            dir: self.root.path().join(format!("{instance}/guests-run")),
            run_dir: self.root.path().join(format!("{instance}/run")),
            qemu: QEMU.into(),
            uid_base: nix::unistd::geteuid().is_root().then_some(UID_BASE),
            clock: self.clock.clone(),
            reserve: perigee_hypervisor::Reserve::default(),
        })
        .unwrap()
    }

    /// `pid` and `-name` of every VMM of either instance.
    fn processes(&self) -> Vec<(i32, String)> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let arguments = String::from_utf8_lossy(&arguments).into_owned();
            let name = arguments.split('\0').find(|argument| {
                [&self.own, &self.foreign].iter().any(|i| argument.starts_with(&format!("guest=perigee-{i}-")))
            });
            found.extend(name.map(|name| (pid, name.to_owned())));
        }
        found
    }

    /// Control groups of either instance.
    fn groups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        for mount in mounts.filter(|fields| fields[2].starts_with("cgroup")) {
            for instance in [&self.own, &self.foreign] {
                below(&Path::new(mount[1]).join(format!("perigee-{instance}")), &mut found);
            }
        }
        found.retain(|path| path.is_dir());
        found
    }
}

fn below(path: &Path, found: &mut Vec<PathBuf>) {
    if path.exists() {
        found.push(path.to_owned());
    }
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => below(&entry.path(), found),
            false => found.push(entry.path()),
        }
    }
}

impl Drop for RealLab {
    fn drop(&mut self) {
        for (pid, _) in self.processes() {
            _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let mut groups = self.groups();
        groups.reverse();
        for group in groups {
            _ = std::fs::remove_dir(group);
        }
    }
}

#[async_trait]
impl Lab for RealLab {
    fn driver(&self) -> Arc<dyn Hypervisor> {
        Arc::new(self.microvm())
    }
    fn foreign_driver(&self) -> Arc<dyn Hypervisor> {
        Arc::new(self.of(&self.foreign))
    }
    fn plan(&self) -> Plan {
        Plan {
            guest: GuestId::new(self.clock.uuid()),
            name: Name::parse("guest-1").unwrap(),
            resources: Resources { cpus: 1, memory_bytes: 256 << 20 },
            parts: self.parts.clone(),
            pace: Pace::Ordinary,
            vm: None,
            nic: None,
            memo: None,
        }
    }
    async fn kill(&self, found: &Found) {
        kill(Pid::from_raw(found.pid.unwrap().cast_signed()), Signal::SIGKILL).unwrap();
    }
    fn traces(&self) -> Vec<String> {
        let mut traces: Vec<_> = self.processes().into_iter().map(|(_, name)| name).collect();
        let mut paths = self.groups();
        for instance in [&self.own, &self.foreign] {
            for folder in ["guests-run", "run"] {
                let folder = self.root.path().join(instance.as_str()).join(folder);
                let mut files = Vec::new();
                below(&folder, &mut files);
                paths.extend(files.into_iter().filter(|path| *path != folder));
            }
        }
        traces.extend(paths.iter().map(|path| path.display().to_string()));
        traces.sort();
        traces
    }
    fn one_second(&self) -> Vec<String> {
        vec!["sleep".to_owned(), "1".to_owned()]
    }
}
