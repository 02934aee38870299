//! `POST /v1/exec`: the records of one request.
//!
//! Owns: reading the start and stdin, writing started, output and end. Refuses: a second start,
//! and to buffer: output is taken from the ring only when the stream has room for it.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::HeaderValue;

use super::Guest;
use super::execution::{Next, Reader, Running};
use super::request::{Answer, Gone, capacity, head, invalid, refuse};
use crate::protocol::{ErrorCode, ExecStart, ExecStarted, FRAME_BYTES_MAX, GuestError, STDIN_OFFSET_HEADER};
use crate::record::{self, RecordDecoder, RecordTooLong, answer, request};

/// Serves the request.
pub async fn run(guest: &Guest, body: RecvStream, respond: &mut Answer) -> Result<(), Gone> {
    let mut input = Input { body, decoder: RecordDecoder::default() };
    let start = match input.start().await? {
        Ok(start) => start,
        Err(error) => return refuse(respond, &error),
    };
    let attached = guest.executions.start(&start).and_then(|running| {
        let reader = running.attach(start.stdout_offset, start.stderr_offset)?;
        Ok((running, reader))
    });
    let (running, mut reader) = match attached {
        Ok(attached) => attached,
        Err(error) => return refuse(respond, &error),
    };
    let mut head = head(200);
    head.headers_mut().insert(STDIN_OFFSET_HEADER, HeaderValue::from(running.stdin_offset()));
    let mut stream = respond.send_response(head, false)?;
    if let Some(pid) = running.pid() {
        let started = json_record(answer::STARTED, &ExecStarted { pid })?;
        stream.send_data(started, false)?;
    }
    let feed = async {
        input.feed(&running).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        sent = send_output(&running, &mut reader, &mut stream) => sent,
        () = feed => Ok(()),
    }
}

async fn send_output(running: &Arc<Running>, reader: &mut Reader, stream: &mut SendStream<Bytes>) -> Result<(), Gone> {
    loop {
        reader.look();
        match running.next(reader) {
            Next::Wait => tokio::select! {
                () = reader.changed() => {}
                _ = poll_fn(|context| stream.poll_reset(context)) => return Err(Gone),
            },
            Next::Output(waiting) => {
                let wanted = (record::HEADER_BYTES + waiting).min(FRAME_BYTES_MAX as usize);
                let room = capacity(stream, wanted, record::HEADER_BYTES).await?;
                if let Some(output) = running.hand(reader, room) {
                    stream.send_data(output, false)?;
                }
            }
            Next::End(end) => {
                return Ok(stream.send_data(json_record(answer::END, &end)?, true)?);
            }
            Next::Superseded => {
                stream.send_reset(h2::Reason::CANCEL);
                return Err(Gone);
            }
        }
    }
}

fn json_record(kind: u8, value: &impl serde::Serialize) -> Result<Bytes, Gone> {
    let json = serde_json::to_vec(value).map_err(|_| Gone)?;
    record::encode(kind, &json).map_err(|_| Gone)
}

struct Input {
    body: RecvStream,
    decoder: RecordDecoder,
}

impl Input {
    async fn start(&mut self) -> Result<Result<ExecStart, GuestError>, Gone> {
        loop {
            match self.decoder.next_record() {
                Ok(Some(record)) if record.kind == request::START => {
                    return Ok(serde_json::from_slice(&record.payload).map_err(invalid));
                }
                Ok(Some(_)) => return Ok(Err(misplaced())),
                Err(error) => return Ok(Err(too_long(error))),
                Ok(None) => {}
            }
            if !self.receive().await? {
                return Ok(Err(misplaced()));
            }
        }
    }

    /// Feeds stdin until the request ends. Only its orderly end is the end of stdin: a host that
    /// died will attach again.
    async fn feed(&mut self, running: &Running) {
        loop {
            match self.decoder.next_record() {
                Ok(Some(record)) if record.kind == request::STDIN => {
                    running.write_stdin(&record.payload).await;
                    continue;
                }
                Ok(Some(record)) if record.kind == request::SIGNAL => {
                    if let Ok(wanted) = serde_json::from_slice::<crate::protocol::ExecSignal>(&record.payload) {
                        let _ = running.signal(wanted.signal);
                    }
                    continue;
                }
                Ok(Some(_)) | Err(_) => return,
                Ok(None) => {}
            }
            match self.receive().await {
                Ok(true) => {}
                Ok(false) => return running.close_stdin().await,
                Err(Gone) => return,
            }
        }
    }

    /// Whether there was another piece.
    async fn receive(&mut self) -> Result<bool, Gone> {
        let Some(piece) = self.body.data().await else {
            return Ok(false);
        };
        let piece = piece?;
        self.decoder.push(&piece);
        self.body.flow_control().release_capacity(piece.len())?;
        Ok(true)
    }
}

fn misplaced() -> GuestError {
    GuestError::new(ErrorCode::Invalid, "an exec request begins with one start record")
}

fn too_long(error: RecordTooLong) -> GuestError {
    GuestError::new(ErrorCode::TooLarge, error.to_string())
}
