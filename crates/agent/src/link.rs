//! The link: one conversation after the other with the control plane.
//!
//! Owns: hello, heartbeats, what is said and heard, and when to try again. Refuses: orders of a
//! reign older than one it has served, and touching a guest because the link is away.
//!
//! ```text
//! waiting ──open──▶ hello sent ──welcome──▶ up ──end, silence──▶ waiting
//!    ▲                  └── refused, older reign ──▶┘ full jitter, or as long as it was told
//! ```

use crate::journal::{self, Keep};
use crate::tunnel::{self, Tunnels};
use crate::uplink::{Session, UplinkError};
use crate::world::World;
use crate::{builds, execution, intents, networks, volumes};
use perigee_agent_api::{FromAgent, FromServer, Hello, VERSIONS};
use perigee_model::Inventory;
use perigee_model::guest::Problem;
use perigee_model::limits::{RECONNECT_FIRST, RECONNECT_MAX};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{info, warn};

/// An answer to a connection or a hello must come within this.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A link that lived this long starts the waits from the beginning.
const STEADY_AFTER: Duration = Duration::from_secs(10);
/// Heartbeats are never wanted more or less often than this.
const HEARTBEAT: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(300)];

/// Why a link ended or was not made.
#[derive(Debug, thiserror::Error)]
enum LinkEnd {
    #[error(transparent)]
    Uplink(#[from] UplinkError),
    #[error("the control plane did not answer in time")]
    NoAnswer,
    #[error("the link ended")]
    Ended,
    #[error("refused: {} {}", .0.code, .0.text)]
    Refused(Problem, Option<u64>),
    #[error("the control plane's reign {theirs} is older than {ours}")]
    OldReign { theirs: u64, ours: u64 },
}

/// The newest reign this agent has served.
#[derive(Serialize, Deserialize)]
struct Reign {
    epoch: u64,
}
const SHELF: &str = "agent";
const KEY: &str = "reign";

/// Talks to the control plane for ever.
pub(crate) async fn run(world: Arc<World>) {
    let known = journal::read::<Reign>(world.journal.as_ref(), SHELF, KEY).await;
    let mut epoch = known.ok().flatten().map_or(0, |reign| reign.epoch);
    let mut failures = 0u32;
    world.health.set("link", false, "not connected yet");
    loop {
        let began = world.clock.instant();
        let mut up = false;
        let end = converse(&world, &mut epoch, &mut up).await;
        let text = crate::chain(&end);
        world.health.set("link", false, text.clone());
        world.health.set_heartbeat(false);
        failures = if up && began.elapsed() > STEADY_AFTER { 0 } else { failures.saturating_add(1) };
        let wait = wait_after(&world, &end, failures);
        if matches!(end, LinkEnd::Refused(_, None) | LinkEnd::Uplink(UplinkError::Refused(_))) {
            warn!(reason = %text, wait_ms = wait.as_millis(), "the control plane does not want this agent");
        } else {
            info!(reason = %text, wait_ms = wait.as_millis(), "no link");
        }
        tokio::time::sleep(wait).await;
    }
}

/// Full jitter below a doubling bound; what the control plane asked for comes on top.
fn wait_after(world: &World, end: &LinkEnd, failures: u32) -> Duration {
    let doubled = RECONNECT_FIRST * 2u32.pow(failures.saturating_sub(1).min(16));
    match end {
        LinkEnd::Refused(_, Some(ms)) => {
            let asked = Duration::from_millis(*ms).min(RECONNECT_MAX * 10);
            asked + world.clock.jitter(RECONNECT_FIRST)
        }
        LinkEnd::Refused(_, None) | LinkEnd::Uplink(UplinkError::Refused(_)) => {
            RECONNECT_MAX / 2 + world.clock.jitter(RECONNECT_MAX / 2)
        }
        LinkEnd::Uplink(_) | LinkEnd::NoAnswer | LinkEnd::Ended | LinkEnd::OldReign { .. } => {
            world.clock.jitter(doubled.min(world.uplink.patience()))
        }
    }
}

/// One link, from connection to end.
async fn converse(world: &Arc<World>, epoch: &mut u64, up: &mut bool) -> LinkEnd {
    let inventory = (world.describe)();
    let (guests, said) = world.outbox.start_link();
    // Ended ones whose end was not taken count as here: their end follows.
    let mut executions: BTreeSet<_> = world.executions.untaken().into_iter().collect();
    executions.extend(said);
    let hello = Hello {
        host: world.host,
        run: world.run,
        versions: VERSIONS,
        inventory: inventory.clone(),
        guests,
        executions: executions.into_iter().collect(),
    };
    let mut session = match tokio::time::timeout(ANSWER_WITHIN, world.uplink.open(hello)).await {
        Ok(Ok(session)) => session,
        Ok(Err(e)) => return e.into(),
        Err(_) => return LinkEnd::NoAnswer,
    };
    let heartbeat = match tokio::time::timeout(ANSWER_WITHIN, session.rx.recv()).await {
        Ok(Some(FromServer::Welcome { version, epoch: theirs, heartbeat_ms })) => {
            if theirs < *epoch {
                return LinkEnd::OldReign { theirs, ours: *epoch };
            }
            if theirs > *epoch {
                *epoch = theirs;
                let reign = Reign { epoch: theirs };
                let written = journal::write(world.journal.as_ref(), SHELF, KEY, &reign, Keep::Power).await;
                world.health.journal(written.as_ref().err());
            }
            info!(version, epoch = theirs, "linked");
            Duration::from_millis(heartbeat_ms).clamp(HEARTBEAT[0], HEARTBEAT[1])
        }
        Ok(Some(FromServer::Refused { problem, retry_after_ms })) => {
            return LinkEnd::Refused(problem, retry_after_ms);
        }
        Ok(Some(_)) => return LinkEnd::Uplink(UplinkError::Refused("the first word was no welcome".into())),
        Ok(None) => return LinkEnd::Ended,
        Err(_) => return LinkEnd::NoAnswer,
    };
    *up = true;
    // The hello is the first of them.
    world.health.set_heartbeat(true);
    world.health.set("link", true, "connected");
    let Session { tx, rx } = session;
    // Each half owns its end: neither waits for the other, so two full queues cannot lock up.
    tokio::select! {
        biased;
        end = listen(world, *epoch, rx) => end,
        end = speak(world, inventory, heartbeat, tx) => end,
    }
}

async fn speak(world: &World, mut said: Inventory, every: Duration, tx: mpsc::Sender<FromAgent>) -> LinkEnd {
    let mut beat = tokio::time::interval_at(world.clock.instant().after(every).into_tokio(), every);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        while let Some(report) = world.outbox.next() {
            if tx.send(report).await.is_err() {
                return LinkEnd::Ended;
            }
        }
        tokio::select! {
            biased;
            () = tx.closed() => return LinkEnd::Ended,
            _ = beat.tick() => {
                world.outbox.repeat_intents();
                let now = (world.describe)();
                let inventory = (now != said).then(|| Box::new(now.clone()));
                said = now;
                if tx.send(FromAgent::Heartbeat { inventory }).await.is_err() {
                    return LinkEnd::Ended;
                }
                world.health.set_heartbeat(true);
            }
            () = world.outbox.changed() => {}
        }
    }
}

/// Hears and hands on. Nothing here waits for work, so a slow guest holds up nobody.
async fn listen(world: &Arc<World>, epoch: u64, mut rx: mpsc::Receiver<FromServer>) -> LinkEnd {
    let tunnels = Tunnels::default();
    while let Some(message) = rx.recv().await {
        match message {
            FromServer::Welcome { .. } => {}
            FromServer::Refused { problem, retry_after_ms } => {
                return LinkEnd::Refused(problem, retry_after_ms);
            }
            FromServer::Desired(order) => world.order(*order, epoch),
            FromServer::DesiredAll(orders) => world.order_all(orders, epoch),
            FromServer::Execute(execute) => {
                execution::begin(world, *execute);
            }
            FromServer::CancelExecution { execution } => execution::cancel(world, execution),
            FromServer::ExecutionTaken { execution } => execution::taken(world, execution),
            FromServer::Build { image, recipe } => builds::begin(world, image, recipe),
            FromServer::BuildTaken { image } => builds::taken(world, image),
            FromServer::Operate(order) => {
                // Of a guest that is not known yet it is told again.
                if let Some(handle) = world.guests.get(order.guest) {
                    handle.operate(*order);
                }
            }
            FromServer::OperationTaken { guest, task } => match world.guests.get(guest) {
                Some(handle) => handle.operation_taken(task),
                None => world.outbox.drop_operation(task),
            },
            FromServer::Volume(order) => volumes::order(world, order),
            FromServer::Network(order) => networks::order(world, order),
            FromServer::IntentTaken { intent } => intents::taken(world, intent).await,
            FromServer::OpenTunnel { tunnel, purpose } => tunnel::open(world, &tunnels, tunnel, *purpose),
        }
    }
    LinkEnd::Ended
}
