//! What the guest does when it is the first process of its machine.
//!
//! Owns: mounts, kernel modules, the root on a disk, loopback, host name, finding the port, the console, the
//! end of the machine. Refuses: to be a general init; it starts no services.
//!
//! The image must hold a device node `/dev/null`: with no console the runtime opens it before
//! `main`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};

use crate::card::Card;
use crate::protocol::PORT_NAME;
use crate::root;
use crate::server::PortEnds;
use crate::syscall;

const MODULES: &str = "/etc/perigee/modules";
const LEADS_TO_ROOT: &str = "/etc/perigee/leads-to-root";
const PORTS: &str = "/sys/class/virtio-ports";
const PORT_POLL: Duration = Duration::from_millis(2);

/// Writes lines where a person may see them; failures are ignored, there is nobody to tell.
pub struct Console(Box<dyn Write>);

impl Console {
    /// `/dev/console` for the first process, standard error otherwise.
    pub fn open() -> Self {
        if !is_first_process() {
            return Self(Box::new(io::stderr()));
        }
        match OpenOptions::new().append(true).open("/dev/console") {
            Ok(console) => Self(Box::new(console)),
            Err(_) => Self(Box::new(io::sink())),
        }
    }

    /// One line.
    pub fn say(&mut self, line: &str) {
        let _ = self.0.write_all(format!("perigee-guest: {line}\n").as_bytes());
    }
}

/// What the kernel's command line says to the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// `perigee.hostname=`
    pub hostname: Option<String>,
    /// `perigee.clone=`
    pub clone_id: Option<String>,
    /// `reboot=t`: only a reset ends this machine, as on a microvm without power management.
    pub ends_by_reset: bool,
    /// `perigee.machine=vm`: a full machine, with a power button and a balloon.
    pub is_full_machine: bool,
    /// `perigee.address=`, `perigee.gateway=`, `perigee.names=`, `perigee.address6=`, `perigee.gateway6=`: what its card
    /// is given at once.
    pub card: Option<Card>,
    /// `perigee.network=dhcp`: its card gets its address from the network.
    pub asks_for_lease: bool,
    /// `root=`: the disk whose ext4 is the root, where what the kernel was started with only leads there.
    pub root: Option<PathBuf>,
}

impl CommandLine {
    /// From `/proc/cmdline`.
    pub fn read() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default())
    }

    /// From text of that form.
    pub fn parse(text: &str) -> Self {
        let value = |name: &str| {
            let mut words = text.split_ascii_whitespace();
            words.find_map(|word| Some(word.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
        };
        Self {
            hostname: value("perigee.hostname"),
            clone_id: value("perigee.clone"),
            ends_by_reset: value("reboot").is_some_and(|how| how.starts_with('t')),
            is_full_machine: value("perigee.machine").as_deref() == Some("vm"),
            card: Card::told(value),
            asks_for_lease: value("perigee.network").as_deref() == Some("dhcp"),
            root: value("root").filter(|device| device.starts_with("/dev/")).map(PathBuf::from),
        }
    }
}

/// Whether this process is PID 1.
pub fn is_first_process() -> bool {
    std::process::id() == 1
}

/// Makes the bare kernel a place where commands run. What fails is said, and left out, but for the root.
///
/// # Errors
/// Why the disk that is to be the root cannot be.
pub fn prepare(console: &mut Console) -> io::Result<CommandLine> {
    mount_all(console);
    load_modules(MODULES, console);
    if let Err(error) = loopback_up() {
        console.say(&format!("lo stays down: {error}"));
    }
    let line = CommandLine::read();
    if let Some(root) = line.root.as_ref().filter(|_| Path::new(LEADS_TO_ROOT).exists()) {
        let why = |error| io::Error::other(format!("{} cannot be the root: {error}", root.display()));
        root::enter(root).map_err(why)?;
    }
    if let Some(hostname) = &line.hostname
        && let Err(error) = std::fs::write("/proc/sys/kernel/hostname", hostname)
            .and_then(|()| std::fs::write("/etc/hostname", format!("{hostname}\n")))
    {
        console.say(&format!("no host name: {error}"));
    }
    if let Some(card) = &line.card
        && let Err(error) = card.set_up()
    {
        console.say(&format!("no network: {error}"));
    }
    Ok(line)
}

fn mount_all(console: &mut Console) {
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    let device = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let scratch = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let wanted = [
        ("/proc", "proc", plain, None),
        ("/sys", "sysfs", plain, None),
        ("/dev", "devtmpfs", MsFlags::MS_NOSUID, Some("mode=755")),
        ("/dev/pts", "devpts", device, Some("mode=620,ptmxmode=666")),
        ("/dev/shm", "tmpfs", scratch, Some("mode=1777")),
        ("/run", "tmpfs", scratch, Some("mode=755")),
        ("/tmp", "tmpfs", scratch, Some("mode=1777")),
    ];
    for (target, kind, flags, options) in wanted {
        let made = std::fs::create_dir_all(target);
        let mounted = mount(Some(kind), target, Some(kind), flags, options);
        // Busy: the kernel or an image's own init was faster.
        if let Err(error) = mounted
            && error != nix::errno::Errno::EBUSY
        {
            console.say(&format!("no {target}: {error} ({made:?})"));
        }
    }
    let cgroups = "/sys/fs/cgroup";
    let _ = mount(Some("cgroup2"), cgroups, Some("cgroup2"), plain, None::<&str>);
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        let _ = std::os::unix::fs::symlink(target, link);
    }
}

/// Loads the modules that this list names, in its order. What fails is said, and left out.
pub fn load_modules(list: &str, console: &mut Console) {
    let Ok(list) = std::fs::read_to_string(list) else {
        return;
    };
    for path in list.lines().map(str::trim) {
        if path.is_empty() || path.starts_with('#') {
            continue;
        }
        let loaded = File::open(path).and_then(|module| syscall::load_module(&module));
        if let Err(error) = loaded
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            console.say(&format!("no module {path}: {error}"));
        }
    }
}

fn loopback_up() -> io::Result<()> {
    syscall::set_up(std::net::UdpSocket::bind("0.0.0.0:0")?, "lo")
}

/// The device of the port called `perigee.agent`, as soon as the kernel has found it.
pub fn find_port(within: Duration) -> io::Result<PathBuf> {
    let until = Instant::now() + within;
    loop {
        if let Some(path) = port_now() {
            return Ok(path);
        }
        if Instant::now() >= until {
            let message = format!("no virtio-serial port is called {PORT_NAME}");
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
        std::thread::sleep(PORT_POLL);
    }
}

fn port_now() -> Option<PathBuf> {
    std::fs::read_dir(PORTS).ok()?.flatten().find_map(|entry| {
        let name = std::fs::read_to_string(entry.path().join("name")).ok()?;
        let device = Path::new("/dev").join(entry.file_name());
        (name.trim() == PORT_NAME && device.exists()).then_some(device)
    })
}

/// Opens the port; it can be opened once, so both ends share one description.
pub fn open_port(path: &Path) -> io::Result<PortEnds> {
    let writer = OpenOptions::new().read(true).write(true).open(path)?;
    let reader = writer.try_clone()?;
    Ok(PortEnds { reader: Box::new(reader), writer: Box::new(writer) })
}

/// Ends the machine. Returns only if the kernel refuses.
pub fn end_machine(line: &CommandLine) -> io::Result<()> {
    syscall::end_machine(line.ends_by_reset)
}
