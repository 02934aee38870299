//! HTTP/1.1 on one connection: who speaks, which route, and what a refusal looks like.

use super::verbs::{self, Call};
use crate::world::World;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use perigee_api::{FieldFault, ProblemDocument};
use perigee_model::limits::BODY_BYTES_MAX;
use perigee_model::{Code, Kind, Refusal};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use subtle::ConstantTimeEq as _;
use tokio::io::{AsyncRead, AsyncWrite};

/// A request's head must come within this.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Who speaks.
#[derive(Clone)]
enum Speaker {
    /// A user of this host, by the socket.
    User(Option<u32>),
    /// Whoever shows this.
    Bearer(String),
}

/// One connection.
pub(super) struct Connection {
    stream: Box<dyn Io>,
    speaker: Speaker,
}

impl Connection {
    /// By the socket.
    pub(super) fn of_user(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, uid: Option<u32>) -> Self {
        Self { stream: Box::new(stream), speaker: Speaker::User(uid) }
    }
    /// By the port.
    pub(super) fn with_token(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, token: String) -> Self {
        Self { stream: Box::new(stream), speaker: Speaker::Bearer(token) }
    }

    /// Answers until the other end closes.
    pub(super) async fn serve(self, world: Arc<World>) {
        let speaker = self.speaker;
        let answer = hyper::service::service_fn(move |request| {
            let (world, speaker) = (world.clone(), speaker.clone());
            async move { Ok::<_, Infallible>(answer(world, &speaker, request).await) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .serve_connection(TokioIo::new(self.stream), answer);
        if let Err(error) = served.await {
            tracing::debug!(%error, "a local connection broke");
        }
    }
}

async fn answer(world: Arc<World>, speaker: &Speaker, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let answered = match admitted(speaker, request.headers()) {
        Ok(uid) => routed(world, uid, request).await,
        Err(refusal) => Err(refusal),
    };
    answered.unwrap_or_else(|refusal| refused(&refusal))
}

/// The speaker's user. A page in a browser never gets here: it cannot open a socket, cannot know the
/// token, and says where it comes from.
fn admitted(speaker: &Speaker, headers: &HeaderMap) -> Result<Option<u32>, Refusal> {
    if headers.contains_key(header::ORIGIN) {
        return Err(Refusal::new(Code::WrongOrigin, "web pages do not speak to an agent"));
    }
    match speaker {
        Speaker::User(uid) => Ok(*uid),
        Speaker::Bearer(token) => {
            let host = headers.get(header::HOST).and_then(|v| v.to_str().ok()).unwrap_or_default();
            let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
            if !["127.0.0.1", "localhost", "[::1]"].contains(&name) {
                return Err(Refusal::new(Code::WrongOrigin, "this port is spoken to by its loopback address"));
            }
            let shown = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
            let shown = shown.and_then(|v| v.strip_prefix("Bearer ")).unwrap_or_default();
            if bool::from(shown.as_bytes().ct_eq(token.as_bytes())) {
                Ok(None)
            } else {
                let text = "send Authorization: Bearer TOKEN; the file `token` in the agent's directory has it";
                Err(Refusal::new(Code::NoToken, text))
            }
        }
    }
}

async fn routed(
    world: Arc<World>,
    uid: Option<u32>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Refusal> {
    let call = Call { world, uid };
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let words: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let ["api", "v1", "vms", rest @ ..] = words.as_slice() else { return Err(no_route()) };
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
    let body = body.map_err(|_| Refusal::new(Code::TooLarge, format!("a body has at most {BODY_BYTES_MAX} bytes")))?;
    let body = body.to_bytes();
    match (&parts.method, rest) {
        (&Method::GET, []) => json(StatusCode::OK, &call.list(parts.uri.query().unwrap_or_default())?),
        (&Method::GET, [id]) => json(StatusCode::OK, &call.get(id)?),
        (&Method::POST, []) => json(StatusCode::CREATED, &call.create(read(&body)?).await?),
        (&Method::PATCH, [id]) => json(StatusCode::OK, &call.update(id, read(&body)?).await?),
        (&Method::DELETE, [id]) => {
            call.delete(id).await?;
            Ok(empty(StatusCode::NO_CONTENT))
        }
        (&Method::POST, [id, verb]) => json(StatusCode::OK, &call.switch(id, verbs::switch(verb, &body)?).await?),
        (_, [] | [_] | [_, _]) => {
            Err(Refusal::new(Code::WrongMethod, "the agent's own API does not know this method here"))
        }
        _ => Err(no_route()),
    }
}

fn no_route() -> Refusal {
    Refusal::new(Code::NoSuchRoute, "the agent's own API has /api/v1/vms and what is below it")
}

/// Strict JSON; an empty body counts as `{}`.
pub(super) fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| {
        let text: String = error.to_string().chars().filter(|c| !c.is_control()).take(300).collect();
        Refusal::new(Code::BadRequest, format!("the body is not what is wanted: {text}"))
    })
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Result<Response<Full<Bytes>>, Refusal> {
    let text =
        serde_json::to_vec(value).map_err(|e| Refusal::new(Code::Bug, "an answer cannot be written").because(e))?;
    let mut response = empty(status);
    *response.body_mut() = Full::new(text.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

fn status(code: Code) -> StatusCode {
    match code.kind() {
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
        Kind::Denied => StatusCode::FORBIDDEN,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::Exhausted => StatusCode::INSUFFICIENT_STORAGE,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Bug => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn refused(refusal: &Refusal) -> Response<Full<Bytes>> {
    if let Some(cause) = &refusal.cause {
        tracing::error!(code = %refusal.code, ?cause, "a local request was refused for an inner reason");
    }
    let status = status(refusal.code);
    let document = ProblemDocument {
        kind: format!("/errors/{}", refusal.code.number()),
        title: refusal.code.title().to_owned(),
        status: status.as_u16(),
        detail: refusal.shown.clone(),
        code: refusal.code.number().to_owned(),
        request_id: String::new(),
        errors: refusal
            .pointer
            .iter()
            .map(|p| FieldFault { pointer: p.clone(), detail: refusal.shown.clone() })
            .collect(),
    };
    let mut response = json(status, &document).unwrap_or_else(|_| empty(status));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response
}
