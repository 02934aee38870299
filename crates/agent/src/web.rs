//! The agent's health over HTTP/1.1.
//!
//! Owns: `/health/live` and `/health/ready`. Refuses: every other path and method, and details to
//! who does not show the token of the data directory.

use crate::health::Health;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use subtle::ConstantTimeEq as _;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Connections at once.
const CONNECTIONS_MAX: usize = 64;
/// A request's head must come within this.
const HEAD_WITHIN: Duration = Duration::from_secs(2);

/// Why health is not served.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// It is served without TLS, so on loopback only.
    #[error("health is served on a loopback address only, not on {0}: a public bind needs TLS")]
    Public(SocketAddr),
    /// The operating system refused.
    #[error("the health address cannot be used")]
    Os(#[from] std::io::Error),
}

/// Binds the health address; port 0 takes a free one.
///
/// # Errors
/// `Public`, `Os`.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, WebError> {
    if !address.ip().is_loopback() {
        return Err(WebError::Public(address));
    }
    Ok(TcpListener::bind(address).await?)
}

/// Serves until cancelled.
pub async fn serve(listener: TcpListener, health: Arc<Health>, token: String, cancel: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let token: Arc<str> = token.into();
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = cancel.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(permit) = room.clone().try_acquire_owned() else { continue };
        let (health, token) = (health.clone(), token.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let answer = hyper::service::service_fn(move |request| {
                let response = answer(&request, &health, &token);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_WITHIN)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), answer);
            let _ = connection.await;
        });
    }
}

fn answer(request: &Request<Incoming>, health: &Health, token: &str) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "");
    }
    match request.uri().path() {
        "/health/live" => plain(StatusCode::OK, "ok"),
        "/health/ready" => {
            let ready = health.is_ready();
            let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            let shown = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
            let shown = shown.and_then(|v| v.strip_prefix("Bearer ")).unwrap_or_default();
            if !bool::from(shown.as_bytes().ct_eq(token.as_bytes())) {
                return plain(status, "");
            }
            let unknown: Vec<String> = health.unknown_guests().iter().map(ToString::to_string).collect();
            let body = serde_json::json!({ "ready": ready, "parts": health.parts(), "unknown_guests": unknown });
            let mut response = plain(status, &body.to_string());
            let json = header::HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            response
        }
        _ => plain(StatusCode::NOT_FOUND, ""),
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    response
}
