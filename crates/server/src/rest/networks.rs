//! `/api/v1/networks`: networks that VMs of one host are on.

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
use perigee_api::{NetworkPlanView, NetworkRequest, NetworkView, Page, ProblemDocument, TaskView};
use perigee_control::networks::NewNetwork;
use perigee_model::{Network, TaskState};
use serde::Deserialize;
use utoipa::IntoParams;

/// Which networks, and which page of them.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct NetworkListParams {
    /// Only with this name.
    pub name: Option<String>,
    /// Only those of this host, by name or id.
    pub host: Option<String>,
    /// Objects on the page, 1 to 1000; 100 by default.
    pub limit: Option<usize>,
    /// From the page before.
    pub page_token: Option<String>,
}

/// Networks, oldest first.
#[utoipa::path(get, path = "/api/v1/networks", tag = "networks", operation_id = "list_networks",
    params(NetworkListParams),
    responses((status = 200, body = Page<NetworkView>), (status = "4XX", body = ProblemDocument)))]
pub async fn list(
    State(server): State<Server>,
    caller: Caller,
    Params(params): Params<NetworkListParams>,
) -> Answer<Json<Page<NetworkView>>> {
    let list = format!("networks {:?} {:?}", params.name, params.host);
    let paging = Paging::read(list, params.limit, params.page_token.as_deref())?;
    let host = params.host.as_deref().map(|host| server.control.find_host(&caller.who, host)).transpose()?;
    let networks = server.control.list_networks(&caller.who, paging.span(), |network| {
        let named = params.name.as_deref().is_none_or(|name| network.name.as_str() == name);
        named && host.as_ref().is_none_or(|host| network.host == host.id)
    })?;
    Ok(Json(paging.page(networks, |network| network.id, |network| view(&server, network))))
}

/// Makes a network: 202 with the task, or, with `Prefer: wait`, 201 with the network; with `dry_run=true` 200
/// with what its host would make.
#[utoipa::path(post, path = "/api/v1/networks", tag = "networks", operation_id = "create_network", params(DryParams),
    request_body = NetworkRequest,
    responses((status = 200, body = NetworkPlanView), (status = 201, body = NetworkView),
        (status = 202, body = TaskView), (status = "4XX", body = ProblemDocument),
        (status = 503, body = ProblemDocument)))]
pub async fn create(
    State(server): State<Server>,
    caller: Caller,
    Params(params): Params<DryParams>,
    body: Body<NetworkRequest>,
) -> Answer {
    let (name, kind, subnet) = (body.value.name()?, body.value.kind()?, body.value.subnet()?);
    let NetworkRequest { bridge, host, description, .. } = body.value;
    let wanted = NewNetwork { name, kind, subnet, bridge, host, description };
    if params.dry_run == Some(true) {
        let network = server.control.preview_network(&caller.who, wanted)?;
        let planned = server.control.plan_network(&network).await?;
        let network = view(&server, &Network { subnet: planned.subnet, ..network });
        return Ok(Json(NetworkPlanView { network, definition: planned.definition }).into_response());
    }
    once(&server, &caller, (Method::POST, "/api/v1/networks"), &body.bytes, async |cause| {
        let (network, task) = server.control.create_network(&caller.who, wanted.clone(), &cause).await?;
        let Some(wait) = caller.wait else { return Ok(tasks::accepted(&task)) };
        let task = server.control.wait_task(task.id, wait).await?;
        match task.state {
            TaskState::Succeeded => {
                let now = server.control.view().network(network.id);
                let mut answer = object(&server, now.as_ref().unwrap_or(&network), StatusCode::CREATED);
                if let Ok(location) = HeaderValue::from_str(&format!("/api/v1/networks/{}", network.id)) {
                    answer.headers_mut().insert(header::LOCATION, location);
                }
                Ok(answer)
            }
            TaskState::Pending | TaskState::Running => Ok(tasks::accepted(&task)),
            TaskState::Failed | TaskState::Cancelled | TaskState::Dead => Err(sandboxes::fell(&task).into()),
        }
    })
    .await
}

/// One network by id or name.
#[utoipa::path(get, path = "/api/v1/networks/{id}", tag = "networks", operation_id = "get_network",
    params(("id" = String, Path, description = "Id or name")),
    responses((status = 200, body = NetworkView), (status = 304), (status = "4XX", body = ProblemDocument)))]
pub async fn get(State(server): State<Server>, caller: Caller, Path(id): Path<String>) -> Answer {
    let network = server.control.find_network(&caller.who, &id)?;
    if caller.if_none_match.as_deref() == Some(tag(&server, &network).as_str()) {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    Ok(object(&server, &network, StatusCode::OK))
}

/// Deletes a network that no VM is on.
#[utoipa::path(delete, path = "/api/v1/networks/{id}", tag = "networks", operation_id = "delete_network",
    params(("id" = String, Path, description = "Id or name")),
    responses((status = 202, body = TaskView), (status = 204), (status = "4XX", body = ProblemDocument)))]
pub async fn delete(State(server): State<Server>, caller: Caller, Path(id): Path<String>) -> Answer {
    let task = server.control.delete_network(&caller.who, &id, caller.revision(), &caller.cause()).await?;
    sandboxes::removed(&server, &caller, task).await
}

fn view(server: &Server, network: &Network) -> NetworkView {
    let host = server.control.view().host(network.host).map_or_else(String::new, |host| host.name.to_string());
    let on = server.control.guests_on(network);
    let mine = on.iter().filter(|guest| guest.tenant == network.tenant);
    let vms = mine.map(|guest| guest.name.to_string()).collect();
    NetworkView::of(network, server.control.network_status(network), host, vms)
}

/// It changes with the record, with what is being done with it, and with how many VMs are on it.
fn tag(server: &Server, network: &Network) -> String {
    let status = perigee_api::word(&server.control.network_status(network));
    format!("\"{}.{status}{}\"", network.revision, server.control.guests_on(network).len())
}

fn object(server: &Server, network: &Network, status: StatusCode) -> Response {
    let mut response = (status, Json(view(server, network))).into_response();
    if let Ok(tag) = HeaderValue::from_str(&tag(server, network)) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}
