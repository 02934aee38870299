//! `Link`: control stream, tunnels, blobs and chunks of one host.

use super::host;
use crate::chunks::{self, Vault};
use crate::conversation::{self, HELLO_TIMEOUT};
use futures::{Stream, StreamExt};
use perigee_agent_api::wire::link::link_server::Link;
use perigee_agent_api::wire::link::{
    BlobChunk, BlobRange, BlobStored, ChunkDown as WireChunkDown, ChunkUp as WireChunkUp, Envelope,
    FramesDown as WireDown, FramesUp as WireUp, TunnelFrame as WireFrame,
};
use perigee_agent_api::wire::{TUNNEL_KEY, envelope, message};
use perigee_agent_api::{ChunkDown, ChunkUp, FramesDown, FramesUp, FromServer, StreamName, TunnelFrame, TunnelId};
use perigee_blobs::BlobDir;
use perigee_control::Control;
use perigee_control::watch::Watching;
use perigee_model::{Digest, HostId};
use std::pin::Pin;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

const BLOB_CHUNK_BYTES: usize = 256 << 10;

pub struct LinkRpc {
    pub control: Control,
    pub watching: Watching,
    pub blobs: BlobDir,
    pub vault: Vault,
    pub cancel: CancellationToken,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Link for LinkRpc {
    type ControlStream = Answers<Envelope>;
    type TunnelStream = Answers<WireFrame>;
    type FetchBlobStream = Answers<BlobChunk>;
    type FramesStream = Answers<WireDown>;
    type ChunksStream = Answers<WireChunkDown>;

    async fn control(&self, request: Request<Streaming<Envelope>>) -> Result<Response<Self::ControlStream>, Status> {
        let host = host(&self.control, &request)?;
        let incoming = understood(request.into_inner(), host, |envelope| message(&envelope));
        let (tx, rx) = mpsc::channel(16);
        tokio::spawn(conversation::control(self.control.clone(), host, incoming, tx, self.cancel.clone()));
        let sent = move |message: FromServer| {
            let envelope = envelope(&message);
            if envelope.is_err() {
                tracing::error!(%host, "a message is too large to be sent");
            }
            std::future::ready(envelope.ok().map(Ok))
        };
        Ok(Response::new(ReceiverStream::new(rx).filter_map(sent).boxed()))
    }

    async fn tunnel(&self, request: Request<Streaming<WireFrame>>) -> Result<Response<Self::TunnelStream>, Status> {
        let host = host(&self.control, &request)?;
        let id = request.metadata().get(TUNNEL_KEY).and_then(|v| v.to_str().ok()).and_then(|t| t.parse().ok());
        let tunnel = id.and_then(|id| self.control.links().opened(host, TunnelId(id)));
        let tunnel = tunnel.ok_or_else(|| Status::not_found("nobody waits for this tunnel"))?;
        let incoming = understood(request.into_inner(), host, TunnelFrame::try_from);
        let (out, outgoing) = mpsc::channel(1);
        tokio::spawn(conversation::tunnel(tunnel, incoming, out));
        let sent = |frame: TunnelFrame| WireFrame::try_from(frame).map_err(|e| Status::internal(e.to_string()));
        Ok(Response::new(ReceiverStream::new(outgoing).map(sent).boxed()))
    }

    async fn frames(&self, request: Request<Streaming<WireUp>>) -> Result<Response<Self::FramesStream>, Status> {
        let host = host(&self.control, &request)?;
        let mut incoming = understood(request.into_inner(), host, FramesUp::try_from);
        let begin = tokio::time::timeout(HELLO_TIMEOUT, incoming.next()).await;
        let Ok(Some(FramesUp::Begin(name @ (StreamName::Node | StreamName::Vm)))) = begin else {
            return Err(Status::invalid_argument("the first message names one of our agent's streams, within 10 s"));
        };
        let feed = self.watching.feed(host, name);
        let (tx, rx) = mpsc::channel(16);
        tokio::spawn(conversation::frames(feed, incoming, tx, self.cancel.clone()));
        let sent = |down: FramesDown| WireDown::try_from(down).map_err(|e| Status::internal(e.to_string()));
        Ok(Response::new(ReceiverStream::new(rx).map(sent).boxed()))
    }

    async fn fetch_blob(&self, request: Request<BlobRange>) -> Result<Response<Self::FetchBlobStream>, Status> {
        let host = host(&self.control, &request)?;
        let range = request.into_inner();
        let digest = Digest::parse(&range.digest).ok_or_else(|| Status::invalid_argument("not a digest"))?;
        let (mut file, bytes) = self.blobs.open(&digest).await.map_err(|error| {
            tracing::warn!(%host, %digest, %error, "a blob that a host wants cannot be read");
            Status::not_found("no such blob")
        })?;
        if range.offset > bytes {
            return Err(Status::out_of_range("the offset is beyond the blob"));
        }
        file.seek(std::io::SeekFrom::Start(range.offset)).await.map_err(|e| Status::internal(e.to_string()))?;
        let chunks = futures::stream::try_unfold(file, async move |mut file| {
            let mut data = vec![0; BLOB_CHUNK_BYTES];
            let read = file.read(&mut data).await.map_err(|e| Status::data_loss(e.to_string()))?;
            data.truncate(read);
            Ok((read > 0).then_some((BlobChunk { digest: String::new(), data }, file)))
        });
        Ok(Response::new(chunks.boxed()))
    }

    async fn push_blob(&self, request: Request<Streaming<BlobChunk>>) -> Result<Response<BlobStored>, Status> {
        host(&self.control, &request)?;
        let mut chunks = request.into_inner();
        let first = chunks.message().await?.ok_or_else(|| Status::invalid_argument("no chunk came"))?;
        let digest = Digest::parse(&first.digest).ok_or_else(|| Status::invalid_argument("not a digest"))?;
        let begin = futures::stream::once(std::future::ready(Ok(bytes::Bytes::from(first.data))));
        let rest = chunks.map(|c| c.map(|c| bytes::Bytes::from(c.data)).map_err(std::io::Error::other));
        let reader = StreamReader::new(begin.chain(rest));
        let stored = self.blobs.put_stream(Some(&digest), reader).await.map_err(|error| {
            tracing::warn!(%digest, %error, "a blob could not be stored");
            Status::aborted(error.to_string())
        })?;
        Ok(Response::new(BlobStored { bytes: stored.bytes }))
    }

    async fn chunks(&self, request: Request<Streaming<WireChunkUp>>) -> Result<Response<Self::ChunksStream>, Status> {
        let host = host(&self.control, &request)?;
        let incoming = understood(request.into_inner(), host, ChunkUp::try_from);
        let (tx, rx) = mpsc::channel(chunks::PIECES);
        let (vault, cancel) = (self.vault.clone(), self.cancel.clone());
        tokio::spawn(chunks::converse(vault, (self.control.clone(), host), incoming, tx, cancel));
        let sent = |down: ChunkDown| WireChunkDown::try_from(down).map_err(|e| Status::internal(e.to_string()));
        Ok(Response::new(ReceiverStream::new(rx).map(sent).boxed()))
    }
}

/// An agent's messages up to the first that is none.
fn understood<W: Send + 'static, T, E: std::fmt::Display>(
    incoming: Streaming<W>,
    host: HostId,
    read: impl Fn(W) -> Result<T, E> + Send,
) -> impl Stream<Item = T> + Send + Unpin {
    tokio_stream::StreamExt::map_while(incoming, move |said| {
        let message = said.map_err(|s| s.to_string()).and_then(|said| read(said).map_err(|e| e.to_string()));
        message.inspect_err(|error| tracing::info!(%host, error, "the link broke")).ok()
    })
}
