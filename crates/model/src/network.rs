//! Networks of VMs: one is on one host, and nobody else's than Perigee's.
//!
//! ```text
//!   (asked for) ─▶ creating ─▶ ready ─▶ deleting ─▶ (nothing)
//!                     └─ failed: nothing
//! ```
//! Which it is follows from what was asked for, what its host says and its open task: it is stored nowhere.

use crate::egress::{Block, PRIVATE};
use crate::{HostId, Name, NetworkId, TaskKind, Tenant, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Smallest and largest subnet: the host and one guest at least.
const SUBNET_BITS: std::ops::RangeInclusive<u8> = 16..=30;
/// A network device's name is no longer (Linux, IFNAMSIZ without its end).
const DEVICE_BYTES_MAX: usize = 15;

/// One network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Network {
    /// Identity; also what the host's libvirt knows it by (its UUID).
    pub id: NetworkId,
    /// Unique in the tenant; its name on its host, too.
    pub name: Name,
    /// Who owns it.
    pub tenant: Tenant,
    /// The user who made it.
    pub owner: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Where it is.
    pub host: HostId,
    /// Where it leads.
    pub kind: NetworkKind,
    /// Its addresses: as they were asked for, or as its host chose them. A bridged one has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<Block>,
    /// Its bridge on the host: as it was asked for of a bridged one, else what its host calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// Its host has it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub made: bool,
    /// Nothing should be left of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub absent: bool,
    /// Counts what was asked of its host; a report on an older one says nothing.
    pub generation: u64,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Bumped by each write of the row.
    pub revision: u64,
}

/// Where a network leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkKind {
    /// Out through the host's own address; addresses come by DHCP. Nobody outside reaches in.
    Nat,
    /// To the other guests on it and to the host, and no further; addresses come by DHCP.
    Isolated,
    /// Onto a bridge that the host has: what is behind that gives out addresses.
    Bridged,
}

impl fmt::Display for NetworkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nat => "nat",
            Self::Isolated => "isolated",
            Self::Bridged => "bridged",
        })
    }
}

impl FromStr for NetworkKind {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [Self::Nat, Self::Isolated, Self::Bridged];
        all.into_iter().find(|kind| kind.to_string() == text).ok_or("kind is \"nat\", \"isolated\" or \"bridged\"")
    }
}

/// What a user is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkStatus {
    /// A task makes it.
    Creating,
    /// VMs can be on it.
    Ready,
    /// On its way to nothing.
    Deleting,
}

impl Network {
    /// What is shown of it; `task`: what is being done with it.
    pub fn status(&self, task: Option<&TaskKind>) -> NetworkStatus {
        match task {
            _ if self.absent => NetworkStatus::Deleting,
            Some(TaskKind::NetworkDelete { .. }) => NetworkStatus::Deleting,
            Some(_) | None if !self.made => NetworkStatus::Creating,
            Some(_) | None => NetworkStatus::Ready,
        }
    }
}

/// Says what is wrong with the wishes for a network, if anything is: (JSON field, text).
pub fn fault(kind: NetworkKind, subnet: Option<Block>, bridge: Option<&str>) -> Option<(&'static str, String)> {
    match (kind, bridge) {
        (NetworkKind::Bridged, None) => {
            return Some(("bridge", "a bridged network is on a bridge that its host has: name it".to_owned()));
        }
        (NetworkKind::Bridged, Some(bridge)) if !is_device(bridge) => {
            return Some(("bridge", format!("a bridge's name has 1 to {DEVICE_BYTES_MAX} plain characters")));
        }
        (NetworkKind::Bridged, Some(_)) => {}
        (NetworkKind::Nat | NetworkKind::Isolated, Some(_)) => {
            return Some(("bridge", format!("a network of kind {kind} has a bridge of its own: leave it out")));
        }
        (NetworkKind::Nat | NetworkKind::Isolated, None) => {}
    }
    match (kind, subnet) {
        (NetworkKind::Bridged, Some(_)) => {
            Some(("subnet", "what is behind the bridge gives out addresses: leave the subnet out".to_owned()))
        }
        (_, Some(subnet)) => subnet_fault(subnet).map(|text| ("subnet", text)),
        (_, None) => None,
    }
}

fn subnet_fault(subnet: Block) -> Option<String> {
    let fits = SUBNET_BITS.contains(&subnet.bits()) && PRIVATE.iter().any(|private| private.covers(subnet));
    let private = PRIVATE.map(|block| block.to_string()).join(", ");
    (!fits).then(|| format!("a subnet is a part of a private network ({private}) of /16 to /30, not {subnet}"))
}

fn is_device(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=DEVICE_BYTES_MAX).contains(&name.len()) && name.bytes().all(plain) && name != "." && name != ".."
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn wishes_fit_their_kind() {
        let says = |kind: &str, subnet: &str, bridge: &str| {
            let bridge = Some(bridge).filter(|bridge| !bridge.is_empty());
            fault(kind.parse().unwrap(), subnet.parse().ok(), bridge).map(|(field, _)| field)
        };
        for fine in ["", "10.20.0.0/24", "192.168.7.0/30", "172.16.0.0/16", "100.64.1.0/24"] {
            assert_eq!((says("nat", fine, ""), says("isolated", fine, "")), (None, None), "{fine}");
        }
        for bad in ["8.8.8.0/24", "10.0.0.0/8", "10.0.0.0/31", "169.254.0.0/24", "0.0.0.0/0"] {
            assert_eq!(says("nat", bad, ""), Some("subnet"), "{bad}");
        }
        assert_eq!(says("nat", "", "br0"), Some("bridge"), "it has its own");
        assert_eq!(says("bridged", "", ""), Some("bridge"));
        assert_eq!(says("bridged", "10.20.0.0/24", "br0"), Some("subnet"));
        for fine in ["br0", "br-lan.7", "a_234567890-234"] {
            assert_eq!(says("bridged", "", fine), None, "{fine}");
        }
        for bad in ["../x", "a b", "..", "bridge-with-16-c", "br/0"] {
            assert_eq!(says("bridged", "", bad), Some("bridge"), "{bad}");
        }
        assert!("routed".parse::<NetworkKind>().is_err());
    }

    #[test]
    fn what_is_shown_follows_from_what_was_asked_for_and_what_is_there() {
        let network = Network {
            id: NetworkId::new(Uuid::from_u128(1)),
            name: Name::parse("lab").unwrap(),
            tenant: Tenant::first(),
            owner: String::new(),
            description: String::new(),
            host: HostId::new(Uuid::nil()),
            kind: NetworkKind::Nat,
            subnet: None,
            bridge: None,
            made: false,
            absent: false,
            generation: 1,
            created_at: Timestamp::from_micros(0),
            revision: 1,
        };
        let (id, made) = (network.id, Network { made: true, ..network.clone() });
        assert_eq!(network.status(Some(&TaskKind::NetworkCreate { network: id })), NetworkStatus::Creating);
        assert_eq!(network.status(None), NetworkStatus::Creating);
        assert_eq!(made.status(None), NetworkStatus::Ready);
        assert_eq!(made.status(Some(&TaskKind::NetworkDelete { network: id })), NetworkStatus::Deleting);
        assert_eq!(Network { absent: true, ..made }.status(None), NetworkStatus::Deleting);
    }
}
