//! `Link`: control stream, tunnels and blobs of one host.

use super::{host, status};
use futures::{Stream, StreamExt};
use perigee_agent_api::wire::link::link_server::Link;
use perigee_agent_api::wire::link::{
    BlobChunk, BlobRange, BlobStored, Envelope, FramesDown as WireDown, FramesUp as WireUp, TunnelFrame as WireFrame,
};
use perigee_agent_api::wire::{TUNNEL_KEY, envelope, message};
use perigee_agent_api::{FramesUp, FromAgent, FromServer, StreamName, TunnelFrame, TunnelId};
use perigee_blobs::BlobDir;
use perigee_control::watch::{Feed, Taken, Watching};
use perigee_control::{Control, LinkEnd, Tunnel};
use perigee_model::guest::Problem;
use perigee_model::{Code, Digest, HostId, Refusal, RunId};
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// A hello must come within this time.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
const BLOB_CHUNK_BYTES: usize = 256 << 10;

pub struct LinkRpc {
    control: Control,
    watching: Watching,
    blobs: BlobDir,
    cancel: CancellationToken,
}

impl LinkRpc {
    pub fn new(control: Control, watching: Watching, blobs: BlobDir, cancel: CancellationToken) -> Self {
        Self { control, watching, blobs, cancel }
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Link for LinkRpc {
    type ControlStream = Answers<Envelope>;
    type TunnelStream = Answers<WireFrame>;
    type FetchBlobStream = Answers<BlobChunk>;
    type FramesStream = Answers<WireDown>;

    async fn control(&self, request: Request<Streaming<Envelope>>) -> Result<Response<Self::ControlStream>, Status> {
        let host = host(&self.control, &request)?;
        let mut incoming = request.into_inner();
        let (tx, rx) = mpsc::channel(16);
        let (control, cancel) = (self.control.clone(), self.cancel.clone());
        tokio::spawn(async move {
            let hello = match tokio::time::timeout(HELLO_TIMEOUT, next(&mut incoming)).await {
                Ok(Ok(Some(FromAgent::Hello(hello)))) => hello,
                Ok(_) | Err(_) => {
                    let refusal = Refusal::new(Code::BadRequest, "the first message is a hello, within 10 s");
                    return drop(tx.send(Err(status(&refusal))).await);
                }
            };
            match control.host_hello(host, hello).await {
                Ok(end) => serve(&control, host, incoming, end, tx, cancel).await,
                Err(refusal) => refuse(&tx, &refusal).await,
            }
        });
        Ok(Response::new(ReceiverStream::new(rx).boxed()))
    }

    async fn tunnel(&self, request: Request<Streaming<WireFrame>>) -> Result<Response<Self::TunnelStream>, Status> {
        let host = host(&self.control, &request)?;
        let id = request.metadata().get(TUNNEL_KEY).and_then(|v| v.to_str().ok()).and_then(|t| t.parse().ok());
        let tunnel = id.and_then(|id| self.control.links().opened(host, TunnelId(id)));
        let Some(Tunnel { tx, mut rx }) = tunnel else {
            return Err(Status::not_found("nobody waits for this tunnel"));
        };
        let mut incoming = request.into_inner();
        let reader = tokio::spawn(async move {
            while let Some(Ok(frame)) = incoming.next().await {
                let Ok(frame) = TunnelFrame::try_from(frame) else { return };
                if tx.send(frame).await.is_err() {
                    return;
                }
            }
        });
        let (out, outgoing) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    frame = rx.recv() => {
                        // Nobody on our side any more: nothing that still comes is wanted.
                        let Some(frame) = frame else { return reader.abort() };
                        let frame = WireFrame::try_from(frame).map_err(|e| Status::internal(e.to_string()));
                        if out.send(frame).await.is_err() { return }
                    }
                    // The agent wants no more frames; its own last ones may still be on their way.
                    () = out.closed() => return,
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(outgoing).boxed()))
    }

    async fn frames(&self, request: Request<Streaming<WireUp>>) -> Result<Response<Self::FramesStream>, Status> {
        let host = host(&self.control, &request)?;
        let mut incoming = request.into_inner();
        let begin = tokio::time::timeout(HELLO_TIMEOUT, incoming.message()).await;
        let begin = begin.ok().and_then(Result::ok).flatten().and_then(|said| FramesUp::try_from(said).ok());
        let Some(FramesUp::Begin(name @ (StreamName::Node | StreamName::Vm))) = begin else {
            return Err(Status::invalid_argument("the first message names one of our agent's streams, within 10 s"));
        };
        let feed = self.watching.feed(host, name);
        let (tx, rx) = mpsc::channel(16);
        let cancel = self.cancel.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = carry_frames(feed, incoming, tx) => {}
                () = cancel.cancelled() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(rx).boxed()))
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
}

/// Takes a stream's frames and tells how far they are durable, until either end goes.
async fn carry_frames(mut feed: Feed, mut incoming: Streaming<WireUp>, tx: mpsc::Sender<Result<WireDown, Status>>) {
    let mut again: Option<(RunId, Vec<u8>)> = None;
    let mut not_before = tokio::time::Instant::now();
    loop {
        let frame = async {
            tokio::time::sleep_until(not_before).await;
            match again.take() {
                Some(frame) => Some(frame),
                None => match FramesUp::try_from(incoming.message().await.ok()??).ok()? {
                    FramesUp::Frame { run, frame } => Some((run, frame)),
                    FramesUp::Begin(_) => None,
                },
            }
        };
        tokio::select! {
            down = feed.next() => {
                let down = WireDown::try_from(down).map_err(|e| Status::internal(e.to_string()));
                if tx.send(down).await.is_err() {
                    return;
                }
            }
            frame = frame => {
                let Some((run, frame)) = frame else { return };
                let wait = match feed.take(run, &frame) {
                    Taken::Wait(wait) => wait,
                    Taken::Again(wait) => {
                        again = Some((run, frame));
                        wait
                    }
                };
                not_before = tokio::time::Instant::now() + wait;
            }
            () = tx.closed() => return,
        }
    }
}

/// Carries both directions of a control stream until either end, or a newer link, ends it.
async fn serve(
    control: &Control,
    host: HostId,
    mut incoming: Streaming<Envelope>,
    mut end: LinkEnd,
    tx: mpsc::Sender<Result<Envelope, Status>>,
    cancel: CancellationToken,
) {
    let ended = end.ended.clone();
    let outgoing = async {
        while let Some(message) = end.outgoing.recv().await {
            let Ok(envelope) = envelope(&message) else {
                tracing::error!(%host, "a message is too large to be sent");
                continue;
            };
            if tx.send(Ok(envelope)).await.is_err() {
                return;
            }
        }
    };
    let reports = async {
        loop {
            let message = match next(&mut incoming).await {
                Ok(Some(message)) => message,
                Ok(None) => return,
                Err(error) => return tracing::info!(%host, %error, "the link broke"),
            };
            if let Err(refusal) = control.host_message(host, message).await {
                // The agent repeats what matters on its next link.
                tracing::warn!(%host, %refusal, "a report could not be taken; the link starts again");
                return;
            }
        }
    };
    tokio::select! {
        () = outgoing => {}
        () = reports => {}
        () = ended.cancelled() => {
            refuse(&tx, &Refusal::new(Code::WriteConflict, "a newer link of this host took over, or it was revoked")).await;
        }
        () = cancel.cancelled() => {
            refuse(&tx, &Refusal::new(Code::ShuttingDown, "the control plane is shutting down")).await;
        }
    }
    control.links().disconnect(host, &ended);
    tracing::info!(%host, "host disconnected");
}

async fn refuse(tx: &mpsc::Sender<Result<Envelope, Status>>, refusal: &Refusal) {
    let final_word =
        matches!(refusal.code, Code::HostRevoked | Code::VersionRefused | Code::BadCertificate | Code::NoSuchHost);
    let message = FromServer::Refused {
        problem: Problem::new(refusal.code, refusal.shown.clone()),
        retry_after_ms: (!final_word).then_some(500),
    };
    if let Ok(envelope) = envelope(&message) {
        drop(tx.send(Ok(envelope)).await);
    }
}

async fn next(incoming: &mut Streaming<Envelope>) -> Result<Option<FromAgent>, Status> {
    let Some(envelope) = incoming.message().await? else { return Ok(None) };
    message(&envelope).map(Some).map_err(|e| Status::invalid_argument(e.to_string()))
}
