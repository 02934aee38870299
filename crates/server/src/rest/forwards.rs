//! `/api/v1/sandboxes/{id}/forwards` and `/api/v1/vms/{id}/forwards`: ports of a guest's host that lead to it. A
//! guest of either kind is found at both; each answers with its own kind of object.

use super::Server;
use super::extract::{Body, Caller, Params};
use super::once::once;
use super::refuse::Answer;
use super::sandboxes::{self, DryParams, settled};
use super::vms;
use axum::extract::{Path, State};
use axum::response::Response;
use http::{Method, StatusCode};
use perigee_api::{ForwardRequest, ProblemDocument, SandboxView, VmView};
use perigee_model::egress::Protocol;
use perigee_model::{Forward, Guest, GuestKind, Refusal};

/// A port of the sandbox's host leads to it from now on. With `Prefer: wait` it answers when it does, and refuses
/// when a program of the host listens there. With `dry_run=true` it says what would be done.
#[utoipa::path(post, path = "/api/v1/sandboxes/{id}/forwards", tag = "sandboxes", operation_id = "add_forward",
    params(("id" = String, Path, description = "Id or name"), DryParams), request_body = ForwardRequest,
    responses((status = 200, body = SandboxView), (status = "4XX", body = ProblemDocument)))]
pub async fn add(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<String>,
    Params(params): Params<DryParams>,
    body: Body<ForwardRequest>,
) -> Answer {
    add_of(&server, &caller, (GuestKind::Sandbox, &id), params, body).await
}

/// A port of the VM's host leads to it from now on. With `Prefer: wait` it answers when it does, and refuses
/// when a program of the host listens there. With `dry_run=true` it says what would be done.
#[utoipa::path(post, path = "/api/v1/vms/{id}/forwards", tag = "vms", operation_id = "add_vm_forward",
    params(("id" = String, Path, description = "Id or name"), DryParams), request_body = ForwardRequest,
    responses((status = 200, body = VmView), (status = "4XX", body = ProblemDocument)))]
pub async fn add_to_vm(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<String>,
    Params(params): Params<DryParams>,
    body: Body<ForwardRequest>,
) -> Answer {
    add_of(&server, &caller, (GuestKind::Vm, &id), params, body).await
}

async fn add_of(
    server: &Server,
    caller: &Caller,
    (kind, id): (GuestKind, &str),
    params: DryParams,
    body: Body<ForwardRequest>,
) -> Answer {
    let ForwardRequest { host_port, guest_port, protocol } = body.value;
    let forward = Forward::new(of_word(protocol.as_deref())?, host_port, guest_port.unwrap_or(host_port))?;
    if params.dry_run == Some(true) {
        let guest = server.control.preview_forward(&caller.who, id, forward)?;
        let at = (guest.desired.host, Vec::new());
        return match kind {
            GuestKind::Sandbox => sandboxes::planned(server, &guest, at).await,
            GuestKind::Vm => vms::planned(server, &guest, at).await,
        };
    }
    let path = match kind {
        GuestKind::Sandbox => format!("/api/v1/sandboxes/{id}/forwards"),
        GuestKind::Vm => format!("/api/v1/vms/{id}/forwards"),
    };
    once(server, caller, (Method::POST, &path), &body.bytes, async |cause| {
        let guest = server.control.add_forward(&caller.who, id, forward, &cause).await?;
        let guest = settled(server, caller, guest).await;
        let guest = server.control.settle_forward(&caller.who, guest, forward, &caller.cause()).await?;
        Ok(object(server, kind, &guest))
    })
    .await
}

/// The port leads to the sandbox no more; connections that came by it end. With `Prefer: wait` it answers when they
/// have.
#[utoipa::path(delete, path = "/api/v1/sandboxes/{id}/forwards/{protocol}/{port}", tag = "sandboxes",
    operation_id = "remove_forward",
    params(("id" = String, Path, description = "Id or name"), ("protocol" = String, Path, description = "tcp or udp"),
        ("port" = u16, Path, description = "At the host")),
    responses((status = 200, body = SandboxView), (status = "4XX", body = ProblemDocument)))]
pub async fn remove(State(server): State<Server>, caller: Caller, Path(at): Path<(String, String, String)>) -> Answer {
    remove_of(&server, &caller, GuestKind::Sandbox, at).await
}

/// The port leads to the VM no more; connections that came by it end. With `Prefer: wait` it answers when they have.
#[utoipa::path(delete, path = "/api/v1/vms/{id}/forwards/{protocol}/{port}", tag = "vms",
    operation_id = "remove_vm_forward",
    params(("id" = String, Path, description = "Id or name"), ("protocol" = String, Path, description = "tcp or udp"),
        ("port" = u16, Path, description = "At the host")),
    responses((status = 200, body = VmView), (status = "4XX", body = ProblemDocument)))]
pub async fn remove_of_vm(
    State(server): State<Server>,
    caller: Caller,
    Path(at): Path<(String, String, String)>,
) -> Answer {
    remove_of(&server, &caller, GuestKind::Vm, at).await
}

async fn remove_of(
    server: &Server,
    caller: &Caller,
    kind: GuestKind,
    (id, protocol, port): (String, String, String),
) -> Answer {
    let port = port.parse().map_err(|_| Refusal::field("host_port", "ports are 1 to 65535"))?;
    let forward = Forward::new(of_word(Some(&protocol))?, port, 1)?;
    let guest = server.control.remove_forward(&caller.who, &id, forward, &caller.cause()).await?;
    let guest = settled(server, caller, guest).await;
    Ok(object(server, kind, &guest))
}

fn object(server: &Server, kind: GuestKind, guest: &Guest) -> Response {
    match kind {
        GuestKind::Sandbox => sandboxes::object(server, guest, StatusCode::OK),
        GuestKind::Vm => vms::object(server, guest, StatusCode::OK),
    }
}

fn of_word(word: Option<&str>) -> Result<Protocol, Refusal> {
    let Some(word) = word else { return Ok(Protocol::Tcp) };
    Protocol::parse(word).ok_or_else(|| Refusal::field("protocol", "protocol is \"tcp\" or \"udp\""))
}
