//! A libvirtd of the bench's own, in namespaces of its own, and what it is filled with.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const READY_WITHIN: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(10);
/// In a mount and a network namespace: /run, /etc/libvirt and the like are folders of the bench.
const BEGIN: &str = "mount --bind etc /etc/libvirt && mount --bind lib /var/lib/libvirt && \
                     mount --bind log /var/log/libvirt && mount --bind cache /var/cache/libvirt && \
                     mount --bind run /run && exec libvirtd -f /etc/libvirt/libvirtd.conf";
const QEMU: &str = "user = \"root\"\ngroup = \"root\"\ndynamic_ownership = 0\nsecurity_driver = \"none\"\n\
                    cgroup_controllers = [ ]\nnamespaces = [ ]\nstdio_handler = \"file\"\n";

/// Its network: a bridge in its own network namespace, with leases.
pub const NETWORK: &str = "bench";

pub struct Libvirtd {
    folder: TempDir,
    child: Child,
}

impl Libvirtd {
    /// `None` when it is not installed.
    pub fn start() -> Result<Option<Self>> {
        let installed = |program: &str| Command::new(program).arg("--version").output().is_ok();
        if !installed("libvirtd") || !installed("virsh") {
            return Ok(None);
        }
        let folder = tempfile::Builder::new().prefix("pg-libvirt-").tempdir()?;
        for name in ["etc", "run", "lib", "log", "cache"] {
            fs::create_dir(folder.path().join(name))?;
        }
        let at = folder.path().display();
        let sockets = format!("unix_sock_dir = \"{at}\"\nauth_unix_rw = \"none\"\nauth_unix_ro = \"none\"\n");
        fs::write(folder.path().join("etc/libvirtd.conf"), sockets)?;
        fs::write(folder.path().join("etc/qemu.conf"), QEMU)?;
        let log = fs::File::create(folder.path().join("libvirtd.log"))?;
        let mut command = Command::new("unshare");
        command.args(["-m", "-n", "sh", "-c", BEGIN]).current_dir(folder.path());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().context("unshare")?;
        let daemon = Self { folder, child };
        let began = Instant::now();
        while std::os::unix::net::UnixStream::connect(daemon.socket()).is_err() {
            ensure!(began.elapsed() < READY_WITHIN, "libvirtd did not open its socket");
            std::thread::sleep(LOOK);
        }
        Ok(Some(daemon))
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("libvirt-sock")
    }

    pub fn uri(&self) -> String {
        format!("qemu+unix:///system?socket={}", self.socket().display())
    }

    /// Itself and its guests.
    pub fn programs(&self) -> Vec<u32> {
        let guests = processes(&self.path("run/libvirt/qemu")).into_iter().filter_map(|pid| u32::try_from(pid).ok());
        std::iter::once(self.child.id()).chain(guests).collect()
    }

    /// Where an agent beside it keeps its guests' files: a short path that its QEMU can pass.
    pub fn vm_dir(&self) -> PathBuf {
        self.path("vm")
    }

    /// Brings [`NETWORK`] up.
    pub fn connect(&self) -> Result<()> {
        let file = self.path("network.xml");
        let xml = format!(
            "<network><name>{NETWORK}</name><bridge name='{NETWORK}0' stp='off' delay='0'/>\
             <ip address='192.0.2.1' netmask='255.255.255.0'><dhcp>\
             <range start='192.0.2.2' end='192.0.2.200'/></dhcp></ip></network>"
        );
        fs::write(&file, xml)?;
        self.virsh(&["net-define".as_ref(), file.as_os_str()])?;
        self.virsh(&["net-start".as_ref(), NETWORK.as_ref()])?;
        Ok(())
    }

    /// What virsh says.
    pub fn virsh(&self, arguments: &[&OsStr]) -> Result<String> {
        let said = Command::new("virsh").args(["-q", "-c", &self.uri()]).args(arguments).output()?;
        ensure!(said.status.success(), "virsh {arguments:?}: {}", String::from_utf8_lossy(&said.stderr).trim());
        Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
    }

    /// Guests that were started and paused: they are measured like others and need no processor.
    pub fn fill(&self, guests: usize) -> Result<()> {
        for number in 0..guests {
            let (disk, file) = (self.path(&format!("{number}.img")), self.path(&format!("{number}.xml")));
            fs::File::create(&disk)?.set_len(1 << 20)?;
            let xml = format!(
                "<domain type='qemu'><name>bench-{number}</name><memory unit='MiB'>16</memory><vcpu>1</vcpu>\
                 <os><type arch='x86_64' machine='pc'>hvm</type></os><devices>\
                 <emulator>/usr/bin/qemu-system-x86_64</emulator><disk type='file' device='disk'>\
                 <driver name='qemu' type='raw'/><source file='{}'/><target dev='vda' bus='virtio'/></disk>\
                 </devices><seclabel type='none'/></domain>",
                disk.display()
            );
            fs::write(&file, xml)?;
            self.virsh(&["create".as_ref(), "--paused".as_ref(), file.as_os_str()])?;
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// The numbers in the files that libvirtd writes for its guests and its networks; its own is `driver.pid`.
fn processes(folder: &Path) -> Vec<i32> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let others = |name: &str| name.ends_with(".pid") && name != "driver.pid";
    let named = files.filter(|file| file.file_name().to_str().is_some_and(others));
    named.filter_map(|file| fs::read_to_string(file.path()).ok()?.trim().parse().ok()).collect()
}

impl Drop for Libvirtd {
    fn drop(&mut self) {
        let places = ["run/libvirt/qemu", "run/libvirt/network"];
        let left: Vec<i32> = places.iter().flat_map(|place| processes(&self.path(place))).collect();
        drop(self.child.kill());
        drop(self.child.wait());
        for process in left {
            let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
        }
    }
}
