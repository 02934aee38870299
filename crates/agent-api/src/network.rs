//! Networks of VMs: what a host is told of one, and what it says.

use perigee_model::egress::Block;
use perigee_model::guest::Problem;
use perigee_model::{Name, NetworkId, NetworkKind};
use serde::{Deserialize, Serialize};

/// A network as its host must have it. It may arrive again and again; of two generations the newer counts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DesiredNetwork {
    /// Identity.
    pub network: NetworkId,
    /// Counts the wishes.
    pub generation: u64,
    /// What it is called there.
    pub name: Name,
    /// Where it leads.
    pub kind: NetworkKind,
    /// Its addresses; the host chooses free ones when there are none, and it is one that has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<Block>,
    /// The bridge that a bridged one is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// Nothing should be left of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub absent: bool,
}

/// How it is with a network. Said once for each time it was asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NetworkReport {
    /// Which.
    pub network: NetworkId,
    /// About which wish.
    pub generation: u64,
    /// How.
    pub stage: NetworkStage,
}

/// Where a network is on its way to what is wanted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkStage {
    /// Not there yet; it is tried again.
    Trying {
        /// For people.
        note: String,
    },
    /// It is there, and up.
    Made {
        /// Its addresses.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subnet: Option<Block>,
        /// Its bridge.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bridge: Option<String>,
    },
    /// Nothing is left of it.
    Gone,
    /// It cannot be; it is as it was.
    Failed(Problem),
}

/// What a host would make.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlannedNetwork {
    /// The addresses that it would have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<Block>,
    /// As the host's libvirt would be given it.
    pub definition: String,
}

impl PlannedNetwork {
    /// As it goes through a tunnel.
    ///
    /// # Errors
    /// What cannot be written as JSON; nothing here.
    pub fn to_bytes(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }
    /// What came through a tunnel; `None` for anything else.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}
