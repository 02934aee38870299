//! The link as JSON envelopes over WebSocket, for ways that let no HTTP/2 through.
//!
//! Owns: routes, the envelope, and [`carry`], which both ends run: two queues over one socket.
//! Refuses: meaning; the messages are those of the link. Each stream has a socket of its own.
//!
//! ```text
//! {"message":{"heartbeat":{…}}}   a message        "end"   this side has said everything
//! both ends said ──close──▶ done        silence of 25 s ──▶ broken
//! ```

use crate::TunnelId;
use futures::{Sink, SinkExt as _, Stream, StreamExt as _};
use perigee_model::Digest;
use perigee_model::frame::StreamName;
use perigee_model::limits::LINK_MESSAGE_BYTES_MAX;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::pin::pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

/// Each end pings this often while it has not said everything.
const PING_EVERY: Duration = Duration::from_secs(10);
/// An end that hears nothing for this long gives the other one up.
const SILENCE_MAX: Duration = Duration::from_secs(25);
/// An end that has said everything and has nobody who listens waits this long for the other one, so
/// that what it said arrives.
const LINGER: Duration = Duration::from_secs(30);
const ROOT: &str = "/link/v1";
/// Bytes around a message.
const ENVELOPE_SLACK: usize = 64 << 10;

/// What a socket is for: its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `FromAgent`, `FromServer`.
    Control,
    /// `FramesUp` without its `Begin`, `FramesDown`.
    Frames(StreamName),
    /// `TunnelFrame` both ways.
    Tunnel(TunnelId),
    /// `BlobSaid` from the server, from this offset on.
    Fetch(Digest, u64),
    /// `BlobSaid` both ways.
    Push(Digest),
    /// `ChunkUp`, `ChunkDown`.
    Chunks,
}

impl Route {
    /// As it is asked for.
    pub fn path(&self) -> String {
        match self {
            Self::Control => format!("{ROOT}/control"),
            Self::Frames(name) => format!("{ROOT}/frames/{}", name.text()),
            Self::Tunnel(id) => format!("{ROOT}/tunnel/{}", id.0),
            Self::Fetch(digest, offset) => format!("{ROOT}/fetch/{digest}/{offset}"),
            Self::Push(digest) => format!("{ROOT}/push/{digest}"),
            Self::Chunks => format!("{ROOT}/chunks"),
        }
    }

    /// Reads a path.
    pub fn parse(path: &str) -> Option<Self> {
        let rest = path.strip_prefix(ROOT)?.strip_prefix('/')?;
        let parts: Vec<&str> = rest.split('/').collect();
        Some(match parts[..] {
            ["control"] => Self::Control,
            ["frames", name] => Self::Frames(StreamName::parse(name)?),
            ["tunnel", id] => Self::Tunnel(TunnelId(id.parse().ok()?)),
            ["fetch", digest, offset] => Self::Fetch(Digest::parse(digest)?, offset.parse().ok()?),
            ["push", digest] => Self::Push(Digest::parse(digest)?),
            ["chunks"] => Self::Chunks,
            _ => return None,
        })
    }
}

/// What is said of a blob.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlobSaid {
    /// The next bytes, in base64.
    Chunk(#[serde(with = "crate::base64_bytes")] Vec<u8>),
    /// That were all bytes.
    Done,
    /// All bytes were verified and kept.
    Stored,
    /// There is no such blob.
    Missing,
    /// It cannot be done.
    Failed(String),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Envelope<T> {
    Message(T),
    End,
}

/// Why a socket ended before both ends had said everything.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The connection failed.
    #[error("the connection broke")]
    Socket(#[from] SocketError),
    /// Something that is no envelope, or holds no message that is known here.
    #[error("a message is not understood")]
    Json(#[from] serde_json::Error),
    /// A message of another form than text.
    #[error("a message is no text")]
    NoText,
    /// Larger than allowed.
    #[error("a message of {0} bytes is too large")]
    TooLarge(usize),
    /// Nothing was heard for too long.
    #[error("the other end is silent")]
    Silent,
}

/// Limits of a socket.
pub fn limits() -> WebSocketConfig {
    let most = Some(LINK_MESSAGE_BYTES_MAX + ENVELOPE_SLACK);
    WebSocketConfig::default().max_message_size(most).max_frame_size(most)
}

/// Carries what `rx` gives to the other end, and what that one says into `tx`, until both have said
/// everything. When nobody listens to `tx` any more, what still comes is dropped.
///
/// # Errors
/// When the socket breaks first; then both queues end too.
pub async fn carry<S, Out, In>(
    socket: WebSocketStream<S>,
    rx: mpsc::Receiver<Out>,
    tx: mpsc::Sender<In>,
) -> Result<(), Broken>
where
    S: AsyncRead + AsyncWrite + Unpin,
    Out: Serialize,
    In: DeserializeOwned,
{
    let (sink, stream) = socket.split();
    let (tell_end, end) = oneshot::channel();
    let (tell_left, left) = oneshot::channel();
    let mut speak = pin!(speak(sink, rx, end, left));
    let mut hear = pin!(hear(stream, tx, tell_end, tell_left));
    tokio::select! {
        heard = &mut hear => heard,
        said = &mut speak => {
            said?;
            // All is said; how the connection goes does not matter any more.
            drop(tokio::time::timeout(LINGER, hear).await);
            Ok(())
        }
    }
}

/// Says everything, then waits until the other end has done so too, and closes.
async fn speak<Out: Serialize>(
    mut sink: impl Sink<Message, Error = SocketError> + Unpin,
    mut rx: mpsc::Receiver<Out>,
    end: oneshot::Receiver<()>,
    left: oneshot::Receiver<()>,
) -> Result<(), Broken> {
    let mut beat = tokio::time::interval(PING_EVERY);
    loop {
        let message = tokio::select! {
            message = rx.recv() => match message {
                Some(message) => text(&Envelope::Message(message))?,
                None => break,
            },
            _ = beat.tick() => Message::Ping(Vec::new().into()),
        };
        sink.send(message).await?;
    }
    sink.send(text(&Envelope::<Out>::End)?).await?;
    let nobody = async {
        if left.await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(LINGER).await;
    };
    tokio::select! {
        // Gone with `hear`: that one says why.
        ended = end => if ended.is_err() { std::future::pending::<()>().await },
        () = nobody => {}
    }
    // The other end may have closed it already.
    drop(sink.close().await);
    Ok(())
}

/// Hears everything until the socket is closed.
async fn hear<In: DeserializeOwned>(
    mut stream: impl Stream<Item = Result<Message, SocketError>> + Unpin,
    tx: mpsc::Sender<In>,
    tell_end: oneshot::Sender<()>,
    tell_left: oneshot::Sender<()>,
) -> Result<(), Broken> {
    let (mut tx, mut tell_end, mut tell_left) = (Some(tx), Some(tell_end), Some(tell_left));
    loop {
        let item = tokio::select! {
            biased;
            () = closed(tx.as_ref()) => {
                tx = None;
                tell_left.take().map(|tell| tell.send(()));
                continue;
            }
            item = tokio::time::timeout(SILENCE_MAX, stream.next()) => item.map_err(|_| Broken::Silent)?,
        };
        let said = match item {
            // The other end had said everything.
            Some(Err(_)) if tell_end.is_none() => return Ok(()),
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(Message::Text(text))) => serde_json::from_str::<Envelope<In>>(&text)?,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
            Some(Ok(Message::Close(_))) | None => return Ok(()),
            Some(Ok(Message::Binary(_) | Message::Frame(_))) => return Err(Broken::NoText),
        };
        match (said, &tx) {
            // Should nobody take it, the next round sees that.
            (Envelope::Message(message), Some(tx)) => _ = tx.send(message).await,
            (Envelope::Message(_), None) => {}
            (Envelope::End, _) => {
                tx = None;
                tell_end.take().map(|tell| tell.send(()));
            }
        }
    }
}

async fn closed<T>(tx: Option<&mpsc::Sender<T>>) {
    match tx {
        Some(tx) => tx.closed().await,
        None => std::future::pending().await,
    }
}

fn text<T: Serialize>(envelope: &Envelope<T>) -> Result<Message, Broken> {
    let text = serde_json::to_string(envelope)?;
    if text.len() > LINK_MESSAGE_BYTES_MAX {
        return Err(Broken::TooLarge(text.len()));
    }
    Ok(Message::Text(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FramesDown, FramesUp, Mark, TunnelFrame};
    use perigee_model::RunId;
    use tokio::io::DuplexStream;
    use tokio_tungstenite::tungstenite::protocol::Role;

    type Socket = WebSocketStream<DuplexStream>;

    async fn sockets() -> (Socket, Socket) {
        let (left, right) = tokio::io::duplex(1 << 16);
        let left = WebSocketStream::from_raw_socket(left, Role::Client, Some(limits())).await;
        (left, WebSocketStream::from_raw_socket(right, Role::Server, Some(limits())).await)
    }

    struct End {
        tx: mpsc::Sender<TunnelFrame>,
        rx: mpsc::Receiver<TunnelFrame>,
        done: tokio::task::JoinHandle<Result<(), Broken>>,
    }

    fn end(socket: Socket) -> End {
        let (tx, from) = mpsc::channel::<TunnelFrame>(2);
        let (to, rx) = mpsc::channel(2);
        End { tx, rx, done: tokio::spawn(carry(socket, from, to)) }
    }

    #[tokio::test(start_paused = true)]
    async fn each_side_ends_when_it_has_said_everything() {
        let (left, right) = sockets().await;
        let (mut left, mut right) = (end(left), end(right));
        left.tx.send(TunnelFrame::Stdout(vec![0, 255])).await.unwrap();
        drop(left.tx);
        assert_eq!(right.rx.recv().await, Some(TunnelFrame::Stdout(vec![0, 255])));
        assert_eq!(right.rx.recv().await, None);
        // Half of it lives on, however long.
        tokio::time::sleep(Duration::from_secs(600)).await;
        right.tx.send(TunnelFrame::Signal(15)).await.unwrap();
        drop(right.tx);
        assert_eq!(left.rx.recv().await, Some(TunnelFrame::Signal(15)));
        assert_eq!(left.rx.recv().await, None);
        left.done.await.unwrap().unwrap();
        right.done.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_said_last_arrives_though_nobody_listens_any_more() {
        let (left, right) = sockets().await;
        let (left, mut right) = (end(left), end(right));
        // The other end is in the middle of saying something.
        let (tx, busy) = (right.tx, right.done);
        tokio::spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_secs(1));
            while tx.send(TunnelFrame::Data(vec![7; 100])).await.is_ok() {
                pace.tick().await;
            }
        });
        left.tx.send(TunnelFrame::End).await.unwrap();
        drop((left.tx, left.rx));
        assert_eq!(right.rx.recv().await, Some(TunnelFrame::End));
        assert_eq!(right.rx.recv().await, None);
        left.done.await.unwrap().unwrap();
        // It is told by the close that nobody listens.
        drop(busy.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn two_full_queues_do_not_lock_up() {
        let (left, right) = sockets().await;
        let (mut left, mut right) = (end(left), end(right));
        let push = |tx: mpsc::Sender<TunnelFrame>| {
            tokio::spawn(async move {
                for _ in 0..50 {
                    tx.send(TunnelFrame::Data(vec![1; 60_000])).await.unwrap();
                }
            })
        };
        let (one, two) = (push(left.tx), push(right.tx));
        let mut heard = (0, 0);
        while left.rx.recv().await.is_some() {
            heard.0 += 1;
        }
        while right.rx.recv().await.is_some() {
            heard.1 += 1;
        }
        assert_eq!(heard, (50, 50));
        one.await.unwrap();
        two.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_or_rude_other_end_is_given_up() {
        let (left, silent) = sockets().await;
        let mut left = end(left);
        assert_eq!(left.rx.recv().await, None);
        assert!(matches!(left.done.await.unwrap(), Err(Broken::Silent)));
        drop(silent);
        for rude in [
            Message::text("{}"),
            Message::text(r#"{"message":{"explode":1}}"#),
            Message::text(format!(r#"{{"message":{{"data":"{}"}}}}"#, "A".repeat(100_000))),
            Message::binary(vec![1]),
        ] {
            let (left, mut right) = sockets().await;
            let mut left = end(left);
            right.send(rude).await.unwrap();
            assert_eq!(left.rx.recv().await, None);
            assert!(left.done.await.unwrap().is_err());
        }
    }

    #[test]
    fn routes_are_paths() {
        let id = uuid::Uuid::from_u128(7);
        let digest = Digest::parse(&"a".repeat(64)).unwrap();
        for route in [
            Route::Control,
            Route::Frames(StreamName::Vm),
            Route::Tunnel(TunnelId(id)),
            Route::Fetch(digest.clone(), 12),
            Route::Push(digest),
            Route::Chunks,
        ] {
            assert_eq!(Route::parse(&route.path()), Some(route));
        }
        for bad in
            ["/", "/link/v1/", "/link/v2/control", "/link/v1/frames/x", "/link/v1/fetch/x/0", "/link/v1/control/"]
        {
            assert_eq!(Route::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn messages_survive_json() {
        let run = RunId::new(uuid::Uuid::from_u128(7));
        let up = FramesUp::Frame { run, frame: vec![1, 0, 255] };
        let text = serde_json::to_string(&up).unwrap();
        assert_eq!(text, r#"{"frame":{"run":"00000000-0000-0000-0000-000000000007","frame":"AQD/"}}"#);
        assert_eq!(serde_json::from_str::<FramesUp>(&text).unwrap(), up);
        let down = FramesDown {
            durable: Some(Mark { run, sequence: 3 }),
            window: 9,
            interval: Some(Duration::from_millis(1500)),
            want_key: true,
            refused: None,
        };
        let text = serde_json::to_string(&down).unwrap();
        assert_eq!(serde_json::from_str::<FramesDown>(&text).unwrap(), down);
    }
}
