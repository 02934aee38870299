//! The uplink as JSON envelopes over WebSocket and mutual TLS, for ways that let no HTTP/2 through.
//!
//! Each conversation dials a connection of its own, with the identity of that moment.

use super::chunks::{Conversation, Idle, OpensChunks, PIECES};
use super::{BlobStream, Session, Tunnel, Uplink, UplinkError};
use crate::frames::{FrameSession, FrameUplink};
use crate::identity::CurrentIdentity;
use crate::tls::{self, ServerUrl};
use async_trait::async_trait;
use bytes::Bytes;
use perigee_agent_api::ws::{self, BlobSaid, Route};
use perigee_agent_api::{ChunkStored, FromAgent, Hello, StreamName, TunnelId};
use perigee_model::Digest;
use perigee_model::limits::{RECONNECT_MAX, RECONNECT_MAX_LOCAL};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error as SocketError;
use tokio_tungstenite::tungstenite::http::{Response, StatusCode};
use tracing::info;

/// Messages on their way between a conversation and its connection.
const QUEUE: usize = 64;
/// Frames of a tunnel or chunks of a blob on their way.
const FRAMES: usize = 8;
const CHUNK_BYTES: usize = 256 << 10;
/// A connection and its upgrade together.
const DIAL_WITHIN: Duration = Duration::from_secs(10);

/// The way to the control plane over WebSocket.
pub struct WsUplink {
    server: ServerUrl,
    identity: Arc<CurrentIdentity>,
    idle: Idle,
}

impl WsUplink {
    /// To this control plane, as this host.
    pub fn new(server: ServerUrl, identity: Arc<CurrentIdentity>) -> Self {
        Self { server, identity, idle: Idle::default() }
    }

    /// Dials for one conversation: what is sent, and what is heard.
    async fn begin<Out, In>(
        &self,
        route: &Route,
        queue: usize,
    ) -> Result<(mpsc::Sender<Out>, mpsc::Receiver<In>), UplinkError>
    where
        Out: Serialize + Send + 'static,
        In: DeserializeOwned + Send + 'static,
    {
        let dialled = tokio::time::timeout(DIAL_WITHIN, self.dial(route)).await;
        let dialled = dialled.unwrap_or_else(|_| Err(UplinkError::Away("nobody answers".to_owned())));
        let socket = dialled.inspect_err(|error| {
            if matches!(error, UplinkError::Certificate(_)) {
                self.identity.refused();
            }
        })?;
        let (tx, outgoing) = mpsc::channel(queue);
        let (tell, rx) = mpsc::channel(queue);
        let path = route.path();
        tokio::spawn(async move {
            if let Err(error) = ws::carry(socket, outgoing, tell).await {
                info!(path, error = crate::chain(&error), "a connection to the control plane broke");
            }
        });
        Ok((tx, rx))
    }

    async fn dial(&self, route: &Route) -> Result<WebSocketStream<TlsStream<TcpStream>>, UplinkError> {
        let config = tls::mutual(&self.identity.get()).map_err(|e| UplinkError::Certificate(e.to_string()))?;
        let stream = tls::connect_http1(&self.server, config).await?;
        let url = format!("ws://perigee{}", route.path());
        let opened = tokio_tungstenite::client_async_with_config(url, stream, Some(ws::limits())).await;
        opened.map(|(socket, _)| socket).map_err(|error| match error {
            SocketError::Http(answer) => of_answer(&answer),
            other => tls::broken(&other),
        })
    }
}

/// What a refused upgrade means to an agent.
fn of_answer(answer: &Response<Option<Vec<u8>>>) -> UplinkError {
    let text = String::from_utf8_lossy(answer.body().as_deref().unwrap_or_default()).into_owned();
    match answer.status() {
        StatusCode::NOT_FOUND => UplinkError::NotFound,
        StatusCode::UNAUTHORIZED => UplinkError::Certificate(text),
        status if status.is_server_error() => UplinkError::Away(text),
        _ => UplinkError::Refused(text),
    }
}

fn broke() -> UplinkError {
    UplinkError::Away("the connection broke before the end".to_owned())
}

#[async_trait]
impl FrameUplink for WsUplink {
    async fn frames(&self, stream: StreamName) -> Result<FrameSession, UplinkError> {
        let (tx, rx) = self.begin(&Route::Frames(stream), QUEUE).await?;
        Ok(FrameSession { tx, rx })
    }

    fn patience(&self) -> Duration {
        Uplink::patience(self)
    }
}

#[async_trait]
impl OpensChunks for WsUplink {
    async fn open_chunks(&self) -> Result<Conversation, UplinkError> {
        let (tx, rx) = self.begin(&Route::Chunks, PIECES).await?;
        Ok(Conversation::new(tx, rx))
    }
}

#[async_trait]
impl Uplink for WsUplink {
    fn patience(&self) -> Duration {
        if self.server.is_this_machine() { RECONNECT_MAX_LOCAL } else { RECONNECT_MAX }
    }

    async fn open(&self, hello: Hello) -> Result<Session, UplinkError> {
        let (tx, rx) = self.begin(&Route::Control, QUEUE).await?;
        tx.send(FromAgent::Hello(hello)).await.map_err(|_| broke())?;
        Ok(Session { tx, rx })
    }

    async fn tunnel(&self, id: TunnelId) -> Result<Tunnel, UplinkError> {
        let (tx, rx) = self.begin(&Route::Tunnel(id), FRAMES).await?;
        Ok(Tunnel { tx, rx })
    }

    async fn fetch_blob(&self, digest: &Digest, offset: u64) -> Result<BlobStream, UplinkError> {
        let route = Route::Fetch(digest.clone(), offset);
        let (silent, mut rx) = self.begin::<BlobSaid, BlobSaid>(&route, FRAMES).await?;
        let mut said = match rx.recv().await {
            Some(BlobSaid::Missing) => return Err(UplinkError::NotFound),
            Some(BlobSaid::Failed(text)) => return Err(UplinkError::Refused(text)),
            said => said,
        };
        let (tell, told) = mpsc::channel(FRAMES);
        tokio::spawn(async move {
            loop {
                let chunk = match said {
                    Some(BlobSaid::Chunk(data)) => Ok(Bytes::from(data)),
                    Some(BlobSaid::Done) => break,
                    Some(BlobSaid::Failed(text)) => Err(UplinkError::Refused(text)),
                    Some(BlobSaid::Stored | BlobSaid::Missing) | None => Err(broke()),
                };
                let last = chunk.is_err();
                if tell.send(chunk).await.is_err() || last {
                    break;
                }
                said = rx.recv().await;
            }
            drop(silent);
        });
        Ok(told)
    }

    async fn push_blob(&self, digest: &Digest, path: &Path) -> Result<(), UplinkError> {
        let mut file = tokio::fs::File::open(path).await?;
        let (tx, mut rx) = self.begin(&Route::Push(digest.clone()), FRAMES).await?;
        let sent = async {
            loop {
                let mut data = vec![0; CHUNK_BYTES];
                let bytes = file.read(&mut data).await?;
                data.truncate(bytes);
                let said = if bytes == 0 { BlobSaid::Done } else { BlobSaid::Chunk(data) };
                // Nobody takes it any more: the answer says why.
                if tx.send(said).await.is_err() || bytes == 0 {
                    return Ok::<(), std::io::Error>(());
                }
            }
        };
        let answered = async {
            match rx.recv().await {
                Some(BlobSaid::Stored) => Ok(()),
                Some(BlobSaid::Failed(text)) => Err(UplinkError::Refused(text)),
                Some(BlobSaid::Chunk(_) | BlobSaid::Done | BlobSaid::Missing) | None => Err(broke()),
            }
        };
        tokio::pin!(answered);
        tokio::select! {
            answer = &mut answered => return answer,
            sent = sent => sent?,
        }
        answered.await
    }

    async fn push_chunk(&self, sealed: bool, digest: &Digest, bytes: Bytes) -> Result<ChunkStored, UplinkError> {
        self.idle.push(self, (sealed, digest), bytes).await
    }

    async fn fetch_chunk(&self, sealed: bool, digest: &Digest) -> Result<Bytes, UplinkError> {
        self.idle.fetch(self, (sealed, digest)).await
    }
}
