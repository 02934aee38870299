//! `/api/v1/volumes`: disks that outlive the VMs they are attached to.

use super::extract::{Body, Caller, Params};
use super::once::once;
use super::page::Paging;
use super::refuse::Answer;
use super::sandboxes::{self, DryParams};
use super::{Server, tasks};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, StatusCode, header};
use perigee_api::{
    Page, ProblemDocument, TaskView, VolumeAttachRequest, VolumeRequest, VolumeResizeRequest, VolumeView,
};
use perigee_control::volumes::NewVolume;
use perigee_model::{Task, TaskState, Volume};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;

/// Which volumes, and which page of them.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct VolumeListParams {
    /// Only with this name.
    pub name: Option<String>,
    /// Only those of this VM, by name or id.
    pub vm: Option<String>,
    /// Objects on the page, 1 to 1000; 100 by default.
    pub limit: Option<usize>,
    /// From the page before.
    pub page_token: Option<String>,
}

/// Volumes, oldest first.
#[utoipa::path(get, path = "/api/v1/volumes", tag = "volumes", operation_id = "list_volumes", params(VolumeListParams),
    responses((status = 200, body = Page<VolumeView>), (status = "4XX", body = ProblemDocument)))]
pub async fn list(
    State(server): State<Server>,
    caller: Caller,
    Params(params): Params<VolumeListParams>,
) -> Answer<Json<Page<VolumeView>>> {
    let list = format!("volumes {:?} {:?}", params.name, params.vm);
    let paging = Paging::read(list, params.limit, params.page_token.as_deref())?;
    let vm = params.vm.as_deref().map(|vm| server.control.find_guest(&caller.who, vm)).transpose()?;
    let volumes = server.control.list_volumes(&caller.who, paging.span(), |volume| {
        let named = params.name.as_deref().is_none_or(|name| volume.name.as_str() == name);
        named && vm.as_ref().is_none_or(|vm| volume.guest == Some(vm.id))
    })?;
    Ok(Json(paging.page(volumes, |volume| volume.id, |volume| view(&server, volume))))
}

/// Makes a volume: 202 with the task, or, with `Prefer: wait`, 201 with the volume; with `dry_run=true` 200
/// with what would be made.
#[utoipa::path(post, path = "/api/v1/volumes", tag = "volumes", operation_id = "create_volume", params(DryParams),
    request_body = VolumeRequest,
    responses((status = 200, body = VolumeView), (status = 201, body = VolumeView), (status = 202, body = TaskView),
        (status = "4XX", body = ProblemDocument), (status = 503, body = ProblemDocument)))]
pub async fn create(
    State(server): State<Server>,
    caller: Caller,
    Params(params): Params<DryParams>,
    body: Body<VolumeRequest>,
) -> Answer {
    let name = body.value.name()?;
    let VolumeRequest { bytes, host, labels, .. } = body.value;
    let wanted = NewVolume { name, bytes, host, labels };
    if params.dry_run == Some(true) {
        let planned = server.control.preview_volume(&caller.who, wanted)?;
        return Ok(Json(view(&server, &planned)).into_response());
    }
    once(&server, &caller, (Method::POST, "/api/v1/volumes"), &body.bytes, async |cause| {
        let (volume, task) = server.control.create_volume(&caller.who, wanted.clone(), &cause).await?;
        let mut answer = settled(&server, &caller, (&volume, &task), StatusCode::CREATED).await?;
        if answer.status() == StatusCode::CREATED
            && let Ok(location) = HeaderValue::from_str(&format!("/api/v1/volumes/{}", volume.id))
        {
            answer.headers_mut().insert(header::LOCATION, location);
        }
        Ok(answer)
    })
    .await
}

/// One volume by id or name.
#[utoipa::path(get, path = "/api/v1/volumes/{id}", tag = "volumes", operation_id = "get_volume",
    params(("id" = String, Path, description = "Id or name")),
    responses((status = 200, body = VolumeView), (status = 304), (status = "4XX", body = ProblemDocument)))]
pub async fn get(State(server): State<Server>, caller: Caller, Path(id): Path<String>) -> Answer {
    let volume = server.control.find_volume(&caller.who, &id)?;
    if caller.if_none_match.as_deref() == Some(tag(&server, &volume).as_str()) {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    Ok(object(&server, &volume, StatusCode::OK))
}

/// Attaches a volume to a VM of its host, which may run.
#[utoipa::path(post, path = "/api/v1/volumes/{id}/attach", tag = "volumes", operation_id = "attach_volume",
    params(("id" = String, Path, description = "Id or name")), request_body = VolumeAttachRequest,
    responses((status = 200, body = VolumeView), (status = 202, body = TaskView),
        (status = "4XX", body = ProblemDocument), (status = 503, body = ProblemDocument)))]
pub async fn attach(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body<VolumeAttachRequest>,
) -> Answer {
    let path = format!("/api/v1/volumes/{id}/attach");
    once(&server, &caller, (Method::POST, &path), &body.bytes, async |cause| {
        let (volume, task) = server.control.attach_volume(&caller.who, (&id, &body.value.vm), &cause).await?;
        settled(&server, &caller, (&volume, &task), StatusCode::OK).await
    })
    .await
}

/// Takes a volume out of its VM. One that runs may take its time to let go of it: the task waits.
#[utoipa::path(post, path = "/api/v1/volumes/{id}/detach", tag = "volumes", operation_id = "detach_volume",
    params(("id" = String, Path, description = "Id or name")),
    responses((status = 200, body = VolumeView), (status = 202, body = TaskView),
        (status = "4XX", body = ProblemDocument), (status = 503, body = ProblemDocument)))]
pub async fn detach(State(server): State<Server>, caller: Caller, Path(id): Path<String>) -> Answer {
    let path = format!("/api/v1/volumes/{id}/detach");
    once(&server, &caller, (Method::POST, &path), b"", async |cause| {
        let (volume, task) = server.control.detach_volume(&caller.who, &id, &cause).await?;
        settled(&server, &caller, (&volume, &task), StatusCode::OK).await
    })
    .await
}

/// Makes a volume larger; a VM that runs with it sees the new size.
#[utoipa::path(post, path = "/api/v1/volumes/{id}/resize", tag = "volumes", operation_id = "resize_volume",
    params(("id" = String, Path, description = "Id or name")), request_body = VolumeResizeRequest,
    responses((status = 200, body = VolumeView), (status = 202, body = TaskView),
        (status = "4XX", body = ProblemDocument), (status = 503, body = ProblemDocument)))]
pub async fn resize(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body<VolumeResizeRequest>,
) -> Answer {
    let path = format!("/api/v1/volumes/{id}/resize");
    once(&server, &caller, (Method::POST, &path), &body.bytes, async |cause| {
        let (volume, task) = server.control.resize_volume(&caller.who, (&id, body.value.bytes), &cause).await?;
        settled(&server, &caller, (&volume, &task), StatusCode::OK).await
    })
    .await
}

/// Deletes a volume that no VM has, and all that is on it.
#[utoipa::path(delete, path = "/api/v1/volumes/{id}", tag = "volumes", operation_id = "delete_volume",
    params(("id" = String, Path, description = "Id or name")),
    responses((status = 202, body = TaskView), (status = 204), (status = "4XX", body = ProblemDocument)))]
pub async fn delete(State(server): State<Server>, caller: Caller, Path(id): Path<String>) -> Answer {
    let task = server.control.delete_volume(&caller.who, &id, caller.revision(), &caller.cause()).await?;
    sandboxes::removed(&server, &caller, task).await
}

/// The task, or, for whoever waits, the volume when it is done.
async fn settled(server: &Server, caller: &Caller, (volume, task): (&Arc<Volume>, &Task), done: StatusCode) -> Answer {
    let Some(wait) = caller.wait else { return Ok(tasks::accepted(task)) };
    let task = server.control.wait_task(task.id, wait).await?;
    match task.state {
        TaskState::Succeeded => {
            let now = server.control.view().volume(volume.id);
            Ok(object(server, now.as_ref().unwrap_or(volume), done))
        }
        TaskState::Pending | TaskState::Running => Ok(tasks::accepted(&task)),
        TaskState::Failed | TaskState::Cancelled | TaskState::Dead => Err(sandboxes::fell(&task).into()),
    }
}

fn view(server: &Server, volume: &Volume) -> VolumeView {
    let host = server.control.view().host(volume.host).map_or_else(String::new, |host| host.name.to_string());
    let vm = volume.guest.and_then(|guest| server.control.view().guest(guest)).map(|guest| guest.name.to_string());
    VolumeView::of(volume, server.control.volume_status(volume), host, vm)
}

/// It changes with the record, and with what is being done with it.
fn tag(server: &Server, volume: &Volume) -> String {
    format!("\"{}.{}\"", volume.revision, perigee_api::word(&server.control.volume_status(volume)))
}

fn object(server: &Server, volume: &Volume, status: StatusCode) -> Response {
    let mut response = (status, Json(view(server, volume))).into_response();
    if let Ok(tag) = HeaderValue::from_str(&tag(server, volume)) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}
