//! Blocks of IPv4 addresses, and which of them are not the public internet.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A block of IPv4 addresses (CIDR); the bits behind the prefix are zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Block {
    first: u32,
    bits: u8,
}

/// A text that is no block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a block of addresses is written as 192.0.2.0/24, with zeros behind the prefix")]
pub struct BlockError;

impl Block {
    /// Every address.
    pub const ALL: Self = Self { first: 0, bits: 0 };

    /// The block that begins with this address; `None` if it has bits behind the prefix, or more than 32 of it.
    pub const fn new(first: Ipv4Addr, bits: u8) -> Option<Self> {
        if bits > 32 {
            return None;
        }
        let block = Self { first: first.to_bits(), bits };
        if block.first & !block.mask() == 0 { Some(block) } else { None }
    }

    /// The block of this size that the address lies in; `bits` beyond 32 count as 32.
    pub const fn around(address: Ipv4Addr, bits: u8) -> Self {
        let bits = if bits > 32 { 32 } else { bits };
        let block = Self { first: 0, bits };
        Self { first: address.to_bits() & block.mask(), bits }
    }

    const fn mask(self) -> u32 {
        if self.bits == 0 { 0 } else { u32::MAX << (32 - self.bits) }
    }

    /// Its first address.
    pub const fn first(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first)
    }

    /// Its last address.
    pub const fn last(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first | !self.mask())
    }

    /// Length of the prefix, 0 to 32.
    pub const fn bits(self) -> u8 {
        self.bits
    }

    /// Whether the address lies in it.
    pub const fn holds(self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask() == self.first
    }

    /// Whether all of the other lies in it.
    pub const fn covers(self, other: Self) -> bool {
        self.bits <= other.bits && self.holds(other.first())
    }

    /// Whether they share an address.
    pub const fn overlaps(self, other: Self) -> bool {
        self.covers(other) || other.covers(self)
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first(), self.bits)
    }
}

impl From<Block> for String {
    fn from(block: Block) -> Self {
        block.to_string()
    }
}

impl TryFrom<String> for Block {
    type Error = BlockError;
    fn try_from(text: String) -> Result<Self, BlockError> {
        text.parse()
    }
}

impl FromStr for Block {
    type Err = BlockError;
    /// `a.b.c.d/n`, or one address.
    fn from_str(text: &str) -> Result<Self, BlockError> {
        let (address, bits) = text.split_once('/').unwrap_or((text, "32"));
        let plain = !bits.is_empty() && bits.len() <= 2 && bits.bytes().all(|b| b.is_ascii_digit());
        let bits = bits.parse().ok().filter(|_| plain).ok_or(BlockError)?;
        Self::new(address.parse().map_err(|_| BlockError)?, bits).ok_or(BlockError)
    }
}

const fn block(a: u8, b: u8, c: u8, bits: u8) -> Block {
    Block { first: Ipv4Addr::new(a, b, c, 0).to_bits(), bits }
}

/// Somebody's own networks: closed unless a policy names a part of one (RFC 1918, RFC 6598).
pub const PRIVATE: [Block; 4] =
    [block(10, 0, 0, 8), block(100, 64, 0, 10), block(172, 16, 0, 12), block(192, 168, 0, 16)];

/// Closed to every policy: this host, clouds' metadata, tests, multicast, reserved (IANA, IPv4 Special-Purpose
/// Address Registry).
pub const NEVER: [Block; 10] = [
    block(0, 0, 0, 8),
    block(127, 0, 0, 8),
    block(169, 254, 0, 16),
    block(192, 0, 0, 24),
    block(192, 0, 2, 24),
    block(198, 18, 0, 15),
    block(198, 51, 100, 24),
    block(203, 0, 113, 24),
    block(224, 0, 0, 4),
    block(240, 0, 0, 4),
];

/// Whether an address is of the public internet.
pub fn is_public(address: Ipv4Addr) -> bool {
    !PRIVATE.iter().chain(&NEVER).any(|block| block.holds(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(text: &str) -> Block {
        text.parse().unwrap()
    }

    #[test]
    fn blocks_are_read_as_they_are_written() {
        for text in ["0.0.0.0/0", "10.0.0.0/8", "172.16.0.0/24", "1.2.3.4/32", "128.0.0.0/1"] {
            assert_eq!(block(text).to_string(), text);
        }
        assert_eq!(block("1.2.3.4").to_string(), "1.2.3.4/32");
        for bad in ["", "1.2.3", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0.0/", "::/0", "10.0.0.0/8; drop"] {
            assert_eq!(bad.parse::<Block>(), Err(BlockError), "{bad}");
        }
    }

    #[test]
    fn constants_have_no_bits_behind_their_prefix() {
        for constant in PRIVATE.iter().chain(&NEVER) {
            assert_eq!(Block::new(constant.first(), constant.bits()), Some(*constant), "{constant}");
        }
    }

    #[test]
    fn the_public_internet_ends_where_it_should() {
        for public in ["1.1.1.1", "9.255.255.255", "11.0.0.0", "172.15.255.255", "172.32.0.0", "223.255.255.255"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for closed in ["10.0.0.0", "127.0.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255", "100.100.100.200"] {
            assert!(!is_public(closed.parse().unwrap()), "{closed}");
        }
        for closed in ["0.0.0.0", "192.168.1.1", "224.0.0.251", "255.255.255.255"] {
            assert!(!is_public(closed.parse().unwrap()), "{closed}");
        }
    }

    proptest! {
        #[test]
        fn a_block_holds_what_is_between_its_ends(a: u32, bits in 0u8..=32, b: u32) {
            let block = Block::around(Ipv4Addr::from_bits(a), bits);
            let other = Ipv4Addr::from_bits(b);
            prop_assert_eq!(block.holds(other), (block.first()..=block.last()).contains(&other));
            prop_assert!(block.holds(Ipv4Addr::from_bits(a)));
            prop_assert_eq!(block.to_string().parse(), Ok(block));
        }

        #[test]
        fn blocks_overlap_as_ranges_do(a: u32, n in 0u8..=32, b: u32, m in 0u8..=32) {
            let (a, b) = (Block::around(Ipv4Addr::from_bits(a), n), Block::around(Ipv4Addr::from_bits(b & a), m));
            prop_assert_eq!(a.overlaps(b), a.first() <= b.last() && b.first() <= a.last());
            prop_assert_eq!(a.covers(b), a.first() <= b.first() && b.last() <= a.last());
        }
    }
}
