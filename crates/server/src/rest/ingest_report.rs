//! What ingest routes take out of requests: a host's token, its pace, its signature, strict JSON.
//! In this order, so that whoever may not speak costs nothing.

use super::Server;
use super::extract::{bearer, parse, read, require_json};
use super::layer::RequestId;
use super::refuse::Refused;
use axum::extract::{FromRequest, FromRequestParts, Request};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::request::Parts;
use perigee_control::Cause;
use perigee_control::ingest::Reporter;
use perigee_model::{Code, HostId, Refusal, Timestamp};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::de::DeserializeOwned;

/// The time of a signature, RFC 3339.
const SIGNED_AT: &str = "x-perigee-timestamp";
/// An Ed25519 signature in base64.
const SIGNATURE: &str = "x-perigee-signature";

/// A host's agent that may speak now.
pub struct Speaker {
    /// Proof of it.
    pub reporter: Reporter,
    /// For the audit.
    pub cause: Cause,
}

impl FromRequestParts<Server> for Speaker {
    type Rejection = Refused;
    async fn from_request_parts(parts: &mut Parts, server: &Server) -> Result<Self, Refused> {
        let no_token = || Refusal::new(Code::NoToken, "send Authorization: Bearer TOKEN with a host's ingest token");
        let token = bearer(&parts.headers).ok_or_else(no_token)?;
        let Some(claim) = server.ingest_tokens.read(token) else {
            server.control.authenticate(token)?;
            let text = "only hosts report here: perigee host token --ingest HOST makes a token for one";
            return Err(Refusal::new(Code::Denied, text).into());
        };
        let reporter = server.control.reporter(claim)?;
        server.control.pace_reporter(&reporter)?;
        let request_id = parts.extensions.get::<RequestId>().map(|r| r.0.clone());
        Ok(Self { reporter, cause: Cause { request_id, idempotency: None } })
    }
}

/// A report: who speaks, and what they say.
pub struct Report<T> {
    /// Who.
    pub speaker: Speaker,
    /// What.
    pub value: T,
}

impl<T: DeserializeOwned> FromRequest<Server> for Report<T> {
    type Rejection = Refused;
    async fn from_request(request: Request, server: &Server) -> Result<Self, Refused> {
        let (mut parts, body) = request.into_parts();
        let speaker = Speaker::from_request_parts(&mut parts, server).await?;
        require_json(&parts.headers)?;
        let about = format!("{} {}\n", parts.method, parts.uri.path());
        let headers = parts.headers.clone();
        let bytes = read(Request::from_parts(parts, body)).await?;
        if let Some(key) = speaker.reporter.key() {
            check_signature(server, key, &headers, about.into_bytes(), &bytes)?;
        }
        Ok(Self { value: parse(&bytes)?, speaker })
    }
}

/// Whether the host's key signed this body for this route, lately.
fn check_signature(
    server: &Server,
    key: &[u8; 32],
    headers: &HeaderMap,
    mut message: Vec<u8>,
    body: &[u8],
) -> Result<(), Refusal> {
    let header = |name: &str| {
        let text = headers.get(name).and_then(|value| value.to_str().ok());
        let missing = || format!("the host has a key: send {SIGNED_AT} and {SIGNATURE}, see /errors/PRG-2010");
        text.ok_or_else(|| Refusal::new(Code::BadSignature, missing()))
    };
    let (at, signature) = (header(SIGNED_AT)?, header(SIGNATURE)?);
    let bad = || Refusal::new(Code::BadSignature, "the signature is not the host's for this body, route and time");
    message.extend_from_slice(at.as_bytes());
    message.push(b'\n');
    message.extend_from_slice(body);
    let signature = STANDARD.decode(signature).map_err(|_| bad())?;
    UnparsedPublicKey::new(&ED25519, key).verify(&message, &signature).map_err(|_| bad())?;
    server.control.timely(time(at, SIGNED_AT)?)
}

/// Reads an RFC 3339 time.
///
/// # Errors
/// `BadField`.
pub fn time(text: &str, field: &str) -> Result<Timestamp, Refusal> {
    Timestamp::parse(text).ok_or_else(|| Refusal::field(field, "not an RFC 3339 time, such as 2026-11-18T11:06:40Z"))
}

/// What every report says of itself: when, and of which host.
///
/// # Errors
/// `BadField`, `StaleTimestamp`, `FutureTimestamp`, `WrongHost`.
pub fn check_report(server: &Server, speaker: &Speaker, host: Option<&str>, at: &str) -> Result<Timestamp, Refusal> {
    if let Some(text) = host {
        let host = text.parse::<HostId>().map_err(|_| Refusal::field("host_id", "host_id is a host's UUID"))?;
        speaker.reporter.speaks_for(host)?;
    }
    let at = time(at, "timestamp")?;
    server.control.timely(at)?;
    Ok(at)
}
