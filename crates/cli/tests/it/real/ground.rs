//! An instance beside a libvirtd of its own.

use super::Instance;
use super::instance::Said;
use super::libvirtd::Daemon;
use serde_json::Value;
use std::path::PathBuf;

/// Both, with the image `base`.
pub struct Ground {
    // Ended first: it speaks to the daemon until then.
    pub instance: Instance,
    pub daemon: Daemon,
}

impl Ground {
    pub fn new() -> Self {
        Self::beside(Daemon::start())
    }
    pub fn beside(daemon: Daemon) -> Self {
        let ground = Self { daemon, instance: Instance::empty() };
        ground.up();
        ground.instance.base();
        ground
    }
    /// Starts what of the instance does not run.
    pub fn up(&self) {
        self.up_with(&[]);
    }
    /// The same, with these settings of the agent.
    pub fn up_with(&self, settings: &[(&str, &str)]) {
        let mut up = self.instance.command(&["up", "--detach"]);
        up.env("PERIGEE_LIBVIRT_SOCKET", self.daemon.socket()).env("PERIGEE_VM_DIR", self.instance.path().join("vms"));
        up.envs(settings.iter().copied());
        Said::from(up.output().unwrap()).fine();
    }
    pub fn fine(&self, arguments: &[&str]) -> String {
        self.instance.perigee(arguments).fine()
    }
    pub fn vm(&self, name: &str) -> Option<Value> {
        let all = self.instance.json(&["vm", "list"]);
        all.as_array()?.iter().find(|vm| vm["name"] == name).cloned()
    }
    pub fn id(&self, name: &str) -> String {
        self.vm(name).unwrap()["id"].as_str().unwrap().to_owned()
    }
    pub fn until(&self, name: &str, status: &str) -> Value {
        self.instance.until(&format!("{name} {status}"), || self.vm(name).filter(|vm| vm["status"] == status))
    }
    /// The file of the only guest's disk.
    pub fn disk(&self) -> PathBuf {
        let disks = std::fs::read_dir(self.instance.path().join("vms/disks")).unwrap().flatten();
        disks.map(|folder| folder.path().join("disk.qcow2")).find(|disk| disk.exists()).unwrap()
    }
    /// After the only guest, `db`, is deleted.
    pub fn leaves_nothing(&self) {
        self.fine(&["vm", "delete", "db", "--yes"]);
        assert_eq!(self.daemon.virsh(&["list", "--all", "--name"]), "");
        assert_eq!(self.daemon.remains(), Vec::<String>::new());
        let disks = std::fs::read_dir(self.instance.path().join("vms/disks")).unwrap().count();
        assert_eq!(disks, 0, "nothing stays behind");
    }
}
