//! A libvirtd of a test's own: its folders, its socket, its end.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub struct Daemon {
    folder: TempDir,
    child: Child,
    user: QemuUser,
    /// Lines of libvirtd.conf beside the usual ones; with any it listens for TLS or TCP.
    conf: String,
    net: Net,
}

/// In whose network it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Net {
    /// Its own.
    Own,
    /// The starting thread's: also when it is started again.
    Here,
}

/// Whose QEMU is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum QemuUser {
    /// Root's, and files are left as they are: the quickest.
    Root,
    /// The package's own, and libvirt gives it the files: as a distribution comes.
    #[allow(dead_code, reason = "of use to those who share this file")]
    Packaged,
}

impl Daemon {
    pub fn start() -> Self {
        Self::start_as(QemuUser::Root)
    }

    pub fn start_as(user: QemuUser) -> Self {
        Self::start_with(user, "")
    }

    /// With these lines in its libvirtd.conf, for which it listens in its own network too.
    pub fn start_with(user: QemuUser, conf: &str) -> Self {
        Self::started(user, conf, Net::Own)
    }

    /// In the network namespace of the calling thread, where it finds devices that somebody made.
    #[allow(dead_code, reason = "of use to those who share this file")]
    pub fn start_here() -> Self {
        Self::started(QemuUser::Root, "", Net::Here)
    }

    fn started(user: QemuUser, conf: &str, net: Net) -> Self {
        let folder = tempfile::Builder::new().prefix("perigee-libvirt-").tempdir().unwrap();
        let child = spawn(&folder, user, conf, net);
        let daemon = Self { folder, child, user, conf: conf.to_owned(), net };
        daemon.await_socket();
        daemon
    }

    /// The process, in whose namespaces it is.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("libvirt-sock")
    }

    /// Ends it the hard way and starts another in the same place.
    pub fn restart(&mut self) {
        self.kill();
        self.start_again();
    }

    /// Starts another in the place of one that was killed.
    pub fn start_again(&mut self) {
        self.child = spawn(&self.folder, self.user, &self.conf, self.net);
        self.await_socket();
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let _ = std::fs::remove_file(self.socket());
        let _ = std::fs::remove_file(self.folder.path().join("run/libvirtd.pid"));
    }

    /// SIGTERM, and waits.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        self.child.wait().unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// CPU time used so far, user and system.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    /// What virsh says on this daemon.
    pub fn virsh(&self, arguments: &[&str]) -> String {
        let uri = format!("qemu+unix:///system?socket={}", self.socket().display());
        self.virsh_at(&uri, arguments)
    }

    pub fn virsh_at(&self, uri: &str, arguments: &[&str]) -> String {
        let said = Command::new("virsh").args(["-q", "-c", uri]).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&said.stdout).trim().to_owned();
        assert!(said.status.success(), "virsh {arguments:?}: {}", String::from_utf8_lossy(&said.stderr));
        text
    }

    /// The same, where it may have nothing to say.
    #[allow(dead_code, reason = "of use to those who share this file")]
    pub fn try_virsh(&self, arguments: &[&str]) -> Option<String> {
        let uri = format!("qemu+unix:///system?socket={}", self.socket().display());
        let said = Command::new("virsh").args(["-q", "-c", &uri]).args(arguments).output().unwrap();
        said.status.success().then(|| String::from_utf8_lossy(&said.stdout).trim().to_owned())
    }

    /// A domain without any device to boot from: it counts as running all the same.
    pub fn define(&self, name: &str) {
        let path = self.folder.path().join(format!("{name}.xml"));
        std::fs::write(&path, self.xml(name)).unwrap();
        self.virsh(&["define", path.to_str().unwrap()]);
    }

    /// The definition of such a domain; its disk is there.
    pub fn xml(&self, name: &str) -> String {
        std::fs::File::create(self.disk(name)).unwrap().set_len(1 << 20).unwrap();
        format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='pc'>hvm</type></os>\
             <devices><emulator>/usr/bin/qemu-system-x86_64</emulator><disk type='file' device='disk'>\
             <driver name='qemu' type='raw'/><source file='{disk}'/><target dev='vda' bus='virtio'/></disk>\
             </devices><seclabel type='none'/></domain>",
            disk = self.disk(name).display()
        )
    }

    /// A network with DHCP on a bridge of its own, not up yet; `prefix` is the first three bytes of its /24.
    pub fn define_network(&self, name: &str, prefix: &str) {
        let xml = format!(
            "<network><name>{name}</name><bridge name='{name}0' stp='off' delay='0'/>\
             <ip address='{prefix}.1' netmask='255.255.255.0'><dhcp><range start='{prefix}.2' end='{prefix}.99'/>\
             </dhcp></ip></network>"
        );
        let path = self.folder.path().join(format!("{name}.net.xml"));
        std::fs::write(&path, xml).unwrap();
        self.virsh(&["net-define", path.to_str().unwrap()]);
    }

    /// The QEMU process of a domain.
    pub fn guest(&self, name: &str) -> Option<Pid> {
        let file = self.folder.path().join(format!("run/libvirt/qemu/{name}.pid"));
        std::fs::read_to_string(file).ok()?.trim().parse().ok().map(Pid::from_raw)
    }

    /// Where it keeps what runs, for its next life.
    #[allow(dead_code, reason = "of use to those who share this file")]
    pub fn states(&self) -> PathBuf {
        self.folder.path().join("run/libvirt/qemu")
    }

    /// How often libvirt has started a domain's QEMU, by its log.
    #[allow(dead_code, reason = "of use to those who share this file")]
    pub fn starts(&self, name: &str) -> usize {
        let log = std::fs::read_to_string(self.folder.path().join(format!("log/qemu/{name}.log"))).unwrap_or_default();
        log.lines().filter(|line| line.contains(": starting up libvirt version")).count()
    }

    /// Processes of guests, and what libvirt keeps of them beside their definitions.
    #[allow(dead_code, reason = "of use to those who share this file")]
    pub fn remains(&self) -> Vec<String> {
        let mut found = Vec::new();
        for folder in ["run/libvirt/qemu", "lib/qemu/nvram", "lib/qemu/save", "lib/swtpm"] {
            let entries = std::fs::read_dir(self.folder.path().join(folder)).into_iter().flatten().flatten();
            let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
            // `.new` is what a daemon that was killed had begun to write.
            let names = names.filter(|name| name.contains("perigee-") && !name.ends_with(".new"));
            found.extend(names.map(|name| format!("{folder}/{name}")));
        }
        found
    }

    /// What its last life had to say, warnings and errors.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("libvirtd.log")).unwrap()
    }

    fn disk(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.img"))
    }

    fn await_socket(&self) {
        let begun = Instant::now();
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(10), "libvirtd did not open its socket: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// In a mount and, unless it is asked for here, a network namespace of its own: what it takes for /run, /etc/libvirt and the like are
/// the test's folders, and its networks are nobody else's. The process keeps its number through `exec`.
fn spawn(folder: &TempDir, user: QemuUser, conf: &str, net: Net) -> Child {
    let at = folder.path().display();
    for name in ["etc", "run/lock", "lib", "log"] {
        std::fs::create_dir_all(folder.path().join(name)).unwrap();
    }
    // What libvirt found out about QEMU, by running it several times: the same for every test.
    let cache = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/libvirt-cache");
    std::fs::create_dir_all(cache).unwrap();
    let sockets = format!("unix_sock_dir = \"{at}\"\nauth_unix_rw = \"none\"\nauth_unix_ro = \"none\"\n{conf}");
    std::fs::write(folder.path().join("etc/libvirtd.conf"), sockets).unwrap();
    let user = match user {
        QemuUser::Root => "user = \"root\"\ngroup = \"root\"\ndynamic_ownership = 0\n",
        QemuUser::Packaged => "",
    };
    let qemu = format!(
        "{user}security_driver = \"none\"\ncgroup_controllers = [ ]\nnamespaces = [ ]\nstdio_handler = \"file\"\n"
    );
    std::fs::write(folder.path().join("etc/qemu.conf"), qemu).unwrap();
    let listen = match conf {
        "" => "libvirtd -f /etc/libvirt/libvirtd.conf",
        _ => "libvirtd --listen -f /etc/libvirt/libvirtd.conf",
    };
    let up = if conf.is_empty() { "" } else { "ip link set lo up && " };
    // Its cache holds what the processor says of itself, its core's number included: on another core all would be
    // found out again. Its guests have every core.
    let core = "$(sed -n 's/^Cpus_allowed_list:[[:space:]]*\\([0-9]*\\).*/\\1/p' /proc/self/status)";
    let script = format!(
        "mount --bind {at}/etc /etc/libvirt && mount --bind {at}/lib /var/lib/libvirt && \
         mount --bind {at}/log /var/log/libvirt && mount --bind {cache} /var/cache/libvirt && \
         mount --bind {at}/run /run && {up}exec taskset -c {core} {listen}"
    );
    let log = std::fs::File::create(folder.path().join("libvirtd.log")).unwrap();
    let own: &[&str] = if net == Net::Own { &["-m", "-n"] } else { &["-m"] };
    let mut unshare = Command::new("unshare");
    let child = unshare.args(own).args(["sh", "-c", &script]).stdout(Stdio::null()).stderr(log).spawn();
    child.expect("unshare; libvirtd and virsh come from libvirt-daemon-system and libvirt-clients (scripts/setup)")
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGCONT);
        let guests = std::fs::read_dir(self.folder.path().join("run/libvirt/qemu")).into_iter().flatten().flatten();
        let names = guests.filter_map(|file| file.file_name().to_str()?.strip_suffix(".pid").map(str::to_owned));
        for guest in names.filter(|name| name != "driver").filter_map(|name| self.guest(&name)) {
            let _ = kill(guest, Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
