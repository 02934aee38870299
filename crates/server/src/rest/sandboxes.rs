//! `/api/v1/sandboxes`.

use super::extract::{Body, Caller, Params};
use super::once::once;
use super::page::Paging;
use super::refuse::{Answer, of_problem};
use super::{Server, tasks, views};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, StatusCode, header};
use perigee_api::{
    HostReason, Page, ProblemDocument, SandboxPatch, SandboxPlanView, SandboxRequest, SandboxView, TaskView,
};
use perigee_control::cards::SandboxChange;
use perigee_control::guests::NewGuest;
use perigee_model::limits::{SANDBOX_MEMORY_BYTES_DEFAULT, SANDBOX_TTL_DEFAULT};
use perigee_model::{
    Code, Egress, Egress6, Guest, GuestKind, HostId, Name, Priority, Refusal, Resources, Task, TaskState,
};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use utoipa::IntoParams;

/// Which sandboxes, and which page of them.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    /// Only with this name.
    pub name: Option<String>,
    /// Only with this status.
    pub status: Option<String>,
    /// Only with this label, as `key=value`.
    pub label: Option<String>,
    /// Objects on the page, 1 to 1000; 100 by default.
    pub limit: Option<usize>,
    /// From the page before.
    pub page_token: Option<String>,
}

/// Sandboxes, oldest first.
#[utoipa::path(get, path = "/api/v1/sandboxes", tag = "sandboxes", params(ListParams),
    responses((status = 200, body = Page<SandboxView>), (status = "4XX", body = ProblemDocument)))]
pub async fn list(
    State(server): State<Server>,
    caller: Caller,
    Params(params): Params<ListParams>,
) -> Answer<Json<Page<SandboxView>>> {
    list_of(&server, &caller, &params, Some(GuestKind::Sandbox), |guest| views::sandbox(&server, guest))
}

/// The page of guests that a query asks for, each as `view` shows it.
pub fn list_of<V>(
    server: &Server,
    caller: &Caller,
    params: &ListParams,
    kind: Option<GuestKind>,
    mut view: impl FnMut(&Guest) -> V,
) -> Answer<Json<Page<V>>> {
    let label = match params.label.as_deref().map(|l| l.split_once('=')) {
        Some(None) => return Err(Refusal::field("label", "label is key=value").into()),
        Some(Some(pair)) => Some(pair),
        None => None,
    };
    let fits = |g: &Guest| {
        kind.is_none_or(|k| g.kind == k)
            && params.name.as_deref().is_none_or(|n| g.name.as_str() == n)
            && params.status.as_deref().is_none_or(|s| views::word(&server.control.guest_status(g)) == s)
            && label.is_none_or(|(k, v)| g.labels.get(k).is_some_and(|is| is == v))
    };
    let list = format!("guests {kind:?} {:?} {:?} {:?}", params.name, params.status, params.label);
    let paging = Paging::read(list, params.limit, params.page_token.as_deref())?;
    let guests = server.control.list_guests(&caller.who, paging.span(), fits)?;
    Ok(Json(paging.page(guests, |g| g.id, |g| view(g))))
}

/// Whether to do it.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DryParams {
    /// `true`: say what would be done, and do nothing.
    pub dry_run: Option<bool>,
}

/// Creates a sandbox: 202 with the task, or, with `Prefer: wait`, 201 with the running sandbox; with
/// `dry_run=true` 200 with what would be done.
#[utoipa::path(post, path = "/api/v1/sandboxes", tag = "sandboxes", params(DryParams), request_body = SandboxRequest,
    responses((status = 200, body = SandboxPlanView), (status = 201, body = SandboxView), (status = 202, body = TaskView),
        (status = "4XX", body = ProblemDocument), (status = 503, body = ProblemDocument)))]
pub async fn create(
    State(server): State<Server>,
    caller: Caller,
    Params(params): Params<DryParams>,
    body: Body<SandboxRequest>,
) -> Answer {
    if body.value.kind.as_deref().is_some_and(|k| k != "sandbox") {
        return Err(Refusal::field("kind", "this route makes sandboxes; leave kind out, or use /api/v1/vms").into());
    }
    let wanted = wanted(body.value)?;
    if params.dry_run == Some(true) {
        let (guest, placement) = server.control.preview_guest(&caller.who, wanted)?;
        let reasons = placement.reasons.iter().map(views::host_reason).collect();
        return planned(&server, &guest, (placement.host, reasons)).await;
    }
    create_of(&server, &caller, "/api/v1/sandboxes", (wanted, &body.bytes), object).await
}

/// What would be done, with the rules that the host would have.
pub async fn planned(server: &Server, guest: &Guest, (host, placement): (Option<HostId>, Vec<HostReason>)) -> Answer {
    let rules = match host {
        Some(host) => server.control.preview_card(guest, host).await?,
        None => None,
    };
    let host = host.and_then(|id| server.control.view().host(id)).map(|host| host.name.to_string());
    let plan = SandboxPlanView::of(guest, views::sandbox(server, guest), host);
    let plan = SandboxPlanView { placement, rules, ..plan };
    Ok(Json(plan).into_response())
}

/// Creates a guest by any of the routes that do; `object` answers with it.
pub async fn create_of(
    server: &Server,
    caller: &Caller,
    path: &str,
    (wanted, bytes): (NewGuest, &[u8]),
    object: impl Fn(&Server, &Guest, StatusCode) -> Response,
) -> Answer {
    once(server, caller, (Method::POST, path), bytes, async |cause| {
        let made = server.control.create_guest(&caller.who, wanted, &cause).await?;
        created(server, caller, (path, made), &object).await
    })
    .await
}

/// The answer to a verb that makes a guest: under which path it is found, the guest and its task.
pub async fn created(
    server: &Server,
    caller: &Caller,
    (path, (guest, task)): (&str, (Arc<Guest>, Arc<Task>)),
    object: impl Fn(&Server, &Guest, StatusCode) -> Response,
) -> Answer {
    let Some(wait) = caller.wait else { return Ok(tasks::accepted(&task)) };
    let task = server.control.wait_task(task.id, wait).await?;
    match task.state {
        TaskState::Succeeded => {
            let guest = server.control.view().guest(guest.id).unwrap_or(guest);
            let mut response = object(server, &guest, StatusCode::CREATED);
            if let Ok(location) = HeaderValue::from_str(&format!("{path}/{}", guest.id)) {
                response.headers_mut().insert(header::LOCATION, location);
            }
            Ok(response)
        }
        TaskState::Pending | TaskState::Running => Ok(tasks::accepted(&task)),
        TaskState::Failed | TaskState::Cancelled | TaskState::Dead => Err(fell(&task).into()),
    }
}

/// One sandbox by id or name.
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}", tag = "sandboxes", params(("id" = String, Path, description = "Id or name")),
    responses((status = 200, body = SandboxView), (status = 304), (status = "4XX", body = ProblemDocument)))]
pub async fn get(State(server): State<Server>, caller: Caller, Path(id): Path<String>) -> Answer {
    let guest = server.control.find_guest(&caller.who, &id)?;
    Ok(read(&server, &caller, &guest, object))
}

/// The guest as `object` answers with it, or 304 when the caller has it already.
pub fn read(
    server: &Server,
    caller: &Caller,
    guest: &Guest,
    object: impl Fn(&Server, &Guest, StatusCode) -> Response,
) -> Response {
    if caller.if_none_match.as_deref() == Some(views::sandbox_tag(server, guest).as_str()) {
        return StatusCode::NOT_MODIFIED.into_response();
    }
    object(server, guest, StatusCode::OK)
}

/// Changes labels, and what a sandbox with a card may reach (JSON merge patch, RFC 7396). Needs `If-Match`. With
/// `Prefer: wait` it answers when the host has done it.
#[utoipa::path(patch, path = "/api/v1/sandboxes/{id}", tag = "sandboxes", params(("id" = String, Path, description = "Id or name")),
    request_body = SandboxPatch,
    responses((status = 200, body = SandboxView), (status = "4XX", body = ProblemDocument)))]
pub async fn update(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body<SandboxPatch>,
) -> Answer {
    let revision = caller.require_match()?;
    let egress = body.value.egress.as_deref().map(Egress::parse).transpose()?;
    let egress6 = body.value.egress6.as_deref().map(Egress6::parse).transpose()?;
    let change = SandboxChange { labels: body.value.labels, egress, egress6 };
    let guest = server.control.update_sandbox(&caller.who, &id, &change, revision, &caller.cause()).await?;
    let guest = settled(&server, &caller, guest).await;
    Ok(object(&server, &guest, StatusCode::OK))
}

/// The guest when its host has done what was asked for, for whoever waits.
pub async fn settled(server: &Server, caller: &Caller, guest: Arc<Guest>) -> Arc<Guest> {
    match caller.wait {
        Some(wait) => server.control.wait_caught_up(guest, wait).await,
        None => guest,
    }
}

/// Deletes a sandbox: 202 with the task, or, with `Prefer: wait`, 204 when nothing is left of it.
#[utoipa::path(delete, path = "/api/v1/sandboxes/{id}", tag = "sandboxes", params(("id" = String, Path, description = "Id or name")),
    responses((status = 202, body = TaskView), (status = 204), (status = "4XX", body = ProblemDocument)))]
pub async fn delete(State(server): State<Server>, caller: Caller, Path(id): Path<String>) -> Answer {
    let task = server.control.delete_guest(&caller.who, &id, caller.revision(), &caller.cause()).await?;
    removed(&server, &caller, task).await
}

/// The task that removes a guest, or, for whoever waits, nothing when nothing is left.
pub async fn removed(server: &Server, caller: &Caller, task: Arc<Task>) -> Answer {
    let Some(wait) = caller.wait else { return Ok(tasks::accepted(&task)) };
    let task = server.control.wait_task(task.id, wait).await?;
    match task.state {
        TaskState::Succeeded => Ok(StatusCode::NO_CONTENT.into_response()),
        TaskState::Pending | TaskState::Running => Ok(tasks::accepted(&task)),
        TaskState::Failed | TaskState::Cancelled | TaskState::Dead => Err(fell(&task).into()),
    }
}

/// What a task that ended badly is for whoever waited for it.
pub fn fell(task: &perigee_model::Task) -> Refusal {
    match &task.problem {
        Some(problem) => of_problem(problem),
        None => Refusal::new(Code::TaskCancelled, "the task was ended without a reason"),
    }
}

pub fn object(server: &Server, guest: &Guest, status: StatusCode) -> Response {
    tagged((status, Json(views::sandbox(server, guest))).into_response(), server, guest)
}

/// With the tag that a later change must name.
pub fn tagged(mut response: Response, server: &Server, guest: &Guest) -> Response {
    if let Ok(tag) = HeaderValue::from_str(&views::sandbox_tag(server, guest)) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// What a request for a sandbox wants.
pub fn wanted(request: SandboxRequest) -> Result<NewGuest, Refusal> {
    let name = request.name.map(|n| Name::parse(&n)).transpose();
    let ttl = match request.ttl_ms {
        None => Some(SANDBOX_TTL_DEFAULT),
        Some(0) => None,
        Some(millis) => Some(Duration::from_millis(millis)),
    };
    Ok(NewGuest {
        name: name.map_err(|fault| Refusal::field("name", fault.to_string()))?,
        kind: GuestKind::Sandbox,
        image: request.image.unwrap_or_else(|| "base".to_owned()),
        resources: Resources {
            cpus: request.cpus.unwrap_or(1),
            memory_bytes: request.memory_bytes.unwrap_or(SANDBOX_MEMORY_BYTES_DEFAULT),
        },
        ttl,
        env: request.env,
        labels: request.labels,
        host: request.host,
        priority: priority(request.priority.as_deref())?,
        vm: None,
        egress: request.egress.as_deref().map(Egress::parse).transpose()?,
        egress6: request.egress6.as_deref().map(Egress6::parse).transpose()?,
    })
}

/// A priority by its published word.
pub fn priority(text: Option<&str>) -> Result<Priority, Refusal> {
    match text {
        None | Some("default") => Ok(Priority::Default),
        Some("critical") => Ok(Priority::Critical),
        Some("high") => Ok(Priority::High),
        Some("low") => Ok(Priority::Low),
        Some(_) => Err(Refusal::field("priority", "priority is critical, high, default or low")),
    }
}
