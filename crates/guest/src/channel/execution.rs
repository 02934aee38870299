//! One command in a guest, as its caller sees it.
//!
//! Owns: the records of one request, both ways. Refuses: output beyond the limit, records out of
//! place, an end without an end record.

use std::future::poll_fn;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::Method;

use super::link::{Busy, Link};
use super::{ChannelError, request};
use crate::protocol::{ExecEnd, ExecStart, ExecStarted, FRAME_BYTES_MAX, STDIN_OFFSET_HEADER};
use crate::record::{self, Record, RecordDecoder, answer};

const STDIN_BYTES: usize = FRAME_BYTES_MAX as usize - record::HEADER_BYTES;

/// A command in a guest. Dropping it detaches; the command runs on.
pub struct Execution {
    /// Where its stdin goes.
    pub stdin: StdinWriter,
    /// What it writes, and its end.
    pub output: ExecutionOutput,
}

/// What an execution does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecEvent {
    /// It runs. Comes first, unless it never ran.
    Started(ExecStarted),
    /// Follows the stdout bytes before.
    Stdout(Bytes),
    /// Follows the stderr bytes before.
    Stderr(Bytes),
    /// The last event.
    End(ExecEnd),
}

impl Execution {
    pub(super) async fn begin(link: Link, start: ExecStart) -> Result<Self, ChannelError> {
        let json = serde_json::to_vec(&start).map_err(|_| ChannelError::Protocol("a start that is no JSON"))?;
        let first = record::encode(record::request::START, &json)?;
        let post = request(Method::POST, "/v1/exec");
        let (response, body, busy) = link.send(post, first, !start.stdin).await?;
        let response = link.head(response, link.limits.reply_timeout).await?;
        let stdin_offset = response
            .headers()
            .get(STDIN_OFFSET_HEADER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .ok_or(ChannelError::Protocol("an exec answer without x-stdin-offset"))?;
        Ok(Self {
            stdin: StdinWriter {
                link: link.clone(),
                body: start.stdin.then_some(body),
                offset: stdin_offset,
                _busy: busy.clone(),
            },
            output: ExecutionOutput {
                link,
                body: response.into_body(),
                decoder: RecordDecoder::default(),
                held: 0,
                limit: start.output_limit_bytes,
                stdout_offset: start.stdout_offset,
                stderr_offset: start.stderr_offset,
                over: false,
                _busy: busy,
            },
        })
    }

    /// See [`ExecutionOutput::next`].
    pub async fn next(&mut self) -> Result<ExecEvent, ChannelError> {
        self.output.next().await
    }

    /// Both directions, for two tasks.
    pub fn into_parts(self) -> (StdinWriter, ExecutionOutput) {
        (self.stdin, self.output)
    }
}

/// Writes a command's stdin. Dropping it without [`StdinWriter::finish`] is no end of file.
pub struct StdinWriter {
    link: Link,
    body: Option<SendStream<Bytes>>,
    offset: u64,
    _busy: Busy,
}

impl StdinWriter {
    /// The position of the next byte to write. Right after an attach: how many bytes the process
    /// was given in earlier sessions; write from there.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Writes all of `bytes`, waiting while the process does not read.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        for piece in bytes.chunks(STDIN_BYTES) {
            let body = self.body.as_mut().ok_or(ChannelError::StdinClosed)?;
            let record = record::encode(record::request::STDIN, piece)?;
            reserve(&self.link, body, record.len()).await?;
            body.send_data(record, false).map_err(|error| self.link.why(error))?;
            self.offset += piece.len() as u64;
        }
        Ok(())
    }

    /// End of file. Does nothing if the start had no stdin.
    pub async fn finish(&mut self) -> Result<(), ChannelError> {
        match self.body.take() {
            Some(mut body) => body.send_data(Bytes::new(), true).map_err(|error| self.link.why(error)),
            None => Ok(()),
        }
    }
}

/// Waits until `count` bytes may be sent.
async fn reserve(link: &Link, body: &mut SendStream<Bytes>, count: usize) -> Result<(), ChannelError> {
    body.reserve_capacity(count);
    while body.capacity() < count {
        match poll_fn(|context| body.poll_capacity(context)).await {
            Some(granted) => granted.map_err(|error| link.why(error))?,
            None => return Err(ChannelError::StdinClosed),
        };
    }
    Ok(())
}

/// A command's output.
pub struct ExecutionOutput {
    link: Link,
    body: RecvStream,
    decoder: RecordDecoder,
    /// Bytes of the record returned last; the guest may send as many more on the next call.
    held: usize,
    limit: u64,
    stdout_offset: u64,
    stderr_offset: u64,
    over: bool,
    _busy: Busy,
}

impl ExecutionOutput {
    /// The next event. The guest may send on only what the previous call returned is dealt with:
    /// calling again says that it is persisted. Cancel safe.
    pub async fn next(&mut self) -> Result<ExecEvent, ChannelError> {
        if self.over {
            return Err(ChannelError::Protocol("nothing follows an end"));
        }
        let held = std::mem::take(&mut self.held);
        // Fails only on a stream that ended; what it still holds comes first.
        let _ = self.body.flow_control().release_capacity(held);
        loop {
            if let Some(record) = self.decoder.next_record()? {
                self.held = record::HEADER_BYTES + record.payload.len();
                return self.event(record);
            }
            match self.body.data().await {
                Some(piece) => {
                    let piece = piece.map_err(|error| self.link.why(error))?;
                    self.decoder.push(&piece);
                }
                None => return Err(ChannelError::Protocol("an execution without an end")),
            }
        }
    }

    /// Position after the last stdout byte returned.
    pub fn stdout_offset(&self) -> u64 {
        self.stdout_offset
    }

    /// Position after the last stderr byte returned.
    pub fn stderr_offset(&self) -> u64 {
        self.stderr_offset
    }

    fn event(&mut self, record: Record) -> Result<ExecEvent, ChannelError> {
        let Record { kind, payload } = record;
        match kind {
            answer::STDOUT => {
                advance(&mut self.stdout_offset, &payload, self.limit)?;
                Ok(ExecEvent::Stdout(payload))
            }
            answer::STDERR => {
                advance(&mut self.stderr_offset, &payload, self.limit)?;
                Ok(ExecEvent::Stderr(payload))
            }
            answer::STARTED => serde_json::from_slice(&payload)
                .map(ExecEvent::Started)
                .map_err(|_| ChannelError::Protocol("a started record that is not one")),
            answer::END => {
                self.over = true;
                serde_json::from_slice(&payload)
                    .map(ExecEvent::End)
                    .map_err(|_| ChannelError::Protocol("an end record that is not one"))
            }
            _ => Err(ChannelError::Protocol("a record of unknown kind")),
        }
    }
}

fn advance(offset: &mut u64, payload: &[u8], limit: u64) -> Result<(), ChannelError> {
    if payload.is_empty() {
        return Err(ChannelError::Protocol("an empty output record"));
    }
    *offset = offset.saturating_add(payload.len() as u64);
    if *offset > limit {
        return Err(ChannelError::OutputBeyondLimit { limit });
    }
    Ok(())
}
