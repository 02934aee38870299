//! The uplink over gRPC and mutual TLS.
//!
//! One HTTP/2 connection carries the control link, its tunnels and blobs. Each `open` dials anew,
//! with the identity of that moment.

use super::chunks::{Conversation, Idle, OpensChunks, PIECES};
use super::{BlobStream, Session, Tunnel, Uplink, UplinkError};
use crate::frames::{FrameSession, FrameUplink};
use crate::identity::CurrentIdentity;
use crate::tls::{self, ServerUrl};
use async_trait::async_trait;
use bytes::Bytes;
use perigee_agent_api::wire::link::link_client::LinkClient;
use perigee_agent_api::wire::link::{
    BlobChunk, BlobRange, ChunkDown as WireChunkDown, ChunkUp as WireChunkUp, Envelope, FramesDown as WireDown,
    FramesUp as WireUp, TunnelFrame as WireFrame,
};
use perigee_agent_api::wire::{TUNNEL_KEY, envelope, message};
use perigee_agent_api::{
    ChunkDown, ChunkStored, ChunkUp, FramesDown, FramesUp, FromAgent, FromServer, Hello, StreamName, TunnelFrame,
    TunnelId,
};
use perigee_model::Digest;
use perigee_model::limits::{LINK_MESSAGE_BYTES_MAX, RECONNECT_MAX, RECONNECT_MAX_LOCAL};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tracing::warn;

/// Messages on their way between the link and its connection.
const QUEUE: usize = 64;
/// Frames of a tunnel on their way.
const FRAMES: usize = 8;
/// Bytes around a message.
const ENVELOPE_SLACK: usize = 64 << 10;
const CHUNK_BYTES: usize = 256 << 10;
/// A tunnel whose end was said is held open this long for it to arrive.
const LINGER: Duration = Duration::from_secs(30);

/// The real way to the control plane.
pub struct GrpcUplink {
    server: ServerUrl,
    identity: Arc<CurrentIdentity>,
    channel: Mutex<Option<Channel>>,
    idle: Idle,
}

impl GrpcUplink {
    /// To this control plane, as this host.
    pub fn new(server: ServerUrl, identity: Arc<CurrentIdentity>) -> Self {
        Self { server, identity, channel: Mutex::new(None), idle: Idle::default() }
    }

    fn client(&self) -> Result<LinkClient<Channel>, UplinkError> {
        let channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner).clone();
        channel.map(client_of).ok_or_else(|| UplinkError::Away("there is no link".to_owned()))
    }

    fn failed(&self, error: UplinkError) -> UplinkError {
        if matches!(error, UplinkError::Certificate(_)) {
            self.identity.refused();
        }
        error
    }

    async fn dial(&self, hello: Hello) -> Result<Session, UplinkError> {
        let config = tls::mutual(&self.identity.get()).map_err(|e| UplinkError::Certificate(e.to_string()))?;
        let channel = tls::connect(&self.server, config).await?;
        let first = envelope(&FromAgent::Hello(hello)).map_err(|e| UplinkError::Refused(e.to_string()))?;
        let (tx, rx) = mpsc::channel::<FromAgent>(QUEUE);
        let later = ReceiverStream::new(rx)
            .filter_map(|message| envelope(&message).inspect_err(|error| warn!(%error, "a message was not sent")).ok());
        let outgoing = tokio_stream::once(first).chain(later);
        let answer = client_of(channel.clone()).control(outgoing).await.map_err(|s| of_status(&s))?;
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = Some(channel);
        // They would keep the older connection.
        self.idle.clear();
        let (tell, rx) = mpsc::channel(QUEUE);
        let mut incoming = answer.into_inner();
        tokio::spawn(async move {
            let understand = |envelope: Envelope| {
                let read = message::<FromServer>(&envelope);
                read.inspect_err(|error| warn!(%error, "a message was not understood")).ok()
            };
            pump(&mut incoming, tell, understand).await;
        });
        Ok(Session { tx, rx })
    }
}

#[async_trait]
impl FrameUplink for GrpcUplink {
    async fn frames(&self, stream: StreamName) -> Result<FrameSession, UplinkError> {
        let mut client = self.client()?;
        let (tx, rx) = mpsc::channel::<FramesUp>(QUEUE);
        let begin = tokio_stream::once(WireUp::from(FramesUp::Begin(stream)));
        let outgoing = begin.chain(ReceiverStream::new(rx).map(WireUp::from));
        let answer = client.frames(outgoing).await.map_err(|s| self.failed(of_status(&s)))?;
        let (tell, rx) = mpsc::channel(QUEUE);
        let mut incoming = answer.into_inner();
        tokio::spawn(async move {
            pump(&mut incoming, tell, |down: WireDown| FramesDown::try_from(down).ok()).await;
        });
        Ok(FrameSession { tx, rx })
    }

    fn patience(&self) -> Duration {
        Uplink::patience(self)
    }
}

#[async_trait]
impl OpensChunks for GrpcUplink {
    async fn open_chunks(&self) -> Result<Conversation, UplinkError> {
        let mut client = self.client()?;
        let (tx, rx) = mpsc::channel::<ChunkUp>(PIECES);
        let outgoing = ReceiverStream::new(rx).map(WireChunkUp::from);
        let answer = client.chunks(outgoing).await.map_err(|s| self.failed(of_status(&s)))?;
        let (tell, rx) = mpsc::channel(PIECES);
        let mut incoming = answer.into_inner();
        tokio::spawn(async move {
            pump(&mut incoming, tell, |down: WireChunkDown| ChunkDown::try_from(down).ok()).await;
        });
        Ok(Conversation::new(tx, rx))
    }
}

fn client_of(channel: Channel) -> LinkClient<Channel> {
    LinkClient::new(channel)
        .max_decoding_message_size(LINK_MESSAGE_BYTES_MAX + ENVELOPE_SLACK)
        .max_encoding_message_size(LINK_MESSAGE_BYTES_MAX + ENVELOPE_SLACK)
}

/// What a gRPC status means to an agent.
pub(crate) fn of_status(status: &Status) -> UplinkError {
    let text = status.message().to_owned();
    match status.code() {
        Code::NotFound => UplinkError::NotFound,
        Code::Unauthenticated => UplinkError::Certificate(text),
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded | Code::Internal => {
            tls::broken(status)
        }
        Code::Ok
        | Code::InvalidArgument
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss => UplinkError::Refused(text),
    }
}

/// Carries a stream into a queue until either ends. What cannot be read is left out.
async fn pump<W, T>(from: &mut Streaming<W>, to: mpsc::Sender<T>, read: impl Fn(W) -> Option<T>) {
    loop {
        let item = tokio::select! {
            biased;
            item = from.message() => item,
            () = to.closed() => return,
        };
        let Ok(Some(item)) = item else { return };
        let Some(item) = read(item) else { continue };
        if to.send(item).await.is_err() {
            return;
        }
    }
}

/// Carries a tunnel's answers. Dropping them resets the whole stream, with what we still have to
/// say on it, so they are held until the other end is done too.
async fn pump_tunnel(mut from: Streaming<WireFrame>, to: mpsc::Sender<TunnelFrame>) {
    pump(&mut from, to, |frame: WireFrame| TunnelFrame::try_from(frame).ok()).await;
    let rest = async { while let Ok(Some(_)) = from.message().await {} };
    let _ = tokio::time::timeout(LINGER, rest).await;
}

#[async_trait]
impl Uplink for GrpcUplink {
    fn patience(&self) -> Duration {
        if self.server.is_this_machine() { RECONNECT_MAX_LOCAL } else { RECONNECT_MAX }
    }

    async fn open(&self, hello: Hello) -> Result<Session, UplinkError> {
        self.dial(hello).await.map_err(|e| self.failed(e))
    }

    async fn tunnel(&self, id: TunnelId) -> Result<Tunnel, UplinkError> {
        let mut client = self.client()?;
        let (tx, rx) = mpsc::channel::<TunnelFrame>(FRAMES);
        let outgoing = ReceiverStream::new(rx).filter_map(|frame| WireFrame::try_from(frame).ok());
        let mut request = Request::new(outgoing);
        let name = id.0.to_string().parse().map_err(|_| UplinkError::NotFound)?;
        request.metadata_mut().insert(TUNNEL_KEY, name);
        let answer = client.tunnel(request).await.map_err(|s| of_status(&s))?;
        let (tell, rx) = mpsc::channel(FRAMES);
        tokio::spawn(pump_tunnel(answer.into_inner(), tell));
        Ok(Tunnel { tx, rx })
    }

    async fn fetch_blob(&self, digest: &Digest, offset: u64) -> Result<BlobStream, UplinkError> {
        let mut client = self.client()?;
        let range = BlobRange { digest: digest.to_string(), offset };
        let mut chunks = client.fetch_blob(range).await.map_err(|s| of_status(&s))?.into_inner();
        let (tell, told) = mpsc::channel(FRAMES);
        tokio::spawn(async move {
            loop {
                let chunk = match chunks.message().await {
                    Ok(Some(chunk)) => Ok(Bytes::from(chunk.data)),
                    Ok(None) => return,
                    Err(status) => Err(of_status(&status)),
                };
                let last = chunk.is_err();
                if tell.send(chunk).await.is_err() || last {
                    return;
                }
            }
        });
        Ok(told)
    }

    async fn push_blob(&self, digest: &Digest, path: &Path) -> Result<(), UplinkError> {
        let mut client = self.client()?;
        let mut file = tokio::fs::File::open(path).await?;
        let (tx, rx) = mpsc::channel::<BlobChunk>(FRAMES);
        let first = BlobChunk { digest: digest.to_string(), data: Vec::new() };
        let read = tokio::spawn(async move {
            let _ = tx.send(first).await;
            loop {
                let mut data = vec![0; CHUNK_BYTES];
                let bytes = file.read(&mut data).await?;
                data.truncate(bytes);
                // Nobody takes it any more: the answer says why.
                if bytes == 0 || tx.send(BlobChunk { digest: String::new(), data }).await.is_err() {
                    return Ok::<(), std::io::Error>(());
                }
            }
        });
        let answer = client.push_blob(ReceiverStream::new(rx)).await;
        read.await.map_err(std::io::Error::other)??;
        answer.map_err(|s| of_status(&s))?;
        Ok(())
    }

    async fn push_chunk(&self, sealed: bool, digest: &Digest, bytes: Bytes) -> Result<ChunkStored, UplinkError> {
        self.idle.push(self, (sealed, digest), bytes).await
    }

    async fn fetch_chunk(&self, sealed: bool, digest: &Digest) -> Result<Bytes, UplinkError> {
        self.idle.fetch(self, (sealed, digest)).await
    }
}
