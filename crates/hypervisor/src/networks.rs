//! Networks that guests' cards are on.

use crate::HypervisorError;
use async_trait::async_trait;
use perigee_model::egress::Block;
use perigee_model::{Name, NetworkId, NetworkKind};
use uuid::Uuid;

/// Making networks and taking them away. Every call may be repeated; one at a time is the caller's duty.
#[async_trait]
pub trait Networks: Send + Sync {
    /// Every network that is there, whoever's.
    ///
    /// # Errors
    /// `Channel`: ask again.
    async fn networks(&self) -> Result<Vec<FoundNetwork>, HypervisorError>;

    /// Makes the network be there and up, and come up with the host. One of that id that is there is left as it
    /// is, and brought up.
    ///
    /// # Errors
    /// `Refused`: nothing is left of it. `Channel`: ask again.
    async fn establish(&self, plan: &NetworkPlan) -> Result<FoundNetwork, HypervisorError>;

    /// Leaves nothing of the network. Fine when there is nothing.
    ///
    /// # Errors
    /// `InUse` while a guest, whoever's, is defined to be on it. `Channel`: ask again.
    async fn dismantle(&self, network: NetworkId) -> Result<(), HypervisorError>;

    /// What would be made, as text for people. Nothing is asked.
    ///
    /// # Errors
    /// `BadPlan`.
    fn definition(&self, plan: &NetworkPlan) -> Result<String, HypervisorError>;
}

/// A network that is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPlan {
    /// Identity.
    pub id: NetworkId,
    /// What guests name it by: unique on the host.
    pub name: Name,
    /// Where it leads.
    pub kind: NetworkKind,
    /// Its addresses; the first is the host's. None for a bridged one.
    pub subnet: Option<Block>,
    /// The bridge of the host that a bridged one is on.
    pub bridge: Option<String>,
}

/// A network that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundNetwork {
    /// Of one of ours: its id.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// Its networks of IPv4 addresses.
    pub blocks: Vec<Block>,
    /// Its bridge on the host.
    pub bridge: Option<String>,
}
