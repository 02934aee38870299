//! The HTTP/2 connection of one session.
//!
//! Owns: its driver, pings, deadlines of small requests. Refuses: bodies above 256 KiB where JSON
//! is expected.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{Method, Request, Response};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::timeout;

use super::dial::Prefixed;
use super::{ChannelError, ChannelLimits, request};
use crate::protocol::{FRAME_BYTES_MAX, GuestError, HEADER_LIST_BYTES_MAX, JSON_BYTES_MAX, STREAMS_MAX};

/// Small frames that may wait unread cost this much in h2's own accounting; enough for a process
/// that prints byte by byte to a caller that looks away.
const SMALL_FRAME_BUDGET_BYTES: usize = 16 * 1024 * 1024;
/// For the guest to acknowledge that a session is closed on purpose.
const GOOD_BYE: Duration = Duration::from_secs(1);

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Link {
    send: SendRequest<Bytes>,
    pub limits: Arc<ChannelLimits>,
    life: Arc<Life>,
}

struct Life {
    /// Why the session ended.
    over: watch::Receiver<Option<String>>,
    close: watch::Sender<bool>,
    /// One clone per open request.
    busy: Arc<()>,
}

/// Held while a request is open.
#[derive(Clone)]
pub(super) struct Busy {
    _token: Arc<()>,
    _life: Arc<Life>,
}

impl Link {
    pub async fn open(stream: Prefixed, limits: ChannelLimits) -> Result<Self, ChannelError> {
        let (send, connection) = h2::client::Builder::new()
            .enable_push(false)
            .max_frame_size(FRAME_BYTES_MAX)
            .max_header_list_size(HEADER_LIST_BYTES_MAX)
            .initial_max_send_streams(STREAMS_MAX as usize)
            .initial_window_size(limits.stream_window_bytes)
            .initial_connection_window_size(limits.connection_window_bytes)
            .data_frame_budget(SMALL_FRAME_BUDGET_BYTES)
            .handshake(stream)
            .await?;
        let (say_over, over) = watch::channel(None);
        let (close, closing) = watch::channel(false);
        let busy = Arc::new(());
        let interval = limits.ping_interval;
        let driver = Driver { busy: Arc::clone(&busy), interval, closing };
        tokio::spawn(async move {
            let why = driver.drive(connection).await;
            say_over.send_replace(Some(why));
        });
        Ok(Self { send, limits: Arc::new(limits), life: Arc::new(Life { over, close, busy }) })
    }

    /// Sends a request's head and the first piece of its body, together.
    pub async fn send(
        &self,
        request: Request<()>,
        first: Bytes,
        whole: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>, Busy), ChannelError> {
        let ready = self.within("take another request", self.send.clone().ready());
        let mut send = ready.await?.map_err(|error| self.why(error))?;
        let bodiless = whole && first.is_empty();
        let (response, mut body) = send.send_request(request, bodiless).map_err(|error| self.why(error))?;
        // Never an empty frame that does not end the stream: a peer may count them as an attack.
        if !first.is_empty() {
            body.send_data(first, whole).map_err(|error| self.why(error))?;
        }
        let busy = Busy { _token: Arc::clone(&self.life.busy), _life: Arc::clone(&self.life) };
        Ok((response, body, busy))
    }

    /// Waits for an answer's head; a refusal becomes an error.
    pub async fn head(&self, response: ResponseFuture, limit: Duration) -> Result<Response<RecvStream>, ChannelError> {
        let what = "answer";
        let response = timeout(limit, response)
            .await
            .map_err(|_| ChannelError::TimedOut { what, limit })?
            .map_err(|error| self.why(error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let body = self.within("say why it refuses", self.collect(response.into_body()));
        let refusal: GuestError =
            serde_json::from_slice(&body.await??).map_err(|_| ChannelError::Protocol("a refusal that is not one"))?;
        Err(refusal.into())
    }

    pub async fn ask_empty(&self, request: Request<()>, body: Bytes) -> Result<(), ChannelError> {
        let (response, _body, _busy) = self.send(request, body, true).await?;
        self.head(response, self.limits.reply_timeout).await?;
        Ok(())
    }

    pub async fn ask_json<T: DeserializeOwned>(&self, request: Request<()>, body: Bytes) -> Result<T, ChannelError> {
        let (response, _body, _busy) = self.send(request, body, true).await?;
        let response = self.head(response, self.limits.reply_timeout).await?;
        let body = self.within("finish its answer", self.collect(response.into_body()));
        serde_json::from_slice(&body.await??)
            .map_err(|_| ChannelError::Protocol("an answer that is not the JSON expected"))
    }

    async fn collect(&self, mut body: RecvStream) -> Result<Bytes, ChannelError> {
        let mut all = BytesMut::new();
        while let Some(piece) = body.data().await {
            let piece = piece.map_err(|error| self.why(error))?;
            if all.len() + piece.len() > JSON_BYTES_MAX {
                return Err(ChannelError::Protocol("more than 256 KiB of JSON"));
            }
            all.extend_from_slice(&piece);
            let _ = body.flow_control().release_capacity(piece.len());
        }
        Ok(all.freeze())
    }

    async fn within<T>(&self, what: &'static str, doing: impl Future<Output = T>) -> Result<T, ChannelError> {
        let limit = self.limits.reply_timeout;
        timeout(limit, doing).await.map_err(|_| ChannelError::TimedOut { what, limit })
    }

    /// The session's reason if it is over, else the request's.
    pub fn why(&self, error: h2::Error) -> ChannelError {
        match &*self.life.over.borrow() {
            Some(why) => ChannelError::Closed(why.clone()),
            None => error.into(),
        }
    }

    pub fn is_closed(&self) -> bool {
        self.life.over.borrow().is_some() || self.life.over.has_changed().is_err()
    }

    pub async fn closed(&self) {
        let _ = self.life.over.clone().wait_for(Option::is_some).await;
    }

    pub async fn close(&self) {
        let bye = self.ask_empty(request(Method::POST, "/v1/close"), Bytes::new());
        let _ = timeout(GOOD_BYE, bye).await;
        self.life.close.send_replace(true);
        self.closed().await;
    }
}

struct Driver {
    busy: Arc<()>,
    interval: Duration,
    closing: watch::Receiver<bool>,
}

impl Driver {
    /// Moves frames until the session is over, and says why.
    async fn drive(mut self, mut connection: h2::client::Connection<Prefixed, Bytes>) -> String {
        let Some(mut ping) = connection.ping_pong() else {
            return "no pings".to_owned();
        };
        let beat = async {
            loop {
                tokio::time::sleep(self.interval).await;
                // Two: one here, one in the link's life.
                if Arc::strong_count(&self.busy) <= 2 {
                    continue;
                }
                match timeout(self.interval, ping.ping(h2::Ping::opaque())).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => return error.to_string(),
                    Err(_) => return "the guest does not answer pings".to_owned(),
                }
            }
        };
        let closing = async {
            if self.closing.wait_for(|closing| *closing).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            ended = &mut connection => match ended {
                Ok(()) => "it ended".to_owned(),
                Err(error) => error.to_string(),
            },
            why = beat => why,
            () = closing => "closed by this host".to_owned(),
        }
    }
}
