//! The client and the one way every call goes: build, send, read, judge.

use crate::ClientError;
use crate::address::{Address, Token};
use crate::ask::{Ask, Body, full};
use crate::local;
use crate::query::{Answer, Tagged, wait_seconds};
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, IF_MATCH, USER_AGENT};
use http::request::Builder;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use perigee_api::Page;
use perigee_clock::Clock;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::error::Error;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// A call waits this long for its answer, beyond what it asked the server to wait.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// A TCP connection that is not made by then will not be.
pub(crate) const CONNECT: Duration = Duration::from_secs(5);
/// What a call is called in the control plane's log.
const REQUEST_ID: &str = "x-request-id";
/// Waits between the tries of a GET that found nobody there.
const RETRY_AFTER: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(150)];
/// Longest JSON answer: a full page of the largest objects stays far below it.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Speaks to one control plane. Cheap to clone; clones share the connection.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) address: Address,
    pub(crate) token: Option<Token>,
    pub(crate) clock: Clock,
    pool: Pool<HttpConnector, Body>,
    patience: Duration,
}

/// An answer as it came, for whoever wants to look for themselves.
#[derive(Clone, Debug)]
pub struct RawAnswer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Client {
    /// For the control plane at `address`. Connects with the first call.
    pub fn new(address: Address, token: Option<Token>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT));
        let pool = Pool::builder(TokioExecutor::new()).build(connector);
        Self { address, token, clock: Clock::real(), pool, patience: PATIENCE }
    }

    /// Waits this long for an answer instead of 30 s.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Where the calls go.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Any route; a status of 400 and above is given back, not made an error.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn raw(&self, method: Method, path: &str, json: Option<Bytes>) -> Result<RawAnswer, ClientError> {
        let mut ask = Ask::new(method, path);
        if let Some(body) = json {
            ask = ask.json(body);
        }
        let answer = self.send(&ask).await?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        Ok(RawAnswer { status, headers, body: self.read(answer).await? })
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.value(&Ask::new(Method::GET, path)).await
    }

    pub(crate) async fn get_tagged<T: DeserializeOwned>(&self, path: &str) -> Result<Tagged<T>, ClientError> {
        let answer = self.accepted(&Ask::new(Method::GET, path)).await?;
        let etag = answer.headers().get(ETAG).and_then(|v| v.to_str().ok()).map(str::to_owned);
        Ok(Tagged { object: decoded(&self.read(answer).await?)?, etag })
    }

    pub(crate) async fn page<T: DeserializeOwned>(&self, path: &str) -> Result<Page<T>, ClientError> {
        self.get(path).await
    }

    /// The value in a 2xx answer.
    pub(crate) async fn value<T: DeserializeOwned>(&self, ask: &Ask) -> Result<T, ClientError> {
        let answer = self.accepted(ask).await?;
        decoded(&self.read(answer).await?)
    }

    /// Work that may be done at once (200, 201) or become a task (202).
    pub(crate) async fn work<T: DeserializeOwned>(&self, ask: &Ask) -> Result<Answer<T>, ClientError> {
        let answer = self.accepted(ask).await?;
        let taken = answer.status() == StatusCode::ACCEPTED;
        let body = self.read(answer).await?;
        if taken { Ok(Answer::Accepted(Box::new(decoded(&body)?))) } else { Ok(Answer::Done(decoded(&body)?)) }
    }

    /// Work whose end has no body (204), or that became a task (202).
    pub(crate) async fn removal(&self, ask: &Ask) -> Result<Answer<()>, ClientError> {
        let answer = self.accepted(ask).await?;
        if answer.status() != StatusCode::ACCEPTED {
            return Ok(Answer::Done(()));
        }
        Ok(Answer::Accepted(Box::new(decoded(&self.read(answer).await?)?)))
    }

    /// A 2xx answer, its body still to be read.
    pub(crate) async fn accepted(&self, ask: &Ask) -> Result<Response<Incoming>, ClientError> {
        let answer = self.send(ask).await?;
        self.judged(answer).await
    }

    /// Makes an error of everything but 2xx.
    pub(crate) async fn judged(&self, answer: Response<Incoming>) -> Result<Response<Incoming>, ClientError> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let id = answer.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok()).map(str::to_owned);
        Err(ClientError::refused(status, &self.read(answer).await?).known_as(id))
    }

    /// Sends; a GET that found nobody there is tried again, nothing else is.
    async fn send(&self, ask: &Ask) -> Result<Response<Incoming>, ClientError> {
        let within = self.patience + ask.wait.unwrap_or_default();
        let tries = if ask.method == Method::GET { &RETRY_AFTER[..] } else { &[] };
        let mut waits = tries.iter();
        loop {
            let request = self.request(ask)?;
            if let Some(socket) = self.address.local() {
                let answer = timeout(within, local::ask(socket, request)).await.map_err(|_| self.timed_out(within))?;
                return answer.map_err(|broken| self.unreachable(broken.as_ref()));
            }
            let answer = timeout(within, self.pool.request(request)).await;
            match answer.map_err(|_| self.timed_out(within))? {
                Ok(answer) => return Ok(answer),
                Err(broken) => match waits.next() {
                    Some(wait) if broken.is_connect() => sleep(*wait).await,
                    _ => return Err(self.unreachable(&broken)),
                },
            }
        }
    }

    /// The headers every request has.
    pub(crate) fn builder(&self, method: &Method, path: &str) -> Builder {
        let mut builder = Request::builder()
            .method(method)
            .uri(self.address.http(path))
            .header(USER_AGENT, concat!("perigee/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "application/json, application/problem+json, */*;q=0.5")
            .header(REQUEST_ID, self.clock.uuid().to_string());
        if let Some(token) = &self.token {
            builder = builder.header(AUTHORIZATION, token.header());
        }
        builder
    }

    fn request(&self, ask: &Ask) -> Result<Request<Body>, ClientError> {
        let mut builder = self.builder(&ask.method, &ask.path);
        if ask.method == Method::POST {
            builder = builder.header("idempotency-key", self.clock.uuid().to_string());
        }
        if let Some(media) = ask.media {
            builder = builder.header(CONTENT_TYPE, media);
        }
        if let Some(wait) = ask.wait {
            builder = builder.header("prefer", format!("wait={}", wait_seconds(wait)));
        }
        if let Some(etag) = &ask.if_match {
            builder = builder.header(IF_MATCH, etag);
        }
        builder.body(full(ask.body.clone())).map_err(unsendable)
    }

    /// Sends a request with a streamed body; how long that takes is the caller's to bound.
    pub(crate) async fn send_streamed(&self, request: Request<Body>) -> Result<Response<Incoming>, ClientError> {
        self.pool.request(request).await.map_err(|broken| self.unreachable(&broken))
    }

    /// The whole body.
    pub(crate) async fn read(&self, answer: Response<Incoming>) -> Result<Bytes, ClientError> {
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect();
        let read = timeout(self.patience, body).await.map_err(|_| self.timed_out(self.patience))?;
        let whole = read.map_err(|broken| self.unreachable(broken.as_ref()))?;
        Ok(whole.to_bytes())
    }

    pub(crate) fn timed_out(&self, within: Duration) -> ClientError {
        ClientError::TimedOut { address: self.address.to_string(), within }
    }

    pub(crate) fn unreachable(&self, broken: &(dyn Error + 'static)) -> ClientError {
        ClientError::Unreachable { address: self.address.to_string(), cause: deepest(broken) }
    }
}

/// JSON of a request.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<Bytes, ClientError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|e| ClientError::BadAnswer(e.to_string()))
}

/// A request that HTTP has no way to say, for example one with a newline in its path.
pub(crate) fn unsendable(fault: http::Error) -> ClientError {
    ClientError::BadAnswer(format!("the request cannot be sent: {fault}"))
}

/// The value of an answer's body.
pub(crate) fn decoded<T: DeserializeOwned>(body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|e| ClientError::BadAnswer(e.to_string()))
}

/// The last cause in the chain says what happened; the ones above say only where.
fn deepest(broken: &(dyn Error + 'static)) -> String {
    let mut at = broken;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}
