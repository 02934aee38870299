//! `/api/v1/executions`, and running commands through the queue.

use super::extract::{Body, Caller, Params};
use super::once::once;
use super::page::Paging;
use super::refuse::{Answer, of_problem};
use super::sandboxes::{fell, priority};
use super::{Server, tasks, views};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use perigee_agent_api::TunnelFrame;
use perigee_api::{ExecuteRequest, ExecutionView, Page, ProblemDocument, TaskView};
use perigee_model::execution::Command;
use perigee_model::{Execution, GuestId, Refusal, TaskState};
use serde::Deserialize;
use utoipa::IntoParams;

/// Which executions, and which page of them.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    /// Only in this sandbox, by id.
    pub sandbox_id: Option<String>,
    /// Objects on the page, 1 to 1000; 100 by default.
    pub limit: Option<usize>,
    /// From the page before.
    pub page_token: Option<String>,
}

/// Executions, newest first.
#[utoipa::path(get, path = "/api/v1/executions", tag = "executions", params(ListParams),
    responses((status = 200, body = Page<ExecutionView>), (status = "4XX", body = ProblemDocument)))]
pub async fn list(
    State(server): State<Server>,
    caller: Caller,
    Params(params): Params<ListParams>,
) -> Answer<Json<Page<ExecutionView>>> {
    let wanted = params.sandbox_id.as_deref();
    let guest = wanted.map(str::parse::<GuestId>);
    let fits = |e: &Execution| guest.as_ref().is_none_or(|wanted| wanted.as_ref() == Ok(&e.guest));
    let paging = Paging::read(format!("executions {wanted:?}"), params.limit, params.page_token.as_deref())?;
    let found = server.control.list_executions(&caller.who, paging.span(), fits)?;
    Ok(Json(paging.page(found, |e| e.id, |e| views::execution(&server, e))))
}

/// One execution by id.
#[utoipa::path(get, path = "/api/v1/executions/{id}", tag = "executions", params(("id" = String, Path, description = "Id")),
    responses((status = 200, body = ExecutionView), (status = 304), (status = "4XX", body = ProblemDocument)))]
pub async fn get(State(server): State<Server>, caller: Caller, Path(id): Path<String>) -> Answer {
    let execution = server.control.find_execution(&caller.who, &id)?;
    if caller.if_none_match.as_deref() == Some(tag(&execution).as_str()) {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    Ok(object(&server, &execution))
}

/// Which stream of an execution.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OutputParams {
    /// `stdout` (the default) or `stderr`.
    pub stream: Option<String>,
}

/// The kept output of an execution, whole, from its host (for an hour after its end).
#[utoipa::path(get, path = "/api/v1/executions/{id}/output", tag = "executions", params(("id" = String, Path, description = "Id"), OutputParams),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>), (status = "4XX", body = ProblemDocument), (status = 503, body = ProblemDocument)))]
pub async fn output(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<String>,
    Params(params): Params<OutputParams>,
) -> Answer {
    let stdout = match params.stream.as_deref() {
        None | Some("stdout") => true,
        Some("stderr") => false,
        Some(_) => return Err(Refusal::field("stream", "stream is stdout or stderr").into()),
    };
    let execution = server.control.find_execution(&caller.who, &id)?;
    let mut tunnel = server.control.read_output(&execution).await?;
    // The first frame tells a refusal while a status can still be given.
    let first = tunnel.rx.recv().await;
    if let Some(TunnelFrame::Failed(problem)) = &first {
        return Err(of_problem(problem).into());
    }
    let frames = futures::stream::unfold((tunnel, first), async |(mut tunnel, first)| {
        let frame = match first {
            Some(frame) => Some(frame),
            None => tunnel.rx.recv().await,
        }?;
        Some((frame, (tunnel, None)))
    });
    Ok(super::files::body_of(frames, move |frame| match frame {
        TunnelFrame::Stdout(bytes) => {
            super::files::Piece::Bytes(if stdout { Bytes::from(bytes) } else { Bytes::new() })
        }
        TunnelFrame::Stderr(bytes) => {
            super::files::Piece::Bytes(if stdout { Bytes::new() } else { Bytes::from(bytes) })
        }
        TunnelFrame::End => super::files::Piece::End,
        TunnelFrame::Data(_)
        | TunnelFrame::Started
        | TunnelFrame::Ended(_)
        | TunnelFrame::Failed(_)
        | TunnelFrame::Signal(_) => super::files::Piece::Broken,
    }))
}

/// Runs a command in a sandbox through the queue: 202 with the task, or, with `Prefer: wait`, 200
/// with the ended execution.
#[utoipa::path(post, path = "/api/v1/sandboxes/{id}/execute", tag = "executions", params(("id" = String, Path, description = "Id or name")),
    request_body = ExecuteRequest,
    responses((status = 200, body = ExecutionView), (status = 202, body = TaskView),
        (status = "4XX", body = ProblemDocument), (status = 503, body = ProblemDocument)))]
pub async fn execute(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body<ExecuteRequest>,
) -> Answer {
    execute_of(&server, &caller, "sandboxes", &id, body).await
}

/// Runs a command by either of the routes that do.
pub async fn execute_of(server: &Server, caller: &Caller, noun: &str, id: &str, body: Body<ExecuteRequest>) -> Answer {
    let priority = priority(body.value.priority.as_deref())?;
    let command = command(body.value);
    let path = format!("/api/v1/{noun}/{id}/execute");
    once(server, caller, (Method::POST, &path), &body.bytes, async |cause| {
        let (execution, task) = server.control.execute(&caller.who, id, command, priority, &cause).await?;
        let Some(wait) = caller.wait else { return Ok(tasks::accepted(&task)) };
        let task = server.control.wait_task(task.id, wait).await?;
        match task.state {
            TaskState::Succeeded => {
                let execution = server.control.view().execution(execution.id).unwrap_or(execution);
                Ok(object(server, &execution))
            }
            TaskState::Pending | TaskState::Running => Ok(tasks::accepted(&task)),
            TaskState::Failed | TaskState::Cancelled | TaskState::Dead => Err(fell(&task).into()),
        }
    })
    .await
}

/// The published request as the law has it.
pub fn command(request: ExecuteRequest) -> Command {
    Command {
        argv: request.argv,
        env: request.env,
        cwd: request.cwd,
        user: request.user,
        timeout_ms: request.timeout_ms,
        output_limit_bytes: request.output_limit_bytes,
    }
}

fn tag(execution: &Execution) -> String {
    format!("\"{}\"", execution.revision)
}

fn object(server: &Server, execution: &Execution) -> Response {
    let mut response = Json(views::execution(server, execution)).into_response();
    if let Ok(tag) = HeaderValue::from_str(&tag(execution)) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}
