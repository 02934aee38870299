//! Configuration of `perigeed`: flags over `PERIGEE_*` variables over the file over defaults.
//! The only place of this crate that reads any of them.

use anyhow::Context;
use clap::{Args, Parser};
use perigee_outbound::Network;
use perigee_series::Settings;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SYSTEM_DIR: &str = "/var/lib/perigee";
const SYSTEM_FILE: &str = "/etc/perigee/perigeed.toml";

/// The Perigee control plane.
#[derive(Debug, Parser)]
#[command(name = "perigeed", version, about)]
pub struct Flags {
    /// Where everything is kept; with it, ports that are not given are free ones.
    #[arg(long, env = "PERIGEE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address of the API and the pages (default 127.0.0.1:8080).
    #[arg(long, env = "PERIGEE_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// Address of the agent link (default 127.0.0.1:8443).
    #[arg(long, env = "PERIGEE_AGENTS")]
    pub agents: Option<SocketAddr>,
    /// PostgreSQL instead of the embedded store: postgres://user@host/database.
    #[arg(long, env = "PERIGEE_STORE")]
    pub store: Option<String>,
    /// Host names, beside the loopback ones, under which the API is called.
    #[arg(long = "host-name", env = "PERIGEE_HOST_NAMES", value_delimiter = ',')]
    pub host_names: Vec<String>,
    /// Where backups of VMs are kept (default DATA_DIR/backups).
    #[arg(long, env = "PERIGEE_BACKUP_DIR", value_name = "DIR")]
    pub backup_dir: Option<PathBuf>,
    /// Private networks that images may be fetched from: 10.0.0.0/8, or one address.
    #[arg(long, env = "PERIGEE_OUTBOUND_ALLOW", value_name = "NETWORK", value_delimiter = ',')]
    pub outbound_allow: Vec<Network>,
    /// How long measurements are kept.
    #[command(flatten)]
    pub keep: Keep,
    /// Configuration file.
    #[arg(long, env = "PERIGEE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Do not work on the queue here.
    #[arg(long)]
    pub no_workers: bool,
}

/// How long measurements are kept; what is not given is as usual.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keep {
    /// Days that measurements are kept as they were taken (default 30).
    #[arg(long = "keep-days", env = "PERIGEE_KEEP_DAYS", value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..))]
    pub days: Option<u16>,
    /// Days that their minutes are kept (default 90).
    #[arg(long = "keep-minutes-days", env = "PERIGEE_KEEP_MINUTES_DAYS", value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..))]
    pub minutes_days: Option<u16>,
    /// Days that their hours are kept (default 730).
    #[arg(long = "keep-hours-days", env = "PERIGEE_KEEP_HOURS_DAYS", value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..))]
    pub hours_days: Option<u16>,
    /// GiB that all of them may take; the oldest go first (default a tenth of the disk).
    #[arg(long = "keep-gib", env = "PERIGEE_KEEP_GIB", value_name = "GIB", value_parser = clap::value_parser!(u16).range(1..))]
    pub gib: Option<u16>,
}

impl Keep {
    /// What is not given here is as there.
    fn or(self, other: Self) -> Self {
        Self {
            days: self.days.or(other.days),
            minutes_days: self.minutes_days.or(other.minutes_days),
            hours_days: self.hours_days.or(other.hours_days),
            gib: self.gib.or(other.gib),
        }
    }

    /// For the series store in a folder.
    pub fn settings(self, folder: &Path) -> Settings {
        let usual = Settings::of_disk(folder);
        let days = |given: Option<u16>, usual| given.map_or(usual, |days| Duration::from_secs(86_400) * days.into());
        Settings {
            kept: days(self.days, usual.kept),
            minutes_kept: days(self.minutes_days, usual.minutes_kept),
            hours_kept: days(self.hours_days, usual.hours_kept),
            bytes_max: self.gib.map_or(usual.bytes_max, |gib| u64::from(gib) << 30),
            ..usual
        }
    }
}

/// The file's shape.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    data_dir: Option<PathBuf>,
    listen: Option<SocketAddr>,
    agents: Option<SocketAddr>,
    store: Option<String>,
    host_names: Vec<String>,
    outbound_allow: Vec<String>,
    backup_dir: Option<PathBuf>,
    keep: Keep,
}

/// What it comes to.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Address of the API; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Address of the agent link; port 0 takes a free one.
    pub agents: SocketAddr,
    /// PostgreSQL URL; `None` for the embedded store.
    pub store: Option<String>,
    /// Names under which the API is called.
    pub host_names: Vec<String>,
    /// Where backups are kept.
    pub backup_dir: PathBuf,
    /// Networks that are called though they are not public.
    pub outbound_allow: Vec<Network>,
    /// Whether to work on the queue here.
    pub workers: bool,
    /// How long measurements are kept.
    pub keep: Keep,
}

/// Puts flags, variables and the file together.
///
/// # Errors
/// When the file cannot be read or has an unknown entry, or an address is public.
pub fn load(flags: Flags) -> anyhow::Result<Config> {
    let file = read(flags.config.as_deref())?;
    let given_dir = flags.data_dir.or(file.data_dir);
    let own_ports = given_dir.is_some();
    let port = |system: u16| SocketAddr::from(([127, 0, 0, 1], if own_ports { 0 } else { system }));
    let data_dir = std::path::absolute(given_dir.unwrap_or_else(|| PathBuf::from(SYSTEM_DIR)))?;
    let backup_dir = flags.backup_dir.or(file.backup_dir).unwrap_or_else(|| data_dir.join("backups"));
    let config = Config {
        data_dir,
        backup_dir: std::path::absolute(backup_dir)?,
        listen: flags.listen.or(file.listen).unwrap_or_else(|| port(8080)),
        agents: flags.agents.or(file.agents).unwrap_or_else(|| port(8443)),
        store: flags.store.or(file.store),
        host_names: if flags.host_names.is_empty() { file.host_names } else { flags.host_names },
        outbound_allow: if flags.outbound_allow.is_empty() {
            networks(&file.outbound_allow)?
        } else {
            flags.outbound_allow
        },
        workers: !flags.no_workers,
        keep: flags.keep.or(file.keep),
    };
    let kept = config.keep.settings(&config.data_dir);
    if kept.kept > kept.minutes_kept || kept.minutes_kept > kept.hours_kept || kept.kept.is_zero() {
        anyhow::bail!(
            "measurements cannot be kept longer than their minutes, nor these longer than their hours, and at least a \
             day: --keep-days {}, --keep-minutes-days {}, --keep-hours-days {}",
            kept.kept.as_secs() / 86_400,
            kept.minutes_kept.as_secs() / 86_400,
            kept.hours_kept.as_secs() / 86_400
        );
    }
    if !config.listen.ip().is_loopback() {
        anyhow::bail!(
            "{} is not a loopback address, and this release serves the API without TLS: \
             listen on 127.0.0.1 and put a TLS proxy or an SSH tunnel before it",
            config.listen
        );
    }
    Ok(config)
}

fn networks(texts: &[String]) -> anyhow::Result<Vec<Network>> {
    texts.iter().map(|text| text.parse().map_err(|fault: String| anyhow::anyhow!("outbound_allow: {fault}"))).collect()
}

fn read(path: Option<&Path>) -> anyhow::Result<File> {
    let (path, must) = path.map_or((Path::new(SYSTEM_FILE), false), |p| (p, true));
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).with_context(|| format!("{} is not understood", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must => Ok(File::default()),
        Err(error) => Err(error).with_context(|| format!("{} cannot be read", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(line: &[&str]) -> Flags {
        Flags::parse_from(std::iter::once("perigeed").chain(line.iter().copied()))
    }

    #[test]
    fn a_public_address_without_tls_is_refused() {
        let refused = load(flags(&["--data-dir", "/tmp/x", "--listen", "0.0.0.0:8080"])).unwrap_err();
        assert!(refused.to_string().contains("without TLS"));
        assert!(load(flags(&["--data-dir", "/tmp/x", "--listen", "127.0.0.1:8080"])).is_ok());
        assert!(load(flags(&["--data-dir", "/tmp/x", "--listen", "[::1]:8080"])).is_ok());
    }

    #[test]
    fn a_data_dir_brings_free_ports() {
        let config = load(flags(&["--data-dir", "/tmp/x"])).unwrap();
        assert_eq!((config.listen.port(), config.agents.port()), (0, 0));
    }

    #[test]
    fn backups_are_beside_everything_else_or_where_it_is_said() {
        let at = |line: &[&str]| load(flags(&[&["--data-dir", "/tmp/x"], line].concat())).unwrap().backup_dir;
        assert_eq!(at(&[]), Path::new("/tmp/x/backups"));
        assert_eq!(at(&["--backup-dir", "/mnt/nas"]), Path::new("/mnt/nas"));
        assert!(at(&["--backup-dir", "here"]).is_absolute());
        let file: File = toml::from_str("backup_dir = \"/mnt/nas\"").unwrap();
        assert_eq!(file.backup_dir.as_deref(), Some(Path::new("/mnt/nas")));
    }

    #[test]
    fn what_is_kept_longer_is_coarser() {
        let load_with = |more: &[&str]| load(flags(&[&["--data-dir", "/tmp/x"], more].concat()));
        let kept = load_with(&["--keep-days", "7", "--keep-gib", "3"]).unwrap().keep.settings(Path::new("/tmp"));
        assert_eq!((kept.kept.as_secs(), kept.bytes_max), (7 * 86_400, 3 << 30));
        assert_eq!(kept.minutes_kept, Settings::default().minutes_kept);
        let refused = load_with(&["--keep-days", "91"]).unwrap_err().to_string();
        assert!(refused.contains("--keep-days 91, --keep-minutes-days 90"), "{refused}");
        assert!(load_with(&["--keep-days", "400", "--keep-minutes-days", "400"]).is_ok());
        let file: File = toml::from_str("[keep]\ndays = 3\nhours_days = 900").unwrap();
        assert_eq!(
            Keep { days: Some(5), ..Keep::default() }.or(file.keep),
            Keep { days: Some(5), hours_days: Some(900), ..Keep::default() }
        );
        assert!(toml::from_str::<File>("[keep]\nday = 3").is_err());
    }

    #[test]
    fn unknown_entries_of_the_file_are_refused() {
        assert!(toml::from_str::<File>("listne = \"127.0.0.1:1\"").is_err());
        assert!(toml::from_str::<File>("listen = \"127.0.0.1:1\"").is_ok());
    }

    #[test]
    fn private_networks_are_called_where_they_are_allowed() {
        let config = load(flags(&["--data-dir", "/tmp/x", "--outbound-allow", "10.0.0.0/8,127.0.0.1"])).unwrap();
        let allowed: Vec<_> = config.outbound_allow.iter().map(ToString::to_string).collect();
        assert_eq!(allowed, ["10.0.0.0/8", "127.0.0.1/32"]);
        assert!(load(flags(&["--data-dir", "/tmp/x"])).unwrap().outbound_allow.is_empty());
        assert!(Flags::try_parse_from(["perigeed", "--outbound-allow", "all"]).is_err());
        assert_eq!(networks(&["fd00::/8".to_owned()]).unwrap()[0].to_string(), "fd00::/8");
        assert!(networks(&["fd00::/200".to_owned()]).is_err());
    }
}
