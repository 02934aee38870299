//! A libvirtd of the bench's own, with guests that stand still.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
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
            let mut virsh = Command::new("virsh");
            virsh.args(["-q", "-c", &self.uri(), "create", "--paused"]).arg(&file);
            let said = virsh.output()?;
            ensure!(said.status.success(), "virsh create: {}", String::from_utf8_lossy(&said.stderr).trim());
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// The numbers in these files, which libvirtd writes for its guests.
fn guests(folder: &Path) -> Vec<i32> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let named = files.filter(|file| file.file_name().to_str().is_some_and(|name| name.ends_with(".pid")));
    named.filter_map(|file| fs::read_to_string(file.path()).ok()?.trim().parse().ok()).collect()
}

impl Drop for Libvirtd {
    fn drop(&mut self) {
        let guests = guests(&self.path("run/libvirt/qemu"));
        drop(self.child.kill());
        drop(self.child.wait());
        for guest in guests {
            let _ = kill(Pid::from_raw(guest), Signal::SIGKILL);
        }
    }
}
