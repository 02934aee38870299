//! What concerns every request: its id, the Host and Origin check, security headers, panics.

use super::Server;
use super::refuse::{REQUEST_ID, Refused, problem_response};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use perigee_api::ProblemDocument;
use perigee_model::{Code, Refusal};
use std::net::IpAddr;

/// The request's id, for handlers and audit events.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

/// Gives the request an id, refuses foreign pages, and finishes the response.
pub async fn around(State(server): State<Server>, mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers(), &server);
    request.extensions_mut().insert(RequestId(id.clone()));
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let started = server.control.clock().instant();
    let response = match check_origin(request.headers(), &server.hosts) {
        Ok(()) => next.run(request).await,
        Err(refusal) => Refused(refusal).into_response(),
    };
    let response = finish(response, &id);
    let status = response.status().as_u16();
    server.requests.count(status);
    let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    tracing::debug!(%method, path, status, micros, request_id = id, "request");
    response
}

/// The answer to a panic in a handler. The next request is served as if nothing had happened.
pub fn panicked(payload: Box<dyn std::any::Any + Send + 'static>) -> Response {
    let text = payload.downcast_ref::<&str>().map(|t| (*t).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
    tracing::error!(panic = text, "a handler panicked");
    Refused(Refusal::new(Code::Bug, "this should not have happened; the log has the rest")).into_response()
}

fn request_id(headers: &HeaderMap, server: &Server) -> String {
    let given = headers.get(REQUEST_ID).and_then(|v| v.to_str().ok());
    let plain = |t: &&str| {
        !t.is_empty()
            && t.len() <= 64
            && t.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    given.filter(plain).map_or_else(|| server.control.clock().uuid().to_string(), str::to_owned)
}

/// A web page of another origin must not drive the API (DNS rebinding, cross-site requests).
fn check_origin(headers: &HeaderMap, allowed: &[String]) -> Result<(), Refusal> {
    let text = |name: HeaderName| headers.get(name).map(|v| v.to_str().unwrap_or("?").to_owned());
    let refuse =
        |what: &str| Err(Refusal::new(Code::WrongOrigin, format!("the request's {what} is not this control plane's")));
    if let Some(host) = text(header::HOST)
        && !is_ours(&host, allowed)
    {
        return refuse("Host");
    }
    if let Some(origin) = text(header::ORIGIN) {
        let bare = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        if !bare.is_some_and(|host| is_ours(host, allowed)) {
            return refuse("Origin");
        }
    }
    Ok(())
}

/// `localhost`, a loopback address, or a configured name; with or without a port.
fn is_ours(host: &str, allowed: &[String]) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host
            .rsplit_once(':')
            .map_or(host, |(name, port)| if port.bytes().all(|b| b.is_ascii_digit()) { name } else { host }),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        || allowed.iter().any(|a| a.eq_ignore_ascii_case(name))
}

fn finish(mut response: Response, id: &str) -> Response {
    if let Some(document) = response.extensions_mut().remove::<ProblemDocument>() {
        let retry = response.headers_mut().remove(header::RETRY_AFTER);
        let scheme = response.headers_mut().remove(header::WWW_AUTHENTICATE);
        let allow = response.headers_mut().remove(header::ALLOW);
        response = problem_response(&ProblemDocument { request_id: id.to_owned(), ..document });
        let kept = [(header::RETRY_AFTER, retry), (header::WWW_AUTHENTICATE, scheme), (header::ALLOW, allow)];
        for (name, value) in kept {
            if let Some(value) = value {
                response.headers_mut().insert(name, value);
            }
        }
    }
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, value);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                  img-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_pages_drive_the_api() {
        let allowed = ["perigee.lan".to_owned()];
        for ours in ["localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:8080", "Perigee.lan:443"] {
            assert!(is_ours(ours, &allowed), "{ours}");
        }
        for foreign in ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "10.0.0.1", "", "[::2]"] {
            assert!(!is_ours(foreign, &allowed), "{foreign}");
        }
        let headers =
            |name: HeaderName, value: &'static str| HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
        assert!(check_origin(&headers(header::ORIGIN, "http://evil.example"), &allowed).is_err());
        assert!(check_origin(&headers(header::ORIGIN, "null"), &allowed).is_err());
        assert!(check_origin(&headers(header::ORIGIN, "http://localhost:8080"), &allowed).is_ok());
        assert!(check_origin(&HeaderMap::new(), &allowed).is_ok());
    }
}
