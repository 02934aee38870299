//! Volumes: what a host is told of one, and what it says.

use perigee_model::guest::Problem;
use perigee_model::{GuestId, VolumeId};
use serde::{Deserialize, Serialize};

/// A volume as its host must have it. It may arrive again and again; of two generations the newer counts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DesiredVolume {
    /// Identity.
    pub volume: VolumeId,
    /// Counts the wishes.
    pub generation: u64,
    /// How large at least.
    pub bytes: u64,
    /// The only guest that may have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestId>,
    /// Nothing should be left of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub absent: bool,
}

/// How it is with a volume. Said once for each time it was asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VolumeReport {
    /// Which.
    pub volume: VolumeId,
    /// About which wish.
    pub generation: u64,
    /// How.
    pub stage: VolumeStage,
}

/// Where a volume is on its way to what is wanted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeStage {
    /// Not there yet; it is tried again.
    Trying {
        /// For people.
        note: String,
    },
    /// It is there, so large.
    Stored {
        /// Its size.
        bytes: u64,
    },
    /// Nothing is left of it.
    Gone,
    /// It cannot be; it is as it was.
    Failed(Problem),
}
