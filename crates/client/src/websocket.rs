//! Opening a WebSocket on the control plane.

use crate::call::{CONNECT, PATIENCE};
use crate::{Client, ClientError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::tungstenite::{ClientRequestBuilder, Error};
use tokio_tungstenite::{WebSocketStream, client_async};

/// The server pings every 20 s; after three missing pings nobody is there.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(60);

impl Client {
    /// A WebSocket at this path and query, with our token unless the address has its own right.
    pub(crate) async fn websocket(&self, path: &str, bearer: bool) -> Result<WebSocketStream<TcpStream>, ClientError> {
        let url = self.address.websocket(path);
        let uri: Uri = url.parse().map_err(|_| ClientError::BadAnswer(format!("{url} is not a URL")))?;
        let mut request = ClientRequestBuilder::new(uri).with_header("x-request-id", self.clock.uuid().to_string());
        if let Some(token) = self.token.as_ref().filter(|_| bearer) {
            request = request.with_header("authorization", token.header());
        }
        let connected = timeout(CONNECT, TcpStream::connect(self.address.socket())).await;
        let socket = connected.map_err(|_| self.timed_out(CONNECT))?.map_err(|e| self.unreachable(&e))?;
        // Without it small output would wait for the acknowledgement of what went before.
        socket.set_nodelay(true).map_err(|e| self.unreachable(&e))?;
        let shaken = timeout(PATIENCE, client_async(request, socket)).await;
        let (socket, _) = shaken.map_err(|_| self.timed_out(PATIENCE))?.map_err(|e| self.broken(e))?;
        Ok(socket)
    }

    pub(crate) fn broken(&self, error: Error) -> ClientError {
        match error {
            Error::Http(answer) => {
                let body = answer.body().as_deref().unwrap_or_default();
                ClientError::refused(answer.status(), body)
            }
            other => self.unreachable(&other),
        }
    }

    /// A stream that ended before it should have.
    pub(crate) fn cut(&self, cause: &str) -> ClientError {
        ClientError::Unreachable { address: self.address.to_string(), cause: cause.to_owned() }
    }
}
