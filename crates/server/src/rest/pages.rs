//! Pages for people: the dashboard, and one page for each error code. They carry no facts of the
//! installation: the dashboard reads those from the API with the token its reader gives it. A
//! control plane that was built without the dashboard has a plain status page instead.

use super::refuse::{Answer, Refused};
use axum::extract::{Path, Request};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, header};
use perigee_model::{Code, Refusal};
use rust_embed::Embed;

#[derive(Embed)]
#[folder = "../../docs/errors"]
struct ErrorPages;

/// What `npm run build` in `web/` leaves: `index.html`, `assets/…`, each also as `.br` and `.gz`.
#[derive(Embed)]
#[folder = "../../web/dist"]
#[allow_missing = true]
struct Dashboard;

/// Names with a hash of what they hold never change.
const FOR_EVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

/// The page itself, under every address that a reader may keep.
pub async fn index(headers: HeaderMap) -> Response {
    dashboard("index.html", &headers)
        .unwrap_or_else(|| typed(include_str!("../../assets/status.html"), "text/html; charset=utf-8"))
}
pub async fn script() -> Response {
    typed(include_str!("../../assets/status.js"), "text/javascript; charset=utf-8")
}
pub async fn style() -> Response {
    typed(include_str!("../../assets/status.css"), "text/css; charset=utf-8")
}

pub async fn icon() -> Response {
    typed(include_str!("../../assets/icon.svg"), "image/svg+xml")
}

pub async fn manifest(headers: HeaderMap) -> Answer {
    Ok(dashboard("manifest.webmanifest", &headers).ok_or_else(no_such_route)?)
}

/// Scripts and styles of the dashboard.
pub async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Answer {
    let mut response = dashboard(&format!("assets/{name}"), &headers).ok_or_else(no_such_route)?;
    response.headers_mut().insert(header::CACHE_CONTROL, FOR_EVER);
    Ok(response)
}

/// An address inside the dashboard gives its page to a browser; any other is refused.
pub async fn elsewhere(request: Request) -> Response {
    let path = request.uri().path();
    let accepted = request.headers().get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let of_the_api = ["/api/", "/errors/", "/health/", "/assets/"].iter().any(|begin| path.starts_with(begin));
    if request.method() == Method::GET && !of_the_api && accepted.contains("text/html") {
        return index(request.headers().clone()).await;
    }
    Refused(no_such_route()).into_response()
}

fn no_such_route() -> Refusal {
    Refusal::new(Code::NoSuchRoute, "there is no such route; see /api/v1/openapi.json")
}

/// A file of the dashboard, packed as the browser likes it best; `None` where it was not built.
fn dashboard(name: &str, headers: &HeaderMap) -> Option<Response> {
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let takes =
        |coding: &str| accepted.split(',').any(|one| one.split(';').next().is_some_and(|one| one.trim() == coding));
    let packed = [("br", "br"), ("gzip", "gz")].into_iter().filter(|(coding, _)| takes(coding));
    let packed = packed.filter_map(|(coding, end)| Some((Some(coding), Dashboard::get(&format!("{name}.{end}"))?)));
    let (coding, file) = packed.chain(Dashboard::get(name).map(|file| (None, file))).next()?;
    let kind = match name.rsplit('.').next()? {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "webmanifest" => "application/manifest+json",
        _ => "application/octet-stream",
    };
    let mut response = typed(file.data.into_owned(), kind);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if let Some(coding) = coding {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding));
    }
    Some(response)
}

/// The page of a code, as Markdown text.
pub async fn error(Path(code): Path<String>) -> Answer {
    let unknown = || Refusal::new(Code::NoSuchRoute, "there is no such code");
    let code = Code::parse(code.trim_end_matches(".md")).ok_or_else(unknown)?;
    let page = ErrorPages::get(&format!("{}.md", code.number())).ok_or_else(unknown)?;
    let text = String::from_utf8_lossy(&page.data).into_owned();
    Ok(typed(text, "text/markdown; charset=utf-8"))
}

fn typed(text: impl IntoResponse, kind: &'static str) -> Response {
    let mut response = text.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
