//! Which driver runs guests here, and what the machine is.

use crate::config::{Config, Driver};
use anyhow::Context as _;
use nix::unistd::geteuid;
use perigee_agent::home::Home;
use perigee_agent::{Cards, Describe, HostCards, Journal, NoCards, may_have};
use perigee_clock::Clock;
use perigee_hypervisor::Hypervisor;
use perigee_hypervisor::libvirt::{Endpoint, Libvirt, LibvirtConfig, Target};
use perigee_hypervisor::microvm::{Microvm, MicrovmConfig, UIDS};
use perigee_hypervisor::simulated::{Knobs, Simulated, SimulatedConfig, SimulatedHost};
use perigee_model::{Abilities, GuestKind, InstanceId, Inventory};
use perigee_probe::Machine;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Users of guests begin here: far from what distributions give out, below 2^31.
const UID_FIRST: u32 = 0x4000_0000;
/// Instances that can have users of their own on one machine.
const UID_RANGES: u32 = 16_384;

/// The folder of images' parts, in the data directory.
pub const CACHE: &str = "cache";

/// libvirt's driver for QEMU of the whole system.
const LIBVIRT_URI: &str = "qemu:///system";
/// For one answer of libvirt's; starts and ends of guests may take longer.
const LIBVIRT_WITHIN: Duration = Duration::from_secs(10);

/// `sockaddr_un` holds 108 bytes, the last one zero (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Drivers, and what they lack here.
pub struct Chosen {
    /// The drivers: first the one that is part of this host.
    pub drivers: Vec<Arc<dyn Hypervisor>>,
    /// libvirt's among them, for its health.
    pub libvirt: Option<Libvirt>,
    /// For people; empty when nothing is missing.
    pub missing: Vec<String>,
}

/// Chooses the drivers: also that of guests whose documents are there and whose daemon is not.
///
/// # Errors
/// When QEMU is wanted and cannot be used, or the journal cannot be read.
pub async fn choose(config: &Config, home: &Home, clock: &Clock, journal: &dyn Journal) -> anyhow::Result<Chosen> {
    match config.driver {
        Driver::Simulated => {
            let simulated = SimulatedConfig {
                instance: home.instance.clone(),
                clock: clock.clone(),
                boot: Duration::from_millis(50)..=Duration::from_millis(150),
                knobs: Arc::new(Knobs::default()),
                boots_in_flight_max: 16,
            };
            let hypervisor: Arc<dyn Hypervisor> = Arc::new(Simulated::new(simulated, SimulatedHost::new()));
            Ok(Chosen { drivers: vec![hypervisor], libvirt: None, missing: Vec::new() })
        }
        Driver::Auto => {
            let root = geteuid().is_root();
            let microvm = MicrovmConfig {
                instance: home.instance.clone(),
                dir: home.path().join("guests"),
                run_dir: run_dir(config.runtime_dir.as_deref(), &home.instance),
                qemu: config.qemu.clone(),
                uid_base: root.then(|| uid_base(&home.instance)),
                clock: clock.clone(),
                reserve: config.reserve,
            };
            let microvm = Microvm::new(microvm).context("guests cannot be run here; `perigee doctor` says why")?;
            let missing = microvm.reduced().to_vec();
            let mut drivers: Vec<Arc<dyn Hypervisor>> = vec![Arc::new(microvm)];
            let vms = may_have(journal, GuestKind::Vm).await?;
            let libvirt = libvirt(config, home, clock, vms)?;
            drivers.extend(libvirt.clone().map(|driver| -> Arc<dyn Hypervisor> { Arc::new(driver) }));
            Ok(Chosen { drivers, libvirt, missing })
        }
    }
}

/// What gives sandboxes their cards.
pub fn cards(config: &Config, home: &Home) -> Arc<dyn Cards> {
    match config.driver {
        Driver::Simulated => Arc::new(NoCards("its guests are simulated")),
        Driver::Auto if geteuid().is_root() => Arc::new(HostCards::new(home.instance.clone())),
        Driver::Auto => Arc::new(NoCards("the agent is not root")),
    }
}

/// libvirt's, where there is a libvirt. One that is installed later is taken up at the next start; one that ran VMs of
/// ours and is not there now is away: nothing is known of them, and they are nobody's to be taken for ended.
fn libvirt(config: &Config, home: &Home, clock: &Clock, vms: bool) -> anyhow::Result<Option<Libvirt>> {
    let known = |socket: &PathBuf| vms && config.libvirt_sockets.contains(socket);
    let near = match config.libvirt_sockets.iter().find(|socket| socket.exists()) {
        Some(socket) => {
            home.keep_libvirt(socket)?;
            Some(socket.clone())
        }
        None => home.libvirt().filter(known),
    };
    let near = near.map(|socket| Target { endpoint: Endpoint::Unix(socket), driver: LIBVIRT_URI.to_owned() });
    let Some(target) = config.libvirt.clone().or(near) else { return Ok(None) };
    // QEMU runs as libvirt's user: what it opens lies where that user can pass, and ours is private.
    let of = |base: &str| Path::new(base).join(home.instance.as_str());
    let (dir, run_dir) = match &config.vm_dir {
        Some(dir) => (dir.join("disks"), dir.join("run")),
        None if geteuid().is_root() => (of("/var/lib/perigee-vm"), of("/run/perigee-vm")),
        None => (home.path().join("vms"), run_dir(config.runtime_dir.as_deref(), &home.instance).join("vm")),
    };
    let driver = Libvirt::new(LibvirtConfig {
        instance: home.instance.clone(),
        dir,
        run_dir,
        images: home.path().join(CACHE),
        endpoint: target.endpoint,
        uri: target.driver,
        deadline: LIBVIRT_WITHIN,
        clock: clock.clone(),
        reserve: config.reserve,
    });
    driver.context("full VMs cannot be run here").map(Some)
}

/// The first of the instance's users.
fn uid_base(instance: &InstanceId) -> u32 {
    UID_FIRST + (instance.bits() % UID_RANGES) * UIDS
}

/// Sockets live on a short path: 107 bytes is all the kernel takes.
fn run_dir(runtime_dir: Option<&Path>, instance: &InstanceId) -> PathBuf {
    let base = match (geteuid().is_root(), runtime_dir) {
        (true, _) => PathBuf::from("/run/perigee"),
        (false, Some(dir)) if dir.as_os_str().len() < 50 => dir.join("perigee"),
        (false, _) => PathBuf::from(format!("/tmp/perigee-{}", geteuid())),
    };
    base.join(instance.as_str())
}

/// The socket of this host's own API: a path that is short enough for the kernel.
pub fn local_socket(config: &Config, home: &Home) -> PathBuf {
    let at_home = home.path().join("agent.sock");
    match (config.system, at_home.as_os_str().len() <= SOCKET_PATH_BYTES_MAX) {
        (true, _) => PathBuf::from("/run/perigee/agent.sock"),
        (false, true) => at_home,
        (false, false) => run_dir(config.runtime_dir.as_deref(), &home.instance).join("agent.sock"),
    }
}

/// Reads the inventory, each time anew.
pub fn describe(data_dir: PathBuf, drivers: Vec<Arc<dyn Hypervisor>>, missing: &[String]) -> Arc<Describe> {
    let privileges = match missing {
        [] if geteuid().is_root() => "root".to_owned(),
        [] => "reduced: not root".to_owned(),
        missing => format!("reduced: {}", missing.join("; ")),
    };
    Arc::new(move || {
        let abilities = drivers.iter().map(|driver| driver.abilities()).collect();
        inventory(&data_dir, abilities, &privileges)
    })
}

fn inventory(data_dir: &Path, drivers: Vec<Abilities>, privileges: &str) -> Inventory {
    let nothing = || Machine {
        hostname: String::new(),
        arch: std::env::consts::ARCH.to_owned(),
        kernel_release: String::new(),
        os: String::new(),
        cpus: 0,
        cpu_model: String::new(),
        memory_bytes: 0,
    };
    let machine = perigee_probe::machine().unwrap_or_else(|_| nothing());
    let disk = perigee_probe::disk(data_dir).unwrap_or(perigee_probe::Disk { bytes: 0, free_bytes: 0 });
    Inventory {
        hostname: machine.hostname,
        arch: machine.arch,
        kernel_release: machine.kernel_release,
        os: machine.os,
        cpus: machine.cpus,
        cpu_model: machine.cpu_model,
        memory_bytes: machine.memory_bytes,
        disk_bytes: disk.bytes,
        disk_free_bytes: disk.free_bytes,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        privileges: privileges.to_owned(),
        drivers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_have_users_of_their_own() {
        let of = |bits| uid_base(&InstanceId::from_bits(bits));
        assert_eq!(of(0), UID_FIRST);
        assert_eq!(of(1) - of(0), UIDS);
        assert!(u64::from(of(16_383)) + u64::from(UIDS) <= 1 << 31);
    }

    #[test]
    fn sockets_stay_short() {
        let instance = InstanceId::from_bits(0xdead_beef);
        let long = PathBuf::from(format!("/{}", "x".repeat(200)));
        assert!(run_dir(Some(&long), &instance).as_os_str().len() <= 72);
    }
}
