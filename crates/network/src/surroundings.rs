//! What a host's network is beside ours: where its routes lead, and which bridges it has.
//!
//! Needs no privilege, and changes nothing.

use crate::host::{HostError, name_of};
use futures::TryStreamExt as _;
use perigee_model::egress::Block;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use std::collections::{BTreeMap, BTreeSet};

/// A host's routes and bridges, of the network namespace that was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// What it has routes to, its own addresses among them, with the device that leads there; the default route is
    /// left out.
    pub routes: BTreeSet<(Block, String)>,
    /// Its bridges.
    pub bridges: BTreeSet<String>,
}

impl Surroundings {
    /// Looks at the network namespace of the calling thread. Needs a runtime of tokio.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn look() -> Result<Self, HostError> {
        let (connection, netlink, _) = rtnetlink::new_connection()?;
        let connection = tokio::spawn(connection);
        let looked = Self::by(&netlink).await;
        connection.abort();
        looked
    }

    async fn by(netlink: &rtnetlink::Handle) -> Result<Self, HostError> {
        let (mut found, mut devices) = (Self::default(), BTreeMap::new());
        let mut links = netlink.link().get().execute();
        while let Some(link) = links.try_next().await? {
            let Some(name) = name_of(&link) else { continue };
            devices.insert(link.header.index, name.to_owned());
            if is_bridge(&link) {
                found.bridges.insert(name.to_owned());
            }
        }
        let mut query = RouteMessage::default();
        query.header.address_family = AddressFamily::Inet;
        let mut routes = netlink.route().get(query).execute();
        while let Some(route) = routes.try_next().await? {
            let to = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(to)) => Some(*to),
                _ => None,
            });
            let out = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => devices.get(index).cloned(),
                _ => None,
            });
            let block = to.map(|to| Block::around(to, route.header.destination_prefix_length));
            found.routes.extend(block.filter(|block| block.bits() > 0).map(|block| (block, out.unwrap_or_default())));
        }
        Ok(found)
    }
}

fn is_bridge(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(all) => all.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Bridge))),
        _ => false,
    })
}
