//! Networks of VMs on this host: made and removed as the control plane asks.
//!
//! Owns: choosing a subnet that nothing on this host overlaps, and one piece of work on networks at a time, so that
//! two of them never choose the same. Refuses: remembering. The driver's networks are what there is; after a crash
//! the control plane asks again, and what is done already is the answer.

use crate::world::World;
use perigee_agent_api::{DesiredNetwork, NetworkReport, NetworkStage, PlannedNetwork};
use perigee_hypervisor::{FoundNetwork, HypervisorError, NetworkPlan, Networks as Driver};
use perigee_model::egress::Block;
use perigee_model::guest::Problem;
use perigee_model::limits::TEXT_BYTES_MAX;
use perigee_model::{Code, GuestKind, NetworkId, NetworkKind};
use perigee_network::{Subnet, Surroundings};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tracing::{info, warn};

/// A driver that does not answer is asked again after this.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// The newest wish of each network that is worked on.
#[derive(Default)]
pub(crate) struct Networks {
    wishes: Mutex<BTreeMap<NetworkId, DesiredNetwork>>,
    /// From choosing a subnet until its network is there.
    choosing: tokio::sync::Mutex<()>,
}

impl Networks {
    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<NetworkId, DesiredNetwork>) -> T) -> T {
        f(&mut self.wishes.lock().unwrap_or_else(PoisonError::into_inner))
    }
    /// Takes a wish. `true`: nobody works on that network yet.
    fn take(&self, order: &DesiredNetwork) -> bool {
        self.with(|wishes| {
            let known = wishes.get(&order.network).map(|wish| wish.generation);
            if known.is_none_or(|known| known < order.generation) {
                wishes.insert(order.network, order.clone());
            }
            known.is_none()
        })
    }
    fn newest(&self, network: NetworkId) -> Option<DesiredNetwork> {
        self.with(|wishes| wishes.get(&network).cloned())
    }
    /// It is done with that wish. `false`: there is a newer one.
    fn end(&self, order: &DesiredNetwork) -> bool {
        self.with(|wishes| {
            let newest = wishes.get(&order.network).is_some_and(|wish| wish.generation == order.generation);
            if newest {
                wishes.remove(&order.network);
            }
            newest
        })
    }
}

/// Why it is not as it should be.
enum Amiss {
    /// It is tried again.
    Yet(String),
    /// It cannot be.
    Ever(Problem),
}

impl From<HypervisorError> for Amiss {
    fn from(error: HypervisorError) -> Self {
        let text = bounded(&crate::chain(&error));
        match error {
            HypervisorError::Channel(_) | HypervisorError::Os { .. } => Self::Yet(text),
            HypervisorError::InUse(_) => Self::Ever(Problem::new(Code::NetworkInUse, text)),
            _ => Self::Ever(Problem::new(Code::NetworkFailed, text)),
        }
    }
}

/// Makes a network be as it is wished for, and says so.
pub(crate) fn order(world: &Arc<World>, order: DesiredNetwork) {
    if world.networks.take(&order) {
        world.nursery.spawn(work(world.clone(), order.network));
    }
}

/// Until what was wished for last is done, or cannot be.
async fn work(world: Arc<World>, network: NetworkId) {
    while let Some(order) = world.networks.newest(network) {
        let say = |stage| world.outbox.network(NetworkReport { network, generation: order.generation, stage });
        match once(&world, &order).await {
            Ok(stage) => {
                info!(%network, generation = order.generation, ?stage, "the network is as it should be");
                if world.networks.end(&order) {
                    return say(stage);
                }
            }
            Err(Amiss::Yet(text)) => {
                let note = format!("once more: {text}");
                warn!(%network, %note, "the network is not as it should be");
                say(NetworkStage::Trying { note });
                tokio::time::sleep(TRY_AGAIN).await;
            }
            Err(Amiss::Ever(problem)) => {
                warn!(%network, problem = %problem.text, "the network cannot be as it should be");
                if world.networks.end(&order) {
                    return say(NetworkStage::Failed(problem));
                }
            }
        }
    }
}

/// One attempt, in a task that ends what it began.
async fn once(world: &Arc<World>, order: &DesiredNetwork) -> Result<NetworkStage, Amiss> {
    let (this, order) = (world.clone(), order.clone());
    let mut effect = world.nursery.effect(async move {
        let driver = this.driver(GuestKind::Vm);
        let networks = driver.networks().ok_or_else(none)?;
        if order.absent {
            return networks.dismantle(order.network).await.map(|()| NetworkStage::Gone).map_err(Amiss::from);
        }
        let _alone = this.networks.choosing.lock().await;
        let plan = plan(&this, networks, &order).await?;
        let made = networks.establish(&plan).await?;
        Ok(NetworkStage::Made { subnet: plan.subnet, bridge: made.bridge })
    });
    match effect.wait().await {
        Some(done) => done,
        None => std::future::pending().await, // the agent ends
    }
}

/// What a network would be made as. Changes nothing.
///
/// # Errors
/// Why it could not be.
pub(crate) async fn preview(world: &World, order: &DesiredNetwork) -> Result<PlannedNetwork, Problem> {
    let told = |amiss| match amiss {
        Amiss::Yet(text) => Problem::new(Code::NetworkFailed, text),
        Amiss::Ever(problem) => problem,
    };
    let driver = world.driver(GuestKind::Vm);
    let networks = driver.networks().ok_or_else(none).map_err(|error| told(error.into()))?;
    let plan = plan(world, networks, order).await.map_err(told)?;
    let definition = networks.definition(&plan).map_err(|error| told(error.into()))?;
    Ok(PlannedNetwork { subnet: plan.subnet, definition })
}

async fn plan(world: &World, driver: &dyn Driver, order: &DesiredNetwork) -> Result<NetworkPlan, Amiss> {
    let there = driver.networks().await?;
    let around = world.cards.surroundings().await.map_err(|error| Amiss::Yet(bounded(&crate::chain(&error))))?;
    planned(order, &there, around.as_ref()).map_err(Amiss::Ever)
}

fn none() -> HypervisorError {
    HypervisorError::BadPlan("its driver makes no networks".to_owned())
}

/// As it can be beside what is there; `around`: what else this host is on, where that is known.
fn planned(
    order: &DesiredNetwork,
    there: &[FoundNetwork],
    around: Option<&Surroundings>,
) -> Result<NetworkPlan, Problem> {
    let DesiredNetwork { network, name, kind, subnet, bridge, .. } = order.clone();
    let plan = |subnet| NetworkPlan { id: network, name: name.clone(), kind, subnet, bridge: bridge.clone() };
    if let Some(own) = there.iter().find(|found| found.uuid == network.uuid()) {
        return Ok(plan(own.blocks.first().copied()));
    }
    if there.iter().any(|other| other.name == name.as_str()) {
        let text =
            format!("the host's libvirt has a network {name} already, which is not this one: choose another name");
        return Err(Problem::new(Code::NameTaken, text));
    }
    if kind == NetworkKind::Bridged {
        let wanted = bridge.as_deref().unwrap_or_default();
        return match around {
            Some(around) if !around.bridges.contains(wanted) => Err(no_bridge(wanted, around)),
            Some(_) | None => Ok(plan(None)),
        };
    }
    let routes = around.iter().flat_map(|around| &around.routes);
    let routes = routes.map(|(block, device)| match device.as_str() {
        "" => (*block, "to which the host has a route".to_owned()),
        device => (*block, format!("which the host reaches by {device}")),
    });
    let known = |found: &FoundNetwork| {
        let whose = format!("of the network {}", found.name);
        found.blocks.iter().map(move |block| (*block, whose.clone())).collect::<Vec<_>>()
    };
    let taken: Vec<(Block, String)> = there.iter().flat_map(known).chain(routes).collect();
    free(subnet, &taken).map(|subnet| plan(Some(subnet)))
}

/// The one that was asked for, or one that is free.
fn free(wanted: Option<Block>, taken: &[(Block, String)]) -> Result<Block, Problem> {
    let clash = taken.iter().find(|(block, _)| wanted.is_some_and(|wanted| wanted.overlaps(*block)));
    if let (Some(wanted), Some((block, whose))) = (wanted, clash) {
        let text = format!("{wanted} overlaps {block}, {whose}: choose another one, or leave it to the host");
        return Err(Problem::new(Code::SubnetTaken, bounded(&text)));
    }
    if let Some(wanted) = wanted {
        return Ok(wanted);
    }
    let blocks: Vec<Block> = taken.iter().map(|(block, _)| *block).collect();
    let chosen = Subnet::choose(None, &blocks).map(Subnet::block);
    chosen.map_err(|error| Problem::new(Code::SubnetTaken, error.to_string()))
}

fn no_bridge(wanted: &str, around: &Surroundings) -> Problem {
    let has: Vec<&str> = around.bridges.iter().map(String::as_str).collect();
    let has = if has.is_empty() { "it has none".to_owned() } else { format!("it has {}", has.join(", ")) };
    Problem::new(Code::NoSuchBridge, bounded(&format!("the host has no bridge {wanted}; {has}")))
}

fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_BYTES_MAX / 4).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use perigee_model::Name;
    use uuid::Uuid;

    fn wish(kind: NetworkKind, subnet: &str, bridge: Option<&str>) -> DesiredNetwork {
        DesiredNetwork {
            network: NetworkId::new(Uuid::from_u128(1)),
            generation: 1,
            name: Name::parse("lab").unwrap(),
            kind,
            subnet: subnet.parse().ok(),
            bridge: bridge.map(str::to_owned),
            absent: false,
        }
    }

    fn there(id: u128, name: &str, block: &str) -> FoundNetwork {
        let blocks = block.parse().into_iter().collect();
        FoundNetwork { uuid: Uuid::from_u128(id), name: name.to_owned(), blocks, bridge: None }
    }

    fn around() -> Surroundings {
        let route = |block: &str, device: &str| (block.parse().unwrap(), device.to_owned());
        let routes = [route("172.16.0.0/24", "pg0"), route("10.0.0.0/8", "eth0"), route("172.16.1.7/32", "tun0")];
        Surroundings { routes: routes.into(), bridges: ["br0".to_owned()].into() }
    }

    /// The subnet, or the code and the text.
    fn says(order: &DesiredNetwork, there: &[FoundNetwork]) -> String {
        match planned(order, there, Some(&around())) {
            Ok(plan) => plan.subnet.map_or_else(|| "no subnet".to_owned(), |block| block.to_string()),
            Err(problem) => format!("{} {}", problem.code, problem.text),
        }
    }

    #[test]
    fn a_subnet_is_chosen_beside_all_that_is_there() {
        let any = wish(NetworkKind::Nat, "", None);
        assert_eq!(says(&any, &[]), "172.16.2.0/24");
        let others = [there(7, "default", "172.16.2.0/23"), there(8, "lan", "")];
        assert_eq!(says(&any, &others), "172.16.4.0/24");
        assert_eq!(planned(&any, &[], None).unwrap().subnet, "172.16.0.0/24".parse().ok(), "where nothing is known");
        let all = [there(7, "all", "172.16.0.0/12"), there(8, "too", "192.168.0.0/16")];
        assert!(says(&any, &all).starts_with("PRG-4029 "), "{}", says(&any, &all));
    }

    #[test]
    fn a_wish_is_kept_or_refused_by_name() {
        let others = [there(7, "default", "192.168.122.0/24")];
        assert_eq!(says(&wish(NetworkKind::Isolated, "192.168.7.0/24", None), &others), "192.168.7.0/24");
        let says = |subnet: &str| says(&wish(NetworkKind::Nat, subnet, None), &others);
        let advice = "choose another one, or leave it to the host";
        assert_eq!(
            says("10.20.0.0/24"),
            format!("PRG-4029 10.20.0.0/24 overlaps 10.0.0.0/8, which the host reaches by eth0: {advice}")
        );
        assert_eq!(
            says("192.168.0.0/16"),
            format!("PRG-4029 192.168.0.0/16 overlaps 192.168.122.0/24, of the network default: {advice}")
        );
    }

    #[test]
    fn names_and_bridges_are_the_hosts() {
        let any = wish(NetworkKind::Nat, "10.20.0.0/24", None);
        assert_eq!(says(&any, &[there(1, "lab", "10.30.0.0/24")]), "10.30.0.0/24", "it is there: as it is");
        assert!(says(&any, &[there(7, "lab", "")]).starts_with("PRG-4001 "));
        let on = |bridge| says(&wish(NetworkKind::Bridged, "", Some(bridge)), &[]);
        assert_eq!(on("br0"), "no subnet");
        assert_eq!(on("br1"), "PRG-3027 the host has no bridge br1; it has br0");
    }
}
