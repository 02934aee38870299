//! The libvirt driver's lab: a libvirtd of its own in name spaces of its own, two instances.

mod far;
mod faults;
mod firmware;
mod foreign;
mod networks;
mod seats;
mod snapshots;
mod tools;
mod usages;
mod volumes;

use crate::contract::Lab;
use crate::daemon::Daemon;
use crate::image;
use async_trait::async_trait;
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use perigee_clock::Clock;
use perigee_hypervisor::libvirt::{Libvirt, LibvirtConfig};
use perigee_hypervisor::{Found, Hypervisor, Pace, Plan};
use perigee_libvirt::Endpoint;
use perigee_model::{Firmware, GuestId, InstanceId, Mac, Name, PartRole, Resources, RestartPolicy, VmSpec};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub struct LibvirtLab {
    pub daemon: Daemon,
    pub root: tempfile::TempDir,
    pub own: InstanceId,
    pub foreign: InstanceId,
    pub clock: Clock,
    pub parts: Vec<(PartRole, PathBuf)>,
}

/// Plays where it may mount what it likes: nobody else sees it.
pub fn among_own_mounts(play: impl AsyncFnOnce()) {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(play());
}

/// Plays on a file system of its own: it can be full, as a host's may be.
pub fn on_a_small_disk(size: &str, play: impl AsyncFnOnce(&LibvirtLab)) {
    among_own_mounts(async || {
        let root = tempfile::Builder::new().prefix("pg-").tempdir().unwrap();
        let options = format!("size={size},mode=755");
        mount(Some("tmpfs"), root.path(), Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
        // Its libvirtd sees what is mounted by now.
        let lab = LibvirtLab { root, ..LibvirtLab::with(Daemon::start()).await };
        play(&lab).await;
        umount(lab.root.path()).unwrap();
    });
}

impl LibvirtLab {
    pub async fn new() -> Self {
        Self::with(Daemon::start()).await
    }

    pub async fn with(daemon: Daemon) -> Self {
        let clock = Clock::real();
        let bits = u32::from_le_bytes(clock.random());
        Self {
            daemon,
            root: tempfile::Builder::new().prefix("pg-").tempdir().unwrap(),
            own: InstanceId::from_bits(bits),
            foreign: InstanceId::from_bits(!bits),
            clock,
            parts: image::parts().await,
        }
    }

    pub fn libvirt(&self) -> Libvirt {
        self.of(&self.own)
    }

    fn of(&self, instance: &InstanceId) -> Libvirt {
        Libvirt::new(self.config(instance)).unwrap()
    }

    pub fn config(&self, instance: &InstanceId) -> LibvirtConfig {
        LibvirtConfig {
            instance: instance.clone(),
            dir: self.root.path().join(format!("{instance}/vms")),
            run_dir: self.root.path().join(format!("{instance}/run")),
            images: self.root.path().to_owned(),
            endpoint: Endpoint::Unix(self.daemon.socket()),
            uri: "qemu:///system".to_owned(),
            deadline: Duration::from_secs(10),
            clock: self.clock.clone(),
            reserve: perigee_hypervisor::Reserve::of(Some(0)),
        }
    }
}

pub fn spec(clock: &Clock) -> VmSpec {
    VmSpec {
        description: "<b>for</b> people & others\nsecond line".to_owned(),
        metadata: Default::default(),
        disk_bytes: Some(64 << 20),
        network: None,
        mac: Mac::from_bits(u32::from_le_bytes(clock.random())),
        ssh_keys: Vec::new(),
        firmware: Firmware::Bios,
        tpm: false,
        restart: RestartPolicy::default(),
        start_order: 0,
        adopted: false,
        origin: None,
        volumes: Vec::new(),
    }
}

fn below(path: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        found.push(entry.path().display().to_string());
        if entry.file_type().unwrap().is_dir() {
            below(&entry.path(), found);
        }
    }
}

#[async_trait]
impl Lab for LibvirtLab {
    fn driver(&self) -> Arc<dyn Hypervisor> {
        Arc::new(self.libvirt())
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
            vm: Some(spec(&self.clock)),
            nic: None,
            memo: Some("{\"generation\":1,\"note\":\"<&>\"}".to_owned()),
        }
    }
    async fn kill(&self, found: &Found) {
        kill(Pid::from_raw(found.pid.unwrap().cast_signed()), Signal::SIGKILL).unwrap();
    }
    fn image(&self) -> PathBuf {
        let image = self.root.path().join("image.raw");
        std::fs::File::create(&image).unwrap().set_len(1 << 20).unwrap();
        image
    }
    fn killed_says(&self) -> &'static str {
        "killed"
    }
    fn traces(&self) -> Vec<String> {
        let names = self.daemon.virsh(&["list", "--all", "--name"]);
        let mut traces: Vec<_> = names.lines().filter(|name| !name.is_empty()).map(str::to_owned).collect();
        for instance in [&self.own, &self.foreign] {
            for folder in ["vms", "run"] {
                below(&self.root.path().join(format!("{instance}/{folder}")), &mut traces);
            }
        }
        traces.extend(self.daemon.remains());
        traces.sort();
        traces
    }
    fn one_second(&self) -> Vec<String> {
        vec!["sleep".to_owned(), "1".to_owned()]
    }
}
