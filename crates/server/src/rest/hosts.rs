//! `/api/v1/hosts`.

use super::extract::{Body, Caller, Params};
use super::once::once;
use super::page::Paging;
use super::refuse::Answer;
use super::{Server, views};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderValue, Method, StatusCode, header};
use perigee_api::{HostView, JoinTokenRequest, JoinTokenView, Page, ProblemDocument};
use perigee_model::Host;
use serde::Deserialize;
use std::time::Duration;
use utoipa::IntoParams;

/// Which hosts, and which page of them.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    /// Only with this name.
    pub name: Option<String>,
    /// Objects on the page, 1 to 1000; 100 by default.
    pub limit: Option<usize>,
    /// From the page before.
    pub page_token: Option<String>,
}

/// Hosts, oldest first.
#[utoipa::path(get, path = "/api/v1/hosts", tag = "hosts", params(ListParams),
    responses((status = 200, body = Page<HostView>), (status = "4XX", body = ProblemDocument)))]
pub async fn list(
    State(server): State<Server>,
    caller: Caller,
    Params(params): Params<ListParams>,
) -> Answer<Json<Page<HostView>>> {
    let fits = |h: &Host| params.name.as_deref().is_none_or(|n| h.name.as_str() == n);
    let paging = Paging::read(format!("hosts {:?}", params.name), params.limit, params.page_token.as_deref())?;
    let hosts = server.control.list_hosts(&caller.who, paging.span(), fits)?;
    Ok(Json(paging.page(hosts, |h| h.id, |h| views::host(&server, h))))
}

/// One host by id or name.
#[utoipa::path(get, path = "/api/v1/hosts/{id}", tag = "hosts", params(("id" = String, Path, description = "Id or name")),
    responses((status = 200, body = HostView), (status = 304), (status = "4XX", body = ProblemDocument)))]
pub async fn get(State(server): State<Server>, caller: Caller, Path(id): Path<String>) -> Answer {
    let host = server.control.find_host(&caller.who, &id)?;
    if caller.if_none_match.as_deref() == Some(tag(&server, &host).as_str()) {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    Ok(object(&server, &host))
}

/// Revokes a host without guests, at once.
#[utoipa::path(delete, path = "/api/v1/hosts/{id}", tag = "hosts", params(("id" = String, Path, description = "Id or name")),
    responses((status = 204), (status = "4XX", body = ProblemDocument)))]
pub async fn revoke(State(server): State<Server>, caller: Caller, Path(id): Path<String>) -> Answer {
    server.control.revoke_host(&caller.who, &id, caller.revision(), &caller.cause()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Makes a join token: good for one host, shown once. A repeat under the same `Idempotency-Key`
/// does not show it again.
#[utoipa::path(post, path = "/api/v1/hosts/tokens", tag = "hosts", request_body = JoinTokenRequest,
    responses((status = 201, body = JoinTokenView), (status = "4XX", body = ProblemDocument)))]
pub async fn token(State(server): State<Server>, caller: Caller, body: Body<JoinTokenRequest>) -> Answer {
    let life = body.value.ttl_ms.map(Duration::from_millis);
    let path = (Method::POST, "/api/v1/hosts/tokens");
    let mut shown = None;
    let response = once(&server, &caller, path, &body.bytes, async |cause| {
        let (secret, expires_at) = server.control.mint_join_secret(&caller.who, life, &cause).await?;
        let view = JoinTokenView {
            token: join_token(&server.authority_sha256, &secret.0),
            url: server.agents_url.clone(),
            expires_at: expires_at.to_string(),
        };
        let kept = JoinTokenView { token: "shown once".to_owned(), ..view.clone() };
        shown = Some(view);
        Ok((StatusCode::CREATED, Json(kept)).into_response())
    })
    .await?;
    Ok(match shown {
        Some(view) => (StatusCode::CREATED, Json(view)).into_response(),
        None => response,
    })
}

/// The text of a join token: where the secret may be shown, and the secret.
pub fn join_token(authority_sha256: &str, secret: &str) -> String {
    let json = serde_json::json!({ "authority_sha256": authority_sha256, "secret": secret });
    format!("perigee-join-1.{}", URL_SAFE_NO_PAD.encode(json.to_string()))
}

fn tag(server: &Server, host: &Host) -> String {
    let connected = server.control.links().is_connected(host.id);
    format!("\"{}.{}\"", host.revision, u8::from(connected))
}

fn object(server: &Server, host: &Host) -> Response {
    let mut response = Json(views::host(server, host)).into_response();
    if let Ok(tag) = HeaderValue::from_str(&tag(server, host)) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}
