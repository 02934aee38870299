//! The peer: the same machine by libvirt's bare calls. No store, queue, link or API, and no look before or
//! after.

use super::MEMORY_BYTES;
use super::witness::DRIVER;
use crate::libvirtd::Libvirtd;
use anyhow::{Context as _, Result};
use perigee_api::VmView;
use perigee_clock::Clock;
use perigee_guest::{Channel, ChannelLimits, ExecEvent, ExecStart, UnixDial};
use perigee_libvirt::{Connection, Domain, Endpoint, Settings, define, shutdown, undefine};
use perigee_model::limits::BOOT_RETRY_TIMEOUT;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use uuid::Uuid;

/// libvirt's flag for a definition as it is kept, not as it runs.
const INACTIVE: u32 = 2;
/// As the agent calls a guest's disk.
const DISK: &str = "disk.qcow2";
/// So that 500 fit where one should still have room.
const SMALL_KIB: &str = "4096";
/// Starting and ending takes longer than other calls.
const WITHIN: Duration = Duration::from_secs(60);

pub struct Bare {
    libvirt: Connection,
    like: Definition,
    /// Where the agent keeps its guests' files, and where these are kept.
    dirs: (String, PathBuf),
    clock: Clock,
}

/// Of a VM of the instance's, and what in it is its own.
struct Definition {
    text: String,
    name: String,
    uuid: Uuid,
    mac: String,
}

/// One to be defined.
pub struct Copied {
    text: String,
    channel: PathBuf,
}

impl Copied {
    /// With less memory than the one it is like: it will not run, and counts as taking it.
    pub fn small(mut self) -> Self {
        self.text = self.text.replace(&(MEMORY_BYTES >> 10).to_string(), SMALL_KIB);
        self
    }
}

impl Bare {
    /// Machines like this one, with a mark of nobody's.
    pub async fn like(daemon: &Libvirtd, vm: &VmView, clock: Clock) -> Result<Self> {
        let settings = Settings { deadline: WITHIN, ..Settings::default() };
        let endpoint = Endpoint::Unix(daemon.socket());
        let libvirt = Connection::open_with(&endpoint, Some(DRIVER), 0, &settings).await?;
        let domain = libvirt.domain_by_uuid(vm.guest.id.parse()?).await?;
        let text = libvirt.domain_xml(&domain, INACTIVE).await?;
        let text = without(&text, "<metadata>", "</metadata>").context("a definition without our mark")?;
        let mac = vm.vm.as_ref().and_then(|part| part.mac.clone()).context("a full VM")?;
        let dirs = (daemon.vm_dir().display().to_string(), daemon.vm_dir().with_file_name("bare"));
        // An empty one, whatever its guest does now; the VM may go while we need it.
        fs::create_dir_all(&dirs.1)?;
        fs::copy(daemon.vm_dir().join("disks").join(domain.uuid.to_string()).join(DISK), dirs.1.join(DISK))?;
        Ok(Self { libvirt, like: Definition { text, name: domain.name, uuid: domain.uuid, mac }, dirs, clock })
    }

    /// Another one like it: its files are made, its definition is not given yet.
    pub fn copy(&self, name: &str) -> Result<Copied> {
        let (uuid, dir) = (self.clock.uuid(), &self.dirs.1);
        let [.., a, b, c] = self.clock.random::<16>();
        let simple = uuid.simple().to_string();
        let text = self.like.text.replace(&self.dirs.0, &dir.display().to_string());
        let text = text.replace(&self.like.name, name).replace(&self.like.uuid.to_string(), &uuid.to_string());
        let text = text.replace(&self.like.uuid.simple().to_string(), &simple);
        let text = text.replace(&self.like.mac, &format!("52:54:00:{a:02x}:{b:02x}:{c:02x}"));
        let (disks, sockets) = (dir.join("disks").join(uuid.to_string()), dir.join("run").join(&simple));
        fs::create_dir_all(&disks)?;
        fs::create_dir_all(&sockets)?;
        fs::copy(dir.join(DISK), disks.join(DISK))?;
        Ok(Copied { text, channel: sockets.join("agent") })
    }

    pub async fn define(&self, copied: &Copied) -> Result<Domain> {
        Ok(self.libvirt.define(&copied.text, define::VALIDATE).await?)
    }

    pub async fn start(&self, domain: &Domain) -> Result<()> {
        self.libvirt.create(domain, 0).await?;
        Ok(())
    }

    /// Until its guest says hello.
    pub async fn hello(&self, copied: &Copied) -> Result<Channel> {
        let dial = UnixDial { path: copied.channel.clone() };
        let mut entropy = || self.clock.random();
        Ok(Channel::open(&dial, &mut entropy, BOOT_RETRY_TIMEOUT, ChannelLimits::default()).await?)
    }

    /// Until its guest has said hello and this has ended in it.
    pub async fn run(&self, copied: &Copied, argv: &[&str]) -> Result<()> {
        let channel = self.hello(copied).await?;
        let start = ExecStart::new(self.clock.uuid(), argv.iter().copied());
        let mut execution = channel.exec(start).await?;
        while !matches!(execution.next().await?, ExecEvent::End(_)) {}
        Ok(())
    }

    /// Asks its guest to turn itself off.
    pub async fn press(&self, domain: &Domain) -> Result<()> {
        Ok(self.libvirt.shutdown(domain, shutdown::ACPI).await?)
    }

    /// Ends it at once.
    pub async fn end(&self, domain: &Domain) -> Result<()> {
        Ok(self.libvirt.destroy(domain).await?)
    }

    pub async fn forget(&self, domain: &Domain) -> Result<()> {
        Ok(self.libvirt.undefine(domain, undefine::MANAGED_SAVE | undefine::NVRAM).await?)
    }
}

fn without(text: &str, from: &str, to: &str) -> Option<String> {
    let (before, rest) = text.split_once(from)?;
    let (_, after) = rest.split_once(to)?;
    Some(format!("{before}{after}"))
}
