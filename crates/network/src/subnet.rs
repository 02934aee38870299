//! The network that an instance's guests are on: which one, and who has which address of it.

use perigee_model::Mac;
use perigee_model::egress::{Block, PRIVATE};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// Smallest and largest subnet: one guest at least, and a bridge has 1,023 ports at most.
const BITS: std::ops::RangeInclusive<u8> = 16..=30;

/// A private network whose first address is the host's (the gateway, and where names are answered).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subnet(Block);

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
}

impl Subnet {
    /// One that somebody chose; a part of a private network.
    pub fn new(block: Block) -> Result<Self, SubnetError> {
        let fits = BITS.contains(&block.bits()) && PRIVATE.iter().any(|private| private.covers(block));
        if fits { Ok(Self(block)) } else { Err(SubnetError::Unfit(block)) }
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
        candidates.into_iter().find(|block| clash(*block).is_none()).map(Self).ok_or(SubnetError::NoneFree)
    }

    /// All of its addresses.
    pub fn block(self) -> Block {
        self.0
    }

    /// The host's address on it.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.0.first().to_bits() + 1)
    }

    /// Whether a guest can have this address.
    pub fn may_give(self, address: Ipv4Addr) -> bool {
        self.gateway() < address && address < self.0.last()
    }

    /// The next address behind `after` that nobody has, beginning again at the first: so one that was just given
    /// back rests as long as the subnet allows. `None` when all are given.
    pub fn free(self, used: &BTreeSet<Ipv4Addr>, after: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        let (first, end) = (self.gateway().to_bits() + 1, self.0.last().to_bits());
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
