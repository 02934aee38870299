//! `/api/v1/sandboxes/{id}/exec`: a command with its streams over a WebSocket (`perigee_api::stream`).

use super::extract::{Caller, parse};
use super::layer::RequestId;
use super::refuse::{Refused, document};
use super::{Server, executions, views};
use axum::Extension;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use axum::extract::{Path, State, WebSocketUpgrade};
use axum::response::Response;
use perigee_agent_api::wire::FRAME_BYTES_MAX;
use perigee_agent_api::{ExecutionReport, TunnelFrame};
use perigee_api::ProblemDocument;
use perigee_api::stream::{ExecControl, ExecEvent, ExecOpen, STDERR, STDIN, STDOUT};
use perigee_control::Tunnel;
use perigee_model::{Code, Execution, ExecutionState, Refusal};
use std::time::Duration;

/// A client must say what it wants to run within this time.
const OPEN_WITHIN: Duration = Duration::from_secs(10);
/// The server pings this often, so that a dead client is noticed.
const PING_EVERY: Duration = Duration::from_secs(20);
/// A client that was told the end must close within this time.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);
/// Largest message of a client.
const MESSAGE_BYTES_MAX: usize = 256 << 10;

/// Runs a command and streams it, both ways (WebSocket).
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}/exec", tag = "executions", params(("id" = String, Path, description = "Id or name")),
    responses((status = 101, description = "The exec stream begins"), (status = "4XX", body = ProblemDocument), (status = 503, body = ProblemDocument)))]
pub async fn exec(
    State(server): State<Server>,
    Extension(RequestId(request_id)): Extension<RequestId>,
    caller: Caller,
    Path(id): Path<String>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refused> {
    let guest = server.control.find_guest(&caller.who, &id)?;
    let upgrade = upgrade.map_err(|_| {
        Refusal::new(Code::NotAWebSocket, "open this route as a WebSocket; POST …/execute runs without one")
    })?;
    let upgrade = upgrade.max_message_size(MESSAGE_BYTES_MAX).max_frame_size(MESSAGE_BYTES_MAX);
    Ok(upgrade.on_upgrade(async move |mut socket| {
        let ended = serve(&server, &caller, guest.id.to_string(), &mut socket).await;
        let (event, code) = match ended {
            Ok(None) => return,
            Ok(Some(event)) => (event, close_code::NORMAL),
            Err(refusal) => {
                let document = ProblemDocument { request_id, ..document(&refusal) };
                (ExecEvent::Problem(document), close_code::POLICY)
            }
        };
        drop(say(&mut socket, &event).await);
        let frame = CloseFrame { code, reason: "".into() };
        drop(socket.send(Message::Close(Some(frame))).await);
        // Closing with input unread would reset the connection and take the last output with it.
        let drained = async { while let Some(Ok(_)) = socket.recv().await {} };
        drop(tokio::time::timeout(CLOSE_WITHIN, drained).await);
    }))
}

/// Runs the stream. `None`: the client went away; the command goes on.
async fn serve(
    server: &Server,
    caller: &Caller,
    guest: String,
    socket: &mut WebSocket,
) -> Result<Option<ExecEvent>, Refusal> {
    let opening = || Refusal::new(Code::BadRequest, "the first message says what to run, as JSON text, within 10 s");
    let first = tokio::time::timeout(OPEN_WITHIN, socket.recv()).await.map_err(|_| opening())?;
    let Some(Ok(Message::Text(text))) = first else { return Err(opening()) };
    let open: ExecOpen = parse(text.as_bytes())?;
    let command = executions::command(open.request);
    let (execution, tunnel) =
        server.control.execute_now(&caller.who, &guest, command, open.stdin, &caller.cause()).await?;
    let started = ExecEvent::Started { execution_id: execution.id.to_string() };
    if say(socket, &started).await.is_err() {
        return Ok(None);
    }
    let report = pump(socket, tunnel).await?;
    Ok(report.map(|report| ExecEvent::Ended(Box::new(views::execution(server, &ended(&execution, report))))))
}

/// Carries both directions until the execution ends or the client goes.
async fn pump(socket: &mut WebSocket, mut tunnel: Tunnel) -> Result<Option<ExecutionReport>, Refusal> {
    let mut pings = tokio::time::interval(PING_EVERY);
    pings.tick().await;
    loop {
        tokio::select! {
            frame = tunnel.rx.recv() => match frame {
                Some(TunnelFrame::Stdout(bytes)) => {
                    if send(socket, STDOUT, &bytes).await.is_err() { return Ok(None) }
                }
                Some(TunnelFrame::Stderr(bytes)) => {
                    if send(socket, STDERR, &bytes).await.is_err() { return Ok(None) }
                }
                Some(TunnelFrame::Ended(report)) => return Ok(Some(*report)),
                Some(TunnelFrame::Failed(problem)) => return Err(super::refuse::of_problem(&problem)),
                Some(TunnelFrame::Started) => {}
                Some(TunnelFrame::Data(_) | TunnelFrame::End | TunnelFrame::Signal(_)) | None => {
                    let text = "the stream from the host broke off; the command goes on there";
                    return Err(Refusal::new(Code::ChannelBroken, text));
                }
            },
            message = socket.recv() => match message {
                None | Some(Err(_)) | Some(Ok(Message::Close(_))) => return Ok(None),
                Some(Ok(message)) => forward(&tunnel, message).await?,
            },
            _ = pings.tick() => {
                if socket.send(Message::Ping(bytes::Bytes::new())).await.is_err() { return Ok(None) }
            }
        }
    }
}

async fn forward(tunnel: &Tunnel, message: Message) -> Result<(), Refusal> {
    let frames: Vec<TunnelFrame> = match message {
        Message::Binary(bytes) => match bytes.split_first() {
            Some((&STDIN, rest)) => rest.chunks(FRAME_BYTES_MAX).map(|c| TunnelFrame::Data(c.to_vec())).collect(),
            Some(_) | None => {
                return Err(Refusal::new(Code::BadRequest, "a binary message starts with the byte 0: standard input"));
            }
        },
        Message::Text(text) => match parse::<ExecControl>(text.as_bytes())? {
            ExecControl::StdinEnd(_) => vec![TunnelFrame::End],
            ExecControl::Signal(signal) if (1..=64).contains(&signal) => vec![TunnelFrame::Signal(signal)],
            ExecControl::Signal(_) => return Err(Refusal::field("signal", "signal is 1 to 64")),
        },
        Message::Ping(_) | Message::Pong(_) | Message::Close(_) => Vec::new(),
    };
    for frame in frames {
        // The host's end went: its last frame says why, and is read by the other branch.
        if tunnel.tx.send(frame).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// The execution as its report makes it. The record itself is written when the agent's own report
/// arrives on the control stream.
fn ended(execution: &Execution, report: ExecutionReport) -> Execution {
    let mut shown = execution.clone();
    shown.started_at = report.started_at;
    if let Some(end) = report.end {
        shown.state = ExecutionState::Ended;
        shown.outcome = Some(end.outcome);
        shown.ended_at = Some(end.at);
        shown.duration_ms = end.duration_ms;
        shown.stdout = end.stdout.into();
        shown.stderr = end.stderr.into();
        shown.problem = end.problem;
    }
    shown
}

async fn send(socket: &mut WebSocket, kind: u8, bytes: &[u8]) -> Result<(), axum::Error> {
    let mut message = Vec::with_capacity(bytes.len() + 1);
    message.push(kind);
    message.extend_from_slice(bytes);
    socket.send(Message::Binary(message.into())).await
}

async fn say(socket: &mut WebSocket, event: &ExecEvent) -> Result<(), axum::Error> {
    let text = serde_json::to_string(event).map_err(axum::Error::new)?;
    socket.send(Message::Text(text.into())).await
}
