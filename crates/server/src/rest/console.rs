//! `/api/v1/vms/{id}/console`: a ticket, and the WebSocket that it opens (`perigee_api::console`).
//!
//! Nothing is kept for a slow client: its guest is read when it took what came before.

use super::Server;
use super::extract::{Body, Caller, Params};
use super::layer::RequestId;
use super::refuse::{Answer, Refused};
use axum::Extension;
use axum::Json;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use axum::extract::{Path, State, WebSocketUpgrade};
use axum::response::Response;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use http::StatusCode;
use perigee_agent_api::TunnelFrame;
use perigee_agent_api::wire::FRAME_BYTES_MAX;
use perigee_api::{ConsoleRequest, ConsoleView, ProblemDocument};
use perigee_control::consoles::Console;
use perigee_control::{Cause, Tunnel};
use perigee_model::{Code, Refusal};
use serde::Deserialize;
use std::time::Duration;
use tokio::sync::mpsc;
use utoipa::IntoParams;

/// The server pings this often, so that a dead client is noticed.
const PING_EVERY: Duration = Duration::from_secs(20);
/// A client that is not heard of, or takes nothing, for so long is let go.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// A client that was told the end must close within this time.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);
/// Largest message of a client.
const MESSAGE_BYTES_MAX: usize = 256 << 10;
/// What noVNC offers.
const PROTOCOL: &str = "binary";
/// What fits into a close frame beside its code.
const REASON_BYTES_MAX: usize = 120;

/// The right to open a console.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TicketParams {
    /// From `POST` on the same path; in place of a bearer token.
    pub ticket: Option<String>,
}

/// Makes a ticket to a console of a guest: good once, for half a minute.
#[utoipa::path(post, path = "/api/v1/vms/{id}/console", tag = "vms", operation_id = "ticket_to_console",
    params(("id" = String, Path, description = "Id or name")), request_body = ConsoleRequest,
    responses((status = 201, body = ConsoleView), (status = "4XX", body = ProblemDocument), (status = 503, body = ProblemDocument)))]
pub async fn ticket(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body<ConsoleRequest>,
) -> Answer<(StatusCode, Json<ConsoleView>)> {
    let ticket = server.control.console_ticket(&caller.who, &id, body.value.seat.into())?;
    let url = format!("/api/v1/vms/{}/console?ticket={}", ticket.guest, ticket.secret);
    let view = ConsoleView { ticket: ticket.secret, url, expires_at: ticket.expires_at.to_string() };
    Ok((StatusCode::CREATED, Json(view)))
}

/// Sits down at a guest's console with a ticket (WebSocket).
#[utoipa::path(get, path = "/api/v1/vms/{id}/console", tag = "vms", operation_id = "open_console",
    params(("id" = String, Path, description = "Id"), TicketParams), security(("ticket" = [])),
    responses((status = 101, description = "Binary messages both ways: the console's bytes"), (status = "4XX", body = ProblemDocument), (status = 503, body = ProblemDocument)))]
pub async fn open(
    State(server): State<Server>,
    Extension(RequestId(request_id)): Extension<RequestId>,
    Path(id): Path<String>,
    Params(params): Params<TicketParams>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refused> {
    let no_ticket = || Refusal::new(Code::NoToken, "get a ticket with POST on this path, then open it with ?ticket=");
    let ticket = params.ticket.ok_or_else(no_ticket)?;
    let upgrade = upgrade.map_err(|_| Refusal::new(Code::NotAWebSocket, "open this route as a WebSocket"))?;
    let cause = Cause { request_id: Some(request_id), idempotency: None };
    let console = server.control.open_console(&id, &ticket, &cause).await?;
    let upgrade = upgrade.max_message_size(MESSAGE_BYTES_MAX).max_frame_size(MESSAGE_BYTES_MAX).protocols([PROTOCOL]);
    Ok(upgrade.on_upgrade(async move |socket| serve(socket, console).await))
}

/// Carries both directions until either side leaves.
async fn serve(socket: WebSocket, mut console: Console) {
    let (mut to, mut from) = socket.split();
    let Tunnel { tx, rx } = &mut console.tunnel;
    let last = tokio::select! {
        last = show(&mut to, rx) => last,
        last = hear(&mut from, tx) => last,
    };
    drop(console);
    let Some(last) = last else { return };
    let closing = async {
        if to.send(Message::Close(Some(last))).await.is_ok() {
            // Closing with input unread would reset the connection and take the last output with it.
            while let Some(Ok(_)) = from.next().await {}
        }
    };
    drop(tokio::time::timeout(CLOSE_WITHIN, closing).await);
}

/// What the guest says. `None`: the client takes nothing any more.
async fn show(to: &mut SplitSink<WebSocket, Message>, rx: &mut mpsc::Receiver<TunnelFrame>) -> Option<CloseFrame> {
    let mut pings = tokio::time::interval(PING_EVERY);
    pings.tick().await;
    loop {
        let message = tokio::select! {
            frame = rx.recv() => match frame {
                Some(TunnelFrame::Data(bytes)) => Message::Binary(bytes.into()),
                Some(TunnelFrame::End) => return Some(close(close_code::NORMAL, "the guest ended the console")),
                Some(TunnelFrame::Failed(problem)) => {
                    return Some(close(close_code::ERROR, &format!("{} {}", problem.code, problem.text)));
                }
                Some(_) | None => return Some(close(close_code::ERROR, "the stream from the host broke off")),
            },
            _ = pings.tick() => Message::Ping(bytes::Bytes::new()),
        };
        let sent = tokio::time::timeout(SILENCE_MAX, to.send(message)).await;
        if !matches!(sent, Ok(Ok(()))) {
            return None;
        }
    }
}

/// What the client says. `None`: it left.
async fn hear(from: &mut SplitStream<WebSocket>, tx: &mpsc::Sender<TunnelFrame>) -> Option<CloseFrame> {
    loop {
        match tokio::time::timeout(SILENCE_MAX, from.next()).await.ok()?? {
            Ok(Message::Binary(bytes)) => {
                for piece in bytes.chunks(FRAME_BYTES_MAX) {
                    if tx.send(TunnelFrame::Data(piece.to_vec())).await.is_err() {
                        // The host's end went: its last frame says why, and is read by the other direction.
                        return std::future::pending().await;
                    }
                }
            }
            Ok(Message::Ping(_) | Message::Pong(_)) => {}
            Ok(Message::Text(_)) => {
                return Some(close(close_code::UNSUPPORTED, "a console takes binary messages only"));
            }
            Ok(Message::Close(_)) | Err(_) => return None,
        }
    }
}

fn close(code: u16, reason: &str) -> CloseFrame {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    CloseFrame { code, reason: reason[..end].into() }
}
