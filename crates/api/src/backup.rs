//! Backups of virtual machines.

use crate::word;
use perigee_model::backup::BackupSchedule;
use perigee_model::{Backup, Name, Refusal, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A backup to be made of a VM as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupRequest {
    /// A DNS label, unique among backups. Made of the VM's name and the time when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// For people; at most 4 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Encrypted where it is kept, with the control plane's key for backups. `false` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypt: Option<bool>,
}

/// A VM to be made from a backup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreRequest {
    /// The new VM's name; that of the VM that was backed up when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Name or id of the only host that will do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// How a backup is looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyRequest {
    /// A VM without a network is made from it, too, has to show a sign of life (perigee-guest's hello, or a
    /// login prompt on its serial port) and is removed again. `false` by default.
    #[serde(default)]
    pub boot: bool,
}

/// When a VM is backed up by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupScheduleRequest {
    /// So often, in milliseconds: a quarter of an hour to a year, counted from 1970 UTC.
    pub every_ms: u64,
    /// Moves that: 03:00 UTC each day is 86400000 and 10800000.
    #[serde(default)]
    pub offset_ms: u64,
    /// So many of those that it made are kept, the newest.
    pub keep: u32,
    /// They are encrypted where they are kept. `false` by default.
    #[serde(default)]
    pub encrypt: bool,
}

/// When a VM is backed up by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackupScheduleView {
    /// So often, in milliseconds.
    pub every_ms: u64,
    /// Moves that.
    pub offset_ms: u64,
    /// So many of those that it made are kept.
    pub keep: u32,
    /// They are encrypted where they are kept.
    pub encrypted: bool,
    /// When it makes the next one.
    pub next_at: String,
}

/// A VM's disk as it was at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackupView {
    /// UUIDv7.
    pub id: String,
    /// Unique among backups.
    pub name: String,
    /// `creating`, `ready` or `damaged`.
    pub status: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What its VM was called then.
    pub vm: String,
    /// Id of that VM, which may be gone.
    pub vm_id: String,
    /// Encrypted where it is kept.
    pub encrypted: bool,
    /// Its VM's schedule made it, and lets go of it.
    pub scheduled: bool,
    /// When it was asked for.
    pub created_at: String,
    /// The moment it keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_at: Option<String>,
    /// The guest's file systems were at rest then: it was off, or its QEMU guest agent had brought them there.
    /// Otherwise they are as after a power cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiesced: Option<bool>,
    /// Size of the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// The backup after which only what was written had to be read; absent when all of the disk was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_id: Option<String>,
    /// What was read of the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_bytes: Option<u64>,
    /// What of that was not kept yet, before it was packed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_bytes: Option<u64>,
    /// What it added to what is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_bytes: Option<u64>,
    /// When all of its bytes were looked at last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<String>,
    /// What was found wrong then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// By what a VM that was made from it then was seen to be up: `guest_agent` or `login_prompt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booted_by: Option<String>,
    /// So long after it was switched on, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booted_after_ms: Option<u64>,
}

impl From<&Backup> for BackupView {
    fn from(backup: &Backup) -> Self {
        let stored = backup.stored.as_ref();
        let booted = backup.verified.as_ref().and_then(|verified| verified.booted);
        let fault = backup.verified.as_ref().and_then(|verified| verified.fault.clone());
        Self {
            id: backup.id.to_string(),
            name: backup.name.to_string(),
            status: if fault.is_some() { "damaged".to_owned() } else { word(&backup.state) },
            description: backup.description.clone(),
            vm: backup.guest_name.to_string(),
            vm_id: backup.guest.to_string(),
            encrypted: backup.sealed,
            scheduled: backup.scheduled,
            created_at: backup.created_at.to_string(),
            taken_at: stored.map(|stored| stored.at.to_string()),
            quiesced: stored.map(|stored| stored.quiesced),
            disk_bytes: stored.map(|stored| stored.disk_bytes),
            since_id: stored.and_then(|stored| stored.since).map(|since| since.to_string()),
            read_bytes: stored.map(|stored| stored.read_bytes),
            new_bytes: stored.map(|stored| stored.new_bytes),
            kept_bytes: stored.map(|stored| stored.kept_bytes),
            verified_at: backup.verified.as_ref().map(|verified| verified.at.to_string()),
            fault,
            booted_by: booted.map(|booted| word(&booted.sign)),
            booted_after_ms: booted.map(|booted| booted.after_ms),
        }
    }
}

impl From<&BackupSchedule> for BackupScheduleView {
    fn from(schedule: &BackupSchedule) -> Self {
        Self {
            every_ms: schedule.every_ms,
            offset_ms: schedule.offset_ms,
            keep: schedule.keep,
            encrypted: schedule.sealed,
            next_at: schedule.next().to_string(),
        }
    }
}

impl From<BackupScheduleRequest> for BackupSchedule {
    /// Its owner and when it counts from are the control plane's to say.
    fn from(request: BackupScheduleRequest) -> Self {
        Self {
            every_ms: request.every_ms,
            offset_ms: request.offset_ms,
            keep: request.keep,
            sealed: request.encrypt,
            owner: String::new(),
            last: Timestamp::default(),
        }
    }
}

/// A name that may be left out.
///
/// # Errors
/// `BadField`.
pub fn optional_name(name: Option<&str>) -> Result<Option<Name>, Refusal> {
    name.map(Name::parse).transpose().map_err(|fault| Refusal::field("name", fault.to_string()))
}
