//! Networks that virtual machines are on.

use crate::word;
use perigee_model::egress::Block;
use perigee_model::{Name, Network, NetworkKind, NetworkStatus, Refusal};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A new network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkRequest {
    /// A DNS label, unique in the tenant and among its host's networks: `vm create --network` finds it by that.
    pub name: String,
    /// `nat`: out through the host's address. `isolated`: to the other VMs on it and the host, no further.
    /// `bridged`: onto a bridge that the host has. `nat` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its addresses, like 10.20.0.0/24: a part of a private network of /16 to /30; the host's is the first, the
    /// others are given out by DHCP. Without one the host chooses one that nothing there overlaps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    /// The bridge that a bridged one is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// Name or id of its host; may be left out where only one host can have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// A network that virtual machines of one host are on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkView {
    /// UUIDv7; also its UUID in its host's libvirt.
    pub id: String,
    /// Unique in the tenant; its name in its host's libvirt, too.
    pub name: String,
    /// `creating`, `ready` or `deleting`.
    pub status: String,
    /// `nat`, `isolated` or `bridged`.
    pub kind: String,
    /// Its addresses, once they are chosen; a bridged one has none of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    /// Its bridge on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// Name of its host.
    pub host: String,
    /// Id of its host.
    pub host_id: String,
    /// Names of the tenant's VMs on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vms: Vec<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Whose.
    pub tenant: String,
    /// Who made it.
    pub owner: String,
    /// When it was asked for.
    pub created_at: String,
}

/// What a create would make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkPlanView {
    /// The network, with the subnet that it would have.
    pub network: NetworkView,
    /// As its host's libvirt would be given it.
    pub definition: String,
}

impl NetworkView {
    /// What is shown of it, with the names of its host and of the VMs on it.
    pub fn of(network: &Network, status: NetworkStatus, host: String, vms: Vec<String>) -> Self {
        Self {
            id: network.id.to_string(),
            name: network.name.to_string(),
            status: word(&status),
            kind: network.kind.to_string(),
            subnet: network.subnet.map(|block| block.to_string()),
            bridge: network.bridge.clone(),
            host,
            host_id: network.host.to_string(),
            vms,
            description: network.description.clone(),
            tenant: network.tenant.to_string(),
            owner: network.owner.clone(),
            created_at: network.created_at.to_string(),
        }
    }
}

impl NetworkRequest {
    /// Its name.
    ///
    /// # Errors
    /// `BadField`; so for every part here.
    pub fn name(&self) -> Result<Name, Refusal> {
        Name::parse(&self.name).map_err(|fault| Refusal::field("name", fault.to_string()))
    }
    /// Where it leads.
    pub fn kind(&self) -> Result<NetworkKind, Refusal> {
        let kind = self.kind.as_deref().map(str::parse).transpose();
        Ok(kind.map_err(|fault: &str| Refusal::field("kind", fault))?.unwrap_or(NetworkKind::Nat))
    }
    /// Its addresses.
    pub fn subnet(&self) -> Result<Option<Block>, Refusal> {
        let subnet = self.subnet.as_deref().map(str::parse::<Block>).transpose();
        subnet.map_err(|fault| Refusal::field("subnet", fault.to_string()))
    }
}
