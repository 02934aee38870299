//! Which request goes where, and the shape of answers.
//!
//! Owns: the routes, JSON bodies in and out, refusals. Refuses: bodies above 256 KiB where JSON is
//! expected.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{Method, Request, Response};
use serde::Serialize;
use tokio::sync::Notify;
use uuid::Uuid;

use super::{Guest, exec, files};
use crate::protocol::{ErrorCode, ExecSignal, GuestError, JSON_BYTES_MAX};

/// A request that ended without an answer: the session or the stream is gone.
pub struct Gone;

impl From<h2::Error> for Gone {
    fn from(_: h2::Error) -> Self {
        Self
    }
}

/// Answers one request; `closing` is told when the host asks for the end of the session.
pub async fn answer(guest: Arc<Guest>, closing: Arc<Notify>, request: Request<RecvStream>, mut respond: Answer) {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let query = head.uri.query().unwrap_or_default().to_owned();
    let steps: Vec<&str> = path.split('/').skip(1).collect();
    let done = match (&head.method, steps.as_slice()) {
        (&Method::GET, ["v1", "hello"]) => send_json(&mut respond, 200, &guest.hello()),
        (&Method::POST, ["v1", "close"]) => {
            let said = send_empty(&mut respond, Ok(()));
            closing.notify_one();
            said
        }
        (&Method::POST, ["v1", "exec"]) => exec::run(&guest, body, &mut respond).await,
        (&Method::POST, ["v1", "exec", id, "signal"]) => {
            let signalled = signal(&guest, id, body).await;
            send_empty(&mut respond, signalled)
        }
        (&Method::DELETE, ["v1", "exec", id]) => {
            let forgotten = parse_id(id).and_then(|id| guest.executions.acknowledge(id));
            send_empty(&mut respond, forgotten)
        }
        (&Method::PUT, ["v1", "files"]) => {
            let written = files::put(&query, body).await;
            send_empty(&mut respond, written)
        }
        (&Method::GET, ["v1", "files"]) => files::get(&query, &mut respond).await,
        _ => refuse(&mut respond, &GuestError::new(ErrorCode::UnknownRequest, "no such request")),
    };
    // Nobody is left to tell.
    let _: Result<(), Gone> = done;
}

/// Where an answer goes.
pub type Answer = SendResponse<Bytes>;

async fn signal(guest: &Guest, id: &str, body: RecvStream) -> Result<(), GuestError> {
    let running = guest.executions.get(parse_id(id)?)?;
    let ExecSignal { signal } = serde_json::from_slice(&collect(body).await?).map_err(invalid)?;
    if !(1..=64).contains(&signal) {
        return Err(GuestError::new(ErrorCode::Invalid, "a signal is 1 to 64"));
    }
    running.signal(signal)
}

fn parse_id(text: &str) -> Result<Uuid, GuestError> {
    text.parse().map_err(|_| GuestError::new(ErrorCode::Invalid, "an execution's id is a UUID"))
}

/// JSON that does not parse, told to the host.
pub fn invalid(error: serde_json::Error) -> GuestError {
    GuestError::new(ErrorCode::Invalid, error.to_string())
}

async fn collect(mut body: RecvStream) -> Result<Bytes, GuestError> {
    let broken = |_| GuestError::new(ErrorCode::Invalid, "the body broke off");
    let mut all = BytesMut::new();
    while let Some(piece) = body.data().await {
        let piece = piece.map_err(broken)?;
        body.flow_control().release_capacity(piece.len()).map_err(broken)?;
        if all.len() + piece.len() > JSON_BYTES_MAX {
            let message = "a JSON body has at most 256 KiB";
            return Err(GuestError::new(ErrorCode::TooLarge, message));
        }
        all.extend_from_slice(&piece);
    }
    Ok(all.freeze())
}

/// Answers with JSON.
pub fn send_json(respond: &mut Answer, status: u16, body: &impl Serialize) -> Result<(), Gone> {
    let body = serde_json::to_vec(body).map_err(|_| Gone)?;
    let mut stream = respond.send_response(head(status), false)?;
    Ok(stream.send_data(Bytes::from(body), true)?)
}

/// Answers with a refusal.
pub fn refuse(respond: &mut Answer, error: &GuestError) -> Result<(), Gone> {
    send_json(respond, error.code.status(), error)
}

/// Answers 204, or with the refusal.
pub fn send_empty(respond: &mut Answer, done: Result<(), GuestError>) -> Result<(), Gone> {
    match done {
        Ok(()) => {
            respond.send_response(head(204), true)?;
            Ok(())
        }
        Err(error) => refuse(respond, &error),
    }
}

/// The head of an answer.
pub fn head(status: u16) -> Response<()> {
    let mut head = Response::new(());
    *head.status_mut() = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    head
}

/// Waits until at least one byte more than `reserved` for a header may be sent, and says how many
/// bytes may be, `wanted` at most.
pub async fn capacity(stream: &mut SendStream<Bytes>, wanted: usize, reserved: usize) -> Result<usize, Gone> {
    stream.reserve_capacity(wanted);
    while stream.capacity() <= reserved {
        match poll_fn(|context| stream.poll_capacity(context)).await {
            Some(granted) => granted?,
            None => return Err(Gone),
        };
    }
    Ok(stream.capacity().min(wanted))
}
