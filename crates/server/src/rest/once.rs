//! `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): a repeated POST gives the first
//! one's answer. The key is written in the transaction of the change itself, so a crash between
//! change and answer is seen as such, and the change is not made again.

use super::Server;
use super::extract::Caller;
use super::refuse::{Answer, REQUEST_ID, Refused};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, StatusCode, header};
use perigee_control::Cause;
use perigee_model::{Code, Refusal};
use perigee_store::IdempotencyRow;
use sha2::{Digest, Sha256};

/// Most bytes of an answer that is kept for repeats.
const ANSWER_BYTES_MAX: usize = 256 << 10;

/// Serves a request at most once per key. `run` gets the cause with which it must commit.
pub async fn once<F, R>(server: &Server, caller: &Caller, (method, path): (Method, &str), body: &[u8], run: F) -> Answer
where
    F: FnOnce(Cause) -> R,
    R: Future<Output = Answer>,
{
    let Some(key) = caller.key.clone() else { return run(caller.cause()).await };
    let scope = format!("{}/{} {method} {path}", caller.who.tenant, caller.who.actor);
    let fingerprint = hex::encode(Sha256::digest(body));
    let Some(_flight) = Flight::begin(server, &scope, &key) else { return Err(in_flight()) };
    let held = server
        .control
        .store()
        .idempotency(&scope, &key)
        .await
        .map_err(|e| Refusal::new(Code::StoreDown, "the store does not answer").because(e))?;
    if let Some(row) = held {
        return repeat(server, &caller.who, row, &fingerprint);
    }
    let row = IdempotencyRow {
        scope: scope.clone(),
        key: key.clone(),
        fingerprint,
        subject: String::new(),
        at: server.control.clock().now(),
        answer: None,
    };
    let cause = Cause { request_id: Some(caller.request_id.clone()), idempotency: Some(row) };
    let response = run(cause).await?;
    keep(server, &scope, &key, response).await
}

async fn keep(server: &Server, scope: &str, key: &str, response: Response) -> Answer {
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    if bytes.len() <= ANSWER_BYTES_MAX
        && let Ok(text) = std::str::from_utf8(&bytes)
    {
        let kept = server.control.store().answer_idempotency(scope, key, parts.status.as_u16(), text).await;
        if let Err(error) = kept {
            // A repeat then gives the task as it is by then: still one change, a fresher answer.
            tracing::warn!(%error, "the answer to an idempotent request could not be kept");
        }
    }
    Ok(Response::from_parts(parts, Body::from(bytes)))
}

fn repeat(server: &Server, who: &perigee_model::Who, row: IdempotencyRow, fingerprint: &str) -> Answer {
    if row.fingerprint != fingerprint {
        let text = "this Idempotency-Key was used with another body; take a new key for a new request";
        return Err(Refusal::new(Code::BadIdempotencyKey, text).into());
    }
    let mut response = match row.answer {
        Some((status, body)) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
            let mut response = (status, body).into_response();
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        // The change was made, its answer was lost with a process: the task as it is now.
        None => match server.control.find_task(who, &row.subject) {
            Ok(task) => super::tasks::accepted(&task),
            Err(_) => return Err(in_flight()),
        },
    };
    response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
    response.headers_mut().remove(REQUEST_ID);
    Ok(response)
}

fn in_flight() -> Refused {
    let mut refusal = Refusal::new(
        Code::IdempotencyInFlight,
        "the first request with this Idempotency-Key has no answer to repeat (yet); look at what it made",
    );
    refusal.retry_after_s = Some(1);
    refusal.into()
}

/// A key in use; given back however the request ends.
struct Flight<'a> {
    server: &'a Server,
    key: (String, String),
}

impl<'a> Flight<'a> {
    fn begin(server: &'a Server, scope: &str, key: &str) -> Option<Self> {
        let key = (scope.to_owned(), key.to_owned());
        let mut flights = server.in_flight.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        flights.insert(key.clone()).then_some(Self { server, key })
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.server.in_flight.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&self.key);
    }
}
