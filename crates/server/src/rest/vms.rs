//! `/api/v1/vms`: guests of every kind, the seeds' names for the same verbs; and what only a full VM
//! can do.

use super::extract::{Body, Caller, Params};
use super::once::once;
use super::refuse::Answer;
use super::sandboxes::{self, DryParams, ListParams};
use super::{Server, executions, tasks, views};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode};
use perigee_api::{
    AdoptRequest, ExecuteRequest, ExecutionView, HostReason, Page, ProblemDocument, SandboxRequest, StopRequest,
    TaskView, VmPatch, VmPlanView, VmRequest, VmView,
};
use perigee_control::guests::NewGuest;
use perigee_control::vms::NewVm;
use perigee_model::limits::{USER_DATA_BYTES_MAX, VM_STOP_GRACE};
use perigee_model::{Code, Guest, GuestKind, HostId, Mac, Name, Part, PartRole, Refusal, Switch, TaskState, Verb};
use serde::Deserialize;
use utoipa::IntoParams;

/// Which guests, and which page of them.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct VmListParams {
    /// Only `vm` or only `sandbox`.
    pub kind: Option<String>,
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

/// Guests of every kind, oldest first.
#[utoipa::path(get, path = "/api/v1/vms", tag = "vms", operation_id = "list_vms", params(VmListParams),
    responses((status = 200, body = Page<VmView>), (status = "4XX", body = ProblemDocument)))]
pub async fn list(
    State(server): State<Server>,
    caller: Caller,
    Params(params): Params<VmListParams>,
) -> Answer<Json<Page<VmView>>> {
    let kind = params.kind.as_deref().map(kind).transpose()?;
    let VmListParams { name, status, label, limit, page_token, .. } = params;
    let params = ListParams { name, status, label, limit, page_token };
    let mut vms = views::Vms::of(&server);
    sandboxes::list_of(&server, &caller, &params, kind, |guest| vms.view(guest))
}

/// Creates a guest: 202 with the task, or, with `Prefer: wait`, 201 with the running guest; with
/// `dry_run=true` 200 with what would be done.
#[utoipa::path(post, path = "/api/v1/vms", tag = "vms", operation_id = "create_vm", params(DryParams), request_body = VmRequest,
    responses((status = 200, body = VmPlanView), (status = 201, body = VmView), (status = 202, body = TaskView),
        (status = "4XX", body = ProblemDocument), (status = 503, body = ProblemDocument)))]
pub async fn create(
    State(server): State<Server>,
    caller: Caller,
    Params(params): Params<DryParams>,
    body: Body<VmRequest>,
) -> Answer {
    let user_data = body.value.user_data.clone();
    let mut wanted = wanted(body.value)?;
    if params.dry_run == Some(true) {
        return plan(&server, &caller, wanted).await;
    }
    if let (Some(vm), Some(text)) = (wanted.vm.as_mut(), user_data) {
        vm.user_data = Some(keep_user_data(&server, text).await?);
    }
    sandboxes::create_of(&server, &caller, "/api/v1/vms", (wanted, &body.bytes), object).await
}

/// One guest by id or name.
#[utoipa::path(get, path = "/api/v1/vms/{id}", tag = "vms", operation_id = "get_vm", params(("id" = String, Path, description = "Id or name")),
    responses((status = 200, body = VmView), (status = 304), (status = "4XX", body = ProblemDocument)))]
pub async fn get(State(server): State<Server>, caller: Caller, Path(id): Path<String>) -> Answer {
    let guest = server.control.find_guest(&caller.who, &id)?;
    Ok(sandboxes::read(&server, &caller, &guest, object))
}

/// Changes a VM (JSON merge patch, RFC 7396). Needs `If-Match`. Sizes hold from its next start on, what it may reach at
/// once. With `Prefer: wait` it answers when its host has done it.
#[utoipa::path(patch, path = "/api/v1/vms/{id}", tag = "vms", operation_id = "update_vm", params(("id" = String, Path, description = "Id or name")),
    request_body = VmPatch,
    responses((status = 200, body = VmView), (status = "4XX", body = ProblemDocument)))]
pub async fn update(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body<VmPatch>,
) -> Answer {
    let revision = caller.require_match()?;
    let change = body.value.change()?;
    let guest = server.control.update_vm(&caller.who, &id, &change, revision, &caller.cause()).await?;
    let guest = sandboxes::settled(&server, &caller, guest).await;
    Ok(object(&server, &guest, StatusCode::OK))
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

/// Starts a VM; one that is paused goes on.
#[utoipa::path(post, path = "/api/v1/vms/{id}/start", tag = "vms", operation_id = "start_vm", params(("id" = String, Path, description = "Id or name")),
    responses((status = 200, body = VmView), (status = 202, body = TaskView), (status = "4XX", body = ProblemDocument)))]
pub async fn start(State(server): State<Server>, caller: Caller, Path(id): Path<String>) -> Answer {
    switch(&server, &caller, (&id, "start", b""), Switch::Start).await
}

/// Stops a VM: asks it to turn itself off, then ends it.
#[utoipa::path(post, path = "/api/v1/vms/{id}/stop", tag = "vms", operation_id = "stop_vm", params(("id" = String, Path, description = "Id or name")),
    request_body = StopRequest,
    responses((status = 200, body = VmView), (status = 202, body = TaskView), (status = "4XX", body = ProblemDocument)))]
pub async fn stop(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body<StopRequest>,
) -> Answer {
    let to = Switch::Stop { grace_ms: grace(&body.value) };
    switch(&server, &caller, (&id, "stop", &body.bytes), to).await
}

/// Stops a VM as `stop` does, and starts it.
#[utoipa::path(post, path = "/api/v1/vms/{id}/restart", tag = "vms", operation_id = "restart_vm", params(("id" = String, Path, description = "Id or name")),
    request_body = StopRequest,
    responses((status = 200, body = VmView), (status = 202, body = TaskView), (status = "4XX", body = ProblemDocument)))]
pub async fn restart(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body<StopRequest>,
) -> Answer {
    let to = Switch::Restart { grace_ms: grace(&body.value) };
    switch(&server, &caller, (&id, "restart", &body.bytes), to).await
}

/// Stops a VM's CPUs; it keeps its memory.
#[utoipa::path(post, path = "/api/v1/vms/{id}/pause", tag = "vms", operation_id = "pause_vm", params(("id" = String, Path, description = "Id or name")),
    responses((status = 200, body = VmView), (status = 202, body = TaskView), (status = "4XX", body = ProblemDocument)))]
pub async fn pause(State(server): State<Server>, caller: Caller, Path(id): Path<String>) -> Answer {
    switch(&server, &caller, (&id, "pause", b""), Switch::Pause).await
}

/// Lets a paused VM go on.
#[utoipa::path(post, path = "/api/v1/vms/{id}/resume", tag = "vms", operation_id = "resume_vm", params(("id" = String, Path, description = "Id or name")),
    responses((status = 200, body = VmView), (status = 202, body = TaskView), (status = "4XX", body = ProblemDocument)))]
pub async fn resume(State(server): State<Server>, caller: Caller, Path(id): Path<String>) -> Answer {
    switch(&server, &caller, (&id, "resume", b""), Switch::Resume).await
}

/// Lets an adopted VM go: it stays on its host as it is.
#[utoipa::path(post, path = "/api/v1/vms/{id}/release", tag = "vms", operation_id = "release_vm", params(("id" = String, Path, description = "Id or name")),
    responses((status = 202, body = TaskView), (status = 204), (status = "4XX", body = ProblemDocument)))]
pub async fn release(State(server): State<Server>, caller: Caller, Path(id): Path<String>) -> Answer {
    let task = server.control.release_vm(&caller.who, &id, &caller.cause()).await?;
    sandboxes::removed(&server, &caller, task).await
}

/// Takes over a VM of a host's own libvirt.
#[utoipa::path(post, path = "/api/v1/foreign-vms/{id}/adopt", tag = "vms", operation_id = "adopt_vm", params(("id" = String, Path, description = "Id or name")),
    request_body = AdoptRequest,
    responses((status = 200, body = VmView), (status = 202, body = TaskView), (status = "4XX", body = ProblemDocument)))]
pub async fn adopt(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body<AdoptRequest>,
) -> Answer {
    caller.who.authorize(Verb::Operate)?;
    let foreign = server.watch.find_foreign(&caller.who, &id)?;
    let name = body.value.name.as_deref().map(Name::parse).transpose();
    let name = name.map_err(|fault| Refusal::field("name", fault.to_string()))?;
    let path = format!("/api/v1/foreign-vms/{id}/adopt");
    once(&server, &caller, (Method::POST, &path), &body.bytes, async |cause| {
        let (guest, task) = server.control.adopt_vm(&caller.who, &foreign, name, &cause).await?;
        settled(&server, &caller, &guest, &task).await
    })
    .await
}

async fn switch(server: &Server, caller: &Caller, (id, verb, bytes): (&str, &str, &[u8]), to: Switch) -> Answer {
    let path = format!("/api/v1/vms/{id}/{verb}");
    once(server, caller, (Method::POST, &path), bytes, async |cause| {
        let task = server.control.switch_vm(&caller.who, id, to, &cause).await?;
        let guest = server.control.find_guest(&caller.who, id)?;
        settled(server, caller, &guest, &task).await
    })
    .await
}

/// The task, or, for whoever waits, the guest when it is done.
pub async fn settled(server: &Server, caller: &Caller, guest: &Guest, task: &perigee_model::Task) -> Answer {
    let Some(wait) = caller.wait else { return Ok(tasks::accepted(task)) };
    let task = server.control.wait_task(task.id, wait).await?;
    match task.state {
        TaskState::Succeeded => {
            let now = server.control.view().guest(guest.id);
            Ok(object(server, now.as_deref().unwrap_or(guest), StatusCode::OK))
        }
        TaskState::Pending | TaskState::Running => Ok(tasks::accepted(&task)),
        TaskState::Failed | TaskState::Cancelled | TaskState::Dead => Err(sandboxes::fell(&task).into()),
    }
}

pub fn object(server: &Server, guest: &Guest, status: StatusCode) -> Response {
    sandboxes::tagged((status, Json(views::Vms::of(server).view(guest))).into_response(), server, guest)
}

async fn plan(server: &Server, caller: &Caller, wanted: NewGuest) -> Answer {
    let (guest, placement) = server.control.preview_guest(&caller.who, wanted)?;
    let reasons = placement.reasons.iter().map(views::host_reason).collect();
    planned(server, &guest, (placement.host, reasons)).await
}

/// What would be done, with the rules that the host would have.
pub async fn planned(server: &Server, guest: &Guest, (host, placement): (Option<HostId>, Vec<HostReason>)) -> Answer {
    let rules = match host {
        Some(host) => server.control.preview_card(guest, host).await?,
        None => None,
    };
    let host = host.and_then(|id| server.control.view().host(id));
    let vm = views::Vms::of(server).view(guest);
    let plan = VmPlanView { vm, host: host.map(|h| h.name.to_string()), placement, rules };
    Ok(Json(plan).into_response())
}

fn grace(request: &StopRequest) -> u64 {
    let usual = u64::try_from(VM_STOP_GRACE.as_millis()).unwrap_or(u64::MAX);
    request.grace_ms.unwrap_or(usual)
}

/// User-data travels to the host as a part of the image does.
async fn keep_user_data(server: &Server, text: String) -> Result<Part, Refusal> {
    let bytes = text.len() as u64;
    let stored = server.blobs.put_stream(None, std::io::Cursor::new(text.into_bytes())).await;
    let stored = stored.map_err(|error| match error {
        perigee_blobs::BlobError::NoSpace(_) => Refusal::new(Code::DiskFull, "the control plane's disk is full"),
        other => Refusal::new(Code::StoreDown, "the user-data cannot be stored").because(other),
    })?;
    Ok(Part { role: PartRole::UserData, digest: stored.digest, bytes })
}

fn kind(text: &str) -> Result<GuestKind, Refusal> {
    match text {
        "vm" => Ok(GuestKind::Vm),
        "sandbox" => Ok(GuestKind::Sandbox),
        _ => Err(Refusal::field("kind", "kind is \"vm\" or \"sandbox\"")),
    }
}

fn wanted(request: VmRequest) -> Result<NewGuest, Refusal> {
    if request.kind.as_deref().map(kind).transpose()? == Some(GuestKind::Sandbox) {
        return sandbox(request);
    }
    if request.user_data.as_ref().is_some_and(|text| text.len() > USER_DATA_BYTES_MAX) {
        return Err(Refusal::field("user_data", format!("user_data has at most {USER_DATA_BYTES_MAX} bytes")));
    }
    let (mac, egress) = (request.mac()?, request.egress()?);
    let vm = NewVm { spec: request.spec(mac.unwrap_or(Mac::from_bits(0)))?, mac, user_data: None };
    Ok(NewGuest {
        name: request.name()?,
        kind: GuestKind::Vm,
        resources: request.resources(),
        image: request.image.unwrap_or_else(|| "base".to_owned()),
        ttl: None,
        env: Default::default(),
        labels: request.labels,
        host: request.host,
        priority: sandboxes::priority(request.priority.as_deref())?,
        vm: Some(vm),
        egress,
        egress6: None,
    })
}

/// The same route makes sandboxes when it is asked to.
fn sandbox(request: VmRequest) -> Result<NewGuest, Refusal> {
    let of_vms = VmRequest {
        name: None,
        kind: None,
        image: None,
        cpus: None,
        memory_bytes: None,
        ttl_ms: None,
        env: Default::default(),
        labels: Default::default(),
        host: None,
        priority: None,
        egress: None,
        ..request.clone()
    };
    if of_vms != VmRequest::default() {
        return Err(Refusal::field("kind", "a sandbox has no disk, network, keys or policies; leave them out"));
    }
    sandboxes::wanted(SandboxRequest {
        name: request.name,
        kind: None,
        image: request.image,
        cpus: request.cpus,
        memory_bytes: request.memory_bytes,
        ttl_ms: request.ttl_ms,
        env: request.env,
        labels: request.labels,
        host: request.host,
        priority: request.priority,
        egress: request.egress,
        egress6: None,
    })
}
