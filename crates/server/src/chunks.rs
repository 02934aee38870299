//! What is said over an agent's link of backups' chunks, whatever carries it.
//!
//! Owns: the order of words, how much may be in memory at once, and what an agent is told when the
//! repository says no. Refuses: protocols, and what chunks are for; any host that is admitted may offer any
//! chunk, and read one whose digest it knows.

use futures::{Stream, StreamExt as _};
use perigee_agent_api::{CHUNK_PIECE_BYTES_MAX, ChunkDown, ChunkFailed, ChunkFault, ChunkStored, ChunkUp};
use perigee_backups::{Repository, RepositoryError};
use perigee_control::Control;
use perigee_model::limits::{BACKUP_CHUNK_BYTES, BACKUP_INDEX_BYTES_MAX};
use perigee_model::{Digest, HostId};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

/// Pieces under way between a conversation and its connection.
pub const PIECES: usize = 2;
/// Who says nothing for so long between two chunks has no more of them for now.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// The next piece of a chunk must come, or be taken, within this time.
const PIECE_WITHIN: Duration = Duration::from_secs(30);
/// Bytes of chunks in memory at once, of all hosts together, counted in chunks.
const ROOM_CHUNKS: usize = 24;

/// The repository as hosts reach it.
#[derive(Clone)]
pub struct Vault {
    repository: Repository,
    room: Arc<Semaphore>,
}

impl Vault {
    /// On this repository.
    pub fn new(repository: Repository) -> Self {
        Self { repository, room: Arc::new(Semaphore::new(ROOM_CHUNKS)) }
    }

    /// That repository.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    async fn room_for(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        let chunks = bytes.div_ceil(BACKUP_CHUNK_BYTES).clamp(1, ROOM_CHUNKS);
        self.room.acquire_many(u32::try_from(chunks).unwrap_or(1)).await.ok()
    }
}

/// One conversation, until the agent leaves, says nothing for a while or something out of turn, may not speak
/// any more, or we end. What was begun is carried to its end.
pub async fn converse(
    vault: Vault,
    (control, host): (Control, HostId),
    mut incoming: impl Stream<Item = ChunkUp> + Unpin,
    tx: mpsc::Sender<ChunkDown>,
    cancel: CancellationToken,
) {
    loop {
        let said = tokio::select! {
            said = tokio::time::timeout(IDLE_MAX, incoming.next()) => said,
            () = cancel.cancelled() => return,
            () = tx.closed() => return,
        };
        let Ok(Some(said)) = said else { return };
        // It may have been revoked meanwhile.
        if let Err(refusal) = control.admit_host(host) {
            let text = refusal.to_string();
            return drop(tx.send(ChunkDown::Failed(ChunkFailed { fault: ChunkFault::Refused, text })).await);
        }
        let goes_on = match said {
            ChunkUp::Offer { sealed, digest, bytes } => take(&vault, (sealed, digest), bytes, &mut incoming, &tx).await,
            ChunkUp::Want { sealed, digest } => give(&vault, (sealed, digest), &tx).await,
            ChunkUp::Data(_) => None,
        };
        if goes_on.is_none() {
            return tracing::info!(%host, "an agent's conversation about chunks broke");
        }
    }
}

/// Takes what is offered, if it is not there. `None`: nothing that follows can be understood.
async fn take(
    vault: &Vault,
    (sealed, digest): (bool, Digest),
    bytes: u64,
    incoming: &mut (impl Stream<Item = ChunkUp> + Unpin),
    tx: &mpsc::Sender<ChunkDown>,
) -> Option<()> {
    let bytes = match usize::try_from(bytes) {
        Ok(bytes) if bytes <= BACKUP_INDEX_BYTES_MAX => bytes,
        _ => {
            let text = format!("a chunk of {bytes} bytes is too large, {BACKUP_INDEX_BYTES_MAX} at most");
            return tx.send(ChunkDown::Failed(ChunkFailed { fault: ChunkFault::Refused, text })).await.ok();
        }
    };
    match vault.repository.has(sealed, &digest).await {
        Ok(Some(stored_bytes)) => {
            return tx.send(ChunkDown::Stored(ChunkStored { new: false, stored_bytes })).await.ok();
        }
        Ok(None) => {}
        Err(error) => return tx.send(failed(&digest, &error)).await.ok(),
    }
    let room = vault.room_for(bytes).await?;
    tx.send(ChunkDown::Send).await.ok()?;
    let mut whole = bytes::BytesMut::with_capacity(bytes);
    while whole.len() < bytes {
        match tokio::time::timeout(PIECE_WITHIN, incoming.next()).await {
            Ok(Some(ChunkUp::Data(piece))) if !piece.is_empty() && piece.len() <= bytes - whole.len() => {
                whole.extend_from_slice(&piece);
            }
            _ => return None,
        }
    }
    let answer = match vault.repository.put(sealed, &digest, whole.freeze()).await {
        Ok(stored) => ChunkDown::Stored(ChunkStored { new: stored.new, stored_bytes: stored.stored_bytes }),
        Err(error) => failed(&digest, &error),
    };
    drop(room);
    tx.send(answer).await.ok()
}

async fn give(vault: &Vault, (sealed, digest): (bool, Digest), tx: &mpsc::Sender<ChunkDown>) -> Option<()> {
    // How large it is comes out when it is unpacked; most are chunks.
    let _room = vault.room_for(BACKUP_CHUNK_BYTES).await?;
    let whole = match vault.repository.get(sealed, &digest).await {
        Ok(whole) => whole,
        Err(RepositoryError::NotFound(_)) => return tx.send(ChunkDown::Missing).await.ok(),
        Err(error) => return tx.send(failed(&digest, &error)).await.ok(),
    };
    tx.send(ChunkDown::Comes { bytes: whole.len() as u64 }).await.ok()?;
    for piece in whole.chunks(CHUNK_PIECE_BYTES_MAX) {
        tokio::time::timeout(PIECE_WITHIN, tx.send(ChunkDown::Data(piece.to_vec()))).await.ok()?.ok()?;
    }
    Some(())
}

/// What an agent is told. What went wrong in the file system is for the log alone.
fn failed(digest: &Digest, error: &RepositoryError) -> ChunkDown {
    tracing::warn!(%digest, %error, "a backup's chunk was not stored or given");
    let (fault, text) = match error {
        RepositoryError::NoSpace(_) => (ChunkFault::NoSpace, "the disk of the backups is full".to_owned()),
        RepositoryError::Damaged { why, .. } => {
            (ChunkFault::Damaged, format!("chunk {digest} of the backup is damaged: {why}"))
        }
        RepositoryError::TooLarge(_)
        | RepositoryError::WrongDigest { .. }
        | RepositoryError::NotFound(_)
        | RepositoryError::KeyOpen { .. }
        | RepositoryError::KeyMissing(_)
        | RepositoryError::KeyWrong(_)
        | RepositoryError::KeyMalformed(_) => (ChunkFault::Refused, error.to_string()),
        RepositoryError::OtherFormat { .. } | RepositoryError::NoRepository { .. } | RepositoryError::Io { .. } => {
            (ChunkFault::Refused, "the repository of backups cannot be read or written".to_owned())
        }
    };
    ChunkDown::Failed(ChunkFailed { fault, text })
}
