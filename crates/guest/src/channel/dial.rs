//! From a socket to a session: hello, answer, HTTP/2.
//!
//! Owns: connecting, retrying, the discarding of foreign bytes. Refuses: an answer that does not
//! carry this attempt's nonce, and to wait beyond the deadline.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

use super::ChannelError;
use crate::hello::{AnswerSeeker, GuestAnswer, HostHello, Nonce, VersionRange};

const PATIENCE_MIN: Duration = Duration::from_millis(40);
const PATIENCE_MAX: Duration = Duration::from_secs(1);
/// Between two attempts that failed at once.
const PAUSE: Duration = Duration::from_millis(5);
static ZEROS: [u8; 32 * 1024] = [0; 32 * 1024];
const READ_BYTES: usize = 16 * 1024;

/// A connection to a guest's port.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects to a guest's port, as often as it takes. Any `Fn() -> Future` will do.
pub trait Dial: Send + Sync {
    /// One attempt.
    fn dial(&self) -> BoxFuture<'_, io::Result<Box<dyn Stream>>>;
}

impl<F, Connecting> Dial for F
where
    F: Fn() -> Connecting + Send + Sync,
    Connecting: Future<Output = io::Result<Box<dyn Stream>>> + Send + 'static,
{
    fn dial(&self) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(self())
    }
}

/// The Unix socket of a virtio-serial port.
#[derive(Clone, Debug)]
pub struct UnixDial {
    /// Where QEMU listens.
    pub path: PathBuf,
}

impl Dial for UnixDial {
    fn dial(&self) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async {
            let stream = UnixStream::connect(&self.path).await?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

/// The caller's source of nonces.
pub type Entropy<'a> = &'a mut (dyn FnMut() -> [u8; 16] + Send);

/// Attempts at a session, until one succeeds or the deadline passes.
pub(super) struct Attempts<'a> {
    pub dial: &'a dyn Dial,
    pub entropy: Entropy<'a>,
    pub versions: VersionRange,
    pub check_nonce: bool,
    pub began: Instant,
    pub deadline: Instant,
    made: u32,
    patience: Duration,
    unreachable: Option<io::Error>,
}

/// A session the guest accepted.
pub(super) struct Session {
    pub stream: Prefixed,
    pub version: u16,
    pub clone_id: String,
}

impl<'a> Attempts<'a> {
    pub fn new(dial: &'a dyn Dial, entropy: Entropy<'a>, versions: VersionRange, within: Duration) -> Self {
        let began = Instant::now();
        Self {
            dial,
            entropy,
            versions,
            check_nonce: true,
            began,
            deadline: began + within,
            made: 0,
            patience: PATIENCE_MIN,
            unreachable: None,
        }
    }

    /// The next session the guest accepts.
    pub async fn session(&mut self) -> Result<Session, ChannelError> {
        while Instant::now() < self.deadline {
            let until = self.deadline.min(Instant::now() + self.patience);
            self.made += 1;
            match timeout_at(until, self.attempt()).await {
                Ok(Ok(Ok(session))) => return Ok(session),
                Ok(Ok(Err(theirs))) => {
                    let ours = self.versions;
                    return Err(ChannelError::Version { ours, theirs });
                }
                Ok(Err(cause)) => {
                    self.unreachable = Some(cause);
                    tokio::time::sleep(PAUSE).await;
                }
                Err(_) => {
                    self.unreachable = None;
                    self.patience = (self.patience * 2).min(PATIENCE_MAX);
                }
            }
        }
        Err(self.gave_up())
    }

    fn gave_up(&mut self) -> ChannelError {
        let attempts = self.made;
        match self.unreachable.take() {
            Some(cause) => ChannelError::Unreachable { attempts, cause },
            None => ChannelError::NoAnswer { attempts, waited: self.began.elapsed() },
        }
    }

    async fn attempt(&mut self) -> io::Result<Result<Session, VersionRange>> {
        let mut stream = self.dial.dial().await?;
        let nonce = Nonce((self.entropy)());
        if self.made > 1 {
            stream.write_all(&ZEROS).await?;
        }
        let versions = self.versions;
        let hello = HostHello { nonce, versions };
        stream.write_all(hello.line().as_bytes()).await?;
        stream.flush().await?;
        let mut seeker = AnswerSeeker::checking(nonce, self.check_nonce);
        let mut piece = vec![0; READ_BYTES];
        loop {
            let count = stream.read(&mut piece).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let Some((answer, early)) = seeker.push(&piece[..count]) else {
                continue;
            };
            return Ok(match answer {
                GuestAnswer::Refused { versions } => Err(versions),
                GuestAnswer::Accepted { version, clone_id } => {
                    Ok(Session { stream: Prefixed { early: Bytes::from(early), stream }, version, clone_id })
                }
            });
        }
    }
}

/// A stream some of whose bytes were read already.
pub(super) struct Prefixed {
    early: Bytes,
    stream: Box<dyn Stream>,
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let count = self.early.len().min(buffer.remaining());
        buffer.put_slice(&self.early[..count]);
        self.early.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
