//! Ingest: hosts whose agent is not ours report here, each with a token of its own.

use super::extract::{Body, Caller};
use super::ingest_report::{Report, Speaker, check_report, time};
use super::once::once;
use super::refuse::Answer;
use super::{Server, views};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode};
use perigee_api::{
    CommandResultReport, EventsReport, HostView, IngestTokenRequest, IngestTokenView, MetricsBatch, ProblemDocument,
    ReceiptView, RegisterRequest, SampleKind, TagValue,
};
use perigee_control::ingest::{Allowance, Claim, Mark, Occurrence, Registration};
use perigee_control::watch;
use perigee_model::frame::MetricKind;
use perigee_model::limits::LABEL_CHARS_MAX;
use perigee_model::{Code, Host, Inventory, Labels, Refusal, RunId};
use std::collections::BTreeMap;
use std::time::Duration;

/// The tag that gives a host's link speed where no network series does.
const SPEED: &str = "primary_interface_speed_mbps";

/// Makes a token with which another agent reports for one host: shown once. A repeat under the same
/// `Idempotency-Key` does not show it again.
#[utoipa::path(post, path = "/api/v1/hosts/{id}/ingest-token", tag = "hosts", operation_id = "allow_ingest",
    params(("id" = String, Path, description = "Id or name")), request_body = IngestTokenRequest,
    responses((status = 201, body = IngestTokenView), (status = "4XX", body = ProblemDocument)))]
pub async fn allow(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body<IngestTokenRequest>,
) -> Answer {
    let IngestTokenRequest { ttl_ms, create, reset } = body.value;
    let allowance = Allowance { life: ttl_ms.map(Duration::from_millis), create, reset };
    let path = format!("/api/v1/hosts/{id}/ingest-token");
    let mut shown = None;
    let response = once(&server, &caller, (Method::POST, &path), &body.bytes, async |cause| {
        let (host, claim) = server.control.allow_reporting(&caller.who, &id, allowance, &cause).await?;
        let view = token_view(&server, &host, &claim)?;
        let kept = IngestTokenView { token: "shown once".to_owned(), ..view.clone() };
        shown = Some(view);
        Ok((StatusCode::CREATED, Json(kept)).into_response())
    })
    .await?;
    Ok(match shown {
        Some(view) => (StatusCode::CREATED, Json(view)).into_response(),
        None => response,
    })
}

/// Gives a host's agent a fresh token, of the same life, for a living one.
#[utoipa::path(post, path = "/api/v1/hosts/tokens/renew", tag = "ingest", operation_id = "renew_token",
    responses((status = 201, body = IngestTokenView), (status = "4XX", body = ProblemDocument)))]
pub async fn renew(State(server): State<Server>, report: Report<Nothing>) -> Answer {
    let Nothing {} = report.value;
    let reporter = &report.speaker.reporter;
    let host = server.control.admit_host(reporter.host())?;
    let claim = server.control.renew_reporting(reporter);
    Ok((StatusCode::CREATED, Json(token_view(&server, &host, &claim)?)).into_response())
}

/// An empty object, or nothing.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// Tells what the token's host is and has, its tags, and the key it signs with. May be repeated.
#[utoipa::path(post, path = "/api/v1/hosts/register", tag = "ingest", operation_id = "register_host",
    request_body = RegisterRequest,
    responses((status = 200, body = HostView), (status = "4XX", body = ProblemDocument)))]
pub async fn register(State(server): State<Server>, report: Report<RegisterRequest>) -> Answer<Json<HostView>> {
    let Report { speaker, value } = report;
    check_report(&server, &speaker, value.host_id.as_deref(), &value.timestamp)?;
    let registration = registration(value)?;
    let host = server.control.register_reporter(&speaker.reporter, registration, &speaker.cause).await?;
    Ok(Json(views::host(&server, &host)))
}

/// Takes what a host measured at one moment: all of it, once. Answers when it is on disk.
#[utoipa::path(post, path = "/api/v1/metrics/batch", tag = "ingest", operation_id = "post_metrics",
    request_body = MetricsBatch,
    responses((status = 200, body = ReceiptView), (status = "4XX", body = ProblemDocument)))]
pub async fn metrics(State(server): State<Server>, report: Report<MetricsBatch>) -> Answer<Json<ReceiptView>> {
    let Report { speaker, value } = report;
    let at = check_report(&server, &speaker, value.host_id.as_deref(), &value.timestamp)?;
    let mark = mark(&value.run_id, value.sequence_id)?;
    let kind = |kind| match kind {
        SampleKind::Gauge => MetricKind::Gauge,
        SampleKind::Counter => MetricKind::Counter,
    };
    let values: Vec<_> = value.metrics.into_iter().map(|m| (m.name, m.labels, kind(m.kind), m.value)).collect();
    let taken = values.len();
    server.watch.post(&speaker.reporter, watch::Batch { mark, at, values }).await?;
    Ok(receipt(&speaker, mark, taken))
}

/// Takes events of a host: all of them, once.
#[utoipa::path(post, path = "/api/v1/events", tag = "ingest", operation_id = "post_events",
    request_body = EventsReport,
    responses((status = 200, body = ReceiptView), (status = "4XX", body = ProblemDocument)))]
pub async fn events(State(server): State<Server>, report: Report<EventsReport>) -> Answer<Json<ReceiptView>> {
    let Report { speaker, value } = report;
    let now = check_report(&server, &speaker, value.host_id.as_deref(), &value.timestamp)?;
    let mark = mark(&value.run_id, value.sequence_id)?;
    let mut occurrences = Vec::with_capacity(value.events.len());
    for (place, event) in value.events.into_iter().enumerate() {
        let field = format!("events.{place}.timestamp");
        let at = event.timestamp.map_or(Ok(now), |text| time(&text, &field))?;
        occurrences.push(Occurrence { at, kind: event.kind, text: event.text });
    }
    let taken = occurrences.len();
    server.control.post_events(&speaker.reporter, mark, occurrences, &speaker.cause).await?;
    Ok(receipt(&speaker, mark, taken))
}

/// Takes how a command for the host ended. Only commands that the control plane gave are known.
#[utoipa::path(post, path = "/api/v1/commands/{id}/result", tag = "ingest", operation_id = "post_command_result",
    params(("id" = String, Path, description = "The command's id")), request_body = CommandResultReport,
    responses((status = "4XX", body = ProblemDocument)))]
pub async fn command_result(
    State(server): State<Server>,
    Path(_): Path<String>,
    report: Report<CommandResultReport>,
) -> Answer {
    let Report { speaker, value } = report;
    check_report(&server, &speaker, value.host_id.as_deref(), &value.timestamp)?;
    Err(Refusal::new(Code::NoSuchCommand, "the host was given no command with this id").into())
}

fn token_view(server: &Server, host: &Host, claim: &Claim) -> Result<IngestTokenView, Refusal> {
    let unsigned = |error: anyhow::Error| Refusal::new(Code::Bug, "the token could not be made").because(error);
    Ok(IngestTokenView {
        token: server.ingest_tokens.sign(claim).map_err(unsigned)?,
        host_id: host.id.to_string(),
        host: host.name.to_string(),
        expires_at: claim.expires_at.to_string(),
    })
}

fn mark(run: &str, sequence: u64) -> Result<Mark, Refusal> {
    let run = run.parse::<RunId>().map_err(|_| Refusal::field("run_id", "run_id is a UUID"))?;
    Ok(Mark { run, sequence })
}

fn receipt(speaker: &Speaker, mark: Mark, taken: usize) -> Json<ReceiptView> {
    let host_id = speaker.reporter.host().to_string();
    Json(ReceiptView { host_id, run_id: mark.run.to_string(), sequence_id: mark.sequence, taken })
}

fn registration(value: RegisterRequest) -> Result<Registration, Refusal> {
    let key = value.public_key.as_deref().map(|text| {
        let key = STANDARD.decode(text).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        key.ok_or_else(|| Refusal::field("public_key", "public_key is 32 bytes in base64"))
    });
    let inventory = Inventory {
        hostname: text("hostname", value.hostname)?,
        arch: text("arch", value.arch)?,
        kernel_release: text("kernel_release", value.kernel_release)?,
        os: text("os", value.os)?,
        cpus: value.cpus,
        cpu_model: text("cpu_model", value.cpu_model)?,
        memory_bytes: value.memory_bytes,
        disk_bytes: 0,
        disk_free_bytes: 0,
        agent_version: text("agent_version", value.agent_version)?,
        privileges: "reports over HTTP".to_owned(),
        drivers: Vec::new(),
    };
    Ok(Registration { inventory, tags: tags(value.tags)?, key: key.transpose()? })
}

fn text(field: &str, text: String) -> Result<String, Refusal> {
    if text.len() > LABEL_CHARS_MAX || text.chars().any(char::is_control) {
        let shown = format!("{field} has at most {LABEL_CHARS_MAX} bytes and no control characters");
        return Err(Refusal::field(field, shown));
    }
    Ok(text)
}

fn tags(given: BTreeMap<String, TagValue>) -> Result<Labels, Refusal> {
    let text = |value| match value {
        TagValue::Text(text) => text,
        TagValue::Number(number) => number.to_string(),
        TagValue::Flag(flag) => flag.to_string(),
    };
    let tags: Labels = given.into_iter().map(|(name, value)| (name, text(value))).collect();
    if tags.get(SPEED).is_some_and(|speed| speed.parse::<u32>().is_err()) {
        return Err(Refusal::field(&format!("tags.{SPEED}"), "the link speed is a whole number of Mbit/s"));
    }
    Ok(tags)
}
