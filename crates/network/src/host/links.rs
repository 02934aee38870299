//! Bridge and ports, by netlink.

use super::{HostError, bytes_of, found};
use crate::names::DeviceName;
use crate::subnet::{Subnet, mac_of};
use futures::TryStreamExt as _;
use nix::errno::Errno;
use perigee_model::Mac;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::{Error, Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The number of a device; `None` if there is none of that name.
async fn index(netlink: &Handle, name: &DeviceName) -> Result<Option<u32>, HostError> {
    let mut found = netlink.link().get().match_name(name.as_str()).execute();
    match found.try_next().await {
        Ok(link) => Ok(link.map(|link| link.header.index)),
        Err(error) if is(&error, Errno::ENODEV) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn there(netlink: &Handle, name: &DeviceName) -> Result<u32, HostError> {
    index(netlink, name).await?.ok_or_else(|| HostError::Gone(name.clone()))
}

/// Takes a device away, if it is there.
pub(super) async fn take(netlink: &Handle, name: &DeviceName) -> Result<(), HostError> {
    let Some(index) = index(netlink, name).await? else { return Ok(()) };
    gone_already(netlink.link().del(index).execute().await)
}

/// Takes devices away, those that are there. The kernel waits some 20 ms for whatever it takes away, and once for
/// all devices of a group: so several are put into a group that nobody else uses.
pub(super) async fn take_together(netlink: &Handle, names: &BTreeSet<DeviceName>) -> Result<(), HostError> {
    let (mut ours, mut groups) = (Vec::new(), BTreeSet::from([0]));
    let mut links = netlink.link().get().execute();
    while let Some(link) = links.try_next().await? {
        if found::name_of(&link).is_some_and(|name| names.iter().any(|ours| ours.as_str() == name)) {
            ours.push(link.header.index);
        } else {
            groups.extend(
                link.attributes.iter().filter_map(|a| if let LinkAttribute::Group(g) = a { Some(*g) } else { None }),
            );
        }
    }
    let Some(group) = (FIRST_GROUP..).find(|group| !groups.contains(group)) else { return Ok(()) };
    for index in &ours {
        let moved = LinkUnspec::new_with_index(*index).link_group(group).build();
        gone_already(netlink.link().change(moved).execute().await)?;
    }
    let mut all = LinkMessage::default();
    all.attributes.push(LinkAttribute::Group(group));
    gone_already(netlink.link().del_with_message(all).execute().await)
}

/// Groups of devices (`ip link set … group`) are numbers that the host's owner gives; 0 is everybody's.
const FIRST_GROUP: u32 = 0x7067_0000;

/// Frames to a bridge itself (01:80:c2:00:00:0x, IEEE 802.1D) are not judged as others are, and some are handed to the
/// host past all rules. These are bridged, and so judged, and dropped; the first three cannot be, and have a rule.
const BRIDGED_GROUPS: u16 = 0xfff8;

/// The bridge, down: with an address of its own that stays when ports come and go, and without snooping, which
/// would make it speak.
pub(super) async fn make_bridge(netlink: &Handle, name: &DeviceName, subnet: Subnet) -> Result<(), HostError> {
    let bridge = LinkMessageBuilder::<LinkBridge>::new(name.as_str())
        .address(bytes_of(mac_of(subnet.gateway())).to_vec())
        .mcast_snooping(false)
        .group_fwd_mask(BRIDGED_GROUPS)
        .forward_delay(0);
    there_already(netlink.link().add(bridge.build()).execute().await)
}

/// An address of the gateway's, at once: nobody is asked whether somebody else has it.
pub(super) async fn address(netlink: &Handle, name: &DeviceName, own: IpAddr, bits: u8) -> Result<(), HostError> {
    let index = there(netlink, name).await?;
    let mut request = netlink.address().add(index, own, bits);
    if own.is_ipv6() {
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    }
    there_already(request.execute().await)
}

/// Makes a TAP a port that no other guest's port reaches, on which nothing is learned and nothing is heard but what
/// is for the guest's own address.
pub(super) async fn port(netlink: &Handle, name: &DeviceName, bridge: &DeviceName) -> Result<(), HostError> {
    let (tap, bridge) = (there(netlink, name).await?, there(netlink, bridge).await?);
    let attach = LinkUnspec::new_with_index(tap).controller(bridge).build();
    netlink.link().change(attach).execute().await?;
    let port =
        LinkBridgePort::new(tap).isolated(true).learning(false).flood(false).mcast_flood(false).bcast_flood(false);
    Ok(netlink.link().set_port(port.build()).execute().await?)
}

/// What is for this hardware address goes out of this port.
pub(super) async fn know(netlink: &Handle, name: &DeviceName, mac: Mac) -> Result<(), HostError> {
    let tap = there(netlink, name).await?;
    let entry = netlink.neighbours().add_bridge(tap, &bytes_of(mac));
    let entry = entry.state(NeighbourState::Noarp).flags(NeighbourFlags::Controller).replace();
    Ok(entry.execute().await?)
}

/// Who has this address on the bridge.
pub(super) async fn meet(netlink: &Handle, bridge: &DeviceName, address: IpAddr, mac: Mac) -> Result<(), HostError> {
    let bridge = there(netlink, bridge).await?;
    let entry = netlink.neighbours().add(bridge, address).link_layer_address(&bytes_of(mac)).replace();
    Ok(entry.execute().await?)
}

/// Nobody has it any more.
pub(super) async fn forget(netlink: &Handle, bridge: &DeviceName, address: IpAddr) -> Result<(), HostError> {
    let mut entry = NeighbourMessage::default();
    let (family, address) = match address {
        IpAddr::V4(address) => (AddressFamily::Inet, NeighbourAddress::Inet(address)),
        IpAddr::V6(address) => (AddressFamily::Inet6, NeighbourAddress::Inet6(address)),
    };
    entry.header.family = family;
    entry.header.ifindex = there(netlink, bridge).await?;
    entry.attributes.push(NeighbourAttribute::Destination(address));
    match netlink.neighbours().del(entry).execute().await {
        Err(error) if !is(&error, Errno::ENOENT) => Err(error.into()),
        _ => Ok(()),
    }
}

/// Up or down.
pub(super) async fn set_up(netlink: &Handle, name: &DeviceName, up: bool) -> Result<(), HostError> {
    let link = LinkUnspec::new_with_index(there(netlink, name).await?);
    let link = if up { link.up() } else { link.down() };
    Ok(netlink.link().change(link.build()).execute().await?)
}

fn gone_already(done: Result<(), Error>) -> Result<(), HostError> {
    match done {
        Err(error) if !is(&error, Errno::ENODEV) => Err(error.into()),
        _ => Ok(()),
    }
}

fn there_already(done: Result<(), Error>) -> Result<(), HostError> {
    match done {
        Err(error) if !is(&error, Errno::EEXIST) => Err(error.into()),
        _ => Ok(()),
    }
}

fn is(error: &Error, errno: Errno) -> bool {
    matches!(error, Error::NetlinkError(message) if message.raw_code() == -(errno as i32))
}
