//! `/metrics`: how this control plane fares, in the Prometheus text format 0.0.4.
//!
//! Names follow Prometheus' conventions: base units, `_total` on what only goes up. What was
//! measured on hosts is not here; `/api/v1/query` has it.

use super::Server;
use super::extract::Caller;
use super::refuse::Answer;
use crate::process;
use axum::extract::State;
use axum::response::IntoResponse;
use http::{HeaderValue, header};
use perigee_model::{Priority, TaskState, Verb};
use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};

/// One beyond the last status code of HTTP.
const STATUSES: usize = 600;
const PRIORITIES: [(Priority, &str); 4] = [
    (Priority::Critical, "critical"),
    (Priority::High, "high"),
    (Priority::Default, "default"),
    (Priority::Low, "low"),
];

/// Requests served, by status.
pub struct Requests([AtomicU64; STATUSES]);

impl Default for Requests {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Requests {
    /// Counts one.
    pub fn count(&self, status: u16) {
        self.0[usize::from(status).min(STATUSES - 1)].fetch_add(1, Ordering::Relaxed);
    }
}

/// Prometheus text format 0.0.4.
pub async fn metrics(State(server): State<Server>, caller: Caller) -> Answer {
    caller.who.authorize(Verb::See)?;
    let mut page = Page::default();
    let version = env!("CARGO_PKG_VERSION");
    page.family("perigee_build_info", "gauge", "Always 1; the version is a label.");
    page.line("perigee_build_info", &[("version", version)], 1);
    requests(&mut page, &server);
    objects(&mut page, &server);
    store(&mut page, &server).await;
    measurements(&mut page, &server);
    own_process(&mut page);
    let mut response = page.0.into_response();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

fn requests(page: &mut Page, server: &Server) {
    let name = "perigee_http_requests_total";
    page.family(name, "counter", "Requests served, by status code.");
    for (status, count) in server.requests.0.iter().enumerate() {
        let count = count.load(Ordering::Relaxed);
        if count > 0 {
            page.line(name, &[("code", &status.to_string())], count);
        }
    }
}

/// Tasks, guests, executions and hosts.
fn objects(page: &mut Page, server: &Server) {
    let mut tasks: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut queued = [0u64; PRIORITIES.len()];
    let (guests, executions, hosts) = {
        let rows = server.control.view().read();
        for task in rows.open_tasks() {
            let pending = task.state == TaskState::Pending;
            *tasks.entry((task.kind.text(), if pending { "pending" } else { "running" })).or_default() += 1;
            for (count, (priority, _)) in queued.iter_mut().zip(PRIORITIES) {
                *count += u64::from(pending && task.priority == priority);
            }
        }
        let hosts: Vec<_> = rows.hosts.values().filter(|h| !h.revoked).map(|h| h.id).collect();
        (rows.living_guests().count(), rows.open_executions().count(), hosts)
    };
    page.family("perigee_tasks_open", "gauge", "Tasks that have not ended.");
    for ((kind, state), count) in tasks {
        page.line("perigee_tasks_open", &[("kind", kind), ("state", state)], count);
    }
    page.family("perigee_queue_tasks", "gauge", "Tasks that wait to be claimed, by priority.");
    for (count, (_, priority)) in queued.iter().zip(PRIORITIES) {
        page.line("perigee_queue_tasks", &[("priority", priority)], count);
    }
    page.one("perigee_guests", "gauge", "Guests that are not gone.", guests);
    page.one("perigee_executions_open", "gauge", "Executions that have not ended.", executions);
    let connected = hosts.iter().filter(|h| server.control.links().is_connected(**h)).count();
    page.family("perigee_hosts", "gauge", "Hosts, by whether they have a link.");
    page.line("perigee_hosts", &[("connected", "true")], connected);
    page.line("perigee_hosts", &[("connected", "false")], hosts.len() - connected);
}

async fn store(page: &mut Page, server: &Server) {
    let began = server.control.clock().instant();
    let up = server.control.store().ping().await.is_ok();
    page.one("perigee_store_up", "gauge", "1 when the store answers.", u8::from(up));
    let took = began.elapsed().as_secs_f64();
    page.one("perigee_store_ping_seconds", "gauge", "How long its answer to this scrape took.", took);
}

fn measurements(page: &mut Page, server: &Server) {
    let figures = server.watch.figures();
    let (series, log) = (figures.store, figures.store.log);
    page.one("perigee_series_streams", "gauge", "Streams of measurements that are known.", series.streams);
    page.one("perigee_series_active", "gauge", "Series of the newest frames.", series.series);
    page.family("perigee_series_frames_not_kept_total", "counter", "Frames that are not kept, by what happened.");
    let losses = [
        ("never_came", series.losses.lost),
        ("came_again", series.losses.duplicates),
        ("refused", series.losses.refused),
    ];
    for (reason, count) in losses {
        page.line("perigee_series_frames_not_kept_total", &[("reason", reason)], count);
    }
    page.one("perigee_series_log_frames_total", "counter", "Frames appended to the log over all time.", log.appended);
    page.one("perigee_series_log_durable_total", "counter", "Those of them that are durable.", log.durable);
    page.one("perigee_series_log_waiting_bytes", "gauge", "Bytes that wait for the next sync.", log.waiting_bytes);
    page.one("perigee_series_log_syncs_total", "counter", "Syncs of the log since the start.", log.syncs);
    page.one("perigee_series_log_written_bytes_total", "counter", "Bytes of the log since the start.", log.bytes);
    page.one("perigee_series_blocks", "gauge", "Blocks of what was measured, on disk.", series.blocks);
    page.family(
        "perigee_series_block_bytes",
        "gauge",
        "Bytes on disk of what was measured, and of coarser steps of it.",
    );
    let tiers = [("measured", series.block_bytes), ("minute", series.minute_bytes), ("hour", series.hour_bytes)];
    for (step, bytes) in tiers {
        page.line("perigee_series_block_bytes", &[("step", step)], bytes);
    }
    let failing = u8::from(server.watch.health().is_err());
    page.one("perigee_series_failing", "gauge", "1 while measurements cannot be written.", failing);
    page.family("perigee_live_watchers", "gauge", "Who watches live, one host closely or all from afar.");
    page.line("perigee_live_watchers", &[("scope", "host")], figures.watchers_close);
    page.line("perigee_live_watchers", &[("scope", "fleet")], figures.watchers_far);
}

/// Under the names that every Prometheus client library uses.
fn own_process(page: &mut Page) {
    let taken = process::taken();
    let about = "Processor time of this process, user and system.";
    page.one("process_cpu_seconds_total", "counter", about, taken.cpu_seconds);
    page.one("process_resident_memory_bytes", "gauge", "Memory in RAM.", taken.resident_bytes);
    page.one("process_virtual_memory_bytes", "gauge", "Memory that is mapped.", taken.virtual_bytes);
    page.one("process_threads", "gauge", "Threads.", taken.threads);
    page.one("process_open_fds", "gauge", "Open descriptors.", taken.fds);
    page.one("process_max_fds", "gauge", "Descriptors there may be.", taken.fds_max);
    page.one("process_start_time_seconds", "gauge", "When it began, since 1970.", taken.started_seconds);
}

/// The text as it grows.
#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, about: &str) {
        // Writing to a String cannot fail.
        let _ = write!(self.0, "# HELP {name} {about}\n# TYPE {name} {kind}\n");
    }
    /// Label values here are words of our own: none needs escaping.
    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let _ = writeln!(self.0, "{name}{{{}}} {value}", pairs.join(","));
    }
    /// A family of one series without labels.
    fn one(&mut self, name: &str, kind: &str, about: &str, value: impl Display) {
        self.family(name, kind, about);
        let _ = writeln!(self.0, "{name} {value}");
    }
}
