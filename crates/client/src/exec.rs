//! A command in a guest, live: the WebSocket of `perigee_api::stream`, as a sender and a receiver.

use crate::sandbox::path;
use crate::websocket::SILENCE_MAX;
use crate::{Client, ClientError};
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use perigee_api::ExecutionView;
use perigee_api::stream::{ExecControl, ExecEvent, ExecOpen, STDERR, STDIN, STDOUT};
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// What a command says.
#[derive(Clone, Debug)]
pub enum ExecMessage {
    /// It is recorded under this id and on its way to the guest.
    Started(String),
    /// Standard output.
    Stdout(Bytes),
    /// Standard error.
    Stderr(Bytes),
    /// It ended; the last message.
    Ended(Box<ExecutionView>),
}

/// The half that speaks to the command.
#[derive(Debug)]
pub struct ExecSender {
    sink: SplitSink<WebSocketStream<TcpStream>, Message>,
    client: Client,
}

/// The half that hears it. Dropping both detaches; the command goes on.
#[derive(Debug)]
pub struct ExecReceiver {
    stream: SplitStream<WebSocketStream<TcpStream>>,
    client: Client,
}

impl Client {
    /// Starts a command in a guest and stays connected to it.
    ///
    /// # Errors
    /// `Refused` when the guest cannot run it; else see [`ClientError`].
    pub async fn exec(&self, sandbox: &str, open: &ExecOpen) -> Result<(ExecSender, ExecReceiver), ClientError> {
        let socket = self.websocket(&path(sandbox, "/exec"), true).await?;
        let (sink, stream) = socket.split();
        let mut sender = ExecSender { sink, client: self.clone() };
        sender.text(open).await?;
        Ok((sender, ExecReceiver { stream, client: self.clone() }))
    }
}

impl ExecSender {
    /// Standard input; waits while the server takes no more.
    ///
    /// # Errors
    /// `Unreachable` when the connection broke; so for every call here.
    pub async fn stdin(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        let mut message = BytesMut::with_capacity(bytes.len() + 1);
        message.put_u8(STDIN);
        message.put_slice(bytes);
        self.send(Message::Binary(message.freeze())).await
    }

    /// End of standard input.
    pub async fn stdin_end(&mut self) -> Result<(), ClientError> {
        self.text(&ExecControl::StdinEnd(true)).await
    }

    /// Sends this signal to the command.
    pub async fn signal(&mut self, number: i32) -> Result<(), ClientError> {
        self.text(&ExecControl::Signal(number)).await
    }

    async fn text<T: Serialize>(&mut self, value: &T) -> Result<(), ClientError> {
        let text = serde_json::to_string(value).map_err(|e| ClientError::BadAnswer(e.to_string()))?;
        self.send(Message::text(text)).await
    }

    async fn send(&mut self, message: Message) -> Result<(), ClientError> {
        self.sink.send(message).await.map_err(|e| self.client.broken(e))
    }
}

impl ExecReceiver {
    /// The next message. After [`ExecMessage::Ended`] do not ask again.
    ///
    /// # Errors
    /// `Refused` when the server gave up and said why, `TimedOut` after 60 s without even a ping,
    /// `Unreachable` when the stream ended before the command did.
    pub async fn next(&mut self) -> Result<ExecMessage, ClientError> {
        loop {
            let heard = timeout(SILENCE_MAX, self.stream.next()).await;
            let message = match heard.map_err(|_| self.client.timed_out(SILENCE_MAX))? {
                Some(Ok(message)) => message,
                Some(Err(error)) => return Err(self.client.broken(error)),
                None => return Err(self.client.cut("the stream ended before the command did")),
            };
            match message {
                Message::Binary(bytes) => match bytes.first() {
                    Some(&STDOUT) => return Ok(ExecMessage::Stdout(bytes.slice(1..))),
                    Some(&STDERR) => return Ok(ExecMessage::Stderr(bytes.slice(1..))),
                    // A later server may send more kinds.
                    Some(_) | None => {}
                },
                Message::Text(text) => return event(text.as_str()),
                Message::Close(frame) => {
                    let why = frame.map(|f| f.reason.to_string()).unwrap_or_default();
                    return Err(self.client.cut(&format!("the server closed the stream: {why}")));
                }
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }
}

fn event(text: &str) -> Result<ExecMessage, ClientError> {
    match serde_json::from_str(text).map_err(|e| ClientError::BadAnswer(e.to_string()))? {
        ExecEvent::Started { execution_id } => Ok(ExecMessage::Started(execution_id)),
        ExecEvent::Ended(view) => Ok(ExecMessage::Ended(view)),
        ExecEvent::Problem(problem) => Err(ClientError::Refused(Box::new(problem))),
    }
}
