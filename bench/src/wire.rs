//! A connection that is driven by whoever asks on it: no other thread is woken in the client, so that what a question
//! takes is the server's time and the kernel's.

use crate::instance::Door;
use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use std::pin::Pin;
use tokio::net::TcpStream;

/// Kept alive between questions.
pub struct Wire {
    sender: SendRequest<Empty<Bytes>>,
    connection: Pin<Box<Connection<TokioIo<TcpStream>, Empty<Bytes>>>>,
    place: String,
    token: String,
}

impl Wire {
    /// For a runtime of one thread.
    pub async fn connect(door: &Door) -> Result<Self> {
        let place = door.url.strip_prefix("http://").context("an http address")?.to_owned();
        let socket = TcpStream::connect(&place).await?;
        socket.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
        Ok(Self { sender, connection: Box::pin(connection), place, token: door.token.clone() })
    }

    /// A whole answer.
    pub async fn get(&mut self, path: &str) -> Result<Bytes> {
        let request = Request::get(path).header("host", &self.place);
        let request = request.header("authorization", format!("Bearer {}", self.token)).body(Empty::new())?;
        let asking = self.sender.send_request(request);
        let answer = async {
            let answer = asking.await?;
            ensure!(answer.status().is_success(), "{} {path}: {}", self.place, answer.status());
            Ok(answer.into_body().collect().await?.to_bytes())
        };
        tokio::select! {
            biased;
            answer = answer => answer,
            ended = &mut self.connection => bail!("{} ended: {ended:?}", self.place),
        }
    }
}
