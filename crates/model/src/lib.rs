//! Nouns and laws of Perigee: ids, sizes, states and their `step`, placement, limits.
//!
//! Owns: what the words of GLOSSARY.md mean in code, and every decision that needs no outside world.
//! Refuses: I/O, clocks, randomness, async. A function here gives the same answer for the same
//! arguments for ever, and cannot fail for an outside reason.
#![forbid(unsafe_code)]

pub mod backup;
pub mod change;
pub mod console;
pub mod egress;
pub mod event;
pub mod execution;
pub mod forward;
pub mod frame;
pub mod guest;
pub mod host;
pub mod id;
pub mod image;
pub mod import;
pub mod limits;
pub mod name;
pub mod network;
pub mod operation;
pub mod placement;
pub mod recipe;
pub mod refusal;
pub mod resources;
pub mod snapshot;
pub mod task;
pub mod time;
pub mod vm;
pub mod volume;
pub mod who;

pub use backup::{Backup, BackupSchedule, BackupState, DiskIndex, Origin, Stored};
pub use change::VmChange;
pub use console::Seat;
pub use egress::{Egress, Egress6, Reach};
pub use event::{Event, Subject};
pub use execution::{Execution, ExecutionState, Outcome};
pub use forward::Forward;
pub use guest::{Desired, Guest, GuestKind, GuestSpec, GuestStatus, Observed, Phase, Power, TakenAct};
pub use host::{Abilities, Acceleration, Host, Inventory, Reporting};
pub use id::{
    BackupId, EventId, ExecutionId, GuestId, HostId, ImageId, InstanceId, NetworkId, RunId, SnapshotId, TaskId,
    VolumeId,
};
pub use image::{Digest, Image, ImageState, Part, PartRole};
pub use import::{Checksum, DiskFormat, Import, ImportFrom};
pub use name::{Labels, Name};
pub use network::{Network, NetworkKind, NetworkStatus};
pub use operation::Operation;
pub use recipe::{PackageName, Recipe};
pub use refusal::{Code, Kind, Refusal};
pub use resources::Resources;
pub use snapshot::{Snapshot, SnapshotState, Taken};
pub use task::{Priority, Switch, Task, TaskKind, TaskState};
pub use time::Timestamp;
pub use vm::{Firmware, Mac, RestartPolicy, VmSpec};
pub use volume::{Plugged, Volume, VolumeStatus};
pub use who::{Role, Tenant, Verb, Who};
