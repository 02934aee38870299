//! Signals for executions.

use super::Live;
use crate::guest::Reach;
use crate::world::World;
use perigee_hypervisor::HypervisorError;
use perigee_model::ExecutionId;
use std::sync::Arc;
use std::time::Duration;
use tracing::info;

const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;
/// A cancelled command gets this long to end by itself.
const GRACE: Duration = Duration::from_secs(2);
/// A signal the guest could not take yet is sent again after this.
const AGAIN: Duration = Duration::from_millis(100);
/// Signals of somebody who follows are tried this often.
const TRIES: u32 = 50;

/// Sends a signal to an execution that runs here; without one nothing happens.
pub(crate) fn signal(world: &Arc<World>, id: ExecutionId, signal: i32) {
    let Some(live) = world.executions.live(id) else { return };
    let world = world.clone();
    world.clone().nursery.spawn(async move {
        for _ in 0..TRIES {
            if live.has_ended() || send(&world, &live, signal).await {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    });
}

/// Ends an execution: SIGTERM, a grace, SIGKILL.
pub(crate) fn cancel(world: &Arc<World>, id: ExecutionId) {
    let Some(live) = world.executions.live(id) else { return };
    if live.cancelled.is_cancelled() {
        return;
    }
    // What was not handed to the guest yet ends by this alone.
    live.cancelled.cancel();
    let world = world.clone();
    world.clone().nursery.spawn(async move {
        tokio::select! {
            biased;
            () = live.ended() => {}
            () = terminate(&world, &live) => {}
        }
    });
}

async fn terminate(world: &World, live: &Live) {
    while !send(world, live, SIGTERM).await {
        tokio::time::sleep(AGAIN).await;
    }
    tokio::time::sleep(GRACE).await;
    loop {
        send(world, live, SIGKILL).await;
        tokio::time::sleep(GRACE).await;
    }
}

/// One attempt; `true` when the guest took it.
async fn send(world: &World, live: &Live, signal: i32) -> bool {
    let Some(guest) = world.guests.get(live.guest) else { return false };
    let reach = guest.reach().borrow().clone();
    let Reach::Up(session) = reach else { return false };
    match session.signal(live.id.uuid(), signal).await {
        Ok(()) => true,
        Err(HypervisorError::UnknownExecution) => false,
        Err(e) => {
            info!(execution = %live.id, error = %crate::chain(&e), "a signal was not delivered");
            false
        }
    }
}
