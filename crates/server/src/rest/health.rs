//! Health. `/health/live` says only that the process answers, `/health/ready` only a
//! status code, to anybody; what is ready and what is not is told to callers with a token.

use super::Server;
use super::extract::bearer;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use perigee_api::{ReadyPart, ReadyView};

pub async fn live() -> &'static str {
    "ok\n"
}

pub async fn ready(State(server): State<Server>, headers: HeaderMap) -> Response {
    let view = parts(&server).await;
    let status = if view.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let known = bearer(&headers).is_some_and(|t| server.control.authenticate(t).is_ok());
    if known { (status, Json(view)).into_response() } else { status.into_response() }
}

async fn parts(server: &Server) -> ReadyView {
    let store = server.control.store().ping().await;
    let mut parts = vec![ReadyPart {
        name: "store".to_owned(),
        ready: store.is_ok(),
        text: store.err().map_or_else(|| "answers".to_owned(), |e| e.to_string()),
    }];
    let series = server.watch.health();
    parts.push(ReadyPart {
        name: "series".to_owned(),
        ready: series.is_ok(),
        text: series.unwrap_or_else(|why| format!("measurements cannot be written: {why}")),
    });
    let hosts: Vec<_> = server.control.view().read().hosts.values().filter(|h| !h.revoked).cloned().collect();
    let connected = hosts.iter().filter(|h| server.control.links().is_connected(h.id)).count();
    for host in &hosts {
        let link = server.control.links().is_connected(host.id);
        parts.push(ReadyPart {
            name: format!("host {}", host.name),
            ready: link,
            text: if link { "connected" } else { "not connected; its guests' status is unknown" }.to_owned(),
        });
        for driver in host.inventory.iter().flat_map(|i| &i.drivers) {
            let acceleration = super::views::word(&driver.acceleration);
            let text = format!("{} {}, {acceleration}", driver.driver, driver.version);
            parts.push(ReadyPart { name: format!("driver on {}", host.name), ready: link, text });
        }
    }
    // The control plane serves without hosts; it is not ready without its store.
    let ready = parts[0].ready;
    let text = format!("{connected} of {} connected", hosts.len());
    parts.insert(1, ReadyPart { name: "agent link".to_owned(), ready: true, text });
    ReadyView {
        ready,
        parts,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance: server.control.instance().to_string(),
    }
}
