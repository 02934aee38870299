//! Files into and out of guests, as streams: no file is ever held whole.

use crate::address::encoded;
use crate::ask::{Ask, Body};
use crate::call::{PATIENCE, unsendable};
use crate::sandbox::path;
use crate::{Client, ClientError};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{Method, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::time::timeout;

/// Bytes on their way here.
#[derive(Debug)]
pub struct FileStream {
    client: Client,
    body: Incoming,
}

impl FileStream {
    pub(crate) fn new(client: Client, answer: Response<Incoming>) -> Self {
        Self { client, body: answer.into_body() }
    }

    /// The next piece; `None` at the end. A stream that breaks off is an error, never an end.
    ///
    /// # Errors
    /// `TimedOut` after 30 s of silence, `Unreachable` when the connection broke.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let frame = timeout(PATIENCE, self.body.frame()).await;
            match frame.map_err(|_| self.client.timed_out(PATIENCE))? {
                None => return Ok(None),
                Some(Err(broken)) => return Err(self.client.unreachable(&broken)),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }
}

impl Client {
    /// Reads a file of a guest.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn read_file(&self, sandbox: &str, file: &str) -> Result<FileStream, ClientError> {
        let at = format!("{}?path={}", path(sandbox, "/files"), encoded(file));
        let answer = self.accepted(&Ask::new(Method::GET, at)).await?;
        Ok(FileStream::new(self.clone(), answer))
    }

    /// Writes a file in a guest with these permission bits. It may take any time as long as bytes move.
    ///
    /// # Errors
    /// `TimedOut` when for 30 s no byte went out and no answer came; else see [`ClientError`].
    pub async fn write_file<S>(&self, sandbox: &str, file: &str, mode: u32, content: S) -> Result<(), ClientError>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        let at = format!("{}?path={}&mode={mode}", path(sandbox, "/files"), encoded(file));
        self.put_stream(&at, None, content).await.map(drop)
    }

    /// Sends a body of any length; gives the answer when it is 2xx. It may take any time as long as bytes
    /// move.
    pub(crate) async fn put_stream<S>(
        &self,
        at: &str,
        length: Option<u64>,
        content: S,
    ) -> Result<Response<Incoming>, ClientError>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        let moved = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&moved);
        let frames = content.map(move |piece| {
            piece.map(|bytes| {
                counter.fetch_add(1 + bytes.len() as u64, Ordering::Relaxed);
                Frame::data(bytes)
            })
        });
        let body: Body = StreamBody::new(frames).boxed_unsync();
        let mut request = self.builder(&Method::PUT, at).header(CONTENT_TYPE, "application/octet-stream");
        if let Some(length) = length {
            request = request.header(CONTENT_LENGTH, length);
        }
        let mut sent = Box::pin(self.send_streamed(request.body(body).map_err(unsendable)?));
        loop {
            let before = moved.load(Ordering::Relaxed);
            match timeout(PATIENCE, &mut sent).await {
                Ok(answer) => return self.judged(answer?).await,
                Err(_) if moved.load(Ordering::Relaxed) != before => {}
                Err(_) => return Err(self.timed_out(PATIENCE)),
            }
        }
    }
}
