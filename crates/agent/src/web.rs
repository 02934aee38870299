//! The agent's pages over HTTP/1.1: its health, and what it measured last.
//!
//! Owns: `/health/live`, `/health/ready` and, on an address of its own, `/metrics`. Refuses: every
//! other path and method, details of its health to who does not show the token of the data
//! directory, and measuring for a page: scraping twice costs a host nothing.

use crate::health::Health;
use crate::watch::SharedSheet;
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

/// Why pages are not served.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// It is served without TLS, so on loopback only.
    #[error("this is served on a loopback address only, not on {0}: a public bind needs TLS")]
    Public(SocketAddr),
    /// The operating system refused.
    #[error("the address cannot be used")]
    Os(#[from] std::io::Error),
}

/// Binds an address; port 0 takes a free one.
///
/// # Errors
/// `Public`, `Os`.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, WebError> {
    if !address.ip().is_loopback() {
        return Err(WebError::Public(address));
    }
    Ok(TcpListener::bind(address).await?)
}

/// What an address answers to a GET, by path.
pub type Pages = Arc<dyn Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Send + Sync>;

/// The health pages.
pub fn health_pages(health: Arc<Health>, token: String) -> Pages {
    Arc::new(move |request| health_page(request, &health, &token))
}

/// The metrics page: the sheets of both streams as Prometheus reads them.
pub fn metrics_pages(node: Arc<SharedSheet>, guests: Arc<SharedSheet>) -> Pages {
    Arc::new(move |request| match request.uri().path() {
        "/metrics" => {
            let (node, guests) = (node.lock(), guests.lock());
            let text = perigee_probe::exposition::exposition_of(node.values().chain(guests.values()));
            let mut response = plain(StatusCode::OK, &text);
            let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        _ => plain(StatusCode::NOT_FOUND, ""),
    })
}

/// Serves until cancelled.
pub async fn serve(listener: TcpListener, pages: Pages, cancel: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
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
        let pages = pages.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let answer = hyper::service::service_fn(move |request| {
                let get = request.method() == Method::GET;
                let response = if get { pages(&request) } else { plain(StatusCode::METHOD_NOT_ALLOWED, "") };
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

fn health_page(request: &Request<Incoming>, health: &Health, token: &str) -> Response<Full<Bytes>> {
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
