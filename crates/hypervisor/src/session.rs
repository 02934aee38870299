//! Sessions with real guests: `perigee_guest`'s channel behind the seam's traits.
//!
//! Owns: the mapping of errors. Refuses: to hide what a guest said; its words are bounded already.

use crate::{ExecEvent, ExecStdin, ExecStream, FileSource, GuestHello, HypervisorError, Session};
use async_trait::async_trait;
use bytes::Bytes;
use perigee_guest::protocol::{ErrorCode, ExecStart};
use perigee_guest::{Channel, ChannelError, ExecutionOutput, FileDownload, StdinWriter};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use uuid::Uuid;

/// Pieces of a file on their way to a slow reader.
const PIECES_AHEAD: usize = 4;

/// One open channel.
pub struct ChannelSession(pub Channel);

#[async_trait]
impl Session for ChannelSession {
    fn hello(&self) -> GuestHello {
        self.0.hello().clone()
    }

    async fn exec(&self, start: ExecStart) -> Result<Box<dyn ExecStream>, HypervisorError> {
        let has_stdin = start.stdin;
        let (stdin, output) = self.0.exec(start).await.map_err(told)?.into_parts();
        Ok(Box::new(Attached { output, stdin: has_stdin.then_some(stdin), over: false }))
    }

    async fn signal(&self, execution: Uuid, signal: i32) -> Result<(), HypervisorError> {
        self.0.signal(execution, signal).await.map_err(told)
    }

    async fn acknowledge(&self, execution: Uuid) -> Result<(), HypervisorError> {
        match self.0.acknowledge(execution).await.map_err(told) {
            Err(HypervisorError::UnknownExecution) => Ok(()),
            done => done,
        }
    }

    async fn put_file(&self, path: &str, mode: u32, bytes: FileSource) -> Result<u64, HypervisorError> {
        let progress = Arc::new(Mutex::new(Progress::default()));
        let body = futures::stream::unfold((bytes, progress.clone()), |(mut bytes, progress)| async move {
            let piece = bytes.recv().await?;
            let piece = lock(&progress).note(piece);
            Some((piece, (bytes, progress)))
        });
        let sent = self.0.put_file(path, mode, body).await;
        let mut progress = lock(&progress);
        match (sent, progress.failure.take()) {
            (Ok(()), _) => Ok(progress.bytes),
            (Err(ChannelError::Source(_)), Some(failure)) => Err(failure),
            (Err(error), _) => Err(told(error)),
        }
    }

    async fn get_file(&self, path: &str) -> Result<FileSource, HypervisorError> {
        let download = self.0.get_file(path).await.map_err(told)?;
        let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
        tokio::spawn(hand_on(download, sender));
        Ok(receiver)
    }

    async fn closed(&self) {
        self.0.closed().await;
    }
}

fn lock(progress: &Mutex<Progress>) -> std::sync::MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How far an upload's source came, and the error it ended with.
#[derive(Default)]
struct Progress {
    bytes: u64,
    failure: Option<HypervisorError>,
}

impl Progress {
    fn note(&mut self, piece: Result<Bytes, HypervisorError>) -> io::Result<Bytes> {
        match piece {
            Ok(piece) => {
                self.bytes += piece.len() as u64;
                Ok(piece)
            }
            Err(failure) => {
                let text = failure.to_string();
                self.failure = Some(failure);
                Err(io::Error::other(text))
            }
        }
    }
}

/// Ends when the file does, or when nobody wants it any more.
async fn hand_on(mut download: FileDownload, sender: mpsc::Sender<Result<Bytes, HypervisorError>>) {
    loop {
        let piece = match download.next().await {
            Ok(Some(piece)) => Ok(piece),
            Ok(None) => return,
            Err(error) => Err(told(error)),
        };
        let failed = piece.is_err();
        if sender.send(piece).await.is_err() || failed {
            return;
        }
    }
}

struct Attached {
    output: ExecutionOutput,
    stdin: Option<StdinWriter>,
    over: bool,
}

#[async_trait]
impl ExecStream for Attached {
    async fn next(&mut self) -> Option<Result<ExecEvent, HypervisorError>> {
        use perigee_guest::ExecEvent as Said;
        if self.over {
            return None;
        }
        let event = match self.output.next().await {
            Ok(Said::Started(_)) => Ok(ExecEvent::Started),
            Ok(Said::Stdout(bytes)) => Ok(ExecEvent::Stdout(bytes)),
            Ok(Said::Stderr(bytes)) => Ok(ExecEvent::Stderr(bytes)),
            Ok(Said::End(end)) => Ok(ExecEvent::End(end)),
            Err(error) => Err(told(error)),
        };
        self.over = matches!(event, Ok(ExecEvent::End(_)) | Err(_));
        Some(event)
    }

    fn stdin(&mut self) -> Option<Box<dyn ExecStdin>> {
        self.stdin.take().map(|writer| Box::new(Input(writer)) as Box<dyn ExecStdin>)
    }
}

struct Input(StdinWriter);

#[async_trait]
impl ExecStdin for Input {
    fn offset(&self) -> u64 {
        self.0.offset()
    }
    async fn write(&mut self, bytes: Bytes) -> Result<(), HypervisorError> {
        self.0.write(&bytes).await.map_err(told)
    }
    async fn finish(&mut self) -> Result<(), HypervisorError> {
        self.0.finish().await.map_err(told)
    }
}

/// A channel's error in the seam's words.
pub fn told(error: ChannelError) -> HypervisorError {
    let refused = |code: &str, text: String| HypervisorError::GuestRefused { code: code.to_owned(), text };
    match error {
        ChannelError::Lost => HypervisorError::UnknownExecution,
        ChannelError::OffsetGone(text) => refused("offset_gone", text),
        ChannelError::FileTooLarge { .. } => refused("too_large", error.to_string()),
        ChannelError::Refused(refusal) => refused(code_text(refusal.code), refusal.message),
        ChannelError::NoAnswer { waited, .. } => HypervisorError::Silent(waited),
        ChannelError::Unreachable { .. }
        | ChannelError::Version { .. }
        | ChannelError::Protocol(_)
        | ChannelError::Record(_)
        | ChannelError::Closed(_)
        | ChannelError::TimedOut { .. }
        | ChannelError::OutputBeyondLimit { .. }
        | ChannelError::StdinClosed
        | ChannelError::Source(_) => HypervisorError::Channel(error.to_string()),
    }
}

/// As the protocol spells it.
fn code_text(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Invalid => "invalid",
        ErrorCode::UnknownRequest => "unknown_request",
        ErrorCode::UnknownExecution => "unknown_execution",
        ErrorCode::OffsetGone => "offset_gone",
        ErrorCode::StillRunning => "still_running",
        ErrorCode::NotRunning => "not_running",
        ErrorCode::TooManyExecutions => "too_many_executions",
        ErrorCode::NotFound => "not_found",
        ErrorCode::NotAFile => "not_a_file",
        ErrorCode::Denied => "denied",
        ErrorCode::TooLarge => "too_large",
        ErrorCode::NoSpace => "no_space",
        ErrorCode::BadPath => "bad_path",
        ErrorCode::Io => "io",
        ErrorCode::Other => "other",
    }
}
