//! `/api/v1/foreign-vms`: virtual machines of hosts' own libvirt, to look at.

use super::extract::{Caller, Params};
use super::page::Paging;
use super::refuse::Answer;
use super::{Server, views};
use axum::Json;
use axum::extract::{Path, State};
use perigee_api::{ForeignVmView, Page, ProblemDocument};
use perigee_control::watch::ForeignVm;
use perigee_model::Host;
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;

/// Which of them, and which page.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    /// Only with this name.
    pub name: Option<String>,
    /// Only on this host, by id or name.
    pub host: Option<String>,
    /// Objects on the page, 1 to 1000; 100 by default.
    pub limit: Option<usize>,
    /// From the page before.
    pub page_token: Option<String>,
}

/// Virtual machines that Perigee did not make, in the order of their ids.
#[utoipa::path(get, path = "/api/v1/foreign-vms", tag = "vms", operation_id = "list_foreign_vms", params(ListParams),
    responses((status = 200, body = Page<ForeignVmView>), (status = "4XX", body = ProblemDocument)))]
pub async fn list(
    State(server): State<Server>,
    caller: Caller,
    Params(params): Params<ListParams>,
) -> Answer<Json<Page<ForeignVmView>>> {
    let host = params.host.as_deref().map(|text| server.control.find_host(&caller.who, text)).transpose()?;
    let host = host.map(|host: Arc<Host>| host.id);
    let list = format!("foreign-vms {:?} {host:?}", params.name);
    let paging = Paging::read(list, params.limit, params.page_token.as_deref())?;
    let fits = |vm: &ForeignVm| {
        params.name.as_deref().is_none_or(|name| vm.name == name) && host.is_none_or(|host| vm.host == host)
    };
    let found = server.watch.foreign(&caller.who, paging.span(), fits)?;
    Ok(Json(paging.page(found, |vm| vm.id, |vm| views::foreign_vm(&server, vm))))
}

/// One of them, by id or name.
#[utoipa::path(get, path = "/api/v1/foreign-vms/{id}", tag = "vms", operation_id = "get_foreign_vm", params(("id" = String, Path, description = "Id or name")),
    responses((status = 200, body = ForeignVmView), (status = "4XX", body = ProblemDocument)))]
pub async fn get(State(server): State<Server>, caller: Caller, Path(id): Path<String>) -> Answer<Json<ForeignVmView>> {
    let vm = server.watch.find_foreign(&caller.who, &id)?;
    Ok(Json(views::foreign_vm(&server, &vm)))
}
