//! A conversation with a command in a guest: its output to ours, our input and signals to it.
//!
//! Output is written as it comes, in its own future: a full pipe stops the command by flow control,
//! not our ear for Ctrl-C. The first Ctrl-C is the command's; the second leaves it.

use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::Session;
use bytes::Bytes;
use perigee_api::ExecutionView;
use perigee_api::stream::ExecOpen;
use perigee_client::{ExecMessage, ExecReceiver, ExecSender};
use std::cell::RefCell;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

const SIGINT: i32 = 2;
/// One read of standard input.
const PIECE: usize = 32 << 10;
/// Pieces and signals on their way out.
const QUEUE: usize = 4;

/// How a conversation ended.
#[derive(Debug)]
pub enum Ending {
    /// With the command.
    Ended(Box<ExecutionView>),
    /// We left; it goes on under this id, if it had begun.
    Left(Option<String>),
}

/// Runs a command and stays with it.
pub async fn converse(session: &Session, sandbox: &str, open: &ExecOpen) -> Result<Ending, Failure> {
    let mut signals = Signals::listen().map_err(|e| Failure::io("signals cannot be heard", &e))?;
    let began = RefCell::new(None);
    let (sender, receiver) = tokio::select! {
        connected = session.client()?.exec(sandbox, open) => connected?,
        () = signals.leave() => return Ok(Ending::Left(None)),
    };
    let (to_command, numbers) = mpsc::channel(QUEUE);
    let (pieces, stdin) = mpsc::channel(QUEUE);
    tokio::spawn(speak(sender, stdin, numbers));
    if open.stdin {
        tokio::spawn(read_stdin(pieces));
    }
    tokio::select! {
        ended = hear(receiver, &began) => ended,
        () = signals.pass_on(&to_command) => Ok(Ending::Left(began.take())),
    }
}

/// The exit code for an execution that ended, after saying what its output did not.
pub fn exit_of(session: &Session, ended: &ExecutionView) -> Result<Exit, Failure> {
    match (ended.state.as_str(), ended.exit_code) {
        ("lost", _) | (_, None) => Err(ended
            .problem
            .as_ref()
            .map_or_else(|| Failure::new(Exit::FAILURE, "What became of the command is not known"), Failure::problem)
            .hint(format!("perigee execution get {}", ended.id))),
        (state, Some(code)) => {
            if state == "timed_out" {
                session.out.note("perigee: the command was ended when its time was over");
            } else if let Some(problem) = &ended.problem {
                session.out.warning(&format!("perigee: {}", crate::cell::plain(&problem.detail)));
            }
            Ok(Exit::of_command(code))
        }
    }
}

async fn hear(mut receiver: ExecReceiver, began: &RefCell<Option<String>>) -> Result<Ending, Failure> {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    loop {
        let written = match receiver.next().await? {
            ExecMessage::Started(id) => {
                began.replace(Some(id));
                Ok(())
            }
            ExecMessage::Stdout(bytes) => write(&mut stdout, &bytes).await,
            ExecMessage::Stderr(bytes) => write(&mut stderr, &bytes).await,
            ExecMessage::Ended(view) => return Ok(Ending::Ended(view)),
        };
        written.map_err(|e| Failure::from_output(&e))?;
    }
}

async fn write<W: AsyncWriteExt + Unpin>(to: &mut W, bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

/// Sends what there is, signals first. A broken connection is the receiver's to report.
async fn speak(mut sender: ExecSender, mut stdin: mpsc::Receiver<Bytes>, mut signals: mpsc::Receiver<i32>) {
    let mut reading = true;
    loop {
        let sent = tokio::select! {
            biased;
            number = signals.recv() => match number {
                Some(number) => sender.signal(number).await,
                None => return,
            },
            piece = stdin.recv(), if reading => match piece {
                Some(piece) if piece.is_empty() => sender.stdin_end().await,
                Some(piece) => sender.stdin(&piece).await,
                None => {
                    reading = false;
                    Ok(())
                }
            },
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Reads until the end, which is sent as an empty piece.
async fn read_stdin(pieces: mpsc::Sender<Bytes>) {
    let mut stdin = tokio::io::stdin();
    let mut piece = vec![0; PIECE];
    loop {
        // A read error ends the input as its end would: the command must not wait for ever.
        let length = stdin.read(&mut piece).await.unwrap_or(0);
        if pieces.send(Bytes::copy_from_slice(&piece[..length])).await.is_err() || length == 0 {
            return;
        }
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Any of them.
    async fn leave(&mut self) {
        tokio::select! { _ = self.interrupt.recv() => {}, _ = self.terminate.recv() => {}, _ = self.hangup.recv() => {} }
    }

    /// Gives the first Ctrl-C to the command; returns with the next, or when we are told to go.
    async fn pass_on(&mut self, to_command: &mpsc::Sender<i32>) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => return,
            _ = self.hangup.recv() => return,
        }
        // With a full queue the command hears nothing any more; the second Ctrl-C still leaves it.
        let _ = to_command.try_send(SIGINT);
        self.leave().await;
    }
}
