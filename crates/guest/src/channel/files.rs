//! Files to and from a guest, as the host sees it.
//!
//! Owns: the streaming of one file. Refuses: paths that cannot be right, files beyond the limit,
//! a file shorter or longer than the guest announced.

use std::future::poll_fn;
use std::pin::pin;

use bytes::Bytes;
use futures::StreamExt;
use h2::{Reason, RecvStream, SendStream};
use http::Method;
use tokio::time::timeout;

use super::link::{Busy, Link};
use super::{ChannelError, request};
use crate::protocol::{FILE_SIZE_HEADER, FRAME_BYTES_MAX};
use crate::query::{FileQuery, check_path};

pub(super) async fn put<S>(link: &Link, path: &str, mode: u32, body: S) -> Result<(), ChannelError>
where
    S: futures::Stream<Item = std::io::Result<Bytes>> + Send,
{
    let query = query(path, Some(mode & 0o7777))?;
    let put = request(Method::PUT, &format!("/v1/files?{query}"));
    let (response, mut sink, _busy) = link.send(put, Bytes::new(), false).await?;
    let head = link.head(response, link.limits.file_timeout);
    let send = async {
        let mut body = pin!(body);
        while let Some(piece) = body.next().await {
            match piece {
                Ok(piece) => send_piece(link, &mut sink, piece).await?,
                Err(error) => {
                    sink.send_reset(Reason::CANCEL);
                    return Err(ChannelError::Source(error));
                }
            }
        }
        sink.send_data(Bytes::new(), true).map_err(|error| link.why(error))
    };
    // The guest may refuse before everything was sent, and the refusal says more than the reset.
    match send.await {
        Ok(()) => head.await.map(drop),
        Err(error @ ChannelError::Source(_)) => Err(error),
        Err(error) => match head.await {
            Err(refused @ ChannelError::Refused(_)) => Err(refused),
            _ => Err(error),
        },
    }
}

async fn send_piece(link: &Link, sink: &mut SendStream<Bytes>, mut piece: Bytes) -> Result<(), ChannelError> {
    let limit = link.limits.file_timeout;
    while !piece.is_empty() {
        sink.reserve_capacity(piece.len().min(FRAME_BYTES_MAX as usize));
        while sink.capacity() == 0 {
            let granted = timeout(limit, poll_fn(|context| sink.poll_capacity(context)));
            match granted.await {
                Ok(Some(granted)) => granted.map_err(|error| link.why(error))?,
                Ok(None) => return Err(ChannelError::Closed("the guest stopped reading".into())),
                Err(_) => {
                    let what = "take the next piece of a file";
                    return Err(ChannelError::TimedOut { what, limit });
                }
            };
        }
        let room = sink.capacity().min(piece.len()).min(FRAME_BYTES_MAX as usize);
        sink.send_data(piece.split_to(room), false).map_err(|error| link.why(error))?;
    }
    Ok(())
}

pub(super) async fn get(link: &Link, path: &str) -> Result<FileDownload, ChannelError> {
    let query = query(path, None)?;
    let get = request(Method::GET, &format!("/v1/files?{query}"));
    let (response, _body, busy) = link.send(get, Bytes::new(), true).await?;
    let response = link.head(response, link.limits.file_timeout).await?;
    let size = response
        .headers()
        .get(FILE_SIZE_HEADER)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .ok_or(ChannelError::Protocol("a file without x-file-size"))?;
    let limit = link.limits.file_bytes_max;
    if size > limit {
        return Err(ChannelError::FileTooLarge { bytes: size, limit });
    }
    Ok(FileDownload { link: link.clone(), body: response.into_body(), size, left: size, held: 0, _busy: busy })
}

fn query(path: &str, mode: Option<u32>) -> Result<String, ChannelError> {
    check_path(path)?;
    let path = path.to_owned();
    Ok(FileQuery { path, mode }.encode())
}

/// A file on its way here.
pub struct FileDownload {
    link: Link,
    body: RecvStream,
    size: u64,
    left: u64,
    held: usize,
    _busy: Busy,
}

impl FileDownload {
    /// What the guest announced.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next piece, `None` after the last. The guest may send more when this is called again.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ChannelError> {
        let held = std::mem::take(&mut self.held);
        // Fails only on a stream that ended; what it still holds comes first.
        let _ = self.body.flow_control().release_capacity(held);
        let limit = self.link.limits.file_timeout;
        let what = "send the next piece of a file";
        let piece = timeout(limit, self.body.data()).await.map_err(|_| ChannelError::TimedOut { what, limit })?;
        let Some(piece) = piece else {
            return match self.left {
                0 => Ok(None),
                _ => Err(ChannelError::Protocol("a file shorter than announced")),
            };
        };
        let piece = piece.map_err(|error| self.link.why(error))?;
        self.held = piece.len();
        self.left =
            self.left.checked_sub(piece.len() as u64).ok_or(ChannelError::Protocol("a file longer than announced"))?;
        Ok(Some(piece))
    }
}
