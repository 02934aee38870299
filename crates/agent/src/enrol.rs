//! Becoming a host, and staying one (SPEC A4).
//!
//! Owns: join tokens, enrolment against a pinned authority, renewal at half life. Refuses: a server
//! whose authority is not the token's, and sending the token to one.

use crate::health::Health;
use crate::identity::{CurrentIdentity, Identity, IdentityDir, IdentityError};
use crate::tls::{self, ServerUrl};
use crate::uplink::UplinkError;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use perigee_agent_api::VERSIONS;
use perigee_agent_api::wire::link::enrolment_client::EnrolmentClient;
use perigee_agent_api::wire::link::{Certificate, EnrolRequest, RenewRequest};
use perigee_clock::Clock;
use perigee_model::Labels;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};

const PREFIX: &str = "perigee-join-1.";
/// A token's file is no larger than this.
const TOKEN_BYTES_MAX: usize = 4096;
/// An attempt may take this long.
const ATTEMPT: Duration = Duration::from_secs(15);
/// The wall clock may jump: the certificate's age is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// Failed renewals are tried again after at least and at most this.
const AGAIN: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(300)];

/// Why a host did not join or its certificate was not renewed.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The token is not one.
    #[error(transparent)]
    Token(#[from] BadToken),
    /// The control plane was not reached, or is another than the token's.
    #[error(transparent)]
    Uplink(#[from] UplinkError),
    /// The identity cannot be read or kept.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A key or request could not be made.
    #[error("a key or request could not be made: {0}")]
    Key(String),
}

/// A text that is not a join token. The text itself is never shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a join token: it begins with {PREFIX} and is made by `perigee host token`")]
pub struct BadToken;

/// A join token: whom to believe, and what proves that we may join.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the authority's certificate.
    pub authority_sha256: [u8; 32],
    /// Used once. Never shown, never logged.
    pub secret: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenText {
    authority_sha256: String,
    secret: String,
}

impl FromStr for JoinToken {
    type Err = BadToken;
    fn from_str(text: &str) -> Result<Self, BadToken> {
        let text = text.trim();
        let body = text.strip_prefix(PREFIX).filter(|_| text.len() <= TOKEN_BYTES_MAX).ok_or(BadToken)?;
        let json = URL_SAFE_NO_PAD.decode(body).map_err(|_| BadToken)?;
        let token: TokenText = serde_json::from_slice(&json).map_err(|_| BadToken)?;
        let pin = hex::decode(&token.authority_sha256).map_err(|_| BadToken)?;
        let authority_sha256 = pin.try_into().map_err(|_| BadToken)?;
        let hex_digits = token.secret.len() >= 32 && token.secret.bytes().all(|b| b.is_ascii_hexdigit());
        if !hex_digits {
            return Err(BadToken);
        }
        Ok(Self { authority_sha256, secret: token.secret })
    }
}
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(…)")
    }
}

/// Joins: makes a key, has it signed, keeps the identity.
///
/// # Errors
/// Every `EnrolError`; nothing is kept then.
pub async fn join(
    server: &ServerUrl,
    token: &JoinToken,
    folder: &IdentityDir,
    hostname: &str,
    labels: &Labels,
) -> Result<Identity, EnrolError> {
    if let Some(known) = folder.load()? {
        return Err(IdentityError::Exists(known.host).into());
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| EnrolError::Key(e.to_string()))?;
    let config = tls::pinned(token.authority_sha256).map_err(|e| tls::broken(&e))?;
    let request = EnrolRequest {
        token: token.secret.clone(),
        csr: request_for(&key)?,
        hostname: hostname.to_owned(),
        version_min: VERSIONS.min,
        version_max: VERSIONS.max,
        labels: labels.clone().into_iter().collect(),
    };
    let answer = within(async {
        let mut client = EnrolmentClient::new(tls::connect(server, config).await?);
        client.enrol(request).await.map_err(|s| crate::uplink::grpc::of_status(&s))
    })
    .await?;
    let identity = identity_of(answer.into_inner(), key.serialize_pem())?;
    folder.create(&identity)?;
    Ok(identity)
}

/// Has a new certificate signed for the same key. Works with one that has ended up to 90 days ago.
///
/// # Errors
/// Every `EnrolError` but `Token`.
pub async fn renew(server: &ServerUrl, old: &Identity) -> Result<Identity, EnrolError> {
    let key = KeyPair::from_pem(&old.key_pem).map_err(|e| EnrolError::Key(e.to_string()))?;
    let csr = request_for(&key)?;
    let request = RenewRequest {
        certificate: old.certificate.to_vec(),
        signature: sign(&old.key_pem, &csr)?,
        csr,
        version_min: VERSIONS.min,
        version_max: VERSIONS.max,
    };
    let config = tls::anonymous(old).map_err(|e| tls::broken(&e))?;
    let answer = within(async {
        let mut client = EnrolmentClient::new(tls::connect(server, config).await?);
        client.renew(request).await.map_err(|s| crate::uplink::grpc::of_status(&s))
    })
    .await?;
    identity_of(answer.into_inner(), old.key_pem.clone())
}

async fn within<T>(attempt: impl Future<Output = Result<T, UplinkError>>) -> Result<T, UplinkError> {
    let late = |_| UplinkError::Away("it did not answer in time".to_owned());
    tokio::time::timeout(ATTEMPT, attempt).await.map_err(late)?
}

/// PKCS#10 (RFC 2986); only its key is used.
fn request_for(key: &KeyPair) -> Result<Vec<u8>, EnrolError> {
    let request = CertificateParams::default().serialize_request(key);
    request.map(|r| r.der().to_vec()).map_err(|e| EnrolError::Key(e.to_string()))
}

/// ECDSA P-256/SHA-256, ASN.1.
fn sign(key_pem: &str, message: &[u8]) -> Result<Vec<u8>, EnrolError> {
    let bad = |_| EnrolError::Key("the key cannot sign".to_owned());
    let der = PrivatePkcs8KeyDer::from_pem_slice(key_pem.as_bytes());
    let der = der.map_err(|e| EnrolError::Key(e.to_string()))?;
    let random = ring::rand::SystemRandom::new();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der.secret_pkcs8_der(), &random);
    let key = key.map_err(|e| EnrolError::Key(e.to_string()))?;
    Ok(key.sign(&random, message).map_err(bad)?.as_ref().to_vec())
}

fn identity_of(answer: Certificate, key_pem: String) -> Result<Identity, EnrolError> {
    let refused = || UplinkError::Refused("the answer names no host".to_owned());
    let host = answer.host.parse().map_err(|_| refused())?;
    let certificate = CertificateDer::from(answer.certificate);
    Ok(Identity::new(host, key_pem, certificate, CertificateDer::from(answer.authority))?)
}

/// Renews at half life, and when the control plane refuses the certificate, for ever.
pub async fn keep_fresh(
    server: ServerUrl,
    folder: IdentityDir,
    current: Arc<CurrentIdentity>,
    clock: Clock,
    health: Arc<Health>,
) {
    let mut wait = AGAIN[0];
    loop {
        let identity = current.get();
        let now = clock.now();
        let left = identity.renew_at().since(now);
        health.set("certificate", identity.valid.1 > now, format!("valid until {}", identity.valid.1));
        if !left.is_zero() {
            tokio::select! {
                biased;
                () = tokio::time::sleep(left.min(LOOK_EVERY)) => continue,
                () = current.was_refused() => {}
            }
        }
        match renew(&server, &identity).await {
            Ok(fresh) => {
                info!(valid_until = %fresh.valid.1, "the certificate was renewed");
                if let Err(e) = folder.renew(&fresh) {
                    warn!(error = %crate::chain(&e), "the new certificate was not kept");
                }
                current.set(fresh);
                wait = AGAIN[0];
            }
            Err(e) => {
                warn!(error = %crate::chain(&e), "the certificate was not renewed");
                wait = (wait * 2).min(AGAIN[1]);
            }
        }
        tokio::time::sleep(AGAIN[0] + clock.jitter(wait)).await;
    }
}
