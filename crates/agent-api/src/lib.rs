//! The contract between control plane and agent.
//!
//! Owns: what the two say to each other, as plain Rust types; which versions they speak; in
//! [`wire`], the generated gRPC shapes, and in [`ws`] the same as JSON envelopes over WebSocket. Refuses: knowing how either side does its work.
//!
//! Everything here may arrive twice, late, or from an older reign: desired state carries its
//! generation, reports their sequence, executions their id, and receivers keep the newest.
#![forbid(unsafe_code)]

mod chunks;
mod frames;
mod intent;
mod network;
mod operation;
mod volume;
pub mod wire;
pub mod ws;

pub use chunks::{CHUNK_PIECE_BYTES_MAX, ChunkDown, ChunkFailed, ChunkFault, ChunkStored, ChunkUp};
pub use frames::{FramesDown, FramesUp, Mark};
pub use intent::{Act, Intent};
pub use network::{DesiredNetwork, NetworkReport, NetworkStage, PlannedNetwork};
pub use operation::{Operate, OperationReport, OperationResult, OperationStage};
pub use perigee_model::frame::StreamName;
pub use volume::{DesiredVolume, VolumeReport, VolumeStage};

use perigee_model::execution::Command;
use perigee_model::guest::Problem;
use perigee_model::{
    Desired, Egress, Egress6, ExecutionId, Forward, GuestId, GuestKind, GuestSpec, HostId, ImageId, Inventory, Labels,
    Name, Observed, Outcome, Part, Recipe, RunId, Seat, TaskId, Timestamp,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Versions of this contract that this build speaks.
pub const VERSIONS: VersionRange = VersionRange { min: 1, max: 1 };

/// An inclusive range of protocol versions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VersionRange {
    /// The oldest spoken.
    pub min: u32,
    /// The newest spoken.
    pub max: u32,
}

impl VersionRange {
    /// The newest version both speak.
    pub fn common(self, other: Self) -> Option<u32> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}
impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.min, self.max)
    }
}

/// From an agent to the control plane.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromAgent {
    /// The first message of a link.
    Hello(Hello),
    /// Sent every 30 s; empty when nothing changed.
    Heartbeat {
        /// Only when it changed.
        inventory: Option<Box<Inventory>>,
    },
    /// What is so with one guest.
    Guest(GuestReport),
    /// An execution started or ended; the end is repeated until `ExecutionTaken`.
    Execution(Box<ExecutionReport>),
    /// An image build moved; its end is repeated until `BuildTaken`.
    Build(BuildReport),
    /// Something was done on the host itself; repeated until `IntentTaken`.
    Intent(Box<Intent>),
    /// An operation moved; its end is repeated until `OperationTaken`.
    Operation(Box<OperationReport>),
    /// A volume is as it was asked to be, or cannot be.
    Volume(VolumeReport),
    /// A network is as it was asked to be, or cannot be.
    Network(NetworkReport),
}

/// Who the agent is and what it knows.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Must be the host of the certificate.
    pub host: HostId,
    /// This life of the agent process.
    pub run: RunId,
    /// What it speaks.
    pub versions: VersionRange,
    /// What the machine is and has.
    pub inventory: Inventory,
    /// Every guest of this instance on the host.
    pub guests: Vec<GuestReport>,
    /// Executions that run here now. One the control plane holds for running on this host and that
    /// is neither here nor reported as ended was never heard of.
    pub executions: Vec<ExecutionId>,
}

/// What is so with one guest.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GuestReport {
    /// Which.
    pub guest: GuestId,
    /// What is so.
    pub observed: Observed,
}

/// How one execution goes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ExecutionReport {
    /// Which.
    pub execution: ExecutionId,
    /// In which guest.
    pub guest: GuestId,
    /// When the guest started it.
    pub started_at: Option<Timestamp>,
    /// How it ended, once it did.
    pub end: Option<ExecutionEnd>,
}

/// How an execution ended.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ExecutionEnd {
    /// By itself, by a signal, lost …
    pub outcome: Outcome,
    /// When the agent learnt it.
    pub at: Timestamp,
    /// How long it ran in the guest.
    pub duration_ms: Option<u64>,
    /// Its standard output.
    pub stdout: Excerpt,
    /// Its standard error.
    pub stderr: Excerpt,
    /// Why it did not end well on our side.
    pub problem: Option<Problem>,
}

/// Beginning and end of a stream (`perigee_model::execution::Excerpt`), bytes as base64.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Excerpt {
    /// First bytes, at most 32 KiB.
    #[serde(with = "base64_bytes")]
    pub head: Vec<u8>,
    /// Last bytes when there are more than in `head`, at most 32 KiB.
    #[serde(with = "base64_bytes")]
    pub tail: Vec<u8>,
    /// Bytes written by the command.
    pub bytes: u64,
    /// Bytes were dropped at the output limit.
    pub truncated: bool,
}

impl From<Excerpt> for perigee_model::execution::Excerpt {
    fn from(e: Excerpt) -> Self {
        Self { head: e.head, tail: e.tail, bytes: e.bytes, truncated: e.truncated }
    }
}

/// How an image build goes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct BuildReport {
    /// Which.
    pub image: ImageId,
    /// How.
    pub stage: BuildStage,
}

/// Where an image build is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildStage {
    /// It moves.
    Running {
        /// For people.
        note: String,
        /// 0 to 100.
        percent: Option<u8>,
    },
    /// Its parts are in the control plane's blobs.
    Built {
        /// `x86_64`.
        arch: String,
        /// `uname -r` of the kernel.
        kernel_release: String,
        /// The files.
        parts: Vec<Part>,
    },
    /// It failed.
    Failed(Problem),
}

/// From the control plane to an agent.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromServer {
    /// The answer to a hello.
    Welcome {
        /// The version both speak.
        version: u32,
        /// The control plane's reign; an agent refuses orders of an older one.
        epoch: u64,
        /// Heartbeats are wanted this often.
        heartbeat_ms: u64,
    },
    /// The link ends; come back after `retry_after_ms`, or not at all when it is absent.
    Refused {
        /// Why.
        problem: Problem,
        /// When to try again.
        retry_after_ms: Option<u64>,
    },
    /// What should be so with one guest.
    Desired(Box<DesiredGuest>),
    /// What should be so with every guest of this host. A guest of this instance that is not among
    /// them is unknown to the control plane: it is reported and left alone.
    DesiredAll(Vec<DesiredGuest>),
    /// Start this execution unless it is known already.
    Execute(Box<Execute>),
    /// End this execution if it runs.
    CancelExecution {
        /// Which.
        execution: ExecutionId,
    },
    /// Its end is stored; forget it.
    ExecutionTaken {
        /// Which.
        execution: ExecutionId,
    },
    /// Build this image unless it is being built already.
    Build {
        /// Which.
        image: ImageId,
        /// How.
        recipe: Recipe,
    },
    /// Its end is stored; forget it.
    BuildTaken {
        /// Which.
        image: ImageId,
    },
    /// Do this to a guest unless it is known already.
    Operate(Box<Operate>),
    /// Its end is stored; forget it.
    OperationTaken {
        /// On which guest.
        guest: GuestId,
        /// Its task.
        task: TaskId,
    },
    /// What should be so with one volume.
    Volume(DesiredVolume),
    /// What should be so with one network.
    Network(DesiredNetwork),
    /// The act is applied or refused, and written down; forget it.
    IntentTaken {
        /// Which.
        intent: uuid::Uuid,
    },
    /// Open a tunnel with this number.
    OpenTunnel {
        /// Unguessable, used once.
        tunnel: TunnelId,
        /// For what.
        purpose: Box<Purpose>,
    },
}

/// A guest as its host must have it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DesiredGuest {
    /// Identity.
    pub id: GuestId,
    /// For people, and the guest's host name.
    pub name: Name,
    /// To find it by.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// VM or sandbox.
    pub kind: GuestKind,
    /// What was asked for.
    pub spec: GuestSpec,
    /// What should be so.
    pub desired: Desired,
}

/// One command to run in a guest.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Execute {
    /// Its id: run once, whatever arrives how often.
    pub execution: ExecutionId,
    /// Where.
    pub guest: GuestId,
    /// What, with the guest's environment already merged in.
    pub command: Command,
    /// Standard input comes by the tunnel; without it the command reads end of file.
    pub stdin: bool,
}

/// Names a tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TunnelId(pub uuid::Uuid);

/// What a tunnel is for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Start (unless known) and follow an execution from the beginning of its output.
    /// In: `Data` = standard input, `End` = its end, `Signal`. Out: `Started`, `Stdout`, `Stderr`, `Ended`.
    Execute(Execute),
    /// Write a file into a guest. In: `Data`, `End`. Out: `End`.
    PutFile {
        /// Which guest.
        guest: GuestId,
        /// Absolute path in it.
        path: String,
        /// Permission bits.
        mode: u32,
    },
    /// Read a file of a guest. Out: `Data`, `End`.
    GetFile {
        /// Which guest.
        guest: GuestId,
        /// Absolute path in it.
        path: String,
    },
    /// Read the kept output of an execution. Out: `Stdout`, `Stderr`, then `End`.
    ReadOutput {
        /// Which.
        execution: ExecutionId,
    },
    /// Say which rules a guest's card would have here; nothing is changed. Out: `Data` = their text, `End`.
    PlanCard {
        /// Which guest; one that is not there is given the next address.
        guest: GuestId,
        /// What it may reach.
        egress: Egress,
        /// What it may reach by IPv6; `None`: it has none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        egress6: Option<Egress6>,
        /// What leads to it.
        forwards: Vec<Forward>,
    },
    /// Say what a network would be made as; nothing is changed. Out: `Data` = a `PlannedNetwork` as JSON, `End`.
    PlanNetwork(DesiredNetwork),
    /// Sit at a guest until either side leaves.
    /// In: `Data`, `End` = leaves. Out: `Started` when it is open, `Data`, then `End` when the guest ended it.
    Console {
        /// Which guest.
        guest: GuestId,
        /// Where.
        seat: Seat,
    },
}

/// One frame of a tunnel. At most 64 KiB of bytes in each. `Failed` ends it from either side.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TunnelFrame {
    /// Bytes of a file, of standard input or of a console.
    Data(#[serde(serialize_with = "base64_bytes::serialize", deserialize_with = "base64_bytes::tunnel")] Vec<u8>),
    /// Bytes of standard output.
    Stdout(#[serde(serialize_with = "base64_bytes::serialize", deserialize_with = "base64_bytes::tunnel")] Vec<u8>),
    /// Bytes of standard error.
    Stderr(#[serde(serialize_with = "base64_bytes::serialize", deserialize_with = "base64_bytes::tunnel")] Vec<u8>),
    /// The command started in the guest; the console is open.
    Started,
    /// The sender's side is complete.
    End,
    /// The execution ended; the last frame.
    Ended(Box<ExecutionReport>),
    /// It cannot be done; the last frame.
    Failed(Problem),
    /// Send this signal to the command.
    Signal(i32),
}

mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&STANDARD.encode(bytes))
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        STANDARD.decode(text.as_bytes()).map_err(serde::de::Error::custom)
    }
    /// At most what a tunnel's frame holds.
    pub fn tunnel<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        at_most(deserialize(d)?, crate::wire::FRAME_BYTES_MAX)
    }
    /// At most one frame of measurements.
    pub fn frame<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        at_most(deserialize(d)?, perigee_model::limits::FRAME_BYTES_MAX)
    }
    /// At most one piece of a backup's chunk.
    pub fn piece<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        at_most(deserialize(d)?, crate::CHUNK_PIECE_BYTES_MAX)
    }
    fn at_most<E: serde::de::Error>(bytes: Vec<u8>, most: usize) -> Result<Vec<u8>, E> {
        if bytes.len() > most {
            return Err(E::custom(format!("{} bytes are too many", bytes.len())));
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_spoken() {
        let range = |min, max| VersionRange { min, max };
        assert_eq!(range(1, 3).common(range(2, 5)), Some(3));
        assert_eq!(range(1, 1).common(range(1, 1)), Some(1));
        assert_eq!(range(1, 2).common(range(3, 4)), None);
        assert_eq!(range(3, 4).common(range(1, 2)), None);
    }
}
