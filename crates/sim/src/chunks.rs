//! The repository of backups, in memory: the twin of `perigee-backups`.
//!
//! Owns: chunks by their digest, as they are and sealed apart.
//! Refuses: packing and sealing; nobody looks at its files.

use bytes::Bytes;
use perigee_agent::UplinkError;
use perigee_agent_api::ChunkStored;
use perigee_model::Digest;
use perigee_model::limits::BACKUP_INDEX_BYTES_MAX;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Chunks that are kept.
#[derive(Default)]
pub struct Chunks(Mutex<BTreeMap<(bool, Digest), Bytes>>);

impl Chunks {
    /// Stores a chunk once.
    pub fn put(&self, sealed: bool, digest: &Digest, bytes: Bytes) -> Result<ChunkStored, UplinkError> {
        if bytes.len() > BACKUP_INDEX_BYTES_MAX {
            return Err(UplinkError::Refused(format!("a chunk of {} bytes is too large", bytes.len())));
        }
        let (mut kept, key) = (self.lock(), (sealed, digest.clone()));
        let new = !kept.contains_key(&key);
        let stored_bytes = kept.entry(key).or_insert(bytes).len() as u64;
        Ok(ChunkStored { new, stored_bytes })
    }

    /// A chunk as it was stored.
    pub fn get(&self, sealed: bool, digest: &Digest) -> Result<Bytes, UplinkError> {
        self.lock().get(&(sealed, digest.clone())).cloned().ok_or(UplinkError::NotFound)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(bool, Digest), Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_kept_once_and_given_as_it_was() {
        let (chunks, digest) = (Chunks::default(), Digest::parse(&"a".repeat(64)).unwrap());
        let put = |sealed| chunks.put(sealed, &digest, Bytes::from_static(b"four")).unwrap();
        assert_eq!(put(true), ChunkStored { new: true, stored_bytes: 4 });
        assert_eq!(put(true), ChunkStored { new: false, stored_bytes: 4 });
        assert!(matches!(chunks.get(false, &digest), Err(UplinkError::NotFound)), "sealed and not are two");
        assert!(put(false).new);
        assert_eq!(chunks.get(true, &digest).unwrap(), &b"four"[..]);
        let large = Bytes::from(vec![0; BACKUP_INDEX_BYTES_MAX + 1]);
        assert!(matches!(chunks.put(false, &digest, large), Err(UplinkError::Refused(_))));
    }
}
