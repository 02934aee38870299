//! The agent against a fake hypervisor and a control plane in memory, in virtual time.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what went wrong by panicking")]

mod backups;
mod cache;
mod cards;
mod cards_played;
mod console;
mod crash;
mod executions;
mod fake;
mod frames;
mod guests;
mod identity;
mod networks;
#[path = "../../../network/tests/it/ns.rs"]
#[allow(dead_code, reason = "the tests of the network crate use all of it")]
mod ns;
mod operations;
mod plane;
mod simulated;
mod vms;
mod volumes;

use async_trait::async_trait;
use fake::Fake;
use perigee_agent::builds::{BuildProgress, Built};
use perigee_agent::parts::Progress;
use perigee_agent::*;
use perigee_agent_api::*;
use perigee_clock::Clock;
use perigee_hypervisor::Hypervisor;
use perigee_model::execution::Command;
use perigee_model::*;
use plane::Plane;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

struct Instant;
#[async_trait]
impl Parts for Instant {
    async fn ensure(
        &self,
        _: &[Part],
        _: watch::Sender<Option<Progress>>,
    ) -> Result<Vec<(PartRole, PathBuf)>, PartsError> {
        Ok(vec![(PartRole::Kernel, PathBuf::from("kernel"))])
    }
}
/// Parts of one byte are here; larger ones never come while they are held back.
#[derive(Default)]
struct Held(AtomicBool);
#[async_trait]
impl Parts for Held {
    async fn ensure(
        &self,
        parts: &[Part],
        progress: watch::Sender<Option<Progress>>,
    ) -> Result<Vec<(PartRole, PathBuf)>, PartsError> {
        if self.0.load(Ordering::SeqCst) && parts.iter().any(|part| part.bytes > 1) {
            std::future::pending::<()>().await;
        }
        Instant.ensure(parts, progress).await
    }
}
#[async_trait]
impl Builder for Instant {
    async fn build(&self, _: &Recipe, progress: watch::Sender<BuildProgress>) -> Result<Built, String> {
        progress.send_replace(Some(("kernel".into(), Some(50))));
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        Ok(Built { arch: "x86_64".into(), kernel_release: "6.1".into(), parts: vec![] })
    }
}

/// Everything that outlives an agent.
#[derive(Clone)]
struct Rig {
    fake: Fake,
    plane: Plane,
    journal: MemoryJournal,
    spool: MemorySpool,
    clock: Clock,
    boots: Option<u32>,
    health: Arc<Health>,
    parts: Arc<dyn Parts>,
    /// The driver of simulations instead of the fake.
    simulated: Option<simulated::Machine>,
    /// A driver beside the first one.
    second: Option<Arc<dyn Hypervisor>>,
    cards: Arc<dyn Cards>,
}

/// A running agent; dropping it is `kill -9`.
struct Running(tokio::task::JoinHandle<()>);
impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Rig {
    fn new() -> Self {
        Self {
            fake: Fake::new(),
            plane: Plane::new(),
            journal: MemoryJournal::default(),
            spool: MemorySpool::default(),
            clock: Clock::simulated(7),
            boots: None,
            health: Arc::default(),
            parts: Arc::new(Instant),
            simulated: None,
            second: None,
            cards: Arc::new(NoCards("it is a test")),
        }
    }
    fn start(&self) -> Running {
        let inventory = Inventory {
            hostname: "h".into(),
            arch: "x86_64".into(),
            kernel_release: "6".into(),
            os: "Linux".into(),
            cpus: 2,
            cpu_model: String::new(),
            memory_bytes: 1 << 30,
            disk_bytes: 1 << 30,
            disk_free_bytes: 1 << 30,
            agent_version: "0".into(),
            privileges: "root".into(),
            drivers: vec![],
        };
        let first: Arc<dyn Hypervisor> = match &self.simulated {
            Some(machine) => machine.driver(&self.clock),
            None => Arc::new(self.fake.clone()),
        };
        let agent = Agent {
            host: HostId::new(Uuid::from_u128(1)),
            clock: self.clock.clone(),
            drivers: [first].into_iter().chain(self.second.clone()).collect(),
            journal: Arc::new(self.journal.clone()),
            spool: Arc::new(self.spool.clone()),
            uplink: Arc::new(self.plane.clone()),
            parts: self.parts.clone(),
            builder: Arc::new(Instant),
            cards: self.cards.clone(),
            describe: Arc::new(move || inventory.clone()),
            measured: Arc::default(),
            health: self.health.clone(),
            local: Vec::new(),
            boots_in_flight_max: self.boots,
            look_every: None,
        };
        Running(tokio::spawn(async move { agent.run(CancellationToken::new()).await.unwrap() }))
    }
    /// `kill -9`: nothing of the agent runs again.
    async fn crash(&self, running: Running) {
        drop(running);
        self.plane.with(|_| ());
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }
    /// All that was asked to go is gone, on the host and in the journal.
    async fn is_clean(&self) {
        for _ in 0..600 {
            self.plane.resync();
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            if self.journal.count("guests") == 0 && self.fake.with(|s| s.guests.is_empty()) {
                return;
            }
        }
        panic!("left behind: {} documents, {:?}", self.journal.count("guests"), self.fake.living());
    }
}

fn guest_id(n: u128) -> GuestId {
    GuestId::new(Uuid::from_u128(0x1000 + n))
}
fn execution_id(n: u128) -> ExecutionId {
    ExecutionId::new(Uuid::from_u128(0x2000 + n))
}

fn wanted(id: GuestId, generation: u64, power: Power) -> DesiredGuest {
    let name = Name::parse("g").unwrap();
    let spec = GuestSpec {
        image: ImageId::new(Uuid::nil()),
        image_name: name.clone(),
        parts: vec![],
        resources: Resources { cpus: 1, memory_bytes: 64 << 20 },
        env: Default::default(),
        ttl_ms: None,
        host_wanted: None,
        vm: None,
        egress: None,
        egress6: None,
        forwards: Vec::new(),
    };
    let desired = Desired { generation, host: None, power, expires_at: None, restarts: 0, grace_ms: 0, release: false };
    DesiredGuest { id, name, labels: Labels::new(), kind: GuestKind::Sandbox, spec, desired }
}

fn execute(id: ExecutionId, guest: GuestId, argv: &[&str]) -> Execute {
    let command = Command {
        argv: argv.iter().map(|a| (*a).to_owned()).collect(),
        env: Default::default(),
        cwd: None,
        user: None,
        timeout_ms: None,
        output_limit_bytes: None,
    };
    Execute { execution: id, guest, command, stdin: false }
}
