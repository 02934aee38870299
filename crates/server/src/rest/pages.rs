//! Pages for people: the status page, and one page for each error code. They carry no facts of the
//! installation: the status page reads those from the API with the token its reader gives it.

use super::refuse::Answer;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use perigee_model::{Code, Refusal};
use rust_embed::Embed;

#[derive(Embed)]
#[folder = "../../docs/errors"]
struct ErrorPages;

pub async fn index() -> Response {
    typed(include_str!("../../assets/status.html"), "text/html; charset=utf-8")
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
