//! Health and metrics. `/health/live` says only that the process answers, `/health/ready` only a
//! status code, to anybody; what is ready and what is not is told to callers with a token.

use super::Server;
use super::extract::{Caller, bearer};
use super::refuse::Answer;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use perigee_api::{ReadyPart, ReadyView};
use perigee_model::{TaskState, Verb};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Requests served, by class of status.
#[derive(Default)]
pub struct Requests([AtomicU64; 5]);

impl Requests {
    /// Counts one.
    pub fn count(&self, status: u16) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.0[class].fetch_add(1, Ordering::Relaxed);
    }
}

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

/// Prometheus text format 0.0.4.
pub async fn metrics(State(server): State<Server>, caller: Caller) -> Answer {
    caller.who.authorize(Verb::See)?;
    let mut text = String::new();
    family(&mut text, "perigee_http_requests_total", "counter", "Requests served, by class of status.");
    for (class, count) in server.requests.0.iter().enumerate() {
        let count = count.load(Ordering::Relaxed);
        text.push_str(&format!("perigee_http_requests_total{{class=\"{}xx\"}} {count}\n", class + 1));
    }
    let mut tasks: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let (guests, executions, hosts) = {
        let rows = server.control.view().read();
        for task in rows.open_tasks() {
            let state = if task.state == TaskState::Pending { "pending" } else { "running" };
            *tasks.entry((task.kind.text(), state)).or_default() += 1;
        }
        let hosts: Vec<_> = rows.hosts.values().filter(|h| !h.revoked).map(|h| h.id).collect();
        (rows.living_guests().count(), rows.open_executions().count(), hosts)
    };
    family(&mut text, "perigee_tasks_open", "gauge", "Tasks that have not ended.");
    for ((kind, state), count) in tasks {
        text.push_str(&format!("perigee_tasks_open{{kind=\"{kind}\",state=\"{state}\"}} {count}\n"));
    }
    family(&mut text, "perigee_guests", "gauge", "Guests that are not gone.");
    text.push_str(&format!("perigee_guests {guests}\n"));
    family(&mut text, "perigee_executions_open", "gauge", "Executions that have not ended.");
    text.push_str(&format!("perigee_executions_open {executions}\n"));
    let connected = hosts.iter().filter(|h| server.control.links().is_connected(**h)).count();
    family(&mut text, "perigee_hosts", "gauge", "Hosts, by whether they have a link.");
    text.push_str(&format!("perigee_hosts{{connected=\"true\"}} {connected}\n"));
    text.push_str(&format!("perigee_hosts{{connected=\"false\"}} {}\n", hosts.len() - connected));
    let mut response = text.into_response();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

fn family(text: &mut String, name: &str, kind: &str, about: &str) {
    text.push_str(&format!("# HELP {name} {about}\n# TYPE {name} {kind}\n"));
}
