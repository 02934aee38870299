//! One played host: the real agent with a machine that is made up.
//!
//! Owns: its identity, and the tasks of its link, its certificate, its measuring and its sending.
//! Refuses: a way of its own; everything here is what `perigee-agent` runs, over the same uplink.

use super::Fleet;
use super::machine::Machine;
use super::pages::{Page, Pages};
use crate::images::Nothing;
use anyhow::{Context as _, Result};
use perigee_agent::enrol::{self, JoinToken};
use perigee_agent::frames::{Caps, FrameSpool, Pace, Sender};
use perigee_agent::identity::{CurrentIdentity, Identity, IdentityDir};
use perigee_agent::uplink::grpc::GrpcUplink;
use perigee_agent::watch::{Sampler, Watch};
use perigee_agent::{Agent, Health, MemoryJournal, MemorySpool, NoCards};
use perigee_api::JoinTokenRequest;
use perigee_hypervisor::simulated::{Knobs, Simulated, SimulatedConfig, SimulatedHost};
use perigee_model::frame::{Series, Sheet, StreamName};
use perigee_model::{InstanceId, Inventory, Labels, RunId, Timestamp};
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// What waits while the control plane is away: twenty minutes of frames every five seconds.
const SPOOL: Caps = Caps { segment_bytes: 128 << 10, disk_bytes: 0, memory_bytes: 512 << 10 };
/// An agent that ended by itself is started again after this, as an init system would.
const START_AGAIN: Duration = Duration::from_secs(1);

/// What all hosts share.
pub struct Guide {
    /// Which fleet.
    pub fleet: Fleet,
    /// Those that join now.
    pub joins: Semaphore,
    /// What the hosts show.
    pub pages: Arc<Pages>,
}

/// One of them. Dropping it is as sudden as `kill -9`.
pub struct Host {
    /// Whether it has a link.
    pub health: Arc<Health>,
    /// What it has not sent yet.
    pub spool: Arc<FrameSpool>,
    _tasks: [AbortOnDropHandle<()>; 4],
}

/// What it is called.
pub fn name(number: usize) -> String {
    format!("sim-{number:04}")
}

impl Host {
    /// Joins, unless it did before, and starts.
    ///
    /// # Errors
    /// What the control plane or the disk says.
    pub async fn begin(guide: &Arc<Guide>, number: usize) -> Result<Self> {
        let fleet = &guide.fleet;
        let folder = fleet.folder.join(name(number));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let folder = IdentityDir::of(&folder);
        let identity = match folder.load()? {
            Some(identity) => identity,
            None => join(guide, number, &folder).await?,
        };
        let (host, clock) = (identity.host, fleet.clock.clone());
        let current = Arc::new(CurrentIdentity::new(identity));
        let health = Arc::new(Health::default());
        let fresh = enrol::keep_fresh(fleet.server.clone(), folder, current.clone(), clock.clone(), health.clone());
        let uplink = Arc::new(GrpcUplink::new(fleet.server.clone(), current));
        let mut machine = Machine::new(fleet.seed, &name(number), fleet.mix);
        let page = Arc::new(Page::default());
        let spool = match &fleet.past {
            Some(past) => past.live(&mut machine, &mut page.sheet.lock(), &name(number), &clock)?,
            None => FrameSpool::in_memory(SPOOL),
        };
        let spool = Arc::new(spool);
        guide.pages.add(name(number), page.clone());
        let pace = Arc::new(Pace::default());
        let watch = Watch {
            host,
            run: RunId::new(clock.uuid()),
            interval: fleet.interval,
            clock: clock.clone(),
            sheet: page.sheet.clone(),
            spool: spool.clone(),
            pace: pace.clone(),
        };
        let measured = Measured { machine, spool: spool.clone(), page };
        let sender = Sender { stream: StreamName::Node, spool: spool.clone(), uplink: uplink.clone(), pace, clock };
        let agent = agent(guide, number, host, uplink, health.clone());
        let tasks = [
            tokio::spawn(fresh),
            tokio::spawn(watch.serve(measured)),
            tokio::spawn(sender.run()),
            tokio::spawn(live(agent)),
        ];
        Ok(Self { health, spool, _tasks: tasks.map(AbortOnDropHandle::new) })
    }
}

/// A token of its own, and an identity for it.
async fn join(guide: &Guide, number: usize, folder: &IdentityDir) -> Result<Identity> {
    let fleet = &guide.fleet;
    let _turn = guide.joins.acquire().await?;
    let view = fleet.client.create_join_token(&JoinTokenRequest::default()).await.context("asking for a join token")?;
    let token: JoinToken = view.token.parse()?;
    let labels = Labels::from([("sim".to_owned(), "true".to_owned())]);
    Ok(enrol::join(&fleet.server, &token, folder, &name(number), &labels).await?)
}

async fn live(agent: Agent) {
    while let Err(error) = agent.clone().run(CancellationToken::new()).await {
        tracing::warn!(host = %agent.host, %error, "an agent ended and is started again");
        tokio::time::sleep(START_AGAIN).await;
    }
}

fn agent(
    guide: &Guide,
    number: usize,
    host: perigee_model::HostId,
    uplink: Arc<GrpcUplink>,
    health: Arc<Health>,
) -> Agent {
    let clock = guide.fleet.clock.clone();
    let config = SimulatedConfig {
        instance: InstanceId::from_bits(u32::from_le_bytes(clock.random())),
        clock: clock.clone(),
        boot: Duration::ZERO..=Duration::ZERO,
        knobs: Arc::new(Knobs::default()),
        boots_in_flight_max: 1,
    };
    let inventory = inventory(&name(number), &Machine::new(guide.fleet.seed, &name(number), guide.fleet.mix));
    Agent {
        host,
        clock,
        drivers: vec![Arc::new(Simulated::new(config, SimulatedHost::new()))],
        cards: Arc::new(NoCards("it is played")),
        journal: Arc::new(MemoryJournal::default()),
        spool: Arc::new(MemorySpool::default()),
        uplink,
        parts: Arc::new(Nothing),
        builder: Arc::new(Nothing),
        describe: Arc::new(move || inventory.clone()),
        measured: Arc::default(),
        health,
        local: Vec::new(),
        boots_in_flight_max: None,
        look_every: None,
    }
}

fn inventory(name: &str, machine: &Machine) -> Inventory {
    Inventory {
        hostname: name.to_owned(),
        arch: "x86_64".to_owned(),
        kernel_release: "6.1.0-simulated".to_owned(),
        os: "Simulated".to_owned(),
        cpus: machine.cpus,
        cpu_model: "Simulated".to_owned(),
        memory_bytes: machine.memory_bytes,
        disk_bytes: 1 << 40,
        disk_free_bytes: 1 << 39,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        privileges: "root".to_owned(),
        // No driver: nobody's sandbox shall wake up on a machine that is not there.
        drivers: Vec::new(),
    }
}

/// The machine, and how its frames fare.
struct Measured {
    machine: Machine,
    spool: Arc<FrameSpool>,
    page: Arc<Page>,
}

impl Sampler for Measured {
    fn sample(&mut self, sheet: &mut Sheet, now: Timestamp) {
        self.machine.sample(sheet, now);
        self.page.at_ms.store(now.micros() / 1000, Ordering::Relaxed);
        let about = [
            (Series::gauge("perigee_agent_spool_frames", 0), self.spool.waiting()),
            (Series::counter("perigee_agent_frames_lost_total", 0), self.spool.lost()),
        ];
        for (series, value) in about {
            if let Some(slot) = sheet.define(series) {
                sheet.set(slot, i64::try_from(value).unwrap_or(i64::MAX));
            }
        }
    }
}
