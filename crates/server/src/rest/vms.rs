//! `/api/v1/vms`: guests of every kind, the seeds' names for the same verbs.

use super::extract::{Body, Caller, Params};
use super::refuse::Answer;
use super::sandboxes::{self, ListParams};
use super::{Server, executions};
use axum::Json;
use axum::extract::{Path, State};
use perigee_api::{ExecuteRequest, ExecutionView, Page, ProblemDocument, SandboxRequest, SandboxView, TaskView};

/// Guests of every kind, oldest first.
#[utoipa::path(get, path = "/api/v1/vms", tag = "vms", operation_id = "list_vms", params(ListParams),
    responses((status = 200, body = Page<SandboxView>), (status = "4XX", body = ProblemDocument)))]
pub async fn list(
    State(server): State<Server>,
    caller: Caller,
    Params(params): Params<ListParams>,
) -> Answer<Json<Page<SandboxView>>> {
    sandboxes::list_of(&server, &caller, &params, None)
}

/// Creates a guest of the given kind.
#[utoipa::path(post, path = "/api/v1/vms", tag = "vms", operation_id = "create_vm", request_body = SandboxRequest,
    responses((status = 201, body = SandboxView), (status = 202, body = TaskView),
        (status = "4XX", body = ProblemDocument), (status = 503, body = ProblemDocument)))]
pub async fn create(State(server): State<Server>, caller: Caller, body: Body<SandboxRequest>) -> Answer {
    sandboxes::create_of(&server, &caller, "/api/v1/vms", body).await
}

/// One guest by id or name.
#[utoipa::path(get, path = "/api/v1/vms/{id}", tag = "vms", operation_id = "get_vm", params(("id" = String, Path, description = "Id or name")),
    responses((status = 200, body = SandboxView), (status = 304), (status = "4XX", body = ProblemDocument)))]
pub async fn get(State(server): State<Server>, caller: Caller, Path(id): Path<String>) -> Answer {
    let guest = server.control.find_guest(&caller.who, &id)?;
    Ok(sandboxes::read(&server, &caller, &guest))
}

/// Deletes a guest.
#[utoipa::path(delete, path = "/api/v1/vms/{id}", tag = "vms", operation_id = "delete_vm", params(("id" = String, Path, description = "Id or name")),
    responses((status = 202, body = TaskView), (status = 204), (status = "4XX", body = ProblemDocument)))]
pub async fn delete(state: State<Server>, caller: Caller, id: Path<String>) -> Answer {
    sandboxes::delete(state, caller, id).await
}

/// Runs a command in a guest through the queue.
#[utoipa::path(post, path = "/api/v1/vms/{id}/execute", tag = "vms", operation_id = "execute_in_vm", params(("id" = String, Path, description = "Id or name")),
    request_body = ExecuteRequest,
    responses((status = 200, body = ExecutionView), (status = 202, body = TaskView),
        (status = "4XX", body = ProblemDocument), (status = 503, body = ProblemDocument)))]
pub async fn execute(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body<ExecuteRequest>,
) -> Answer {
    executions::execute_of(&server, &caller, "vms", &id, body).await
}
