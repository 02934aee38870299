//! The network that an instance's guests are on: which one, and who has which address of it.

use perigee_model::egress::{Block, Family, PRIVATE};
use perigee_model::{InstanceId, Mac};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Smallest and largest subnet: one guest at least, and a bridge has 1,023 ports at most.
const BITS: std::ops::RangeInclusive<u8> = 16..=30;

/// Size of the network of IPv6 addresses (RFC 4291: the other half is the card's).
pub const BITS6: u8 = 64;
/// What stands before the 32 bits of an instance: `fd` (made by its user), and eight bits of ours. RFC 4193 wants 40
/// bits that nobody else drew; an instance's are random.
const UNIQUE_LOCAL: u16 = 0xfd70;

/// A private network whose first address is the host's (the gateway, and where names are answered), and the network
/// of IPv6 addresses beside it, if there is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subnet {
    block: Block,
    six: Option<Block<Ipv6Addr>>,
}

/// Why there is no subnet.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SubnetError {
    /// Not one that guests can be on.
    #[error(
        "guests are on a part of a private network (10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16) of /16 to /30, not on {0}"
    )]
    Unfit(Block),
    /// The host is connected to it, or has a route to it.
    #[error("{wanted} is taken: the host has a route to {by}")]
    Taken {
        /// What was asked for.
        wanted: Block,
        /// What the host has.
        by: Block,
    },
    /// Every candidate is taken.
    #[error("the host has routes to all of 172.16.0.0/12 and 192.168.0.0/16: name a free network")]
    NoneFree,
    /// Every candidate of IPv6 is taken.
    #[error("the host has routes to all of {0}, where guests would have their IPv6 addresses")]
    NoneFree6(Block<Ipv6Addr>),
}

impl Subnet {
    /// One that somebody chose; a part of a private network.
    pub fn new(block: Block) -> Result<Self, SubnetError> {
        let fits = BITS.contains(&block.bits()) && PRIVATE.iter().any(|private| private.covers(block));
        if fits { Ok(Self { block, six: None }) } else { Err(SubnetError::Unfit(block)) }
    }

    /// `wanted` if it is free; else, if nothing was wanted, the first free one of 172.16.0.0/24, 172.16.1.0/24, …
    /// 172.31.255.0/24, 192.168.0.0/24, … `taken` is what the host has routes to, the default route left out.
    pub fn choose(wanted: Option<Block>, taken: &[Block]) -> Result<Self, SubnetError> {
        let clash = |block: Block| taken.iter().copied().find(|route| route.overlaps(block));
        if let Some(wanted) = wanted {
            return match clash(wanted) {
                Some(by) => Err(SubnetError::Taken { wanted, by }),
                None => Self::new(wanted),
            };
        }
        let of = |first: [u8; 2], count: u32| {
            let start = Ipv4Addr::new(first[0], first[1], 0, 0).to_bits();
            (0..count).map(move |index| Block::around(Ipv4Addr::from_bits(start + (index << 8)), 24))
        };
        let candidates = of([172, 16], 16 << 8).chain(of([192, 168], 1 << 8));
        let mut free = candidates.into_iter().filter(|block| clash(*block).is_none());
        free.next().map(|block| Self { block, six: None }).ok_or(SubnetError::NoneFree)
    }

    /// The first free network of the instance's own IPv6 addresses: fd70:IIII:IIII::/64, fd70:IIII:IIII:1::/64, …
    pub fn choose6(instance: &InstanceId, taken: &[Block<Ipv6Addr>]) -> Result<Block<Ipv6Addr>, SubnetError> {
        let [high, low] = [(instance.bits() >> 16) as u16, instance.bits() as u16];
        let number = |net: u16| Block::around(Ipv6Addr::new(UNIQUE_LOCAL, high, low, net, 0, 0, 0, 0), BITS6);
        let is_free = |block: &Block<Ipv6Addr>| !taken.iter().any(|route| route.overlaps(*block));
        let none = || SubnetError::NoneFree6(Block::around(number(0).first(), 48));
        // A route to all of them is seen at once, and thousands of routes are nobody's.
        (0..=u8::MAX).map(|net| number(net.into())).find(is_free).ok_or_else(none)
    }

    /// The same, with this network of IPv6 addresses beside it.
    pub fn with6(self, six: Block<Ipv6Addr>) -> Self {
        Self { six: Some(six), ..self }
    }

    /// All of its addresses.
    pub fn block(self) -> Block {
        self.block
    }

    /// All of its IPv6 addresses, if it has any.
    pub fn block6(self) -> Option<Block<Ipv6Addr>> {
        self.six
    }

    /// The IPv6 address that goes with an address, the gateway's too: nobody has to remember it.
    pub fn six_of(self, address: Ipv4Addr) -> Option<Ipv6Addr> {
        self.six.map(|six| Ipv6Addr::of(six.first().number() | address.number()))
    }

    /// The host's address on it.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.block.first().to_bits() + 1)
    }

    /// The host's IPv6 address on it.
    pub fn gateway6(self) -> Option<Ipv6Addr> {
        self.six_of(self.gateway())
    }

    /// Whether a guest can have this address.
    pub fn may_give(self, address: Ipv4Addr) -> bool {
        self.gateway() < address && address < self.block.last()
    }

    /// The next address behind `after` that nobody has, beginning again at the first: so one that was just given
    /// back rests as long as the subnet allows. `None` when all are given.
    pub fn free(self, used: &BTreeSet<Ipv4Addr>, after: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        let (first, end) = (self.gateway().to_bits() + 1, self.block.last().to_bits());
        let after = after.filter(|address| self.may_give(*address)).map_or(first, |address| address.to_bits() + 1);
        (after..end).chain(first..after.min(end)).map(Ipv4Addr::from_bits).find(|address| !used.contains(address))
    }
}

/// The hardware address that goes with an address: unique on its bridge, known without asking.
pub fn mac_of(address: Ipv4Addr) -> Mac {
    Mac::of_address(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(text: &str) -> Vec<Block> {
        text.split_whitespace().map(|word| word.parse().unwrap()).collect()
    }

    #[test]
    fn a_free_network_is_chosen() {
        let choose = |taken: &str| Subnet::choose(None, &blocks(taken)).map(|subnet| subnet.block().to_string());
        assert_eq!(choose("").as_deref(), Ok("172.16.0.0/24"));
        assert_eq!(choose("10.0.0.0/8 192.168.1.0/24").as_deref(), Ok("172.16.0.0/24"));
        assert_eq!(choose("172.16.0.7/32").as_deref(), Ok("172.16.1.0/24"));
        assert_eq!(choose("172.16.0.0/23 172.17.0.0/16").as_deref(), Ok("172.16.2.0/24"));
        assert_eq!(choose("172.16.0.0/12").as_deref(), Ok("192.168.0.0/24"));
        assert_eq!(choose("128.0.0.0/1"), Err(SubnetError::NoneFree));
    }

    #[test]
    fn a_wish_is_kept_or_refused() {
        let choose = |wanted: &str, taken: &str| Subnet::choose(wanted.parse().ok(), &blocks(taken));
        assert_eq!(choose("10.7.0.0/20", "10.8.0.0/16").unwrap().gateway(), Ipv4Addr::new(10, 7, 0, 1));
        let said = choose("10.7.0.0/20", "10.0.0.0/8").unwrap_err().to_string();
        assert_eq!(said, "10.7.0.0/20 is taken: the host has a route to 10.0.0.0/8");
        for unfit in ["8.8.8.0/24", "10.0.0.0/8", "10.0.0.0/31", "169.254.0.0/24"] {
            assert_eq!(choose(unfit, ""), Err(SubnetError::Unfit(unfit.parse().unwrap())), "{unfit}");
        }
    }

    #[test]
    fn a_network_of_ipv6_is_the_instances_own() {
        let instance = InstanceId::from_bits(0x0a1b_2c3d);
        let choose = |taken: &str| {
            let taken: Vec<_> = taken.split_whitespace().map(|word| word.parse().unwrap()).collect();
            Subnet::choose6(&instance, &taken).map(|block| block.to_string()).map_err(|error| error.to_string())
        };
        assert_eq!(choose("2000::/3 fe80::/64").as_deref(), Ok("fd70:a1b:2c3d::/64"));
        assert_eq!(choose("fd70:a1b:2c3d::7/128 fd70:a1b:2c3d:1::/64").as_deref(), Ok("fd70:a1b:2c3d:2::/64"));
        let none = "the host has routes to all of fd70:a1b:2c3d::/48, where guests would have their IPv6 addresses";
        assert_eq!(choose("fd00::/8"), Err(none.to_owned()));
        let subnet = Subnet::choose(None, &[]).unwrap();
        assert_eq!(subnet.six_of(subnet.gateway()), None);
        let subnet = subnet.with6(Subnet::choose6(&instance, &[]).unwrap());
        let six = |last| subnet.six_of(Ipv4Addr::new(172, 16, 0, last)).unwrap().to_string();
        assert_eq!([1, 2].map(six), ["fd70:a1b:2c3d::ac10:1", "fd70:a1b:2c3d::ac10:2"]);
    }

    #[test]
    fn addresses_are_given_in_a_ring() {
        let subnet = Subnet::new("10.0.0.0/29".parse().unwrap()).unwrap();
        let mut used = BTreeSet::new();
        let mut last = None;
        let mut given = Vec::new();
        while let Some(address) = subnet.free(&used, last) {
            assert!(subnet.may_give(address));
            used.insert(address);
            last = Some(address);
            given.push(address.octets()[3]);
        }
        assert_eq!(given, [2, 3, 4, 5, 6]);
        used.remove(&Ipv4Addr::new(10, 0, 0, 3));
        assert_eq!(subnet.free(&used, last), Some(Ipv4Addr::new(10, 0, 0, 3)));
        used.clear();
        assert_eq!(subnet.free(&used, Some(Ipv4Addr::new(10, 0, 0, 4))), Some(Ipv4Addr::new(10, 0, 0, 5)));
        assert_eq!(subnet.free(&used, Some(Ipv4Addr::new(10, 0, 0, 6))), Some(Ipv4Addr::new(10, 0, 0, 2)));
    }

    #[test]
    fn the_ends_and_the_gateway_are_not_given() {
        let subnet = Subnet::choose(None, &[]).unwrap();
        let may = |last| subnet.may_give(Ipv4Addr::new(172, 16, 0, last));
        assert_eq!([0, 1, 2, 254, 255].map(may), [false, false, true, true, false]);
        assert_eq!(mac_of(Ipv4Addr::new(172, 16, 0, 2)).to_string(), "52:54:00:10:00:02");
    }
}
