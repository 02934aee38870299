//! Configuration of the agent: flags over `PERIGEE_*` variables over the file over defaults.
//! The only place of this crate that reads any of them.

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};
use perigee_agent::tls::ServerUrl;
use perigee_hypervisor::Reserve;
use perigee_hypervisor::libvirt::Target as LibvirtTarget;
use perigee_model::InstanceId;
use perigee_probe::node::{Protocol, Target};
use serde::Deserialize;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

const SYSTEM_DIR: &str = "/var/lib/perigee/agent";
const SYSTEM_FILE: &str = "/etc/perigee/agent.toml";
const SYSTEM_HEALTH: u16 = 9092;
const SYSTEM_METRICS: u16 = 9091;
const SYSTEM_LOCAL: u16 = 9090;
/// How often a host is measured when nobody looks closely.
const INTERVAL_MS: u64 = 3000;
/// How often guests are.
const GUEST_INTERVAL_MS: u64 = 1000;
/// Where libvirt listens: of its daemon for QEMU, and of the one for everything.
const LIBVIRT_SOCKETS: [&str; 2] = ["/run/libvirt/virtqemud-sock", "/run/libvirt/libvirt-sock"];

/// The Perigee host agent.
#[derive(Debug, Parser)]
#[command(name = "perigee-agent", version, about)]
pub struct Line {
    /// What is logged: `info`, `debug`, `perigee_agent=debug`.
    #[arg(long, env = "PERIGEE_LOG", default_value = "info", global = true)]
    log: String,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make this machine a host of a control plane.
    Join(JoinFlags),
    /// Run the agent.
    Run(Box<RunFlags>),
}

#[derive(Debug, Args)]
struct JoinFlags {
    /// The control plane's agent link: https://HOST:8443.
    url: ServerUrl,
    /// File that holds the join token (`perigee host token`).
    #[arg(long)]
    token_file: PathBuf,
    /// Where everything is kept.
    #[arg(long, env = "PERIGEE_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Default, Args)]
struct RunFlags {
    /// Where everything is kept; with it, ports that are not given are free ones.
    #[arg(long, env = "PERIGEE_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// The control plane's agent link; the one that was joined, unless given.
    #[arg(long, env = "PERIGEE_SERVER")]
    server: Option<ServerUrl>,
    /// How to speak on the link: ws where no HTTP/2 comes through (default grpc).
    #[arg(long, env = "PERIGEE_STREAM_MODE", value_enum)]
    stream_mode: Option<StreamMode>,
    /// File that holds a join token, used when the host has not joined yet.
    #[arg(long, env = "PERIGEE_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Address of the health pages (default 127.0.0.1:9092).
    #[arg(long, env = "PERIGEE_HEALTH")]
    health: Option<SocketAddr>,
    /// Address of what was measured last, for Prometheus (default 127.0.0.1:9091).
    #[arg(long, env = "PERIGEE_METRICS")]
    metrics: Option<SocketAddr>,
    /// How often to measure, in milliseconds (default 3000; 1000 while somebody watches closely).
    #[arg(long, env = "PERIGEE_INTERVAL_MS", value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
    interval_ms: Option<u64>,
    /// How often to measure guests, in milliseconds (default 1000).
    #[arg(long, env = "PERIGEE_GUEST_INTERVAL_MS", value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
    guest_interval_ms: Option<u64>,
    /// Where libvirt listens, whose domains are shown (default: virtqemud's or libvirtd's, where there is one).
    #[arg(long, env = "PERIGEE_LIBVIRT_SOCKET")]
    libvirt_socket: Option<PathBuf>,
    /// Which libvirt, where it is not this host's own: qemu+ssh://USER@HOST/system,
    /// qemu+tls://HOST/system, qemu+unix:///system?socket=PATH.
    #[arg(long, env = "PERIGEE_LIBVIRT_URI", conflicts_with = "libvirt_socket")]
    libvirt_uri: Option<String>,
    /// Allow qemu+tcp, which anybody on the way can read and change.
    #[arg(long, env = "PERIGEE_LIBVIRT_PLAIN_TCP")]
    libvirt_plain_tcp: bool,
    /// Where disks and sockets of full VMs are; QEMU's user must be able to pass (default:
    /// /var/lib/perigee-vm and /run/perigee-vm).
    #[arg(long, env = "PERIGEE_VM_DIR")]
    vm_dir: Option<PathBuf>,
    /// What new disks, volumes and images leave free of the file system they are on: 512MiB, 10GiB, or bytes
    /// (default: 1GiB or a fiftieth of it, whichever is more).
    #[arg(long, env = "PERIGEE_DISK_RESERVE", value_name = "SIZE", value_parser = size)]
    disk_reserve: Option<u64>,
    /// How much is kept of images that guests of this host do not need now, the last used longest: 512MiB, 10GiB, or
    /// bytes (default: 10GiB or a tenth of the file system, whichever is more).
    #[arg(long, env = "PERIGEE_CACHE_BYTES", value_name = "SIZE", value_parser = size)]
    cache_bytes: Option<u64>,
    /// Address of this host's own API, beside its socket (default 127.0.0.1:9090).
    #[arg(long, env = "PERIGEE_LOCAL")]
    local: Option<SocketAddr>,
    /// Measure the latency to this target: icmp://HOST or tcp://HOST:PORT. May be repeated.
    #[arg(long = "ping", env = "PERIGEE_PING", value_delimiter = ',', value_parser = target)]
    ping: Vec<Target>,
    /// What runs guests.
    #[arg(long, env = "PERIGEE_DRIVER", value_enum)]
    driver: Option<Driver>,
    /// Eight hex digits that mark everything made on this host; made at the first start.
    #[arg(long, env = "PERIGEE_INSTANCE", value_parser = instance)]
    instance: Option<InstanceId>,
    /// QEMU's program (default: qemu-system-x86_64 of the path).
    #[arg(long, env = "PERIGEE_QEMU")]
    qemu: Option<PathBuf>,
    /// The static perigee-guest that goes into images (default: beside this program).
    #[arg(long, env = "PERIGEE_GUEST_BINARY")]
    guest_binary: Option<PathBuf>,
    /// A kernel package (.deb) for images instead of the one that apt offers.
    #[arg(long, env = "PERIGEE_KERNEL_DEB")]
    kernel_deb: Option<PathBuf>,
    /// Boots at once; what the driver can bear, unless given.
    #[arg(long, env = "PERIGEE_BOOTS")]
    boots: Option<u32>,
    /// How often this host is compared with what it should be, and what others changed is made good, in
    /// milliseconds (default 60000).
    #[arg(long, env = "PERIGEE_LOOK_MS", value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
    look_ms: Option<u64>,
    /// Configuration file.
    #[arg(long, env = "PERIGEE_CONFIG")]
    config: Option<PathBuf>,
}

/// What runs guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    /// The best there is on this machine.
    Auto,
    /// Nothing real: guests made of a few bytes of memory.
    Simulated,
}

/// What carries the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamMode {
    /// gRPC over HTTP/2.
    Grpc,
    /// JSON envelopes over WebSocket.
    Ws,
}

/// The file's shape.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    data_dir: Option<PathBuf>,
    server: Option<String>,
    stream_mode: Option<StreamMode>,
    token_file: Option<PathBuf>,
    health: Option<SocketAddr>,
    metrics: Option<SocketAddr>,
    interval_ms: Option<u64>,
    guest_interval_ms: Option<u64>,
    libvirt_socket: Option<PathBuf>,
    libvirt_uri: Option<String>,
    libvirt_plain_tcp: bool,
    vm_dir: Option<PathBuf>,
    disk_reserve: Option<String>,
    cache_bytes: Option<String>,
    local: Option<SocketAddr>,
    ping: Vec<String>,
    driver: Option<Driver>,
    qemu: Option<PathBuf>,
    guest_binary: Option<PathBuf>,
    kernel_deb: Option<PathBuf>,
    boots: Option<u32>,
    look_ms: Option<u64>,
}

/// What is to be done.
pub enum Order {
    /// Enrol, then end.
    Join(Join),
    /// Serve.
    Run(Box<Config>),
}

/// How to join.
pub struct Join {
    /// The control plane.
    pub server: ServerUrl,
    /// Where the token is.
    pub token_file: PathBuf,
    /// Where everything is kept.
    pub data_dir: PathBuf,
}

/// How to run.
#[derive(Debug)]
pub struct Config {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// The control plane, when given.
    pub server: Option<ServerUrl>,
    /// What carries the link.
    pub stream_mode: StreamMode,
    /// Where a token is, when given.
    pub token_file: Option<PathBuf>,
    /// Address of the health pages; port 0 takes a free one.
    pub health: SocketAddr,
    /// Address of the last measurements; port 0 takes a free one.
    pub metrics: SocketAddr,
    /// How often to measure.
    pub interval: Duration,
    /// How often to measure guests.
    pub guest_interval: Duration,
    /// Where libvirt may listen, the best first.
    pub libvirt_sockets: Vec<PathBuf>,
    /// Which libvirt, when it is named.
    pub libvirt: Option<LibvirtTarget>,
    /// Where disks and sockets of full VMs are, when given.
    pub vm_dir: Option<PathBuf>,
    /// What new files leave free.
    pub reserve: Reserve,
    /// How much is kept of images, when given.
    pub cache_bytes: Option<u64>,
    /// Address of this host's own API; port 0 takes a free one.
    pub local: SocketAddr,
    /// It is the system installation: fixed ports and paths.
    pub system: bool,
    /// Whose latency to measure.
    pub ping: Vec<Target>,
    /// What runs guests.
    pub driver: Driver,
    /// The instance id, when given.
    pub instance: Option<InstanceId>,
    /// QEMU's program.
    pub qemu: PathBuf,
    /// The static perigee-guest.
    pub guest_binary: PathBuf,
    /// A kernel package.
    pub kernel_deb: Option<PathBuf>,
    /// Boots at once.
    pub boots: Option<u32>,
    /// How often the host is compared with what it should be, when given.
    pub look_every: Option<Duration>,
    /// Where this user's sockets may be, when the system says so.
    pub runtime_dir: Option<PathBuf>,
}

impl Line {
    /// What is logged.
    pub fn log(&self) -> &str {
        &self.log
    }

    /// Puts flags, variables and the file together.
    ///
    /// # Errors
    /// When the file cannot be read or has an unknown entry.
    pub fn into_order(self) -> anyhow::Result<Order> {
        Ok(match self.verb {
            Verb::Join(flags) => {
                let data_dir = flags.data_dir.unwrap_or_else(|| PathBuf::from(SYSTEM_DIR));
                let data_dir = std::path::absolute(data_dir)?;
                Order::Join(Join { server: flags.url, token_file: flags.token_file, data_dir })
            }
            Verb::Run(flags) => {
                let file = read(flags.config.as_deref())?;
                Order::Run(Box::new(combine(*flags, file)?))
            }
        })
    }
}

fn combine(flags: RunFlags, file: File) -> anyhow::Result<Config> {
    let given_dir = flags.data_dir.or(file.data_dir);
    let local = |system: u16| SocketAddr::from(([127, 0, 0, 1], if given_dir.is_some() { 0 } else { system }));
    let (health, metrics) = (local(SYSTEM_HEALTH), local(SYSTEM_METRICS));
    let mut ping = flags.ping;
    if ping.is_empty() {
        let read = |text: &String| target(text).map_err(|error| anyhow::anyhow!("ping: {error}"));
        ping = file.ping.iter().map(read).collect::<anyhow::Result<_>>()?;
    }
    let server = match (flags.server, file.server) {
        (Some(url), _) => Some(url),
        (None, Some(text)) => Some(text.parse().with_context(|| format!("server = {text:?}"))?),
        (None, None) => None,
    };
    let plain_tcp = flags.libvirt_plain_tcp || file.libvirt_plain_tcp;
    let libvirt =
        flags.libvirt_uri.or(file.libvirt_uri).map(|uri| LibvirtTarget::parse(&uri, plain_tcp)).transpose()?;
    let of_file = |name: &str, given: Option<&String>| {
        given.map(|text| size(text)).transpose().map_err(|error| anyhow::anyhow!("{name}: {error}"))
    };
    let reserve = flags.disk_reserve.or(of_file("disk_reserve", file.disk_reserve.as_ref())?);
    let cache_bytes = flags.cache_bytes.or(of_file("cache_bytes", file.cache_bytes.as_ref())?);
    Ok(Config {
        libvirt,
        reserve: Reserve::of(reserve),
        cache_bytes,
        data_dir: std::path::absolute(given_dir.clone().unwrap_or_else(|| PathBuf::from(SYSTEM_DIR)))?,
        server,
        stream_mode: flags.stream_mode.or(file.stream_mode).unwrap_or(StreamMode::Grpc),
        token_file: flags.token_file.or(file.token_file),
        health: flags.health.or(file.health).unwrap_or(health),
        metrics: flags.metrics.or(file.metrics).unwrap_or(metrics),
        interval: Duration::from_millis(flags.interval_ms.or(file.interval_ms).unwrap_or(INTERVAL_MS)),
        guest_interval: Duration::from_millis(
            flags.guest_interval_ms.or(file.guest_interval_ms).unwrap_or(GUEST_INTERVAL_MS),
        ),
        libvirt_sockets: match flags.libvirt_socket.or(file.libvirt_socket) {
            Some(socket) => vec![socket],
            None => LIBVIRT_SOCKETS.map(PathBuf::from).to_vec(),
        },
        vm_dir: flags.vm_dir.or(file.vm_dir).map(std::path::absolute).transpose()?,
        local: flags.local.or(file.local).unwrap_or_else(|| local(SYSTEM_LOCAL)),
        system: given_dir.is_none(),
        ping,
        driver: flags.driver.or(file.driver).unwrap_or(Driver::Auto),
        instance: flags.instance,
        qemu: flags.qemu.or(file.qemu).unwrap_or_else(|| on_path("qemu-system-x86_64")),
        guest_binary: flags.guest_binary.or(file.guest_binary).unwrap_or_else(|| beside("perigee-guest")),
        kernel_deb: flags.kernel_deb.or(file.kernel_deb),
        boots: flags.boots.or(file.boots),
        look_every: flags.look_ms.or(file.look_ms).map(Duration::from_millis),
        runtime_dir: std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|p| p.is_absolute()),
    })
}

fn instance(text: &str) -> Result<InstanceId, String> {
    InstanceId::parse(text).ok_or_else(|| "an instance id is eight lower-case hex digits".to_owned())
}

/// `512MiB`, `10GiB`, `2TiB` or bytes.
fn size(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is no size; write it like 512MiB, 10GiB or 1073741824");
    let digits = text.trim_end_matches(char::is_alphabetic);
    let unit = match &text[digits.len()..] {
        "" => 1,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(bad()),
    };
    digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(bad)
}

/// `icmp://HOST` or `tcp://HOST:PORT`; names are resolved now, once.
fn target(text: &str) -> Result<Target, String> {
    let bad = || format!("{text:?} is no target; write it like icmp://192.0.2.1 or tcp://db:5432");
    let (protocol, place) = match text.split_once("://") {
        Some(("icmp", host)) => (Protocol::Icmp, format!("{host}:0")),
        Some(("tcp", place)) => (Protocol::Tcp, place.to_owned()),
        Some(_) | None => return Err(bad()),
    };
    let mut found = place.to_socket_addrs().map_err(|error| format!("{}: {error}", bad()))?;
    let address = found.next().ok_or_else(bad)?;
    Ok(Target { name: text.to_owned(), address, protocol })
}

/// A program of the search path; by its bare name when it is not there, so that the error names it.
fn on_path(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| PathBuf::from(name))
}

/// A file in the folder of this program.
fn beside(name: &str) -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    program.parent().unwrap_or(Path::new("/usr/bin")).join(name)
}

fn read(path: Option<&Path>) -> anyhow::Result<File> {
    let (path, must) = path.map_or((Path::new(SYSTEM_FILE), false), |p| (p, true));
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).with_context(|| format!("{} is not understood", path.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !must => Ok(File::default()),
        Err(e) => Err(e).with_context(|| format!("{} cannot be read", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file_and_a_data_dir_brings_free_ports() {
        let file: File =
            toml::from_str("driver = \"simulated\"\nstream_mode = \"ws\"\nserver = \"https://a:1\"\nboots = 3")
                .unwrap();
        let flags = RunFlags { data_dir: Some("/tmp/x".into()), boots: Some(5), ..RunFlags::default() };
        let config = combine(flags, file).unwrap();
        assert_eq!((config.driver, config.boots, config.health.port()), (Driver::Simulated, Some(5), 0));
        assert_eq!(config.server.unwrap().to_string(), "https://a:1");
        assert_eq!(config.stream_mode, StreamMode::Ws);
        let system = combine(RunFlags::default(), File::default()).unwrap();
        assert_eq!(system.stream_mode, StreamMode::Grpc);
        assert_eq!((system.health.port(), system.driver), (9092, Driver::Auto));
    }

    #[test]
    fn mistakes_are_refused() {
        assert!(toml::from_str::<File>("drivr = \"auto\"").is_err());
        let file = File { server: Some("http://a".into()), ..File::default() };
        assert!(combine(RunFlags::default(), file).is_err());
        for bad in ["", "1234567", "DEADBEEF", "../../et"] {
            assert!(instance(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_far_libvirt_is_named_by_its_uri() {
        let combined = |uri: &str, libvirt_plain_tcp| {
            let flags = RunFlags { libvirt_uri: Some(uri.into()), libvirt_plain_tcp, ..RunFlags::default() };
            combine(flags, File::default()).map(|config| config.libvirt)
        };
        assert!(combined("qemu+ssh://root@far/system", false).is_ok_and(|target| target.is_some()));
        assert!(combined("qemu+tcp://far/system", false).is_err_and(|e| e.to_string().contains("qemu+tls")));
        assert!(combined("qemu+tcp://far/system", true).is_ok());
        assert!(combined("xen:///system", false).is_err());
    }

    #[test]
    fn what_is_left_free_is_a_size() {
        for (text, bytes) in [("0", 0), ("512MiB", 512 << 20), ("2TiB", 2 << 40), ("1073741824", 1 << 30)] {
            assert_eq!(size(text), Ok(bytes));
        }
        for bad in ["", "MiB", "1 GiB", "1.5GiB", "-1", "1gb", "99999999999TiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        let file = || toml::from_str::<File>("disk_reserve = \"2GiB\"\ncache_bytes = \"3GiB\"").unwrap();
        let config = combine(RunFlags::default(), file()).unwrap();
        assert_eq!((config.reserve, config.cache_bytes), (Reserve::of(Some(2 << 30)), Some(3 << 30)));
        let flags = RunFlags { cache_bytes: Some(0), ..RunFlags::default() };
        assert_eq!(combine(flags, file()).unwrap().cache_bytes, Some(0));
        let file = File { cache_bytes: Some("much".into()), ..File::default() };
        assert!(combine(RunFlags::default(), file).is_err_and(|e| e.to_string().starts_with("cache_bytes: ")));
    }

    #[test]
    fn targets_have_a_protocol_and_an_address() {
        let target = |text: &str| super::target(text).map(|t| (t.protocol, t.address.to_string())).ok();
        assert_eq!(target("icmp://127.0.0.1"), Some((Protocol::Icmp, "127.0.0.1:0".to_owned())));
        assert_eq!(target("tcp://[::1]:80"), Some((Protocol::Tcp, "[::1]:80".to_owned())));
        for bad in ["", "127.0.0.1", "udp://127.0.0.1:1", "tcp://127.0.0.1"] {
            assert_eq!(target(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Line::command().debug_assert();
    }
}
