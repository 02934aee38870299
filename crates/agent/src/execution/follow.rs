//! Telling somebody what an execution writes, from the beginning of its output.

use super::run::progress_of;
use super::{Document, Live, SHELF};
use crate::journal;
use crate::spool::Stream;
use crate::world::World;
use perigee_agent_api::TunnelFrame;
use perigee_agent_api::wire::FRAME_BYTES_MAX;
use perigee_model::guest::Problem;
use perigee_model::{Code, ExecutionId};
use tokio::sync::mpsc;

/// Nobody listens any more.
pub(crate) struct PeerLeft;

/// Sends all output from offset 0, live, then the end.
///
/// # Errors
/// `PeerLeft`; the execution goes on.
pub(crate) async fn follow(world: &World, live: &Live, tx: &mpsc::Sender<TunnelFrame>) -> Result<(), PeerLeft> {
    let mut progress = live.progress.subscribe();
    let (mut started, mut at) = (false, [0, 0]);
    loop {
        let now = progress.borrow_and_update().clone();
        if now.started && !started {
            send(tx, TunnelFrame::Started).await?;
            started = true;
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            copy(world, live.id, stream, &mut at[stream as usize], now.kept(stream), tx).await?;
        }
        if let Some(report) = now.ended {
            return send(tx, TunnelFrame::Ended(Box::new((*report).clone()))).await;
        }
        tokio::select! {
            biased;
            () = tx.closed() => return Err(PeerLeft),
            changed = progress.changed() => changed.map_err(|_| PeerLeft)?,
        }
    }
}

/// Sends the output kept of an execution, whether it runs or not; `ended` adds its end.
///
/// # Errors
/// `PeerLeft`.
pub(crate) async fn read_output(
    world: &World,
    id: ExecutionId,
    ended: bool,
    tx: &mpsc::Sender<TunnelFrame>,
) -> Result<(), PeerLeft> {
    let read = journal::read::<Document>(world.journal.as_ref(), SHELF, &id.to_string()).await;
    let Ok(Some(document)) = read else {
        let problem = Problem::new(Code::NoSuchExecution, "this host does not keep this execution (any more)");
        return send(tx, TunnelFrame::Failed(problem)).await;
    };
    let progress = progress_of(world, &document);
    for stream in [Stream::Stdout, Stream::Stderr] {
        copy(world, id, stream, &mut 0, progress.kept(stream), tx).await?;
    }
    match progress.ended {
        Some(report) if ended => send(tx, TunnelFrame::Ended(Box::new((*report).clone()))).await,
        _ => send(tx, TunnelFrame::End).await,
    }
}

async fn copy(
    world: &World,
    id: ExecutionId,
    stream: Stream,
    at: &mut u64,
    until: u64,
    tx: &mpsc::Sender<TunnelFrame>,
) -> Result<(), PeerLeft> {
    while *at < until {
        let most = usize::try_from(until - *at).unwrap_or(usize::MAX).min(FRAME_BYTES_MAX);
        let bytes = match world.spool.read(id, stream, *at, most) {
            Ok(bytes) if !bytes.is_empty() => bytes,
            _ => break, // removed meanwhile
        };
        *at += bytes.len() as u64;
        let frame = match stream {
            Stream::Stdout => TunnelFrame::Stdout(bytes),
            Stream::Stderr => TunnelFrame::Stderr(bytes),
        };
        send(tx, frame).await?;
    }
    Ok(())
}

async fn send(tx: &mpsc::Sender<TunnelFrame>, frame: TunnelFrame) -> Result<(), PeerLeft> {
    tx.send(frame).await.map_err(|_| PeerLeft)
}
