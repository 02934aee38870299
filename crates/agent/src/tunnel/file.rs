//! Files into and out of a guest.

use super::{problem_of, session_of};
use crate::world::World;
use perigee_agent_api::TunnelFrame;
use perigee_agent_api::wire::FRAME_BYTES_MAX;
use perigee_hypervisor::HypervisorError;
use perigee_model::guest::Problem;
use perigee_model::limits::{FILE_BYTES_MAX, PATH_BYTES_MAX};
use perigee_model::{Code, GuestId};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Chunks on their way.
const CHUNKS: usize = 4;

fn check(path: &str) -> Result<(), Problem> {
    let fits = path.starts_with('/') && path.len() <= PATH_BYTES_MAX && !path.contains('\0');
    if fits {
        return Ok(());
    }
    let text = format!("a path in a guest is absolute, has no NUL and at most {PATH_BYTES_MAX} bytes");
    Err(Problem::new(Code::FileRefused, text))
}

fn too_large() -> Problem {
    Problem::new(Code::TooLarge, format!("a file has at most {FILE_BYTES_MAX} bytes"))
}

/// Writes what comes in. Nothing is there under the path until all of it is.
pub(super) async fn put(
    world: &Arc<World>,
    guest: GuestId,
    path: String,
    mode: u32,
    mut rx: mpsc::Receiver<TunnelFrame>,
) -> Result<(), Problem> {
    check(&path)?;
    let session = session_of(world, guest).await?;
    let (tx, source) = mpsc::channel(CHUNKS);
    let mut write = world.nursery.effect(async move { session.put_file(&path, mode & 0o7777, source).await });
    let mut bytes = 0u64;
    let mut fault = None;
    loop {
        let chunk = match rx.recv().await {
            Some(TunnelFrame::Data(chunk)) => chunk,
            Some(TunnelFrame::End) => break,
            _ => {
                fault = Some(Problem::new(Code::FileRefused, "the file did not come to its end"));
                break;
            }
        };
        bytes += chunk.len() as u64;
        if bytes > FILE_BYTES_MAX {
            fault = Some(too_large());
            break;
        }
        if tx.send(Ok(chunk.into())).await.is_err() {
            break; // the guest has an answer already
        }
    }
    if fault.is_some() {
        let _ = tx.send(Err(HypervisorError::Channel("the file did not come to its end".to_owned()))).await;
    }
    drop(tx);
    let written = write.wait().await;
    match (fault, written) {
        (Some(fault), _) => Err(fault),
        (None, Some(Ok(_))) => Ok(()),
        (None, Some(Err(e))) => Err(problem_of(&e)),
        (None, None) => Err(Problem::new(Code::ChannelBroken, "the agent ends")),
    }
}

/// Sends a file.
pub(super) async fn get(
    world: &Arc<World>,
    guest: GuestId,
    path: String,
    tx: &mpsc::Sender<TunnelFrame>,
) -> Result<(), Problem> {
    check(&path)?;
    let session = session_of(world, guest).await?;
    let mut source = session.get_file(&path).await.map_err(|e| problem_of(&e))?;
    let mut bytes = 0u64;
    while let Some(chunk) = source.recv().await {
        let chunk = chunk.map_err(|e| problem_of(&e))?;
        bytes += chunk.len() as u64;
        if bytes > FILE_BYTES_MAX {
            return Err(too_large());
        }
        for piece in chunk.chunks(FRAME_BYTES_MAX) {
            if tx.send(TunnelFrame::Data(piece.to_vec())).await.is_err() {
                return Ok(()); // nobody listens any more
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_absolute_and_bounded() {
        assert!(check("/tmp/a").is_ok());
        for bad in ["", "tmp", "/a\0b", &format!("/{}", "x".repeat(PATH_BYTES_MAX))] {
            assert_eq!(check(bad).unwrap_err().code, "PRG-7007");
        }
    }
}
