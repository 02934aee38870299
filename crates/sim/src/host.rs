//! A host: a machine, what is on its disk, and one agent's life after the other.
//!
//! Owns: starting the agent, ending it politely or like `kill -9`, and starting it again when it
//! ends by itself, as an init system would. Refuses: touching guests.

use crate::driver::{Falls, Greeted, WatchedDriver};
use crate::images::Nothing;
use crate::journal::WatchedJournal;
use crate::network::{Line, Network, Wire};
use crate::scene::{Sabotage, Scene};
use perigee_agent::local::Listener;
use perigee_agent::{Agent, Health, MemorySpool, NoCards};
use perigee_hypervisor::Hypervisor;
use perigee_hypervisor::simulated::{Knobs, Simulated, SimulatedConfig, SimulatedHost};
use perigee_model::limits::HOST_RESERVE_BYTES;
use perigee_model::{GuestId, HostId, Inventory};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Boots in flight that a simulated machine bears.
pub const BOOTS_MAX: u32 = 2;
/// Memory of a machine that guests may take.
pub const MEMORY_BYTES: u64 = 3 << 30;
/// Of one host's users, what waits for its agent to listen.
const ASKED_AT_ONCE: usize = 4;

/// A way to the agent, with the number of the user who speaks.
pub type Door = mpsc::Sender<(DuplexStream, u32)>;

const BOOT: std::ops::RangeInclusive<Duration> = Duration::from_millis(200)..=Duration::from_millis(1800);

/// A host.
pub struct Host {
    scene: Arc<Scene>,
    /// Its identity.
    pub id: HostId,
    /// Its name in the story.
    pub name: String,
    /// The machine.
    pub machine: SimulatedHost,
    /// Its agent's documents.
    pub journal: Arc<WatchedJournal>,
    /// Its agent's output files.
    pub spool: MemorySpool,
    /// What goes wrong on it.
    pub knobs: Arc<Knobs>,
    /// Its line.
    pub line: Arc<Line>,
    greeted: Greeted,
    falls: Falls,
    door: Mutex<Option<Door>>,
    life: Mutex<Option<Life>>,
}

struct Life {
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Host {
    /// A machine that joined under this id; no agent runs yet.
    pub fn new(scene: &Arc<Scene>, network: &Arc<Network>, id: HostId, name: &str) -> Arc<Self> {
        let machine = SimulatedHost::new();
        scene.add_machine(id, name, machine.clone());
        Arc::new(Self {
            scene: scene.clone(),
            id,
            name: name.to_owned(),
            machine,
            journal: Arc::new(WatchedJournal::new(scene.clone(), name)),
            spool: MemorySpool::default(),
            knobs: Arc::new(Knobs::default()),
            line: network.lay(id, name),
            greeted: Greeted::default(),
            falls: Falls::default(),
            door: Mutex::default(),
            life: Mutex::default(),
        })
    }

    /// Starts the agent, if none runs.
    pub fn start(&self) {
        let mut life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        if life.is_some() {
            return;
        }
        let cancel = CancellationToken::new();
        let (agent, scene, name, until) = (self.agent(), self.scene.clone(), self.name.clone(), cancel.clone());
        let task = tokio::spawn(async move {
            while let Err(error) = agent.clone().run(until.clone()).await {
                let died = matches!(error, perigee_agent::AgentError::Panicked);
                scene.checks.that(!died, "an agent never panics", || format!("the agent of {name} did"));
                scene.story.tell(format!("the agent of {name} ends: {error}; it is started again"));
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        *life = Some(Life { cancel, task });
    }

    /// Where this host's users speak to its agent.
    pub fn door(&self) -> Option<Door> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A guest's VMM crashes. `false`: it had none.
    pub async fn fell(&self, guest: GuestId) -> bool {
        if !self.machine.kill(guest) {
            return false;
        }
        if let Some(mut is) = self.journal.guest(guest).await {
            // What its owner chose, whatever the agent takes it for.
            let truth = self.scene.true_guest(guest).await;
            is.restart = truth.and_then(|guest| guest.spec.vm).map(|vm| vm.restart).or(is.restart);
            self.falls.lock().unwrap_or_else(PoisonError::into_inner).insert(guest, is);
        }
        true
    }

    /// `kill -9` of the agent. `false`: none ran.
    pub async fn crash(&self) -> bool {
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(life) = life else { return false };
        life.task.abort();
        let ended = life.task.await;
        let panicked = ended.is_err_and(|e| e.is_panic());
        self.scene.checks.that(!panicked, "an agent never panics", || format!("the agent of {} did", self.name));
        if self.scene.settings.sabotage == Sabotage::Amnesia {
            let _ = self.journal.forget_executions().await;
        }
        true
    }

    /// SIGTERM of the agent. `false`: none ran.
    pub async fn stop(&self) -> bool {
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(life) = life else { return false };
        life.cancel.cancel();
        // It may be in its pause between two lives: then it ends after the next one began.
        let _ = life.task.await;
        true
    }

    fn agent(&self) -> Agent {
        let config = SimulatedConfig {
            instance: self.scene.instance.clone(),
            clock: self.scene.clock.clone(),
            boot: BOOT,
            knobs: self.knobs.clone(),
            boots_in_flight_max: BOOTS_MAX,
        };
        let driver = WatchedDriver {
            scene: self.scene.clone(),
            id: self.id,
            name: self.name.clone(),
            host: self.machine.clone(),
            inner: Simulated::new(config, self.machine.clone()),
            journal: self.journal.clone(),
            greeted: self.greeted.clone(),
            falls: self.falls.clone(),
            boots_max: BOOTS_MAX as usize,
        };
        let inventory = inventory(&self.name, &driver);
        let (door, asked) = mpsc::channel(ASKED_AT_ONCE);
        *self.door.lock().unwrap_or_else(PoisonError::into_inner) = Some(door);
        let unbounded = self.scene.settings.sabotage == Sabotage::NoAdmission;
        Agent {
            host: self.id,
            clock: self.scene.clock.clone(),
            drivers: vec![Arc::new(driver)],
            cards: Arc::new(NoCards("it is simulated")),
            journal: self.journal.clone(),
            spool: Arc::new(self.spool.clone()),
            uplink: Arc::new(Wire(self.line.clone())),
            parts: Arc::new(Nothing),
            builder: Arc::new(Nothing),
            describe: Arc::new(move || inventory.clone()),
            measured: Arc::default(),
            health: Arc::new(Health::default()),
            local: vec![Arc::new(Listener::Within(tokio::sync::Mutex::new(asked)))],
            boots_in_flight_max: unbounded.then_some(u32::MAX),
            look_every: None,
        }
    }
}

fn inventory(name: &str, driver: &WatchedDriver) -> Inventory {
    Inventory {
        hostname: name.to_owned(),
        arch: "x86_64".to_owned(),
        kernel_release: "6.1.0-simulated".to_owned(),
        os: "Simulated".to_owned(),
        cpus: 8,
        cpu_model: "Simulated".to_owned(),
        memory_bytes: MEMORY_BYTES + HOST_RESERVE_BYTES,
        disk_bytes: 1 << 40,
        disk_free_bytes: 1 << 39,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        privileges: "root".to_owned(),
        drivers: vec![driver.abilities()],
    }
}
