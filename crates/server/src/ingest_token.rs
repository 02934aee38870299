//! Ingest tokens as texts: JWTs (RFC 7519) signed with EdDSA (RFC 8037) by a key of this
//! installation.
//!
//! There is one header, and a token with another one is not ours: no token chooses how it is
//! checked. Whether a genuine token is still good is `control`'s to say.

use crate::place::Place;
use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use perigee_clock::Clock;
use perigee_control::ingest::Claim;
use perigee_model::{InstanceId, Timestamp};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

const HEADER: &[u8] = br#"{"alg":"EdDSA","typ":"JWT"}"#;
const AUDIENCE: &str = "perigee-ingest";
const KEY_FILE: &str = "ingest.key";
/// Longer ones are none of ours.
const TOKEN_BYTES_MAX: usize = 1024;

/// Makes and reads tokens.
pub struct IngestTokens {
    key: Ed25519KeyPair,
    issuer: String,
    clock: Clock,
}

/// What a token says, as registered and private claims. Times are seconds.
#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    #[serde(rename = "gen")]
    generation: u64,
    iat: i64,
    exp: i64,
    jti: String,
}

impl IngestTokens {
    /// With the key of a data directory, made there at the first start.
    ///
    /// # Errors
    /// When the file cannot be read or written, or holds no key.
    pub fn open(place: &Place, instance: &InstanceId, clock: Clock) -> anyhow::Result<Self> {
        if place.read(KEY_FILE).is_none() {
            place.write(KEY_FILE, &hex::encode(clock.random::<32>()))?;
        }
        let seed = place.read(KEY_FILE).and_then(|text| hex::decode(text.trim()).ok());
        let seed = seed.with_context(|| format!("{} does not hold a key", place.path(KEY_FILE).display()))?;
        Self::of_seed(&seed, instance, clock)
    }

    /// With a key made of 32 random bytes.
    ///
    /// # Errors
    /// When they are not 32.
    pub fn of_seed(seed: &[u8], instance: &InstanceId, clock: Clock) -> anyhow::Result<Self> {
        let key = Ed25519KeyPair::from_seed_unchecked(seed).ok().context("an ingest key has 32 bytes")?;
        Ok(Self { key, issuer: format!("perigee-{instance}"), clock })
    }

    /// The token that says this. Its times are cut to whole seconds.
    ///
    /// # Errors
    /// When the claim cannot be written as JSON.
    pub fn sign(&self, claim: &Claim) -> anyhow::Result<String> {
        let seconds = |at: Timestamp| at.micros().div_euclid(1_000_000);
        let claims = Claims {
            iss: self.issuer.clone(),
            aud: AUDIENCE.to_owned(),
            sub: claim.host.to_string(),
            generation: claim.generation,
            iat: seconds(claim.issued_at),
            exp: seconds(claim.expires_at),
            jti: self.clock.uuid().to_string(),
        };
        let payload = serde_json::to_vec(&claims)?;
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(HEADER), URL_SAFE_NO_PAD.encode(payload));
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(signed.as_bytes()));
        Ok(format!("{signed}.{signature}"))
    }

    /// What a token says; `None` for one that this installation did not make.
    pub fn read(&self, token: &str) -> Option<Claim> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let payload = genuine(token, HEADER, self.key.public_key().as_ref())?;
        let claims: Claims = serde_json::from_slice(&payload).ok()?;
        let time = |seconds: i64| Timestamp::from_micros(seconds.saturating_mul(1_000_000));
        let claim = Claim {
            host: claims.sub.parse().ok()?,
            generation: claims.generation,
            issued_at: time(claims.iat),
            expires_at: time(claims.exp),
        };
        (claims.iss == self.issuer && claims.aud == AUDIENCE).then_some(claim)
    }
}

/// The payload of a JWS in compact form that has this header and was signed with this key.
fn genuine(token: &str, header: &[u8], key: &[u8]) -> Option<Vec<u8>> {
    let (signed, signature) = token.rsplit_once('.')?;
    let (head, payload) = signed.split_once('.')?;
    if URL_SAFE_NO_PAD.decode(head).ok()? != header {
        return None;
    }
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    UnparsedPublicKey::new(&ED25519, key).verify(signed.as_bytes(), &signature).ok()?;
    URL_SAFE_NO_PAD.decode(payload).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use perigee_model::HostId;

    fn tokens(seed: u8, instance: &str) -> IngestTokens {
        let instance = InstanceId::parse(instance).unwrap();
        IngestTokens::of_seed(&[seed; 32], &instance, Clock::simulated(1)).unwrap()
    }

    fn claim() -> Claim {
        let time = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        let host = HostId::new(uuid::Uuid::from_u128(7));
        Claim { host, generation: 3, issued_at: time(1_790_000_000), expires_at: time(1_790_003_600) }
    }

    #[test]
    fn a_token_says_what_was_signed() {
        let ours = tokens(1, "00c0ffee");
        let token = ours.sign(&claim()).unwrap();
        assert_eq!(ours.read(&token), Some(claim()));
        assert_eq!(tokens(2, "00c0ffee").read(&token), None, "another key");
        assert_eq!(tokens(1, "00000001").read(&token), None, "another instance");
    }

    #[test]
    fn no_token_can_be_changed() {
        let ours = tokens(1, "00c0ffee");
        let token = ours.sign(&claim()).unwrap();
        for place in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert_eq!(ours.read(&changed), None, "at {place}: {changed}");
        }
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let payload = signed.split_once('.').unwrap().1;
        for header in [r#"{"alg":"none","typ":"JWT"}"#, r#"{"alg":"HS256","typ":"JWT"}"#] {
            let head = URL_SAFE_NO_PAD.encode(header);
            for end in ["", signature] {
                assert_eq!(ours.read(&format!("{head}.{payload}.{end}")), None, "{header}");
            }
        }
        for rubbish in ["", ".", "..", "a.b", "a.b.c.d", &"x".repeat(5000)] {
            assert_eq!(ours.read(rubbish), None, "{rubbish}");
        }
    }

    #[test]
    fn the_form_is_that_of_rfc_8037() {
        // Appendix A: the key of A.2, the signature of A.4.
        let key = URL_SAFE_NO_PAD.decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
        let token = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PG\
                     cvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
        let payload = genuine(token, br#"{"alg":"EdDSA"}"#, &key).unwrap();
        assert_eq!(payload, b"Example of Ed25519 signing");
    }
}
