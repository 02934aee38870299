//! One request to an agent's socket on this host, on a connection of its own.

use crate::ask::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::path::Path;
use tokio::net::UnixStream;

/// Asks, and leaves the connection to end with the answer's body.
pub(crate) async fn ask(socket: &Path, mut request: Request<Body>) -> Result<Response<Incoming>, Box<dyn Error>> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    // HTTP/1.1 wants the path alone where a pool would have cut it out.
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).parse()?;
    let host = request.uri().authority().map_or("localhost", |authority| authority.as_str()).parse()?;
    *request.uri_mut() = path;
    request.headers_mut().insert(http::header::HOST, host);
    Ok(sender.send_request(request).await?)
}
