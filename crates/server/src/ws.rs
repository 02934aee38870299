//! The agent link over WebSocket: the same conversations as over gRPC, as JSON envelopes, each on a
//! connection of its own with the same certificates.

use crate::authority::host_of;
use crate::chunks::{self, Vault};
use crate::conversation::{self, HELLO_TIMEOUT};
use crate::rest::refuse::status;
use perigee_agent_api::StreamName;
use perigee_agent_api::ws::{self, BlobSaid, Broken, Route};
use perigee_blobs::BlobDir;
use perigee_control::watch::Watching;
use perigee_control::{Control, Tunnel};
use perigee_model::{Code, Digest, HostId, Refusal};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::SeekFrom;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::server::TlsStream;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_util::io::StreamReader;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Messages on their way between a conversation and its socket.
const QUEUE: usize = 16;
const CHUNK_BYTES: usize = 256 << 10;

/// What conversations need.
#[derive(Clone)]
pub struct Parts {
    /// The brain.
    pub control: Control,
    /// Everything measured.
    pub watching: Watching,
    /// Images' bytes.
    pub blobs: BlobDir,
    /// Backups' chunks.
    pub vault: Vault,
    /// The end.
    pub cancel: CancellationToken,
}

type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// What an admitted socket is for.
enum Plan {
    Control,
    Frames(StreamName),
    Tunnel(Tunnel),
    Fetch(Digest, u64),
    Push(Digest),
    Chunks,
}

/// Serves connections until cancelled; what was begun is carried to its end.
pub async fn serve(mut sockets: mpsc::Receiver<TlsStream<TcpStream>>, parts: Parts) {
    let tasks = TaskTracker::new();
    loop {
        let stream = tokio::select! {
            () = parts.cancel.cancelled() => break,
            stream = sockets.recv() => match stream {
                Some(stream) => stream,
                None => break,
            },
        };
        tasks.spawn(one(stream, parts.clone()));
    }
    tasks.close();
    tasks.wait().await;
}

async fn one(stream: TlsStream<TcpStream>, parts: Parts) {
    let named = stream.get_ref().1.peer_certificates().and_then(|chain| host_of(chain.first()?));
    let mut admitted = None;
    #[expect(clippy::result_large_err, reason = "the form that the library wants")]
    let judge = |request: &Request, response: Response| match admit(&parts.control, named, request.uri().path()) {
        Ok(plan) => {
            admitted = Some(plan);
            Ok(response)
        }
        Err(refusal) => Err(refused(&refusal)),
    };
    let opened = tokio_tungstenite::accept_hdr_async_with_config(stream, judge, Some(ws::limits()));
    let socket = match tokio::time::timeout(HELLO_TIMEOUT, opened).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => return tracing::info!(%error, "an agent's socket was not opened"),
        Err(_) => return tracing::info!("an agent's socket was not opened in time"),
    };
    let (Some(plan), Some(host)) = (admitted, named) else { return };
    if let Err(error) = converse(socket, plan, host, parts).await {
        tracing::info!(%host, %error, "the link broke");
    }
}

/// What a host with this certificate may do at this path.
fn admit(control: &Control, named: Option<HostId>, path: &str) -> Result<Plan, Refusal> {
    let no_certificate = || Refusal::new(Code::BadCertificate, "show the certificate of a joined host");
    let host = named.ok_or_else(no_certificate)?;
    control.admit_host(host)?;
    let unknown = || Refusal::new(Code::NoSuchRoute, "there is no such route on the agent link");
    Ok(match Route::parse(path).ok_or_else(unknown)? {
        Route::Control => Plan::Control,
        Route::Frames(name @ (StreamName::Node | StreamName::Vm)) => Plan::Frames(name),
        Route::Frames(StreamName::Ingest) => return Err(unknown()),
        Route::Tunnel(id) => {
            let tunnel = control.links().opened(host, id);
            Plan::Tunnel(tunnel.ok_or_else(|| Refusal::new(Code::NoSuchRoute, "nobody waits for this tunnel"))?)
        }
        Route::Fetch(digest, offset) => Plan::Fetch(digest, offset),
        Route::Push(digest) => Plan::Push(digest),
        Route::Chunks => Plan::Chunks,
    })
}

fn refused(refusal: &Refusal) -> ErrorResponse {
    let mut response = ErrorResponse::new(Some(format!("{} {}", refusal.code, refusal.shown)));
    *response.status_mut() = status(refusal.code);
    response
}

async fn converse(socket: Socket, plan: Plan, host: HostId, parts: Parts) -> Result<(), Broken> {
    let Parts { control, watching, blobs, vault, cancel } = parts;
    match plan {
        Plan::Control => {
            carry(socket, |rx, tx| conversation::control(control, host, ReceiverStream::new(rx), tx, cancel)).await
        }
        Plan::Frames(name) => {
            let feed = watching.feed(host, name);
            carry(socket, |rx, tx| conversation::frames(feed, ReceiverStream::new(rx), tx, cancel)).await
        }
        Plan::Tunnel(tunnel) => carry(socket, |rx, tx| conversation::tunnel(tunnel, ReceiverStream::new(rx), tx)).await,
        Plan::Fetch(digest, offset) => {
            carry(socket, |_: mpsc::Receiver<BlobSaid>, tx| fetch(blobs, digest, offset, tx)).await
        }
        Plan::Push(digest) => carry(socket, |rx, tx| push(blobs, digest, rx, tx)).await,
        Plan::Chunks => {
            let who = (control, host);
            carry(socket, |rx, tx| chunks::converse(vault, who, ReceiverStream::new(rx), tx, cancel)).await
        }
    }
}

/// Runs a conversation on a socket; each ends the other.
async fn carry<In: DeserializeOwned, Out: Serialize, F: Future<Output = ()>>(
    socket: Socket,
    conversation: impl FnOnce(mpsc::Receiver<In>, mpsc::Sender<Out>) -> F,
) -> Result<(), Broken> {
    let (to_us, from_agent) = mpsc::channel(QUEUE);
    let (to_agent, from_us) = mpsc::channel(QUEUE);
    tokio::join!(ws::carry(socket, from_us, to_us), conversation(from_agent, to_agent)).0
}

async fn fetch(blobs: BlobDir, digest: Digest, offset: u64, tx: mpsc::Sender<BlobSaid>) {
    let sent = async {
        let mut file = match blobs.open(&digest).await {
            Ok((file, bytes)) if offset <= bytes => file,
            Ok(_) => return Ok(BlobSaid::Failed("the offset is beyond the blob".to_owned())),
            Err(error) => {
                tracing::warn!(%digest, %error, "a blob that a host wants cannot be read");
                return Ok(BlobSaid::Missing);
            }
        };
        file.seek(SeekFrom::Start(offset)).await?;
        loop {
            let mut data = vec![0; CHUNK_BYTES];
            let read = file.read(&mut data).await?;
            data.truncate(read);
            if read == 0 || tx.send(BlobSaid::Chunk(data)).await.is_err() {
                return Ok::<_, std::io::Error>(BlobSaid::Done);
            }
        }
    };
    let last = sent.await.unwrap_or_else(|error| BlobSaid::Failed(error.to_string()));
    drop(tx.send(last).await);
}

async fn push(blobs: BlobDir, digest: Digest, rx: mpsc::Receiver<BlobSaid>, tx: mpsc::Sender<BlobSaid>) {
    let chunks = ReceiverStream::new(rx).map_while(|said| match said {
        BlobSaid::Chunk(data) => Some(Ok::<_, std::io::Error>(bytes::Bytes::from(data))),
        BlobSaid::Done | BlobSaid::Stored | BlobSaid::Missing | BlobSaid::Failed(_) => None,
    });
    let answer = match blobs.put_stream(Some(&digest), StreamReader::new(chunks)).await {
        Ok(_) => BlobSaid::Stored,
        Err(error) => {
            tracing::warn!(%digest, %error, "a blob could not be stored");
            BlobSaid::Failed(error.to_string())
        }
    };
    drop(tx.send(answer).await);
}
