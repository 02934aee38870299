//! What the network of one instance should be.

use crate::names::{DeviceName, Names};
use crate::subnet::{Subnet, mac_of};
use perigee_model::egress::{Block, Egress, Egress6, OPENINGS_MAX, Ports, Protocol};
use perigee_model::forward::{FORWARDS_MAX, Forward};
use perigee_model::{GuestId, InstanceId, Mac};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Most guests on one bridge: the kernel gives it 1,023 ports.
pub const MEMBERS_MAX: usize = 1023;

/// A guest on the network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Who.
    pub guest: GuestId,
    /// Its address; its hardware address follows from it.
    pub address: Ipv4Addr,
    /// Who may open its TAP: the user and group that its VMM runs as.
    pub owner: Owner,
    /// Whether it is on the network: its TAP is up. Best only when the guest has said that it has its address.
    pub up: bool,
    /// What it may reach of the world.
    pub egress: Egress,
    /// What it may reach of it by IPv6; `None`: it has no IPv6. Its address follows from the other.
    pub egress6: Option<Egress6>,
    /// What it may reach of the host, at the gateway's address; names are answered there besides.
    pub host: Vec<Ports>,
    /// Ports of the host that lead to it.
    pub forwards: Vec<Forward>,
}

/// A user and a group, by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl Member {
    /// The hardware address of its card.
    pub fn mac(&self) -> Mac {
        mac_of(self.address)
    }

    /// Numbers of the names that its policy lists, as [`Held`](crate::Held) has them.
    pub fn names(&self) -> impl Iterator<Item = u32> {
        self.egress.listed_names().into_iter().map(|name| name.number(self.guest))
    }

    /// Numbers of the names that its policy of IPv6 lists.
    pub fn names6(&self) -> impl Iterator<Item = u32> {
        let listed = self.egress6.as_ref().map(Egress::listed_names).unwrap_or_default();
        listed.into_iter().map(|name| name.number(self.guest))
    }

    /// Whether what this name means may be open to it.
    pub(crate) fn lists(&self, number: u32, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(_) => self.names().any(|one| one == number),
            IpAddr::V6(_) => self.names6().any(|one| one == number),
        }
    }

    /// Whether it is answered names at all.
    pub fn asks_names(&self) -> bool {
        self.egress.asks_names() || self.egress6.as_ref().is_some_and(Egress::asks_names)
    }
}

/// The whole network of an instance: checked, in the order of addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    names: Names,
    subnet: Subnet,
    members: BTreeMap<Ipv4Addr, Member>,
}

/// Why a plan cannot be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PlanFault {
    /// Not an address of the subnet that a guest can have.
    #[error("{guest} cannot have {address}: it is no guest's address of {subnet}")]
    Outside {
        /// Who would have it.
        guest: GuestId,
        /// The address.
        address: Ipv4Addr,
        /// The subnet.
        subnet: crate::Block,
    },
    /// Two guests have it.
    #[error("two guests have {0}")]
    Twice(Ipv4Addr),
    /// A guest is there twice, or two ids give one name.
    #[error("{0} has the device name of another guest")]
    Collision(GuestId),
    /// Two forwards from one port.
    #[error("{protocol} port {port} of the host leads to two places")]
    Forwarded {
        /// The protocol.
        protocol: Protocol,
        /// The port of the host.
        port: u16,
    },
    /// A forward from or to port 0.
    #[error("a forward of {0} is from or to port 0")]
    Zero(GuestId),
    /// IPv6 where there is no network for it.
    #[error("{0} should have IPv6, and there is no network of it")]
    NoSix(GuestId),
    /// More than a bridge or a ruleset takes.
    #[error("{0} guests on one bridge, {MEMBERS_MAX} at most")]
    Crowded(usize),
    /// More than a ruleset should have of one guest.
    #[error("{0} has too many openings ({OPENINGS_MAX} at most) or forwards ({FORWARDS_MAX} at most)")]
    Long(GuestId),
}

impl Plan {
    /// A plan of these guests.
    pub fn new(instance: &InstanceId, subnet: Subnet, members: Vec<Member>) -> Result<Self, PlanFault> {
        let names = Names::of(instance);
        if members.len() > MEMBERS_MAX {
            return Err(PlanFault::Crowded(members.len()));
        }
        let mut plan = Self { names, subnet, members: BTreeMap::new() };
        let (mut taps, mut ports) = (BTreeSet::new(), BTreeSet::new());
        for member in members {
            let (guest, address) = (member.guest, member.address);
            if !subnet.may_give(address) {
                return Err(PlanFault::Outside { guest, address, subnet: subnet.block() });
            }
            if !taps.insert(plan.names.tap(guest)) {
                return Err(PlanFault::Collision(guest));
            }
            for forward in &member.forwards {
                if forward.host_port == 0 || forward.guest_port == 0 {
                    return Err(PlanFault::Zero(guest));
                }
                if !ports.insert((forward.protocol, forward.host_port)) {
                    return Err(PlanFault::Forwarded { protocol: forward.protocol, port: forward.host_port });
                }
            }
            if member.egress6.is_some() && subnet.block6().is_none() {
                return Err(PlanFault::NoSix(guest));
            }
            let openings = count(&member.egress).max(member.egress6.as_ref().map_or(0, count));
            if openings > OPENINGS_MAX || member.host.len() > OPENINGS_MAX || member.forwards.len() > FORWARDS_MAX {
                return Err(PlanFault::Long(guest));
            }
            if plan.members.insert(address, member).is_some() {
                return Err(PlanFault::Twice(address));
            }
        }
        Ok(plan)
    }

    /// Names of what is made for it.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The network it is about.
    pub fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// The network of IPv6 addresses, if any of its guests has one.
    pub fn block6(&self) -> Option<Block<Ipv6Addr>> {
        self.subnet.block6().filter(|_| self.members().any(|member| member.egress6.is_some()))
    }

    /// The host's IPv6 address, if any of its guests has one.
    pub fn gateway6(&self) -> Option<Ipv6Addr> {
        self.block6().and_then(|_| self.subnet.gateway6())
    }

    /// A guest's IPv6 address, if it has one.
    pub fn six(&self, member: &Member) -> Option<Ipv6Addr> {
        self.subnet.six_of(member.address).filter(|_| member.egress6.is_some())
    }

    /// All addresses of a guest.
    pub(crate) fn addresses_of(&self, member: &Member) -> impl Iterator<Item = IpAddr> {
        [Some(IpAddr::V4(member.address)), self.six(member).map(IpAddr::V6)].into_iter().flatten()
    }

    /// All addresses of its guests.
    pub(crate) fn addresses(&self) -> BTreeSet<IpAddr> {
        self.members().flat_map(|member| self.addresses_of(member)).collect()
    }

    /// Its guests, by address.
    pub fn members(&self) -> impl ExactSizeIterator<Item = &Member> {
        self.members.values()
    }

    /// Who has this address.
    pub fn at(&self, address: Ipv4Addr) -> Option<&Member> {
        self.members.get(&address)
    }

    /// The TAP of one of its guests.
    pub fn tap(&self, member: &Member) -> DeviceName {
        self.names.tap(member.guest)
    }
}

fn count<A>(egress: &Egress<A>) -> usize {
    if let Egress::List(list) = egress { list.len() } else { 0 }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use uuid::Uuid;

    /// A guest that reaches nothing, and is reached at these ports.
    pub(crate) fn member(guest: u128, last: u8, forwards: &[(u16, u16)]) -> Member {
        let forward = |(host_port, guest_port): &(u16, u16)| Forward {
            protocol: Protocol::Tcp,
            host_port: *host_port,
            guest_port: *guest_port,
        };
        Member {
            guest: GuestId::new(Uuid::from_u128(guest)),
            address: Ipv4Addr::new(172, 16, 0, last),
            owner: Owner { uid: 1, gid: 1 },
            up: true,
            egress: Egress::None,
            egress6: None,
            host: vec![],
            forwards: forwards.iter().map(forward).collect(),
        }
    }

    /// On the default subnet.
    pub(crate) fn plan(members: Vec<Member>) -> Plan {
        Plan::new(&InstanceId::from_bits(7), Subnet::choose(None, &[]).unwrap(), members).unwrap()
    }

    #[track_caller]
    fn check(members: &[Member], expected: &str) {
        let subnet = Subnet::choose(None, &[]).unwrap();
        let plan = Plan::new(&InstanceId::from_bits(7), subnet, members.to_vec());
        assert_eq!(plan.map_or_else(|fault| fault.to_string(), |plan| plan.members().len().to_string()), expected);
    }

    #[test]
    fn a_plan_is_whole_or_refused() {
        let id = |n: u128| Uuid::from_u128(n);
        check(&[], "0");
        check(&[member(1, 2, &[(80, 80)]), member(2, 3, &[(81, 80)])], "2");
        check(&[member(1, 2, &[]), member(2, 2, &[])], "two guests have 172.16.0.2");
        for end in [0, 1, 255] {
            let said = format!("{} cannot have 172.16.0.{end}: it is no guest's address of 172.16.0.0/24", id(1));
            check(&[member(1, end, &[])], &said);
        }
        check(&[member(1, 2, &[]), member(1, 3, &[])], &format!("{} has the device name of another guest", id(1)));
        let twin = 1 + 36u128.pow(6);
        check(
            &[member(1, 2, &[]), member(twin, 3, &[])],
            &format!("{} has the device name of another guest", id(twin)),
        );
        check(&[member(1, 2, &[(80, 80)]), member(2, 3, &[(80, 1)])], "tcp port 80 of the host leads to two places");
        check(&[member(1, 2, &[(0, 80)])], &format!("a forward of {} is from or to port 0", id(1)));
        let many: Vec<_> = (1..=257).map(|port| (port, port)).collect();
        check(
            &[member(1, 2, &many)],
            &format!("{} has too many openings (256 at most) or forwards (256 at most)", id(1)),
        );
        let six = Member { egress6: Some(Egress::All), ..member(1, 2, &[]) };
        check(&[six], &format!("{} should have IPv6, and there is no network of it", id(1)));
        check(&vec![member(1, 2, &[]); 1024], "1024 guests on one bridge, 1023 at most");
    }
}
