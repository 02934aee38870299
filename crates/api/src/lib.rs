//! The published contract of `/api/v1`: what requests and answers look like.
//!
//! Owns: names, units and shapes on the wire, from which the OpenAPI 3.1 document is generated.
//! JSON is snake_case; times are RFC 3339 UTC; durations and sizes are integers with their unit in
//! the name; ids are UUIDv7 text. Requests refuse unknown fields; clients tolerate unknown values.
//! Refuses: rules. Whether a request makes sense is `model`'s and `control`'s to say.
#![forbid(unsafe_code)]

pub mod backup;
pub mod console;
pub mod event;
pub mod execution;
pub mod host;
pub mod image;
pub mod ingest;
pub mod live;
pub mod network;
pub mod problem;
pub mod prometheus;
pub mod sandbox;
pub mod snapshot;
pub mod stream;
pub mod task;
pub mod vm;
pub mod volume;

pub use backup::{BackupRequest, BackupScheduleRequest, BackupScheduleView, BackupView, RestoreRequest, VerifyRequest};
pub use console::{ConsoleRequest, ConsoleSeat, ConsoleView};
pub use event::EventView;
pub use execution::{ExecuteRequest, ExecutionView};
pub use host::{AbilitiesView, HostView, InventoryView, JoinTokenRequest, JoinTokenView, LoadView};
pub use image::{CatalogueEntryView, ImageRequest, ImageView, PartView, UploadView};
pub use ingest::{
    CommandResultReport, EventReport, EventsReport, IngestTokenRequest, IngestTokenView, MetricSample, MetricsBatch,
    ReceiptView, RegisterRequest, SampleKind, TagValue,
};
pub use network::{NetworkPlanView, NetworkRequest, NetworkView};
pub use problem::{FieldFault, ProblemDocument};
pub use sandbox::{
    DiskPlanView, ForwardRequest, ForwardView, SandboxPatch, SandboxPlanView, SandboxRequest, SandboxView,
};
pub use snapshot::{SnapshotRequest, SnapshotView};
pub use task::TaskView;
pub use vm::{AdoptRequest, ForeignVmView, HostReason, StopRequest, VmPart, VmPatch, VmPlanView, VmRequest, VmView};
pub use volume::{VolumeAttachRequest, VolumeRequest, VolumeResizeRequest, VolumeView};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One page of a list.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The objects, in a stable order.
    pub items: Vec<T>,
    /// Give it as `page_token` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_page_token: Option<String>,
}

/// What is ready and what is not; the answer of `/health/ready` to a caller with a token.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ReadyView {
    /// All parts are.
    pub ready: bool,
    /// Part by part.
    pub parts: Vec<ReadyPart>,
    /// The program's version.
    pub version: String,
    /// The instance id that marks everything made on hosts.
    pub instance: String,
}

/// One part of readiness.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ReadyPart {
    /// `store`, `agent link`, `host web-1`, `driver qemu-microvm on web-1`.
    pub name: String,
    /// Whether it works.
    pub ready: bool,
    /// For people.
    pub text: String,
}

/// An enum's published word: its serde name.
pub fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(_) | Err(_) => "unknown".to_owned(),
    }
}
