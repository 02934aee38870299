//! `/api/v1/vms/{id}/snapshots`: points in a VM's life that it can go back to.

use super::extract::{Body, Caller};
use super::once::once;
use super::refuse::Answer;
use super::{Server, sandboxes, tasks, vms};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::IntoResponse;
use http::{Method, StatusCode};
use perigee_api::{Page, ProblemDocument, SnapshotRequest, SnapshotView, TaskView, VmView};
use perigee_control::snapshots::NewSnapshot;
use perigee_model::{Code, Refusal, TaskState};

/// A VM's snapshots, oldest first: all on one page.
#[utoipa::path(get, path = "/api/v1/vms/{id}/snapshots", tag = "vms", operation_id = "list_snapshots",
    params(("id" = String, Path, description = "Id or name")),
    responses((status = 200, body = Page<SnapshotView>), (status = "4XX", body = ProblemDocument)))]
pub async fn list(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Json<Page<SnapshotView>>> {
    let guest = server.control.guest_with_snapshots(&caller.who, &id)?;
    let items = guest.snapshots.iter().map(|snapshot| SnapshotView::of(&guest, snapshot)).collect();
    Ok(Json(Page { items, next_page_token: None }))
}

/// Keeps a VM as it is now: 202 with the task, or, with `Prefer: wait`, 201 with the snapshot.
#[utoipa::path(post, path = "/api/v1/vms/{id}/snapshots", tag = "vms", operation_id = "create_snapshot",
    params(("id" = String, Path, description = "Id or name")), request_body = SnapshotRequest,
    responses((status = 201, body = SnapshotView), (status = 202, body = TaskView),
        (status = "4XX", body = ProblemDocument), (status = 503, body = ProblemDocument)))]
pub async fn create(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body<SnapshotRequest>,
) -> Answer {
    let name = body.value.name()?;
    let path = format!("/api/v1/vms/{id}/snapshots");
    once(&server, &caller, (Method::POST, &path), &body.bytes, async |cause| {
        let wanted = NewSnapshot {
            name: name.clone(),
            description: body.value.description.clone().unwrap_or_default(),
            memory: body.value.memory.unwrap_or(false),
        };
        let (guest, task) = server.control.create_snapshot(&caller.who, &id, wanted, &cause).await?;
        let Some(wait) = caller.wait else { return Ok(tasks::accepted(&task)) };
        let task = server.control.wait_task(task.id, wait).await?;
        match task.state {
            TaskState::Succeeded => {
                let guest = server.control.view().guest(guest.id).unwrap_or(guest);
                let made = view(&guest, name.as_str())?;
                Ok((StatusCode::CREATED, Json(made)).into_response())
            }
            TaskState::Pending | TaskState::Running => Ok(tasks::accepted(&task)),
            TaskState::Failed | TaskState::Cancelled | TaskState::Dead => Err(sandboxes::fell(&task).into()),
        }
    })
    .await
}

/// One of a VM's snapshots by name or id.
#[utoipa::path(get, path = "/api/v1/vms/{id}/snapshots/{snapshot}", tag = "vms", operation_id = "get_snapshot",
    params(("id" = String, Path, description = "Id or name"), ("snapshot" = String, Path, description = "Name or id")),
    responses((status = 200, body = SnapshotView), (status = "4XX", body = ProblemDocument)))]
pub async fn get(
    State(server): State<Server>,
    caller: Caller,
    Path((id, snapshot)): Path<(String, String)>,
) -> Answer<Json<SnapshotView>> {
    let guest = server.control.guest_with_snapshots(&caller.who, &id)?;
    Ok(Json(view(&guest, &snapshot)?))
}

/// Puts a VM back to a snapshot; what it is now is lost. With memory it goes on where it was; without, one
/// that runs boots from the disk as it was.
#[utoipa::path(post, path = "/api/v1/vms/{id}/snapshots/{snapshot}/revert", tag = "vms", operation_id = "revert_snapshot",
    params(("id" = String, Path, description = "Id or name"), ("snapshot" = String, Path, description = "Name or id")),
    responses((status = 200, body = VmView), (status = 202, body = TaskView),
        (status = "4XX", body = ProblemDocument), (status = 503, body = ProblemDocument)))]
pub async fn revert(
    State(server): State<Server>,
    caller: Caller,
    Path((id, snapshot)): Path<(String, String)>,
) -> Answer {
    let path = format!("/api/v1/vms/{id}/snapshots/{snapshot}/revert");
    once(&server, &caller, (Method::POST, &path), b"", async |cause| {
        let (guest, task) = server.control.revert_snapshot(&caller.who, (&id, &snapshot), &cause).await?;
        vms::settled(&server, &caller, &guest, &task).await
    })
    .await
}

/// Deletes a snapshot; the VM goes on as it is.
#[utoipa::path(delete, path = "/api/v1/vms/{id}/snapshots/{snapshot}", tag = "vms", operation_id = "delete_snapshot",
    params(("id" = String, Path, description = "Id or name"), ("snapshot" = String, Path, description = "Name or id")),
    responses((status = 202, body = TaskView), (status = 204), (status = "4XX", body = ProblemDocument)))]
pub async fn delete(
    State(server): State<Server>,
    caller: Caller,
    Path((id, snapshot)): Path<(String, String)>,
) -> Answer {
    let (_, task) = server.control.delete_snapshot(&caller.who, (&id, &snapshot), &caller.cause()).await?;
    sandboxes::removed(&server, &caller, task).await
}

fn view(guest: &perigee_model::Guest, text: &str) -> Result<SnapshotView, Refusal> {
    let named = |snapshot: &&perigee_model::Snapshot| snapshot.name.as_str() == text || snapshot.id.to_string() == text;
    let found = guest.snapshots.iter().find(named).map(|snapshot| SnapshotView::of(guest, snapshot));
    found.ok_or_else(|| Refusal::new(Code::NoSuchSnapshot, "the VM has no snapshot of this name or id"))
}
