//! Tunnels: streams of bytes between the control plane and a guest.
//!
//! Owns: opening what the control plane asked for, and what flows through it. Refuses: more than
//! `TUNNELS_PER_HOST_MAX` at once, and any path that is not absolute and bounded. A tunnel's end
//! never ends an execution; it does end a console.

mod console;
mod file;

use crate::execution;
use crate::guest::Reach;
use crate::networks;
use crate::uplink::Tunnel;
use crate::world::World;
use bytes::Bytes;
use perigee_agent_api::{DesiredNetwork, Execute, Purpose, TunnelFrame, TunnelId};
use perigee_hypervisor::{HypervisorError, Session};
use perigee_model::guest::Problem;
use perigee_model::limits::{TUNNEL_OPEN_TIMEOUT, TUNNELS_PER_HOST_MAX};
use perigee_model::{Code, ExecutionId, Forward, GuestId};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tracing::{info, warn};

/// A session that is being opened again is waited for this long.
const SESSION_WITHIN: Duration = Duration::from_secs(5);

/// A text goes through in pieces of this size.
const FRAME_BYTES: usize = 32 << 10;

/// The tunnels of one link.
#[derive(Clone)]
pub(crate) struct Tunnels(Arc<Semaphore>);

impl Default for Tunnels {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(TUNNELS_PER_HOST_MAX)))
    }
}

/// Opens a tunnel and serves it. What it is for begins at once, not when the tunnel stands.
pub(crate) fn open(world: &Arc<World>, tunnels: &Tunnels, id: TunnelId, purpose: Purpose) {
    let Ok(permit) = tunnels.0.clone().try_acquire_owned() else {
        warn!(tunnel = ?id, "too many tunnels are open");
        return;
    };
    let live = match &purpose {
        Purpose::Execute(execute) => execution::begin(world, execute.clone()),
        _ => None,
    };
    let world = world.clone();
    world.clone().nursery.spawn(async move {
        let _permit = permit;
        let opened = tokio::time::timeout(TUNNEL_OPEN_TIMEOUT, world.uplink.tunnel(id)).await;
        let tunnel = match opened {
            Ok(Ok(tunnel)) => tunnel,
            Ok(Err(e)) => return info!(tunnel = ?id, error = %crate::chain(&e), "a tunnel was not opened"),
            Err(_) => return info!(tunnel = ?id, "a tunnel was not opened in time"),
        };
        match purpose {
            Purpose::Execute(execute) => follow(&world, &execute, live, tunnel).await,
            Purpose::PutFile { guest, path, mode } => {
                let tx = tunnel.tx.clone();
                answer(file::put(&world, guest, path, mode, tunnel.rx).await, &tx).await;
            }
            Purpose::GetFile { guest, path } => {
                answer(file::get(&world, guest, path, &tunnel.tx).await, &tunnel.tx).await;
            }
            Purpose::ReadOutput { execution } => {
                let _ = execution::read_output(&world, execution, false, &tunnel.tx).await;
            }
            Purpose::PlanCard { guest, egress, egress6, forwards } => {
                let reach = perigee_model::Reach { egress, egress6 };
                answer(plan_card(&world, (guest, &reach, &forwards), &tunnel.tx).await, &tunnel.tx).await;
            }
            Purpose::PlanNetwork(order) => {
                answer(plan_network(&world, &order, &tunnel.tx).await, &tunnel.tx).await;
            }
            Purpose::Console { guest, seat } => console::sit(&world, guest, seat, tunnel).await,
        }
    });
}

async fn answer(result: Result<(), Problem>, tx: &mpsc::Sender<TunnelFrame>) {
    let last = match result {
        Ok(()) => TunnelFrame::End,
        Err(problem) => TunnelFrame::Failed(problem),
    };
    let _ = tx.send(last).await;
}

async fn plan_card(
    world: &World,
    (guest, reach, forwards): (GuestId, &perigee_model::Reach, &[Forward]),
    tx: &mpsc::Sender<TunnelFrame>,
) -> Result<(), Problem> {
    let rules = world.cards.plan(guest, reach, forwards).await;
    let rules = rules.map_err(|error| Problem::new(Code::NoCard, crate::chain(&error)))?;
    for piece in rules.as_bytes().chunks(FRAME_BYTES) {
        // Nobody listens any more: nobody is to be told.
        _ = tx.send(TunnelFrame::Data(piece.to_vec())).await;
    }
    Ok(())
}

async fn plan_network(world: &World, order: &DesiredNetwork, tx: &mpsc::Sender<TunnelFrame>) -> Result<(), Problem> {
    let planned = networks::preview(world, order).await?;
    let text = planned.to_bytes().map_err(|error| Problem::new(Code::Bug, error.to_string()))?;
    for piece in text.chunks(FRAME_BYTES) {
        _ = tx.send(TunnelFrame::Data(piece.to_vec())).await;
    }
    Ok(())
}

async fn follow(world: &Arc<World>, execute: &Execute, live: Option<Arc<execution::Live>>, tunnel: Tunnel) {
    let Tunnel { tx, rx } = tunnel;
    let Some(live) = live else {
        let _ = execution::read_output(world, execute.execution, true, &tx).await;
        return;
    };
    let stdin = live.take_stdin();
    tokio::select! {
        biased;
        _ = execution::follow(world, &live, &tx) => {}
        () = listen(world, live.id, stdin, rx) => {}
    }
}

/// Takes what the peer sends. Never ends: the peer may say nothing and still listen.
async fn listen(
    world: &Arc<World>,
    id: ExecutionId,
    mut stdin: Option<mpsc::Sender<Bytes>>,
    mut rx: mpsc::Receiver<TunnelFrame>,
) {
    while let Some(frame) = rx.recv().await {
        match frame {
            TunnelFrame::Data(bytes) => {
                let sent = match &stdin {
                    Some(stdin) => stdin.send(bytes.into()).await.is_ok(),
                    None => true,
                };
                if !sent {
                    stdin = None;
                }
            }
            TunnelFrame::End => stdin = None,
            TunnelFrame::Signal(signal) => execution::signal(world, id, signal),
            TunnelFrame::Stdout(_)
            | TunnelFrame::Stderr(_)
            | TunnelFrame::Started
            | TunnelFrame::Ended(_)
            | TunnelFrame::Failed(_) => break,
        }
    }
    drop(stdin);
    std::future::pending::<()>().await;
}

/// The guest's session, now or within a moment.
async fn session_of(world: &World, guest: GuestId) -> Result<Arc<dyn Session>, Problem> {
    let not_running = || Problem::new(Code::GuestNotRunning, "the guest is not running");
    let mut reach = world.guest(guest).await?.reach();
    let settled = reach.wait_for(|r| matches!(r, Reach::Up(_) | Reach::Down));
    match tokio::time::timeout(SESSION_WITHIN, settled).await {
        Ok(Ok(reach)) => match &*reach {
            Reach::Up(session) => Ok(session.clone()),
            _ => Err(not_running()),
        },
        _ => Err(not_running()),
    }
}

fn problem_of(error: &HypervisorError) -> Problem {
    let (code, text) = match error {
        HypervisorError::NotRunning => (Code::GuestNotRunning, error.to_string()),
        HypervisorError::GuestRefused { code, text } => match code.as_str() {
            "not_found" => (Code::NoSuchFile, text.clone()),
            "no_space" => (Code::DiskFull, format!("the guest's disk is full: {text}")),
            _ => (Code::FileRefused, text.clone()),
        },
        HypervisorError::UnknownExecution => (Code::ExecutionLost, error.to_string()),
        HypervisorError::BadPlan(_)
        | HypervisorError::DidNotStart(_)
        | HypervisorError::Silent(_)
        | HypervisorError::NoRoom(_)
        | HypervisorError::DiskFull(_)
        | HypervisorError::Channel(_)
        | HypervisorError::Locked(_)
        | HypervisorError::Refused(_)
        | HypervisorError::InUse(_)
        | HypervisorError::Tampered(_)
        | HypervisorError::NoSnapshot
        | HypervisorError::Os { .. } => (Code::ChannelBroken, error.to_string()),
    };
    Problem::new(code, text)
}
