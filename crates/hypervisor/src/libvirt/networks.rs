//! libvirt's networks: ours made, brought up, taken away; others' looked at.
//!
//! ```text
//!   define ─▶ autostart ─▶ start        undone from behind when libvirt refuses one of them
//! ```
//! Owns: the networks whose UUID is the id of one of ours. Refuses: to touch any other, and to take one away
//! that a domain, whoever's, is defined to be on.

use super::connections::Ask;
use super::host::Host;
use super::xml;
use crate::{FoundNetwork, HypervisorError, NetworkPlan};
use perigee_libvirt::{Connection, Error, Network, codes};
use perigee_model::NetworkId;
use perigee_model::egress::Block;
use roxmltree::{Document, Node};
use std::net::Ipv4Addr;
use std::time::Duration;

/// For a bridge, its rules and its DHCP server to come up or to go.
const COMES_UP_WITHIN: Duration = Duration::from_secs(60);

impl Host {
    /// Every network there is.
    pub async fn networks(&self) -> Result<Vec<FoundNetwork>, HypervisorError> {
        let asked = self.control.ask(async |libvirt| {
            let mut found = Vec::new();
            for network in libvirt.networks().await? {
                match libvirt.network_xml(&network).await {
                    // Gone between two questions.
                    Err(error) if error.code() == Some(codes::NO_NETWORK) => {}
                    text => found.push((network, text?)),
                }
            }
            Ok(found)
        });
        let all = asked.await.map_err(Ask::told)?;
        all.iter().map(|(network, text)| found(network, text)).collect()
    }

    /// Makes it be there and up.
    pub async fn establish(&self, plan: &NetworkPlan) -> Result<FoundNetwork, HypervisorError> {
        let text = definition(plan)?;
        let asked = self.control.ask(async |libvirt| {
            let known = by_id(&libvirt, plan.id).await?;
            let libvirt = libvirt.within(COMES_UP_WITHIN);
            let network = match &known {
                Some(network) => network.clone(),
                None => libvirt.define_network(&text).await?,
            };
            match bring_up(&libvirt, &network).await {
                // What was not there before is not there after.
                Err(error @ Error::Libvirt { .. }) if known.is_none() => {
                    libvirt.undefine_network(&network).await?;
                    Err(error)
                }
                up => up.map(|text| (network, text)),
            }
        });
        let (network, text) = asked.await.map_err(said)?;
        found(&network, &text)
    }

    /// Leaves nothing of it.
    pub async fn dismantle(&self, network: NetworkId) -> Result<(), HypervisorError> {
        let asked = self.control.ask(async |libvirt| {
            let Some(network) = by_id(&libvirt, network).await? else { return Ok(None) };
            if let Some(user) = user_of(&libvirt, &network.name).await? {
                return Ok(Some(user));
            }
            let libvirt = libvirt.within(COMES_UP_WITHIN);
            match libvirt.stop_network(&network).await {
                Err(error) if error.code() != Some(codes::NOT_NOW) => return Err(error),
                Ok(()) | Err(_) => {}
            }
            match libvirt.undefine_network(&network).await {
                Err(error) if error.code() != Some(codes::NO_NETWORK) => Err(error),
                Ok(()) | Err(_) => Ok(None),
            }
        });
        match asked.await.map_err(said)? {
            None => Ok(()),
            Some(user) => Err(HypervisorError::InUse(format!("the VM {user} is on it"))),
        }
    }
}

/// As libvirt is given it.
pub fn definition(plan: &NetworkPlan) -> Result<String, HypervisorError> {
    xml::network(plan).map_err(|error| HypervisorError::BadPlan(format!("its XML: {error}")))
}

async fn by_id(libvirt: &Connection, network: NetworkId) -> Result<Option<Network>, Error> {
    match libvirt.network_by_uuid(network.uuid()).await {
        Err(error) if error.code() == Some(codes::NO_NETWORK) => Ok(None),
        network => network.map(Some),
    }
}

/// Now, and whenever libvirt starts. Answers its definition.
async fn bring_up(libvirt: &Connection, network: &Network) -> Result<String, Error> {
    libvirt.set_network_autostart(network, true).await?;
    if !libvirt.network_is_active(network).await? {
        match libvirt.start_network(network).await {
            Err(error) if error.code() != Some(codes::NOT_NOW) => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    libvirt.network_xml(network).await
}

/// A domain that is defined to be on a network, whether it runs or not.
async fn user_of(libvirt: &Connection, network: &str) -> Result<Option<String>, Error> {
    for domain in libvirt.domains(0).await? {
        let definition = match libvirt.domain_xml(&domain, 0).await {
            Err(error) if error.code() == Some(codes::NO_DOMAIN) => continue,
            definition => definition?,
        };
        if xml::networks_of(&definition).iter().any(|name| name == network) {
            return Ok(Some(domain.name));
        }
    }
    Ok(None)
}

/// In the seam's words: what libvirt refuses is refused.
fn said(ask: Ask) -> HypervisorError {
    match ask {
        Ask::Said(Error::Libvirt { code, message, .. }) if code != codes::TIMED_OUT => {
            HypervisorError::Refused(message)
        }
        ask => ask.told(),
    }
}

fn found(network: &Network, definition: &str) -> Result<FoundNetwork, HypervisorError> {
    let bad = |why: &str| HypervisorError::Channel(format!("libvirt's network {}: {why}", network.name));
    let document = Document::parse(definition).map_err(|error| bad(&error.to_string()))?;
    let of = |name: &'static str| document.root_element().children().filter(move |node| node.has_tag_name(name));
    Ok(FoundNetwork {
        uuid: network.uuid,
        name: network.name.clone(),
        blocks: of("ip").filter_map(block).collect(),
        bridge: of("bridge").find_map(|node| node.attribute("name")).map(str::to_owned),
    })
}

/// `<ip address='10.0.0.1' prefix='24'>`, or with a netmask; others' may be of another family, which is left out.
fn block(ip: Node<'_, '_>) -> Option<Block> {
    let address: Ipv4Addr = ip.attribute("address")?.parse().ok()?;
    let prefix = ip.attribute("prefix").and_then(|text| text.parse().ok());
    let mask = ip.attribute("netmask").and_then(|text| text.parse::<Ipv4Addr>().ok());
    let bits = prefix.or_else(|| u8::try_from(mask?.to_bits().leading_ones()).ok()).unwrap_or(32);
    Some(Block::around(address, bits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn networks_of_others_are_read_as_they_come() {
        let network = Network { name: "lab".to_owned(), uuid: Uuid::from_u128(1) };
        let read = |text: &str| found(&network, text).map(|found| (found.blocks, found.bridge)).ok();
        let blocks = |all: &[&str]| all.iter().map(|text| text.parse().unwrap()).collect::<Vec<Block>>();
        let two = "<network><bridge name='virbr7' stp='on'/><ip address='10.1.2.1' netmask='255.255.0.0'/>\
            <ip family='ipv6' address='fd00::1' prefix='64'/><ip address='192.168.7.1' prefix='30'/></network>";
        assert_eq!(read(two), Some((blocks(&["10.1.0.0/16", "192.168.7.0/30"]), Some("virbr7".to_owned()))));
        assert_eq!(read("<network><forward mode='bridge'/><bridge name='br0'/></network>").unwrap().0, []);
        assert_eq!(read("<network><ip address='10.1.2.3'/></network>"), Some((blocks(&["10.1.2.3/32"]), None)));
        assert_eq!(read("<network>"), None);
    }
}
