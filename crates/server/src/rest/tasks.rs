//! `/api/v1/tasks`.

use super::extract::{Caller, Params};
use super::page::Paging;
use super::refuse::Answer;
use super::{Server, views};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use perigee_api::{Page, ProblemDocument, TaskView};
use perigee_model::Task;
use serde::Deserialize;
use utoipa::IntoParams;

/// Which tasks, and which page of them.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    /// Only in this state.
    pub state: Option<String>,
    /// Only of this kind.
    pub kind: Option<String>,
    /// Objects on the page, 1 to 1000; 100 by default.
    pub limit: Option<usize>,
    /// From the page before.
    pub page_token: Option<String>,
}

/// Tasks, newest first.
#[utoipa::path(get, path = "/api/v1/tasks", tag = "tasks", params(ListParams),
    responses((status = 200, body = Page<TaskView>), (status = "4XX", body = ProblemDocument)))]
pub async fn list(
    State(server): State<Server>,
    caller: Caller,
    Params(params): Params<ListParams>,
) -> Answer<Json<Page<TaskView>>> {
    let fits = |t: &Task| {
        params.state.as_deref().is_none_or(|s| views::word(&t.state) == s)
            && params.kind.as_deref().is_none_or(|k| t.kind.text() == k)
    };
    let list = format!("tasks {:?} {:?}", params.state, params.kind);
    let paging = Paging::read(list, params.limit, params.page_token.as_deref())?;
    let tasks = server.control.list_tasks(&caller.who, paging.span(), fits)?;
    Ok(Json(paging.page(tasks, |t| t.id, |t| views::task(t))))
}

/// One task; with `Prefer: wait` once it has ended or the time is over.
#[utoipa::path(get, path = "/api/v1/tasks/{id}", tag = "tasks", params(("id" = String, Path, description = "Id")),
    responses((status = 200, body = TaskView), (status = 304), (status = "4XX", body = ProblemDocument)))]
pub async fn get(State(server): State<Server>, caller: Caller, Path(id): Path<String>) -> Answer {
    let mut task = server.control.find_task(&caller.who, &id)?;
    if let Some(wait) = caller.wait {
        task = server.control.wait_task(task.id, wait).await?;
    }
    if caller.if_none_match.as_deref() == Some(tag(&task).as_str()) {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    Ok(object(&task, StatusCode::OK))
}

/// Asks a task to end.
#[utoipa::path(post, path = "/api/v1/tasks/{id}/cancel", tag = "tasks", params(("id" = String, Path, description = "Id")),
    responses((status = 200, body = TaskView), (status = "4XX", body = ProblemDocument)))]
pub async fn cancel(State(server): State<Server>, caller: Caller, Path(id): Path<String>) -> Answer {
    // Cancelling twice is the same as once: no idempotency row is needed.
    let task = server.control.cancel_task(&caller.who, &id, &caller.cause()).await?;
    Ok(object(&task, StatusCode::OK))
}

/// 202 with the task and where to look for it.
pub fn accepted(task: &Task) -> Response {
    let mut response = object(task, StatusCode::ACCEPTED);
    if let Ok(location) = HeaderValue::from_str(&format!("/api/v1/tasks/{}", task.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

fn tag(task: &Task) -> String {
    format!("\"{}\"", task.revision)
}

fn object(task: &Task, status: StatusCode) -> Response {
    let mut response = (status, Json(views::task(task))).into_response();
    if let Ok(tag) = HeaderValue::from_str(&tag(task)) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}
