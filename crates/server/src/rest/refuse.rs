//! Refusals on the wire: the one table from code to HTTP status, and the problem document.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use perigee_api::{FieldFault, ProblemDocument};
use perigee_model::guest::Problem;
use perigee_model::{Code, Kind, Refusal};

/// The status of a code. The kind decides, but where HTTP has a more precise word.
pub fn status(code: Code) -> StatusCode {
    match code {
        Code::BadField | Code::UnknownField | Code::BadIdempotencyKey => StatusCode::UNPROCESSABLE_ENTITY,
        Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::BadMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Code::WrongMethod => StatusCode::METHOD_NOT_ALLOWED,
        Code::PreconditionRequired => StatusCode::PRECONDITION_REQUIRED,
        Code::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
        Code::NotAWebSocket => StatusCode::UPGRADE_REQUIRED,
        Code::NoRoom => StatusCode::CONFLICT,
        Code::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
        other => match other.kind() {
            Kind::Invalid => StatusCode::BAD_REQUEST,
            Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
            Kind::Denied => StatusCode::FORBIDDEN,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::Conflict => StatusCode::CONFLICT,
            Kind::Exhausted => StatusCode::TOO_MANY_REQUESTS,
            Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Bug => StatusCode::INTERNAL_SERVER_ERROR,
        },
    }
}

/// What a handler gives when it refuses. The request id is put in by the outermost layer.
#[derive(Debug)]
pub struct Refused(pub Refusal);

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

/// Shorthand for handlers.
pub type Answer<T = Response> = Result<T, Refused>;

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let retry_after_s = self.0.retry_after_s;
        let cause = self.0.cause.as_ref().map(|c| format!("{c:?}"));
        if let Some(cause) = cause {
            tracing::error!(code = %self.0.code, cause, "a request was refused for an inner reason");
        }
        let document = document(&self.0);
        let mut response = problem_response(&document);
        if let Some(seconds) = retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.0.code == Code::NoToken {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// The problem document of a refusal, its request id still empty.
pub fn document(refusal: &Refusal) -> ProblemDocument {
    let faults = refusal.pointer.iter();
    ProblemDocument {
        kind: format!("/errors/{}", refusal.code.number()),
        title: refusal.code.title().to_owned(),
        status: status(refusal.code).as_u16(),
        detail: refusal.shown.clone(),
        code: refusal.code.number().to_owned(),
        request_id: String::new(),
        errors: faults.map(|p| FieldFault { pointer: p.clone(), detail: refusal.shown.clone() }).collect(),
    }
}

/// The refusal that a recorded problem amounts to.
pub fn of_problem(problem: &Problem) -> Refusal {
    let code = Code::parse(&problem.code).unwrap_or(Code::Bug);
    Refusal::new(code, problem.text.clone())
}

/// A response that carries a problem document. It is kept in the extensions too, for the layer that
/// fills in the request id.
pub fn problem_response(document: &ProblemDocument) -> Response {
    let status = StatusCode::from_u16(document.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Json(document.clone())).into_response();
    let kind = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response.extensions_mut().insert(document.clone());
    response
}

/// `X-Request-Id`.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
