//! Blocks of addresses of either family, and which of them are not the public internet.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A family of addresses, by its addresses: a policy is for one of them, so that no place of another can be in it.
pub trait Family: Copy + Ord + Eq + fmt::Debug + fmt::Display + FromStr + std::hash::Hash + 'static {
    /// How many bits an address has.
    const BITS: u8;
    /// The field that a policy of this family is asked for in.
    const FIELD: &'static str;
    /// A block, as people write it.
    const SAMPLE: &'static str;
    /// Somebody's own networks: closed unless a policy names a part of one.
    const PRIVATE: &'static [Block<Self>];
    /// Closed to every policy.
    const NEVER: &'static [Block<Self>];
    /// As a number.
    fn number(self) -> u128;
    /// Of a number's lowest bits.
    fn of(number: u128) -> Self;
    /// A place and its ports as a user writes them, apart.
    fn apart(text: &str) -> (&str, Option<&str>);
}

impl Family for Ipv4Addr {
    const BITS: u8 = 32;
    const FIELD: &'static str = "egress";
    const SAMPLE: &'static str = "192.0.2.0/24";
    const PRIVATE: &'static [Block] = &PRIVATE;
    const NEVER: &'static [Block] = &NEVER;
    fn number(self) -> u128 {
        self.to_bits().into()
    }
    fn of(number: u128) -> Self {
        Self::from_bits(number as u32)
    }
    fn apart(text: &str) -> (&str, Option<&str>) {
        text.split_once(':').map_or((text, None), |(place, ports)| (place, Some(ports)))
    }
}

impl Family for Ipv6Addr {
    const BITS: u8 = 128;
    const FIELD: &'static str = "egress6";
    const SAMPLE: &'static str = "2001:db8::/32";
    const PRIVATE: &'static [Block<Self>] = &PRIVATE6;
    const NEVER: &'static [Block<Self>] = &NEVER6;
    fn number(self) -> u128 {
        self.to_bits()
    }
    fn of(number: u128) -> Self {
        Self::from_bits(number)
    }
    /// An address has colons of its own: ports stand behind its prefix, or behind brackets.
    fn apart(text: &str) -> (&str, Option<&str>) {
        let (place, rest) = match (text.strip_prefix('[').and_then(|text| text.split_once(']')), text.split_once('/')) {
            (Some((place, rest)), _) => (place, rest),
            (None, Some((address, behind))) if address.parse::<Self>().is_ok() => {
                let bits = behind.find(|c: char| !c.is_ascii_digit()).unwrap_or(behind.len());
                text.split_at(address.len() + 1 + bits)
            }
            (None, _) if text.parse::<Self>().is_ok() => (text, ""),
            (None, _) => return text.split_once(':').map_or((text, None), |(place, ports)| (place, Some(ports))),
        };
        match rest.strip_prefix(':') {
            Some(ports) => (place, Some(ports)),
            // Whatever else stands there makes it no place.
            None => (if rest.is_empty() { place } else { text }, None),
        }
    }
}

/// A block of addresses (CIDR); the bits behind the prefix are zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String", bound = "A: Family")]
pub struct Block<A = Ipv4Addr> {
    first: A,
    bits: u8,
}

/// A text that is no block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a block of addresses is written as 192.0.2.0/24 or 2001:db8::/32, with zeros behind the prefix")]
pub struct BlockError;

impl<A: Family> Block<A> {
    /// The block that begins with this address; `None` if it has bits behind the prefix, or more than there are.
    pub fn new(first: A, bits: u8) -> Option<Self> {
        (bits <= A::BITS).then(|| Self::around(first, bits)).filter(|block| block.first == first)
    }

    /// The block of this size that the address lies in; more bits than there are count as all.
    pub fn around(address: A, bits: u8) -> Self {
        let bits = bits.min(A::BITS);
        Self { first: A::of(address.number() & Self::mask(bits)), bits }
    }

    /// The bits of the prefix.
    fn mask(bits: u8) -> u128 {
        let behind = A::BITS - bits;
        u128::MAX.checked_shl(behind.into()).unwrap_or(0)
    }

    /// Its first address.
    pub fn first(self) -> A {
        self.first
    }

    /// Its last address.
    pub fn last(self) -> A {
        A::of(self.first.number() | !Self::mask(self.bits))
    }

    /// Length of the prefix.
    pub fn bits(self) -> u8 {
        self.bits
    }

    /// Whether the address lies in it.
    pub fn holds(self, address: A) -> bool {
        address.number() & Self::mask(self.bits) == self.first.number()
    }

    /// Whether all of the other lies in it.
    pub fn covers(self, other: Self) -> bool {
        self.bits <= other.bits && self.holds(other.first())
    }

    /// Whether they share an address.
    pub fn overlaps(self, other: Self) -> bool {
        self.covers(other) || other.covers(self)
    }
}

impl<A: Family> fmt::Display for Block<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

impl<A: Family> From<Block<A>> for String {
    fn from(block: Block<A>) -> Self {
        block.to_string()
    }
}

impl<A: Family> TryFrom<String> for Block<A> {
    type Error = BlockError;
    fn try_from(text: String) -> Result<Self, BlockError> {
        text.parse()
    }
}

impl<A: Family> FromStr for Block<A> {
    type Err = BlockError;
    /// `a.b.c.d/n` or `a:b::/n`, or one address.
    fn from_str(text: &str) -> Result<Self, BlockError> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => {
                let plain = (1..=3).contains(&bits.len()) && bits.bytes().all(|b| b.is_ascii_digit());
                (address, bits.parse().ok().filter(|_| plain).ok_or(BlockError)?)
            }
            None => (text, A::BITS),
        };
        Self::new(address.parse().map_err(|_| BlockError)?, bits).ok_or(BlockError)
    }
}

const fn block(a: u8, b: u8, c: u8, bits: u8) -> Block {
    Block { first: Ipv4Addr::new(a, b, c, 0), bits }
}

const fn block6(words: [u16; 3], bits: u8) -> Block<Ipv6Addr> {
    Block { first: Ipv6Addr::new(words[0], words[1], words[2], 0, 0, 0, 0, 0), bits }
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

/// Somebody's own networks: closed unless a policy names a part of one (RFC 4193).
pub const PRIVATE6: [Block<Ipv6Addr>; 1] = [block6([0xfc00, 0, 0], 7)];

/// Closed to every policy: what IANA gave to nobody to be reached at, that is all but 2000::/3 and private networks
/// (this host, IPv4 addresses in IPv6's clothes, NAT64, discarded, link-local, multicast); of those what leads to
/// IPv4 past its own policy (Teredo, 6to4), documentation, and the metadata of clouds.
pub const NEVER6: [Block<Ipv6Addr>; 15] = [
    block6([0, 0, 0], 3),
    block6([0x2001, 0, 0], 23),
    block6([0x2001, 0xdb8, 0], 32),
    block6([0x2002, 0, 0], 16),
    block6([0x3fff, 0, 0], 20),
    block6([0x4000, 0, 0], 2),
    block6([0x8000, 0, 0], 2),
    block6([0xc000, 0, 0], 3),
    block6([0xe000, 0, 0], 4),
    block6([0xf000, 0, 0], 5),
    block6([0xf800, 0, 0], 6),
    block6([0xfd00, 0xc1, 0], 48),
    block6([0xfd00, 0xec2, 0], 48),
    block6([0xfd20, 0xce, 0], 48),
    block6([0xfe00, 0, 0], 7),
];

/// Whether an address is of the public internet.
pub fn is_public<A: Family>(address: A) -> bool {
    !A::PRIVATE.iter().chain(A::NEVER).any(|block| block.holds(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(text: &str) -> Block {
        text.parse().unwrap()
    }

    fn block6(text: &str) -> Block<Ipv6Addr> {
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
        for text in ["::/0", "2001:db8::/32", "fd00:ec2::254/128", "8000::/1"] {
            assert_eq!(block6(text).to_string(), text);
        }
        assert_eq!(block6("2606:4700::1111").to_string(), "2606:4700::1111/128");
        for bad in ["2001:db8::1/32", "::/129", "::/+1", "::/", "10.0.0.0/8", "fe80::1%eth0", "::/0; drop", "[::]/0"] {
            assert_eq!(bad.parse::<Block<Ipv6Addr>>(), Err(BlockError), "{bad}");
        }
    }

    #[test]
    fn a_place_stands_apart_from_its_ports() {
        let apart = |text: &str| {
            let (place, ports) = Ipv6Addr::apart(text);
            format!("{place} {}", ports.unwrap_or("-"))
        };
        for (text, expected) in [
            ("2001:db8::/32", "2001:db8::/32 -"),
            ("2001:db8::/32:443", "2001:db8::/32 443"),
            ("2001:db8::/32:udp/53,853", "2001:db8::/32 udp/53,853"),
            ("2606:4700::1111", "2606:4700::1111 -"),
            ("[2606:4700::1111]:443", "2606:4700::1111 443"),
            ("[2001:db8::/32]:1-2", "2001:db8::/32 1-2"),
            ("[2606:4700::1111]443", "[2606:4700::1111]443 -"),
            ("2001:db8::/32 443", "2001:db8::/32 443 -"),
            ("example.com:udp/53", "example.com udp/53"),
            ("example.com", "example.com -"),
        ] {
            assert_eq!(apart(text), expected);
        }
    }

    #[test]
    fn constants_have_no_bits_behind_their_prefix() {
        for constant in PRIVATE.iter().chain(&NEVER) {
            assert_eq!(Block::new(constant.first(), constant.bits()), Some(*constant), "{constant}");
        }
        for constant in PRIVATE6.iter().chain(&NEVER6) {
            assert_eq!(Block::new(constant.first(), constant.bits()), Some(*constant), "{constant}");
        }
    }

    #[test]
    fn the_public_internet_of_ipv6_is_what_was_given_out_for_it() {
        for public in ["2606:4700::1111", "2001:200::1", "2001:4860:4860::8888", "2400::", "3ffe:ffff::", "2003::"] {
            assert!(is_public::<Ipv6Addr>(public.parse().unwrap()), "{public}");
        }
        let closed = "::1 :: ::ffff:10.0.0.1 ::ffff:8.8.8.8 ::a00:1 64:ff9b::a00:1 64:ff9b::808:808 64:ff9b:1::1 100::1 \
                      5f00::1 2001::1 2001:2::1 2001:20::1 2001:db8::1 2002:a00:1::1 3fff::1 4000:: bfff:: c000:: \
                      fc00::1 fd00:ec2::254 fd00:c1::a9fe:a9fe fd20:ce::254 fdff:: fe80::1 fec0::1 ff02::1 ffff::";
        for closed in closed.split_whitespace() {
            assert!(!is_public::<Ipv6Addr>(closed.parse().unwrap()), "{closed}");
        }
    }

    #[test]
    fn the_public_internet_ends_where_it_should() {
        for public in ["1.1.1.1", "9.255.255.255", "11.0.0.0", "172.15.255.255", "172.32.0.0", "223.255.255.255"] {
            assert!(is_public::<Ipv4Addr>(public.parse().unwrap()), "{public}");
        }
        for closed in ["10.0.0.0", "127.0.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255", "100.100.100.200"] {
            assert!(!is_public::<Ipv4Addr>(closed.parse().unwrap()), "{closed}");
        }
        for closed in ["0.0.0.0", "192.168.1.1", "224.0.0.251", "255.255.255.255"] {
            assert!(!is_public::<Ipv4Addr>(closed.parse().unwrap()), "{closed}");
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
        fn a_block_of_ipv6_holds_what_is_between_its_ends(a: u128, bits in 0u8..=128, b: u128) {
            let block = Block::around(Ipv6Addr::from_bits(a), bits);
            let other = Ipv6Addr::from_bits(b);
            prop_assert_eq!(block.holds(other), (block.first()..=block.last()).contains(&other));
            prop_assert!(block.holds(Ipv6Addr::from_bits(a)));
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
