//! The host's end: one session with one guest.
//!
//! Owns: the HTTP/2 connection and its limits, the requests. Refuses: to trust the guest. Every
//! wait has a deadline except the wait for a command's output, and while requests are open the
//! guest must answer pings; every buffer is bounded by [`ChannelLimits`].
//!
//! A channel does not heal: when it is closed, open another and attach to the executions.

mod dial;
mod error;
mod execution;
mod files;
mod link;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use uuid::Uuid;

pub use dial::{Dial, Entropy, Stream, UnixDial};
pub use error::ChannelError;
pub use execution::{ExecEvent, Execution, ExecutionOutput, StdinWriter};
pub use files::FileDownload;

use crate::hello::VersionRange;
use crate::protocol::{CONNECTION_WINDOW_BYTES, ExecSignal, ExecStart, GuestHello, STREAM_WINDOW_BYTES, VERSIONS};
use dial::Attempts;
use link::Link;

/// What a channel spends on its guest at most.
#[derive(Clone, Debug)]
pub struct ChannelLimits {
    /// For an answer to a request, except files.
    pub reply_timeout: Duration,
    /// For the next piece of a file, either way, and for the guest to put a file in place.
    pub file_timeout: Duration,
    /// While requests are open: time between two pings, and for the answer to one.
    pub ping_interval: Duration,
    /// Largest file downloaded.
    pub file_bytes_max: u64,
    /// Unread answer bytes per request.
    pub stream_window_bytes: u32,
    /// Unread answer bytes per channel. A caller that leaves this much unread stalls all requests
    /// of the channel: keep reading, into a file if need be.
    pub connection_window_bytes: u32,
    /// Protocol versions offered.
    pub versions: VersionRange,
}

impl Default for ChannelLimits {
    fn default() -> Self {
        Self {
            reply_timeout: Duration::from_secs(10),
            file_timeout: Duration::from_secs(60),
            ping_interval: Duration::from_secs(15),
            file_bytes_max: 4 * 1024 * 1024 * 1024,
            stream_window_bytes: STREAM_WINDOW_BYTES,
            connection_window_bytes: CONNECTION_WINDOW_BYTES,
            versions: VERSIONS,
        }
    }
}

/// An open session. Clones share it; it ends when the last clone, execution and download are
/// dropped, when [`Channel::close`] is called, or when the guest breaks it.
#[derive(Clone)]
pub struct Channel {
    link: Link,
    hello: Arc<GuestHello>,
    version: u16,
}

impl Channel {
    /// Connects, says hello until the guest answers, and asks who it is.
    pub async fn open(
        dial: &dyn Dial,
        entropy: Entropy<'_>,
        within: Duration,
        limits: ChannelLimits,
    ) -> Result<Self, ChannelError> {
        Self::open_with(Attempts::new(dial, entropy, limits.versions, within), limits).await
    }

    /// For tests: accepts any guest's answer to any host's hello.
    #[doc(hidden)]
    pub async fn open_without_nonce_check(
        dial: &dyn Dial,
        entropy: Entropy<'_>,
        within: Duration,
        limits: ChannelLimits,
    ) -> Result<Self, ChannelError> {
        let mut attempts = Attempts::new(dial, entropy, limits.versions, within);
        attempts.check_nonce = false;
        Self::open_with(attempts, limits).await
    }

    async fn open_with(mut attempts: Attempts<'_>, limits: ChannelLimits) -> Result<Self, ChannelError> {
        loop {
            let session = attempts.session().await?;
            if attempts.versions.common(VersionRange { lowest: session.version, highest: session.version })
                != Some(session.version)
            {
                return Err(ChannelError::Protocol("it chose a version not offered"));
            }
            let opening = async {
                let link = Link::open(session.stream, limits.clone()).await?;
                let hello: GuestHello = link.ask_json(get("/v1/hello"), Bytes::new()).await?;
                Ok::<_, ChannelError>((link, hello))
            };
            match tokio::time::timeout_at(attempts.deadline, opening).await {
                Ok(Ok((_, hello))) if hello.clone_id != session.clone_id => {
                    return Err(ChannelError::Protocol("it changed its clone id"));
                }
                Ok(Ok((link, hello))) => {
                    return Ok(Self { link, hello: Arc::new(hello), version: session.version });
                }
                // The session broke before its first answer: bytes of an old one may be why.
                Ok(Err(ChannelError::Closed(_))) => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    return Err(ChannelError::TimedOut { what: "say who it is", limit: attempts.began.elapsed() });
                }
            }
        }
    }

    /// Who answers.
    pub fn hello(&self) -> &GuestHello {
        &self.hello
    }

    /// The protocol version of this session.
    pub fn version(&self) -> u16 {
        self.version
    }

    /// Starts a command, or attaches to it if the guest knows its id.
    pub async fn exec(&self, start: ExecStart) -> Result<Execution, ChannelError> {
        Execution::begin(self.link.clone(), start).await
    }

    /// Lets the guest forget an execution that has ended.
    pub async fn acknowledge(&self, id: Uuid) -> Result<(), ChannelError> {
        let request = request(Method::DELETE, &format!("/v1/exec/{id}"));
        self.link.ask_empty(request, Bytes::new()).await
    }

    /// Signals an execution's process group.
    pub async fn signal(&self, id: Uuid, signal: i32) -> Result<(), ChannelError> {
        let body = serde_json::to_vec(&ExecSignal { signal })
            .map_err(|_| ChannelError::Protocol("a signal that is no JSON"))?;
        let request = request(Method::POST, &format!("/v1/exec/{id}/signal"));
        self.link.ask_empty(request, Bytes::from(body)).await
    }

    /// Puts a file in place, whole or not at all. `path` is absolute, `mode` the permission bits.
    pub async fn put_file<S>(&self, path: &str, mode: u32, body: S) -> Result<(), ChannelError>
    where
        S: futures::Stream<Item = std::io::Result<Bytes>> + Send,
    {
        files::put(&self.link, path, mode, body).await
    }

    /// Reads a regular file.
    pub async fn get_file(&self, path: &str) -> Result<FileDownload, ChannelError> {
        files::get(&self.link, path).await
    }

    /// Whether the session is over.
    pub fn is_closed(&self) -> bool {
        self.link.is_closed()
    }

    /// Waits until the session is over.
    pub async fn closed(&self) {
        self.link.closed().await;
    }

    /// Ends the session for all clones: says good-bye, so that the guest is ready for the next
    /// hello, and disconnects. Do this before a snapshot. Executions go on.
    pub async fn close(&self) {
        self.link.close().await;
    }
}

fn get(path: &str) -> Request<()> {
    request(Method::GET, path)
}

fn request(method: Method, path_and_query: &str) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = method;
    let uri = http::Uri::builder().scheme("http").authority("guest").path_and_query(path_and_query).build();
    *request.uri_mut() = uri.unwrap_or_default();
    request
}
