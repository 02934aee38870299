//! `/api/v1/live`: the latest values, then what changes, as they come; over a WebSocket, or as
//! server-sent events where `Accept: text/event-stream` asks for them.

use super::Server;
use super::extract::{Caller, Params};
use super::refuse::{Answer, Refused};
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket};
use axum::extract::{State, WebSocketUpgrade};
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::Stream;
use http::{HeaderMap, header};
use perigee_api::live::{LiveMessage, LiveRequest, LiveSeries, LiveStream};
use perigee_control::watch::{Update, Watcher};
use perigee_model::frame::Series;
use perigee_model::{Code, Refusal};
use serde::Deserialize;
use std::convert::Infallible;
use std::time::Duration;
use utoipa::IntoParams;

/// Two messages are at least so far apart: what comes between is told together.
const REST: Duration = Duration::from_millis(40);
/// The server pings this often, so that a dead watcher is noticed.
const PING_EVERY: Duration = Duration::from_secs(20);
/// A watcher that does not take a message within this time is let go.
const SEND_WITHIN: Duration = Duration::from_secs(20);
/// Largest message of a watcher.
const MESSAGE_BYTES_MAX: usize = 4 << 10;
/// Under these names a browser, which cannot send a token otherwise, offers protocol and token.
const PROTOCOL: &str = "perigee.live.v1";

/// What to watch.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LiveParams {
    /// Only this host, by id or name, and all of its series; its agent then measures each second.
    /// Without it, what sums up every host.
    pub host: Option<String>,
}

/// Pushes measurements as they come (WebSocket or server-sent events).
#[utoipa::path(get, path = "/api/v1/live", tag = "metrics", operation_id = "live", params(LiveParams),
    responses((status = 101, description = "`LiveMessage` texts follow", body = LiveMessage),
        (status = 200, description = "`LiveMessage` events follow", content_type = "text/event-stream", body = LiveMessage),
        (status = "4XX", body = perigee_api::ProblemDocument)))]
pub async fn live(
    State(server): State<Server>,
    caller: Caller,
    Params(params): Params<LiveParams>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Answer {
    let host = match &params.host {
        Some(text) => Some(server.control.find_host(&caller.who, text)?.id),
        None => None,
    };
    let watcher = server.watch.watcher(&caller.who, host)?;
    let events = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if events.contains("text/event-stream") {
        return Ok(Sse::new(stream(Telling::new(watcher)))
            .keep_alive(KeepAlive::new().interval(PING_EVERY))
            .into_response());
    }
    let upgrade = upgrade.map_err(|_| {
        Refused(Refusal::new(Code::NotAWebSocket, "open this route as a WebSocket, or accept text/event-stream"))
    })?;
    let upgrade = upgrade.max_message_size(MESSAGE_BYTES_MAX).protocols([PROTOCOL]);
    Ok(upgrade.on_upgrade(async move |mut socket| serve(Telling::new(watcher), &mut socket).await))
}

/// A watcher and its numbered messages.
struct Telling {
    watcher: Watcher,
    sequence: u64,
    begun: bool,
}

impl Telling {
    fn new(watcher: Watcher) -> Self {
        Self { watcher, sequence: 0, begun: false }
    }

    /// What is to be said now: a snapshot at first, then what changed.
    fn messages(&mut self) -> Vec<LiveMessage> {
        let updates = self.watcher.updates();
        let mut number = || {
            self.sequence += 1;
            self.sequence
        };
        if !std::mem::replace(&mut self.begun, true) {
            return vec![LiveMessage::Snapshot {
                sequence: number(),
                streams: updates.into_iter().map(whole).collect(),
            }];
        }
        updates.into_iter().map(|update| frame(number(), update)).collect()
    }

    fn begin_again(&mut self) {
        self.watcher.forget();
        self.begun = false;
    }
}

fn whole(update: Update) -> LiveStream {
    let mut values = vec![None; update.added.len()];
    for (number, value) in update.values {
        if let Some(place) = values.get_mut(number as usize) {
            *place = value;
        }
    }
    LiveStream {
        host: update.stream.host.to_string(),
        stream: update.stream.name.text().to_owned(),
        at: update.at.micros() / 1000,
        series: update.added.iter().map(|added| series(added)).collect(),
        values,
    }
}

fn frame(sequence: u64, update: Update) -> LiveMessage {
    let (columns, values) = update.values.into_iter().unzip();
    LiveMessage::Frame {
        sequence,
        host: update.stream.host.to_string(),
        stream: update.stream.name.text().to_owned(),
        at: update.at.micros() / 1000,
        reset: update.reset,
        added: update.added.iter().map(|added| series(added)).collect(),
        columns,
        values,
    }
}

fn series(series: &Series) -> LiveSeries {
    LiveSeries { kind: super::views::word(&series.kind), name: series.name.clone(), labels: series.labels.clone() }
}

fn text(message: &LiveMessage) -> String {
    // Strings and numbers only: this cannot fail.
    serde_json::to_string(message).unwrap_or_default()
}

async fn serve(mut telling: Telling, socket: &mut WebSocket) {
    let mut pings = tokio::time::interval(PING_EVERY);
    pings.tick().await;
    loop {
        for message in telling.messages() {
            let sent = tokio::time::timeout(SEND_WITHIN, socket.send(Message::Text(text(&message).into()))).await;
            if !matches!(sent, Ok(Ok(()))) {
                return;
            }
        }
        tokio::time::sleep(REST).await;
        loop {
            tokio::select! {
                () = telling.watcher.moved() => break,
                said = socket.recv() => match said {
                    Some(Ok(Message::Text(said))) => match serde_json::from_str(&said) {
                        Ok(LiveRequest::Resync {}) => {
                            telling.begin_again();
                            break;
                        }
                        Err(_) => return,
                    },
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Binary(_) | Message::Close(_)) | Err(_)) | None => return,
                },
                _ = pings.tick() => {
                    if socket.send(Message::Ping(bytes::Bytes::new())).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

fn stream(telling: Telling) -> impl Stream<Item = Result<Event, Infallible>> {
    let begin = (telling, std::collections::VecDeque::new());
    futures::stream::unfold(begin, async |(mut telling, mut ready)| {
        loop {
            if let Some(message) = ready.pop_front() {
                let name = match message {
                    LiveMessage::Snapshot { .. } => "snapshot",
                    LiveMessage::Frame { .. } => "frame",
                };
                return Some((Ok(Event::default().event(name).data(text(&message))), (telling, ready)));
            }
            if telling.begun {
                tokio::time::sleep(REST).await;
                telling.watcher.moved().await;
            }
            ready.extend(telling.messages());
        }
    })
}

/// The token that a browser offers among the protocols of a WebSocket.
pub fn offered_token(headers: &HeaderMap) -> Option<&str> {
    let offered = headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    offered.split(',').find_map(|name| name.trim().strip_prefix("perigee.token."))
}
