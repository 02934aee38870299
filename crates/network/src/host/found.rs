//! What is there: read from the kernel, by names.

use super::{HostError, mac_from};
use crate::names::{DeviceName, Names};
use crate::plan::{Owner, Plan};
use crate::subnet::{BITS6, mac_of};
use futures::TryStreamExt as _;
use perigee_model::Mac;
use perigee_model::egress::{Block, Family};
use rtnetlink::Handle;
use rtnetlink::packet_core::Nla as _;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{
    InfoBridgePort, InfoData, InfoPortData, InfoTun, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an instance has in the kernel.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// The kernel passes packets on.
    pub forwarding: bool,
    /// Those of IPv6, too.
    pub forwarding6: bool,
    /// A table of ours is there.
    pub rules: bool,
    /// The bridge.
    pub bridge: Option<Bridge>,
    /// The TAPs.
    pub taps: BTreeMap<DeviceName, Tap>,
}

/// The bridge as it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bridge {
    /// Its number.
    pub index: u32,
    /// Its hardware address.
    pub mac: Option<Mac>,
    /// It is up.
    pub up: bool,
    /// It speaks IPv6.
    pub six: bool,
    /// Its addresses and the networks they are of; those that any device gives itself (fe80::/10) left out.
    pub addresses: BTreeSet<(IpAddr, u8)>,
    /// Who is known behind it for good.
    pub neighbours: BTreeMap<IpAddr, Mac>,
}

/// A TAP as it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tap {
    /// Its number.
    pub index: u32,
    /// The bridge it is on, by number.
    pub on: Option<u32>,
    /// It is apart from other guests, and hears only what is meant for it.
    pub apart: bool,
    /// It is up.
    pub up: bool,
    /// Who may open it.
    pub owner: Option<Owner>,
    /// Hardware addresses that the bridge looks for there.
    pub known: BTreeSet<Mac>,
}

impl Bridge {
    /// It can stay as it is, or wants only what it does not have yet.
    pub(super) fn fits(&self, plan: &Plan) -> bool {
        let wanted = wanted(plan);
        // When it ends to speak IPv6 its addresses of that go.
        let goes = |address: &IpAddr| address.is_ipv6() && plan.block6().is_none();
        self.mac == Some(mac_of(plan.subnet().gateway()))
            && self.addresses.iter().all(|address| wanted.contains(address) || goes(&address.0))
    }
}

/// The addresses that the bridge of a plan has.
pub(super) fn wanted(plan: &Plan) -> Vec<(IpAddr, u8)> {
    let four = (IpAddr::V4(plan.subnet().gateway()), plan.subnet().block().bits());
    let six = plan.gateway6().map(|gateway| (IpAddr::V6(gateway), BITS6));
    [four].into_iter().chain(six).collect()
}

/// Devices of this instance, and what they know.
pub(super) async fn devices(netlink: &Handle, names: &Names) -> Result<Found, HostError> {
    let mut found = Found::default();
    let mut links = netlink.link().get().execute();
    while let Some(link) = links.try_next().await? {
        let Some(name) = name_of(&link) else { continue };
        if name == names.bridge().as_str() {
            found.bridge = Some(bridge(&link));
        } else if let Some(name) = names.tap_found(name) {
            found.taps.insert(name, tap(&link));
        }
    }
    if let Some(bridge) = &mut found.bridge {
        let mut addresses = netlink.address().get().set_link_index_filter(bridge.index).execute();
        while let Some(address) = addresses.try_next().await? {
            let one = address.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(IpAddr::V6(one)) if one.is_unicast_link_local() => None,
                AddressAttribute::Address(one) => Some(*one),
                _ => None,
            });
            bridge.addresses.extend(one.map(|one| (one, address.header.prefix_len)));
        }
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut neighbours = netlink.neighbours().get().set_address_family(family).execute();
            while let Some(neighbour) = neighbours.try_next().await? {
                if neighbour.header.ifindex == bridge.index && is_static(&neighbour) {
                    bridge.neighbours.extend(address_of(&neighbour).zip(lla_of(&neighbour)));
                }
            }
        }
        let mut entries = netlink.neighbours().get().set_address_family(AddressFamily::Bridge).execute();
        while let Some(entry) = entries.try_next().await? {
            let at = found.taps.values_mut().find(|tap| tap.index == entry.header.ifindex);
            if let (Some(tap), true) = (at, is_remote(&entry)) {
                tap.known.extend(lla_of(&entry));
            }
        }
    }
    Ok(found)
}

/// Networks of a family the host has routes to, other than the default route and what lies behind its own bridge.
pub(super) async fn routes<A: Routed>(netlink: &Handle, names: &Names) -> Result<Vec<Block<A>>, HostError> {
    let own = devices(netlink, names).await?.bridge.map(|bridge| bridge.index);
    let mut query = RouteMessage::default();
    query.header.address_family = A::FAMILY;
    let mut routes = netlink.route().get(query).execute();
    let mut blocks = BTreeSet::new();
    while let Some(route) = routes.try_next().await? {
        let out =
            route.attributes.iter().find_map(|a| if let RouteAttribute::Oif(index) = a { Some(*index) } else { None });
        let to = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Destination(to) => A::of_route(to),
            _ => None,
        });
        let block = to.map(|to| Block::around(to, route.header.destination_prefix_length));
        blocks.extend(block.filter(|block| block.bits() > 0 && (out.is_none() || out != own)));
    }
    Ok(blocks.into_iter().collect())
}

/// A family of addresses in the kernel's words.
pub(super) trait Routed: Family {
    const FAMILY: AddressFamily;
    fn of_route(to: &RouteAddress) -> Option<Self>;
}
impl Routed for Ipv4Addr {
    const FAMILY: AddressFamily = AddressFamily::Inet;
    fn of_route(to: &RouteAddress) -> Option<Self> {
        if let RouteAddress::Inet(to) = to { Some(*to) } else { None }
    }
}
impl Routed for Ipv6Addr {
    const FAMILY: AddressFamily = AddressFamily::Inet6;
    fn of_route(to: &RouteAddress) -> Option<Self> {
        if let RouteAddress::Inet6(to) = to { Some(*to) } else { None }
    }
}

pub(crate) fn name_of(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

fn bridge(link: &LinkMessage) -> Bridge {
    let mac = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => mac_from(bytes),
        _ => None,
    });
    Bridge { index: link.header.index, mac, up: is_up(link), ..Bridge::default() }
}

fn tap(link: &LinkMessage) -> Tap {
    let mut tap = Tap { index: link.header.index, up: is_up(link), ..Tap::default() };
    let (mut uid, mut gid) = (None, None);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Controller(bridge) => tap.on = Some(*bridge),
            LinkAttribute::LinkInfo(all) => {
                for one in all {
                    match one {
                        LinkInfo::PortData(InfoPortData::BridgePort(port)) => tap.apart = is_apart(port),
                        LinkInfo::Data(InfoData::Tun(of)) => {
                            (uid, gid) = (number(of, TUN_OWNER), number(of, TUN_GROUP))
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    tap.owner = uid.zip(gid).map(|(uid, gid)| Owner { uid, gid });
    tap
}

/// `IFLA_TUN_OWNER` and `IFLA_TUN_GROUP` (linux/if_link.h), which the crate leaves as bytes.
const TUN_OWNER: u16 = 1;
const TUN_GROUP: u16 = 2;

fn number(of: &[InfoTun], kind: u16) -> Option<u32> {
    of.iter()
        .filter(|one| one.kind() == kind && one.value_len() == 4)
        .map(|one| {
            let mut bytes = [0; 4];
            one.emit_value(&mut bytes);
            u32::from_ne_bytes(bytes)
        })
        .next()
}

/// As [`super::links::port`] makes it.
fn is_apart(port: &[InfoBridgePort]) -> bool {
    use InfoBridgePort::{BroadcastFlood, Isolated, Learning, MulticastFlood, UnicastFlood};
    let wanted = [Isolated(true), Learning(false), UnicastFlood(false), MulticastFlood(false), BroadcastFlood(false)];
    wanted.iter().all(|wanted| port.contains(wanted))
}

fn is_up(link: &LinkMessage) -> bool {
    link.header.flags.contains(LinkFlags::Up)
}

fn is_static(neighbour: &NeighbourMessage) -> bool {
    use rtnetlink::packet_route::neighbour::NeighbourState;
    neighbour.header.state == NeighbourState::Permanent
}

/// An entry for somebody behind the port, as [`super::links::know`] makes it; the port's own is permanent.
fn is_remote(entry: &NeighbourMessage) -> bool {
    use rtnetlink::packet_route::neighbour::NeighbourState;
    entry.header.state == NeighbourState::Noarp
}

fn address_of(neighbour: &NeighbourMessage) -> Option<IpAddr> {
    neighbour.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })
}

fn lla_of(neighbour: &NeighbourMessage) -> Option<Mac> {
    neighbour.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => mac_from(bytes),
        _ => None,
    })
}
