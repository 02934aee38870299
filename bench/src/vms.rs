//! N19: full VMs on a real libvirt: what is ours above libvirt's own time, and what the agent keeps in memory
//! meanwhile (N2). N19b: the same with 500 of them defined.
//!
//! ```text
//!   bench ──API──▶ perigeed ─▶ agent ──▶ libvirtd (of the bench's own) ─▶ QEMU
//!     └──────── the peer: the bare calls, the same definition ──▶┘
//!     ◀──────── "it runs", "it has ended": libvirtd's word, for both ──┘
//! ```
//! Owns: an instance beside a libvirtd, and the order of what is measured there.

mod at_once;
mod bare;
mod many;
mod memory;
mod power;
mod witness;

use crate::Options;
use crate::api;
use crate::instance::Instance;
use crate::libvirtd::{Libvirtd, NETWORK};
use crate::machine;
use crate::report::Report;
use anyhow::{Context as _, Result};
use bare::Bare;
use perigee_api::{StopRequest, VmRequest, VmView};
use perigee_client::{Answer, Client, Switch};
use perigee_clock::Clock;
use witness::Witness;

/// Of each VM here: `base` boots in less than a quarter of it.
const MEMORY_BYTES: u64 = 256 << 20;
const DISK_BYTES: u64 = 1 << 30;

/// Power, ten at once, and memory.
pub async fn run(options: &Options, report: &mut Report) -> Result<()> {
    let Some(mut lab) = Lab::open(options, report).await? else { return Ok(()) };
    power::creates(&mut lab, report).await?;
    power::switches(&mut lab, report).await?;
    at_once::run(&mut lab, report).await
}

/// Listing, looking and creating where there are many.
pub async fn run_many(options: &Options, report: &mut Report) -> Result<()> {
    let Some(mut lab) = Lab::open(options, report).await? else { return Ok(()) };
    many::run(&mut lab, report).await
}

/// What these rows work with. The instance ends before its libvirt does.
struct Lab {
    instance: Instance,
    client: Client,
    clock: Clock,
    witness: Witness,
    bare: Bare,
    daemon: Libvirtd,
    /// What the agent that built the image had in memory afterwards.
    builder_bytes: u64,
    quick: bool,
}

impl Lab {
    /// `None` where there is no libvirt; the report says so.
    async fn open(options: &Options, report: &mut Report) -> Result<Option<Self>> {
        let Some(daemon) = Libvirtd::start()? else {
            report.note("N19", "libvirtd or virsh is not installed: not measured (scripts/setup bench)");
            return Ok(None);
        };
        daemon.connect().context("the bench's network")?;
        crate::say::progress("an instance beside a libvirtd comes up and builds its image");
        let instance = Instance::with_vms(options, &daemon)?;
        let builder_bytes = machine::resident_bytes(instance.pid("perigee-agent")?)?;
        // Few hosts build images: what that left behind is told apart.
        instance.kill("perigee-agent")?;
        instance.up()?;
        let client = instance.client()?;
        let clock = Clock::real();
        let witness = Witness::open(&daemon, clock.clone()).await?;
        // The first one fetches the image; its definition is the peer's, too.
        let first = create(&client, "bench-first").await?;
        let bare = Bare::like(&daemon, &first, clock.clone()).await?;
        delete(&client, "bench-first").await?;
        Ok(Some(Self { instance, client, clock, witness, bare, daemon, builder_bytes, quick: options.quick }))
    }

    /// So many runs, or a tenth of them.
    fn runs(&self, full: usize) -> usize {
        if self.quick { full.div_ceil(10).max(2) } else { full }
    }
}

fn request(name: &str) -> VmRequest {
    VmRequest {
        name: Some(name.to_owned()),
        memory_bytes: Some(MEMORY_BYTES),
        disk_bytes: Some(DISK_BYTES),
        network: Some(NETWORK.to_owned()),
        ..VmRequest::default()
    }
}

/// Until it runs and has said hello.
async fn create(client: &Client, name: &str) -> Result<VmView> {
    api::done(client.create_vm(&request(name), Some(api::PATIENCE)).await?)
}

/// With its disk.
async fn delete(client: &Client, name: &str) -> Result<()> {
    api::done(client.delete_vm(name, Some(api::PATIENCE)).await?)
}

async fn start(client: &Client, name: &str) -> Result<VmView> {
    api::done(client.switch_vm(name, &Switch::Start, Some(api::PATIENCE)).await?)
}

/// At once without grace; with some, its guest is asked first.
async fn stop(client: &Client, name: &str, grace_ms: u64) -> Result<VmView> {
    let switch = Switch::Stop(StopRequest { grace_ms: Some(grace_ms) });
    let stopped: Answer<VmView> = client.switch_vm(name, &switch, Some(api::PATIENCE)).await?;
    api::done(stopped)
}
