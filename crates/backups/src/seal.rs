//! What a key does to a chunk: gives it another name and closes it.
//!
//! Four keys are derived from the one in the file, each HMAC-SHA256 of a label: for names, for nonces,
//! for the bytes, and one that is only looked at. Names and nonces are HMACs of the chunk's digest, and
//! through that of its plain bytes: the same chunk is the same file, which is what makes it kept once,
//! and whoever has the repository without its key learns how many chunks there are and how long each is
//! when packed, not whether a certain file is among them. AES-256-GCM-SIV (RFC 8452) stays safe where a
//! nonce comes twice with other bytes, as when another release packs the same chunk otherwise.

use aes_gcm_siv::aead::{Aead as _, Payload};
use aes_gcm_siv::{Aes256GcmSiv, KeyInit as _, Nonce};
use perigee_model::Digest;
use ring::hmac;

/// A key as it is in its file.
pub type KeyBytes = [u8; 32];

pub const NONCE_BYTES: usize = 12;
/// What sealing adds to a frame.
pub const OVERHEAD_BYTES: usize = NONCE_BYTES + 16;

/// Everything that is derived from one key.
pub struct Seal {
    names: hmac::Key,
    nonces: hmac::Key,
    bytes: Aes256GcmSiv,
    check: String,
}

impl Seal {
    pub fn of(key: &KeyBytes) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        let part = |label: &str| hmac::sign(&key, format!("perigee backups 1: {label}").as_bytes());
        let hmac_of = |label: &str| hmac::Key::new(hmac::HMAC_SHA256, part(label).as_ref());
        let bytes = match Aes256GcmSiv::new_from_slice(part("bytes").as_ref()) {
            Ok(cipher) => cipher,
            Err(_) => unreachable!("HMAC-SHA256 gives 32 bytes"),
        };
        Self { names: hmac_of("names"), nonces: hmac_of("nonces"), bytes, check: hex::encode(part("check")) }
    }

    /// Tells keys apart, and nothing of what they are.
    pub fn check(&self) -> &str {
        &self.check
    }

    /// The file's name: 64 hex digits.
    pub fn name(&self, digest: &Digest) -> String {
        hex::encode(hmac::sign(&self.names, digest.as_str().as_bytes()))
    }

    /// A packed chunk, closed under its name. `None` never happens for what fits into memory.
    pub fn close(&self, digest: &Digest, frame: &[u8]) -> Option<Vec<u8>> {
        let derived = hmac::sign(&self.nonces, digest.as_str().as_bytes());
        let nonce: [u8; NONCE_BYTES] = *derived.as_ref().first_chunk()?;
        let name = self.name(digest);
        let closed = self.bytes.encrypt(&Nonce::from(nonce), Payload { msg: frame, aad: name.as_bytes() }).ok()?;
        Some([&nonce[..], &closed].concat())
    }

    /// What was closed under this name. `None`: not with this key, not under this name, or changed since.
    pub fn open(&self, digest: &Digest, closed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, closed) = closed.split_first_chunk::<NONCE_BYTES>()?;
        let name = self.name(digest);
        self.bytes.decrypt(&Nonce::from(*nonce), Payload { msg: closed, aad: name.as_bytes() }).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest_of;

    #[test]
    fn a_chunk_is_opened_by_its_key_and_under_its_name_alone() {
        let (one, other) = (Seal::of(&[1; 32]), Seal::of(&[2; 32]));
        let (digest, elsewhere) = (digest_of(b"chunk"), digest_of(b"another"));
        let closed = one.close(&digest, b"frame").unwrap();
        assert_eq!(closed.len(), 5 + OVERHEAD_BYTES);
        assert_eq!(closed, one.close(&digest, b"frame").unwrap(), "the same chunk is the same file");
        assert_eq!(one.open(&digest, &closed).unwrap(), b"frame");
        assert_eq!(one.open(&elsewhere, &closed), None, "moved to another name");
        assert_eq!(other.open(&digest, &closed), None);
        for (at, bit) in (0..closed.len()).flat_map(|at| [(at, 1u8), (at, 0x80)]) {
            let mut changed = closed.clone();
            changed[at] ^= bit;
            assert_eq!(one.open(&digest, &changed), None, "byte {at}");
        }
        assert_eq!(one.open(&digest, &closed[..closed.len() - 1]), None);
        assert_eq!(one.open(&digest, &[]), None);
    }

    #[test]
    fn nothing_that_is_seen_tells_the_digest_or_the_key() {
        let (one, other) = (Seal::of(&[1; 32]), Seal::of(&[2; 32]));
        let digest = digest_of(b"chunk");
        let name = one.name(&digest);
        assert_eq!(name.len(), 64);
        let nonce = hex::encode(&one.close(&digest, b"").unwrap()[..NONCE_BYTES]);
        assert!(name != digest.as_str() && name != other.name(&digest) && !name.starts_with(&nonce));
        assert_ne!(one.check(), other.check());
        assert_ne!(one.check(), hex::encode([1; 32]));
    }

    /// Files of a release must be opened by the next one. By Python's `hmac`; the tag by `cryptography`'s
    /// AES-GCM-SIV.
    #[test]
    fn the_derivation_stays() {
        let seal = Seal::of(&[7; 32]);
        let digest = digest_of(b"");
        assert_eq!(seal.check(), "af2ea7d75eba5170d3f497fd88ed5f3d9650354ff9ca776b4809e71de0e175f5");
        assert_eq!(seal.name(&digest), "1e59f4f9af609eebd7c8c95844528720bc555b1d02e1b7b6f8cab4e25a74661b");
        assert_eq!(
            hex::encode(seal.close(&digest, b"frame").unwrap()),
            "645ef0af963ed76697a17c5fa4dc6bf7d2030f94e5f4f7410bd578631aee068743"
        );
    }
}
