//! Ingest: what agents that are not ours say over HTTP.
//!
//! A report carries `timestamp`, and `run_id` with `sequence_id` where it must not be taken twice.
//! A host that registered a key signs each body: `X-Perigee-Timestamp` holds an RFC 3339 time and
//! `X-Perigee-Signature` the base64 of an Ed25519 signature over
//! `METHOD PATH\nTIMESTAMP\n` followed by the body.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Asks for a token with which another agent reports for one host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IngestTokenRequest {
    /// Life in milliseconds: 1000 to one day, one hour by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// Make the host if there is none of this name: a machine without our agent.
    #[serde(default)]
    pub create: bool,
    /// End every earlier ingest token of the host and forget the key it signs with.
    #[serde(default)]
    pub reset: bool,
}

/// An ingest token: a JWT, shown once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IngestTokenView {
    /// For `Authorization: Bearer`.
    pub token: String,
    /// The host it speaks for.
    pub host_id: String,
    /// Its name.
    pub host: String,
    /// Refused from then on; renew it before.
    pub expires_at: String,
}

/// What an agent says of its host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterRequest {
    /// The token's host, to be sure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_id: Option<String>,
    /// Now, RFC 3339.
    pub timestamp: String,
    /// The machine's own name.
    pub hostname: String,
    /// `x86_64`, `aarch64`.
    #[serde(default)]
    pub arch: String,
    /// Distribution or system.
    #[serde(default)]
    pub os: String,
    /// Kernel release.
    #[serde(default)]
    pub kernel_release: String,
    /// Logical CPUs.
    #[serde(default)]
    pub cpus: u32,
    /// The CPU's model name.
    #[serde(default)]
    pub cpu_model: String,
    /// Installed memory.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Name and version of the agent.
    #[serde(default)]
    pub agent_version: String,
    /// Marks; `primary_interface_speed_mbps` is the link speed, a whole number.
    #[serde(default)]
    pub tags: BTreeMap<String, TagValue>,
    /// Ed25519 public key, 32 bytes in base64: from now on bodies are signed with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
}

/// A tag's value; kept as text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum TagValue {
    /// Text.
    Text(String),
    /// A number.
    Number(f64),
    /// Yes or no.
    Flag(bool),
}

/// What an agent measured at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MetricsBatch {
    /// The token's host, to be sure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_id: Option<String>,
    /// UUID of one life of the agent's process.
    pub run_id: String,
    /// Counts up in the run from 1; numbers left out count as lost.
    pub sequence_id: u64,
    /// When it was measured, RFC 3339: at most 300 s ago and 30 s ahead.
    pub timestamp: String,
    /// 1 to 5000. A series of the batch before that is not here has no value any more.
    pub metrics: Vec<MetricSample>,
}

/// One value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MetricSample {
    /// As Prometheus names metrics.
    pub name: String,
    /// Finite: JSON has no NaN or infinity, so a metric without a value is left out.
    pub value: f64,
    /// Not `host`, `host_id`, `instance`, `job` or `__…`: those are set here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// `gauge` unless it only goes up.
    #[serde(default)]
    pub kind: SampleKind,
}

/// How a series behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SampleKind {
    /// Goes up and down.
    #[default]
    Gauge,
    /// Only goes up; less than before means that it began again.
    Counter,
}

/// Events of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EventsReport {
    /// The token's host, to be sure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_id: Option<String>,
    /// UUID of one life of the agent's process.
    pub run_id: String,
    /// A number for these events alone within the run; it may be one that a batch has.
    pub sequence_id: u64,
    /// Now, RFC 3339.
    pub timestamp: String,
    /// 1 to 100.
    pub events: Vec<EventReport>,
}

/// Something that happened on a host. It is recorded as said by the host, `actor` being
/// `host:<id>` and `verb` `reported.<kind>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EventReport {
    /// When, RFC 3339; the report's `timestamp` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<String>,
    /// `disk.failed`: 1 to 64 of a-z, 0-9 and .-_
    pub kind: String,
    /// For people, at most 4096 bytes.
    #[serde(default)]
    pub text: String,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandResultReport {
    /// The token's host, to be sure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_id: Option<String>,
    /// Now, RFC 3339.
    pub timestamp: String,
    /// As the process gave it.
    pub exit_code: i32,
    /// What it wrote.
    #[serde(default)]
    pub stdout: String,
    /// And as errors.
    #[serde(default)]
    pub stderr: String,
}

/// A report that was taken and is durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptView {
    /// Whose.
    pub host_id: String,
    /// The report's run.
    pub run_id: String,
    /// The report's number.
    pub sequence_id: u64,
    /// Metrics or events in it; all were taken.
    pub taken: usize,
}
