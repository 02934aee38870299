//! What handlers take out of requests: who asks, strict JSON, strict queries, preferences.

use super::Server;
use super::layer::RequestId;
use super::live::offered_token;
use super::refuse::Refused;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, header};
use perigee_control::Cause;
use perigee_model::limits::{BODY_BYTES_MAX, IDEMPOTENCY_KEY_CHARS_MAX, WAIT_MAX};
use perigee_model::{Code, Refusal, Who};
use serde::de::DeserializeOwned;
use std::time::Duration;

/// An authenticated caller and their request.
pub struct Caller {
    /// Proof of authentication.
    pub who: Who,
    /// For the audit.
    pub request_id: String,
    /// How long the caller will wait for the work to be done; `None` for not at all.
    pub wait: Option<Duration>,
    /// The key under which the caller may repeat the request.
    pub key: Option<String>,
    /// The revision in `If-Match`.
    pub if_match: Option<IfMatch>,
    /// The tag in `If-None-Match`.
    pub if_none_match: Option<String>,
}

/// `If-Match`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfMatch {
    /// `*`: whatever it is now.
    Any,
    /// This revision.
    Revision(u64),
}

impl Caller {
    /// For verbs without an idempotency key.
    pub fn cause(&self) -> Cause {
        Cause { request_id: Some(self.request_id.clone()), idempotency: None }
    }
    /// The revision an optional `If-Match` names.
    pub fn revision(&self) -> Option<u64> {
        match self.if_match {
            Some(IfMatch::Revision(revision)) => Some(revision),
            Some(IfMatch::Any) | None => None,
        }
    }
    /// Refuses a change of configuration without `If-Match`.
    ///
    /// # Errors
    /// `PreconditionRequired`.
    pub fn require_match(&self) -> Result<Option<u64>, Refusal> {
        if self.if_match.is_none() {
            let text = "send If-Match with the ETag you read, or If-Match: * to change whatever is there";
            return Err(Refusal::new(Code::PreconditionRequired, text));
        }
        Ok(self.revision())
    }
}

impl FromRequestParts<Server> for Caller {
    type Rejection = Refused;
    async fn from_request_parts(parts: &mut Parts, server: &Server) -> Result<Self, Refused> {
        let token = bearer(&parts.headers)
            .or_else(|| offered_token(&parts.headers))
            .ok_or_else(|| Refusal::new(Code::NoToken, "send Authorization: Bearer TOKEN (cli.toml has one)"))?;
        let who = server.control.authenticate(token)?;
        let request_id = parts.extensions.get::<RequestId>().map(|r| r.0.clone()).unwrap_or_default();
        Ok(Self {
            who,
            request_id,
            wait: wait(&parts.headers)?,
            key: key(&parts.headers)?,
            if_match: if_match(&parts.headers)?,
            if_none_match: text(&parts.headers, &header::IF_NONE_MATCH).map(str::to_owned),
        })
    }
}

/// The token of a request.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

/// `Prefer: wait=10` (RFC 7240).
fn wait(headers: &HeaderMap) -> Result<Option<Duration>, Refusal> {
    let Some(prefer) = headers.get("prefer").and_then(|v| v.to_str().ok()) else { return Ok(None) };
    let preference = prefer.split(',').map(str::trim).find(|p| *p == "wait" || p.starts_with("wait="));
    let Some(preference) = preference else { return Ok(None) };
    let seconds = match preference.strip_prefix("wait=") {
        None => 60,
        Some(number) => number
            .parse::<u64>()
            .map_err(|_| Refusal::new(Code::BadRequest, "Prefer: wait=SECONDS takes a whole number"))?,
    };
    Ok(Some(Duration::from_secs(seconds).min(WAIT_MAX)))
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().ok().map(|t| t.trim_matches('"'));
    let fits = |t: &&str| !t.is_empty() && t.len() <= IDEMPOTENCY_KEY_CHARS_MAX;
    match text.filter(fits) {
        Some(text) => Ok(Some(text.to_owned())),
        None => {
            let shown = format!("Idempotency-Key is 1 to {IDEMPOTENCY_KEY_CHARS_MAX} visible characters");
            Err(Refusal::new(Code::BadRequest, shown))
        }
    }
}

fn if_match(headers: &HeaderMap) -> Result<Option<IfMatch>, Refusal> {
    let Some(text) = text(headers, &header::IF_MATCH) else { return Ok(None) };
    if text.trim() == "*" {
        return Ok(Some(IfMatch::Any));
    }
    let digits = text.trim().trim_matches('"').split('.').next().unwrap_or_default();
    // A tag that was never ours cannot match anything.
    digits
        .parse()
        .map(|r| Some(IfMatch::Revision(r)))
        .map_err(|_| Refusal::new(Code::PreconditionFailed, "If-Match does not hold a tag of this control plane"))
}

/// A JSON body, with its bytes for the idempotency fingerprint.
pub struct Body<T> {
    /// What it says.
    pub value: T,
    /// As it came.
    pub bytes: Bytes,
}

impl<T: DeserializeOwned> FromRequest<Server> for Body<T> {
    type Rejection = Refused;
    async fn from_request(request: Request, _: &Server) -> Result<Self, Refused> {
        require_json(request.headers())?;
        let bytes = read(request).await?;
        let value = parse(&bytes)?;
        Ok(Self { value, bytes })
    }
}

/// Refuses a body that says it is something else.
///
/// # Errors
/// `BadMediaType`.
pub fn require_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let kind = text(headers, &header::CONTENT_TYPE).unwrap_or("application/json");
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if kind != "application/json" && kind != "application/merge-patch+json" {
        return Err(Refusal::new(Code::BadMediaType, "send Content-Type: application/json"));
    }
    Ok(())
}

/// A request's whole body.
///
/// # Errors
/// `TooLarge`.
pub async fn read(request: Request) -> Result<Bytes, Refusal> {
    let too_large = || Refusal::new(Code::TooLarge, format!("a body has at most {BODY_BYTES_MAX} bytes"));
    let declared = text(request.headers(), &header::CONTENT_LENGTH).and_then(|l| l.parse::<usize>().ok());
    if declared.is_some_and(|length| length > BODY_BYTES_MAX) {
        return Err(too_large());
    }
    axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX).await.map_err(|_| too_large())
}

/// Strict JSON into a request type.
///
/// # Errors
/// `BadRequest` when it is not JSON, `UnknownField` or `BadField` with the pointer when it is not
/// the JSON that is wanted. An empty body counts as `{}`.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let bytes = if bytes.is_empty() { b"{}" } else { bytes };
    // serde would read an array as an object without keys.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err(fault("", "the body is a JSON object, not an array"));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if inner.is_syntax() || inner.is_eof() || inner.is_io() {
            return Refusal::new(Code::BadRequest, format!("the body is not JSON: {}", plain(&inner.to_string())));
        }
        fault(&path, &plain(&inner.to_string()))
    })?;
    json.end().map_err(|_| Refusal::new(Code::BadRequest, "the body goes on after its JSON"))?;
    Ok(value)
}

fn fault(path: &str, text: &str) -> Refusal {
    let code = if text.contains("unknown field") { Code::UnknownField } else { Code::BadField };
    let mut refusal = Refusal::new(code, text);
    let path = path.trim_matches('.').replace(['.', '['], "/").replace(']', "");
    refusal.pointer = Some(if path == "?" { String::new() } else { format!("/{path}") });
    refusal
}

/// Texts of parsers may quote the input: bounded, and without control characters.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// Query parameters, unknown ones refused.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<Server> for Params<T> {
    type Rejection = Refused;
    async fn from_request_parts(parts: &mut Parts, _: &Server) -> Result<Self, Refused> {
        match Query::<T>::try_from_uri(&parts.uri) {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => {
                let text = rejection.body_text();
                let text = text.split("query string: ").last().unwrap_or(&text);
                // `name: what is wrong with it`, where the parser knows the name.
                let (name, text) = text.split_once(": ").unwrap_or(("", text));
                Err(fault(name, &plain(text)).into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perigee_api::SandboxRequest;

    #[test]
    fn bodies_are_read_strictly() {
        let told = |text: &str| match parse::<SandboxRequest>(text.as_bytes()) {
            Ok(_) => "fine".to_owned(),
            Err(r) => format!("{} {}", r.code, r.pointer.unwrap_or_default()),
        };
        assert_eq!(told(""), "fine");
        assert_eq!(told(r#"{"name":"a"}"#), "fine");
        assert_eq!(told(r#"{"name":"a""#), "PRG-1001 ");
        assert_eq!(told(r#"{"nam":"a"}"#), "PRG-1003 /nam");
        assert_eq!(told(r#"{"cpus":"two"}"#), "PRG-1002 /cpus");
        assert_eq!(told(r#"{"cpus":-1}"#), "PRG-1002 /cpus");
        assert_eq!(told("[]"), "PRG-1002 /");
        let listed = parse::<perigee_api::ExecuteRequest>(br#"{"argv":["a",1]}"#).err().unwrap();
        assert_eq!(listed.pointer.as_deref(), Some("/argv/1"));
        assert_eq!(told("{} {}"), "PRG-1001 ");
    }

    #[test]
    fn preferences_are_bounded() {
        let with =
            |value: &'static str| wait(&HeaderMap::from_iter([("prefer".parse().unwrap(), value.parse().unwrap())]));
        assert_eq!(with("wait=5").unwrap(), Some(Duration::from_secs(5)));
        assert_eq!(with("respond-async, wait=5").unwrap(), Some(Duration::from_secs(5)));
        assert_eq!(with("wait=99999999").unwrap(), Some(WAIT_MAX));
        assert_eq!(with("return=minimal").unwrap(), None);
        assert!(with("wait=soon").is_err());
    }
}
