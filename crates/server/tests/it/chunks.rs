//! Chunks of backups over the link: a part of the contract of both forms, and who does not keep to it.

use crate::world::World;
use bytes::Bytes;
use perigee_agent::{Uplink, UplinkError};
use perigee_agent_api::{ChunkDown, ChunkFault, ChunkStored, ChunkUp};
use perigee_backups::{Repository, digest_of};
use perigee_model::limits::{BACKUP_CHUNK_BYTES, BACKUP_INDEX_BYTES_MAX};
use perigee_server::chunks::{Vault, converse};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// Bytes without a period, others for each number.
fn noise(number: u32, length: usize) -> Bytes {
    (0..length as u32).map(|i| (i.wrapping_add(number * 104_729).wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

pub async fn are_stored_once_and_given_back(root: &Path, uplink: &impl Uplink) {
    for sealed in [false, true] {
        let chunk = noise(1, BACKUP_CHUNK_BYTES);
        let digest = digest_of(&chunk);
        let missing = uplink.fetch_chunk(sealed, &digest).await;
        assert!(matches!(missing, Err(UplinkError::NotFound)), "{missing:?}");
        let first = uplink.push_chunk(sealed, &digest, chunk.clone()).await.unwrap();
        assert!(first.new && first.stored_bytes > 1000, "{first:?}");
        // Would its bytes be looked at, they would be refused.
        let again = uplink.push_chunk(sealed, &digest, Bytes::from_static(b"not sent")).await.unwrap();
        assert_eq!(again, ChunkStored { new: false, ..first });
        assert!(uplink.fetch_chunk(sealed, &digest).await.unwrap() == chunk);
        let wrong = uplink.push_chunk(sealed, &digest_of(b"other"), chunk.clone()).await;
        assert!(matches!(&wrong, Err(UplinkError::Refused(text)) if text.contains("not")), "{wrong:?}");
        let empty = uplink.push_chunk(sealed, &digest_of(b""), Bytes::new()).await.unwrap();
        assert!(empty.new && uplink.fetch_chunk(sealed, &digest_of(b"")).await.unwrap().is_empty());
    }
    assert!(root.join("plain").is_dir() && root.join("sealed").is_dir());
}

pub async fn travel_side_by_side_and_up_to_the_largest(uplink: &impl Uplink) {
    let many = (10..22).map(|number| async move {
        let chunk = noise(number, 300_000);
        let digest = digest_of(&chunk);
        assert!(uplink.push_chunk(true, &digest, chunk.clone()).await.unwrap().new);
        assert!(uplink.fetch_chunk(true, &digest).await.unwrap() == chunk);
    });
    futures::future::join_all(many).await;
    let mut index = vec![0; 9 << 20];
    index[5 << 20..6 << 20].copy_from_slice(&noise(2, 1 << 20));
    let index = Bytes::from(index);
    assert!(uplink.push_chunk(true, &digest_of(&index), index.clone()).await.unwrap().new);
    assert!(uplink.fetch_chunk(true, &digest_of(&index)).await.unwrap() == index);
    let large = Bytes::from(vec![0; BACKUP_INDEX_BYTES_MAX + 1]);
    let refused = uplink.push_chunk(false, &digest_of(b"whatever"), large).await;
    assert!(matches!(&refused, Err(UplinkError::Refused(text)) if text.contains("too large")), "{refused:?}");
}

pub async fn are_told_when_damaged(root: &Path, uplink: &impl Uplink) {
    let chunk = noise(3, 50_000);
    let digest = digest_of(&chunk);
    uplink.push_chunk(false, &digest, chunk).await.unwrap();
    let file: PathBuf = root.join("plain").join(&digest.as_str()[..2]).join(digest.as_str());
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let told = uplink.fetch_chunk(false, &digest).await;
    assert!(matches!(&told, Err(UplinkError::Damaged(text)) if text.contains(digest.as_str())), "{told:?}");
    // The conversation goes on.
    assert!(matches!(uplink.fetch_chunk(false, &digest_of(b"none")).await, Err(UplinkError::NotFound)));
}

/// The conversation was opened while the host was let in, and lies idle.
pub async fn are_refused_to_a_revoked_host(uplink: &impl Uplink) {
    for _ in 0..2 {
        let refused = uplink.push_chunk(false, &digest_of(b"x"), Bytes::from_static(b"x")).await;
        assert!(matches!(&refused, Err(UplinkError::Refused(text)) if text.contains("PRG-2006")), "{refused:?}");
    }
}

type Ends = (mpsc::Sender<ChunkUp>, mpsc::Receiver<ChunkDown>);

struct Lab {
    world: World,
    vault: Vault,
    cancel: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Lab {
    async fn new() -> Self {
        let (world, folder) = (World::new().await, tempfile::tempdir().unwrap());
        let repository = Repository::open(folder.path().join("r"), folder.path().join("key"), |bytes| bytes.fill(7));
        let (vault, cancel) = (Vault::new(repository.unwrap()), CancellationToken::new());
        Self { world, vault, cancel, _folder: folder }
    }

    fn talk(&self) -> Ends {
        let ((up, incoming), (tx, down)) = (mpsc::channel(4), mpsc::channel(4));
        let who = (self.world.control.clone(), self.world.host);
        let talk = converse(self.vault.clone(), who, ReceiverStream::new(incoming), tx, self.cancel.clone());
        tokio::spawn(talk);
        (up, down)
    }
}

async fn heard(down: &mut mpsc::Receiver<ChunkDown>) -> Option<ChunkDown> {
    tokio::time::timeout(Duration::from_secs(100), down.recv()).await.expect("neither a word nor the end")
}

fn offer(bytes: u64) -> ChunkUp {
    ChunkUp::Offer { sealed: false, digest: digest_of(b"four"), bytes }
}

#[tokio::test]
async fn who_speaks_out_of_turn_is_left() {
    let lab = Lab::new().await;
    let want = ChunkUp::Want { sealed: false, digest: digest_of(b"four") };
    let rude = [
        vec![ChunkUp::Data(vec![1])],
        vec![offer(4), want.clone()],
        vec![offer(4), offer(4)],
        vec![offer(4), ChunkUp::Data(b"fiver".to_vec())],
        vec![offer(4), ChunkUp::Data(Vec::new())],
        vec![offer(4), ChunkUp::Data(b"fo".to_vec()), ChunkUp::Data(b"urs".to_vec())],
    ];
    for words in rude {
        let (up, mut down) = lab.talk();
        let said = format!("{words:?}");
        for word in words {
            up.send(word).await.unwrap();
        }
        let mut answer = heard(&mut down).await;
        if answer == Some(ChunkDown::Send) {
            answer = heard(&mut down).await;
        }
        assert_eq!(answer, None, "{said}");
    }
    // What is refused is no reason to go.
    let (up, mut down) = lab.talk();
    for bytes in [u64::MAX, BACKUP_INDEX_BYTES_MAX as u64 + 1] {
        up.send(offer(bytes)).await.unwrap();
        let Some(ChunkDown::Failed(failed)) = heard(&mut down).await else { panic!("{bytes} bytes were let in") };
        assert_eq!(failed.fault, ChunkFault::Refused);
    }
    up.send(want).await.unwrap();
    assert_eq!(heard(&mut down).await, Some(ChunkDown::Missing), "and nothing was stored");
    lab.cancel.cancel();
    assert_eq!(heard(&mut down).await, None, "it ends with the control plane");
}

#[tokio::test]
async fn silence_ends_a_conversation_and_frees_its_room() {
    let lab = Lab::new().await;
    let quiet = lab.talk();
    // As many indexes as there is room for, all of them promised and not sent.
    let mut promised: Vec<Ends> = (0..24).map(|_| lab.talk()).collect();
    for (up, down) in &mut promised {
        up.send(ChunkUp::Offer { sealed: false, digest: digest_of(b"x"), bytes: 1 }).await.unwrap();
        assert_eq!(heard(down).await, Some(ChunkDown::Send));
    }
    let (up, mut late) = lab.talk();
    up.send(offer(4)).await.unwrap();
    tokio::time::pause();
    assert_eq!(heard(&mut late).await, Some(ChunkDown::Send), "room is there once the others were given up");
    tokio::time::resume();
    up.send(ChunkUp::Data(b"four".to_vec())).await.unwrap();
    assert!(matches!(heard(&mut late).await, Some(ChunkDown::Stored(stored)) if stored.new));
    for (_, mut down) in promised.into_iter().chain([quiet]) {
        assert_eq!(heard(&mut down).await, None);
    }
}
