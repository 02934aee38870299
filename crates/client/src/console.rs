//! Sitting at a guest: a ticket, and the WebSocket that it opens, as a sender and a receiver.

use crate::address::encoded;
use crate::ask::Ask;
use crate::call::json;
use crate::websocket::SILENCE_MAX;
use crate::{Client, ClientError};
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::Method;
use perigee_api::{ConsoleRequest, ConsoleSeat, ConsoleView};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

/// The half that is typed into.
#[derive(Debug)]
pub struct ConsoleSender {
    sink: SplitSink<WebSocketStream<TcpStream>, Message>,
    client: Client,
}

/// The half that shows. Dropping both leaves.
#[derive(Debug)]
pub struct ConsoleReceiver {
    stream: SplitStream<WebSocketStream<TcpStream>>,
    client: Client,
}

impl Client {
    /// A ticket to a console, by the guest's id or name.
    ///
    /// # Errors
    /// See [`ClientError`]; so for every call here.
    pub async fn console_ticket(&self, vm: &str, seat: ConsoleSeat) -> Result<ConsoleView, ClientError> {
        let path = format!("/api/v1/vms/{}/console", encoded(vm));
        self.value(&Ask::new(Method::POST, path).json(json(&ConsoleRequest { seat })?)).await
    }

    /// Sits down at a guest.
    pub async fn console(&self, vm: &str, seat: ConsoleSeat) -> Result<(ConsoleSender, ConsoleReceiver), ClientError> {
        let ticket = self.console_ticket(vm, seat).await?;
        let (sink, stream) = self.websocket(&ticket.url, false).await?.split();
        Ok((ConsoleSender { sink, client: self.clone() }, ConsoleReceiver { stream, client: self.clone() }))
    }
}

impl ConsoleSender {
    /// Waits while the guest takes no more.
    ///
    /// # Errors
    /// `Unreachable` when the connection broke.
    pub async fn send(&mut self, bytes: Bytes) -> Result<(), ClientError> {
        self.sink.send(Message::Binary(bytes)).await.map_err(|e| self.client.broken(e))
    }

    /// Leaves.
    ///
    /// # Errors
    /// As [`ConsoleSender::send`].
    pub async fn leave(&mut self) -> Result<(), ClientError> {
        self.sink.send(Message::Close(None)).await.map_err(|e| self.client.broken(e))
    }
}

impl ConsoleReceiver {
    /// What the guest says next; `None` when it ended the console, or another sat down at its serial port.
    ///
    /// # Errors
    /// `TimedOut` after 60 s without even a ping, `Unreachable` when the console broke off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let heard = timeout(SILENCE_MAX, self.stream.next()).await;
            match heard.map_err(|_| self.client.timed_out(SILENCE_MAX))? {
                Some(Ok(Message::Binary(bytes))) => return Ok(Some(bytes)),
                Some(Ok(Message::Close(frame))) => {
                    return match frame {
                        Some(frame) if frame.code != CloseCode::Normal => Err(self.client.cut(&frame.reason)),
                        Some(_) | None => Ok(None),
                    };
                }
                Some(Ok(Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(error)) => return Err(self.client.broken(error)),
                None => return Err(self.client.cut("the console broke off")),
            }
        }
    }
}
