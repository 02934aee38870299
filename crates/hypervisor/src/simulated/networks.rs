//! Networks of simulated hosts: who is called what, and who is on it.

use super::{Simulated, SimulatedHost};
use crate::{FoundNetwork, HypervisorError, NetworkPlan, Networks};
use async_trait::async_trait;
use perigee_model::NetworkId;
use perigee_model::egress::Block;
use std::time::Duration;
use uuid::Uuid;

/// From asking to done.
const WORK: Duration = Duration::from_millis(10);

impl SimulatedHost {
    /// A network that is nobody's of ours.
    pub fn define_network(&self, uuid: Uuid, name: &str, blocks: Vec<Block>) {
        let network = FoundNetwork { uuid, name: name.to_owned(), blocks, bridge: None };
        self.change(|world| world.networks.insert(uuid, network));
    }
    /// The names of all networks on it.
    pub fn networks(&self) -> Vec<String> {
        self.look(|world| world.networks.values().map(|network| network.name.clone()).collect())
    }
}

#[async_trait]
impl Networks for Simulated {
    async fn networks(&self) -> Result<Vec<FoundNetwork>, HypervisorError> {
        Ok(self.host.look(|world| world.networks.values().cloned().collect()))
    }

    async fn establish(&self, plan: &NetworkPlan) -> Result<FoundNetwork, HypervisorError> {
        tokio::time::sleep(WORK).await;
        let uuid = plan.id.uuid();
        self.host.change(|world| {
            if let Some(known) = world.networks.get(&uuid) {
                return Ok(known.clone());
            }
            if world.networks.values().any(|other| other.name == plan.name.as_str()) {
                return Err(HypervisorError::Refused(format!("network {} exists already", plan.name)));
            }
            let own = || format!("virbr{}", world.networks.len());
            let bridge = Some(plan.bridge.clone().unwrap_or_else(own));
            let blocks = plan.subnet.into_iter().collect();
            let found = FoundNetwork { uuid, name: plan.name.to_string(), blocks, bridge };
            world.networks.insert(uuid, found.clone());
            Ok(found)
        })
    }

    async fn dismantle(&self, network: NetworkId) -> Result<(), HypervisorError> {
        tokio::time::sleep(WORK).await;
        self.host.change(|world| {
            let Some(known) = world.networks.get(&network.uuid()) else { return Ok(()) };
            let user = world.cards.iter().find(|(_, on)| on.as_str() == known.name);
            if let Some(((_, guest), _)) = user {
                return Err(HypervisorError::InUse(format!("the VM {guest} is on it")));
            }
            world.networks.remove(&network.uuid());
            Ok(())
        })
    }

    fn definition(&self, plan: &NetworkPlan) -> Result<String, HypervisorError> {
        Ok(format!("{} ({}) {}", plan.name, plan.kind, plan.subnet.map_or_else(String::new, |block| block.to_string())))
    }
}
