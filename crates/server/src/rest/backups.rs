//! `/api/v1/backups`, and what makes them: `/api/v1/vms/{id}/backups` and its schedule.

use super::extract::{Body, Caller, Params};
use super::once::once;
use super::page::Paging;
use super::refuse::Answer;
use super::{Server, sandboxes, tasks, vms};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, StatusCode, header};
use perigee_api::backup::optional_name;
use perigee_api::{
    BackupRequest, BackupScheduleRequest, BackupView, Page, ProblemDocument, RestoreRequest, TaskView, VerifyRequest,
    VmView,
};
use perigee_control::backups::NewBackup;
use perigee_control::restores::NewRestore;
use perigee_model::{Backup, Task, TaskState};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;

/// Which backups, and which page of them.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct BackupListParams {
    /// Only of the VM with this id, or of VMs that had this name.
    pub vm: Option<String>,
    /// Objects on the page, 1 to 1000; 100 by default.
    pub limit: Option<usize>,
    /// From the page before.
    pub page_token: Option<String>,
}

/// Backups, oldest first.
#[utoipa::path(get, path = "/api/v1/backups", tag = "backups", operation_id = "list_backups", params(BackupListParams),
    responses((status = 200, body = Page<BackupView>), (status = "4XX", body = ProblemDocument)))]
pub async fn list(
    State(server): State<Server>,
    caller: Caller,
    Params(params): Params<BackupListParams>,
) -> Answer<Json<Page<BackupView>>> {
    let vm = params.vm.as_deref();
    let filter = format!("backups?vm={}", vm.unwrap_or_default());
    let paging = Paging::read(filter, params.limit, params.page_token.as_deref())?;
    let fits = |backup: &Backup| vm.is_none_or(|vm| backup.guest_name.as_str() == vm || backup.guest.to_string() == vm);
    let backups = server.control.list_backups(&caller.who, paging.span(), fits)?;
    Ok(Json(paging.page(backups, |backup| backup.id, |backup| BackupView::from(&**backup))))
}

/// Backs a VM up as it is now: 202 with the task, or, with `Prefer: wait`, 201 with the backup.
#[utoipa::path(post, path = "/api/v1/vms/{id}/backups", tag = "backups", operation_id = "create_backup",
    params(("id" = String, Path, description = "Id or name")), request_body = BackupRequest,
    responses((status = 201, body = BackupView), (status = 202, body = TaskView),
        (status = "4XX", body = ProblemDocument), (status = 503, body = ProblemDocument)))]
pub async fn create(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body<BackupRequest>,
) -> Answer {
    let wanted = NewBackup {
        name: optional_name(body.value.name.as_deref())?,
        description: body.value.description.unwrap_or_default(),
        sealed: body.value.encrypt.unwrap_or(false),
    };
    let path = format!("/api/v1/vms/{id}/backups");
    once(&server, &caller, (Method::POST, &path), &body.bytes, async |cause| {
        let (backup, task) = server.control.create_backup(&caller.who, &id, wanted.clone(), &cause).await?;
        settled(&server, &caller, (backup, task), StatusCode::CREATED).await
    })
    .await
}

/// One backup by id or name.
#[utoipa::path(get, path = "/api/v1/backups/{id}", tag = "backups", operation_id = "get_backup",
    params(("id" = String, Path, description = "Id or name")),
    responses((status = 200, body = BackupView), (status = "4XX", body = ProblemDocument)))]
pub async fn get(State(server): State<Server>, caller: Caller, Path(id): Path<String>) -> Answer {
    Ok(object(&*server.control.find_backup(&caller.who, &id)?, StatusCode::OK))
}

/// Deletes a backup; its bytes go when no other backup needs them.
#[utoipa::path(delete, path = "/api/v1/backups/{id}", tag = "backups", operation_id = "delete_backup",
    params(("id" = String, Path, description = "Id or name")),
    responses((status = 204), (status = "4XX", body = ProblemDocument)))]
pub async fn delete(State(server): State<Server>, caller: Caller, Path(id): Path<String>) -> Answer {
    server.control.delete_backup(&caller.who, &id, caller.revision(), &caller.cause()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Makes a VM from a backup: 202 with the task, or, with `Prefer: wait`, 201 with the running VM.
#[utoipa::path(post, path = "/api/v1/backups/{id}/restore", tag = "backups", operation_id = "restore_backup",
    params(("id" = String, Path, description = "Id or name")), request_body = RestoreRequest,
    responses((status = 201, body = VmView), (status = 202, body = TaskView),
        (status = "4XX", body = ProblemDocument), (status = 503, body = ProblemDocument)))]
pub async fn restore(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body<RestoreRequest>,
) -> Answer {
    let wanted = NewRestore { name: optional_name(body.value.name.as_deref())?, host: body.value.host };
    let path = format!("/api/v1/backups/{id}/restore");
    once(&server, &caller, (Method::POST, &path), &body.bytes, async |cause| {
        let made = server.control.restore_backup(&caller.who, &id, wanted.clone(), &cause).await?;
        sandboxes::created(&server, &caller, ("/api/v1/vms", made), vms::object).await
    })
    .await
}

/// Looks at all bytes of a backup, and whether a VM made from it boots: 202 with the task, or, with `Prefer: wait`, 200 with the backup.
#[utoipa::path(post, path = "/api/v1/backups/{id}/verify", tag = "backups", operation_id = "verify_backup",
    params(("id" = String, Path, description = "Id or name")), request_body = VerifyRequest,
    responses((status = 200, body = BackupView), (status = 202, body = TaskView),
        (status = "4XX", body = ProblemDocument), (status = 503, body = ProblemDocument)))]
pub async fn verify(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body<VerifyRequest>,
) -> Answer {
    let path = format!("/api/v1/backups/{id}/verify");
    once(&server, &caller, (Method::POST, &path), &body.bytes, async |cause| {
        let begun = server.control.verify_backup(&caller.who, &id, body.value.boot, &cause).await?;
        settled(&server, &caller, begun, StatusCode::OK).await
    })
    .await
}

/// Says when a VM is backed up by itself.
#[utoipa::path(put, path = "/api/v1/vms/{id}/backup-schedule", tag = "backups", operation_id = "schedule_backups",
    params(("id" = String, Path, description = "Id or name")), request_body = BackupScheduleRequest,
    responses((status = 200, body = VmView), (status = "4XX", body = ProblemDocument)))]
pub async fn schedule(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body<BackupScheduleRequest>,
) -> Answer {
    let guest = server.control.schedule_backups(&caller.who, &id, Some(body.value.into()), &caller.cause()).await?;
    Ok(vms::object(&server, &guest, StatusCode::OK))
}

/// A VM is backed up by itself no more; the backups that are there stay.
#[utoipa::path(delete, path = "/api/v1/vms/{id}/backup-schedule", tag = "backups", operation_id = "unschedule_backups",
    params(("id" = String, Path, description = "Id or name")),
    responses((status = 204), (status = "4XX", body = ProblemDocument)))]
pub async fn unschedule(State(server): State<Server>, caller: Caller, Path(id): Path<String>) -> Answer {
    server.control.schedule_backups(&caller.who, &id, None, &caller.cause()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn settled(
    server: &Server,
    caller: &Caller,
    (backup, task): (Arc<Backup>, Arc<Task>),
    done: StatusCode,
) -> Answer {
    let Some(wait) = caller.wait else { return Ok(tasks::accepted(&task)) };
    let task = server.control.wait_task(task.id, wait).await?;
    match task.state {
        TaskState::Succeeded => {
            let backup = server.control.view().backup(backup.id).unwrap_or(backup);
            Ok(object(&backup, done))
        }
        TaskState::Pending | TaskState::Running => Ok(tasks::accepted(&task)),
        TaskState::Failed | TaskState::Cancelled | TaskState::Dead => Err(sandboxes::fell(&task).into()),
    }
}

fn object(backup: &Backup, status: StatusCode) -> Response {
    let mut response = (status, Json(BackupView::from(backup))).into_response();
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", backup.revision)) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}
