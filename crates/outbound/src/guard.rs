//! Which addresses are called: pure.
//!
//! Sources: IANA's special-purpose address registries (RFC 6890 and what they list since), RFC 6052 for
//! IPv4 inside IPv6.

use crate::OutboundError;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use url::{Host, Url};

/// Longest address that is taken.
const ADDRESS_BYTES_MAX: usize = 2048;

/// A part of the address space: `10.0.0.0/8`, `127.0.0.1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Whether an address lies in it.
    pub fn holds(&self, address: IpAddr) -> bool {
        let shared = |width: u8, differing: u32| u32::from(self.bits).min(u32::from(width)) <= differing;
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => shared(32, (own.to_bits() ^ other.to_bits()).leading_zeros()),
            (IpAddr::V6(own), IpAddr::V6(other)) => shared(128, (own.to_bits() ^ other.to_bits()).leading_zeros()),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let fault = || format!("{text:?} is no network: write 10.0.0.0/8, or one address");
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| fault())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(width), str::parse).map_err(|_| fault())?;
        if bits > width { Err(fault()) } else { Ok(Self { address, bits }) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// Public addresses, and what else was allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Networks that are called though they are private or special.
    pub allowed: Vec<Network>,
}

impl Guard {
    /// Why an address is not called, if it is not.
    pub fn fault(&self, address: IpAddr) -> Option<&'static str> {
        if self.allowed.iter().any(|network| network.holds(address)) {
            return None;
        }
        match address {
            IpAddr::V4(address) => fault_4(address),
            IpAddr::V6(address) => fault_6(address),
        }
    }
}

/// An address that may be called, as far as its text tells.
///
/// # Errors
/// `BadAddress` for another scheme, no host, credentials, or too long a text.
pub fn place(text: &str) -> Result<Url, OutboundError> {
    let bad = |what: &str| OutboundError::BadAddress(what.to_owned());
    if text.len() > ADDRESS_BYTES_MAX {
        return Err(bad("an address has at most 2048 bytes"));
    }
    let url = Url::parse(text).map_err(|fault| OutboundError::BadAddress(format!("it is no address: {fault}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad("an address begins with https:// or http://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("an address holds no user or password: it is written down and shown"));
    }
    match url.host() {
        Some(Host::Domain("")) | None => Err(bad("it names no host")),
        Some(_) => Ok(url),
    }
}

fn fault_4(address: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, d] = address.octets();
    match (a, b, c) {
        (127, ..) => Some("this machine itself"),
        (10, ..) | (172, 16..=31, _) | (192, 168, _) => Some("a private address"),
        (169, 254, _) => Some("a link-local address, where clouds keep their metadata"),
        (100, 64..=127, _) => Some("a shared address of a provider"),
        (168, 63, 129) if d == 16 => Some("a cloud's metadata address"),
        (0, ..) | (192, 0, 0) | (240..=255, ..) => Some("a reserved address"),
        (192, 0, 2) | (198, 51, 100) | (203, 0, 113) | (198, 18..=19, _) => Some("an address for documents and tests"),
        (192, 88, 99) => Some("a relay's address"),
        (224..=239, ..) => Some("a multicast address"),
        _ => None,
    }
}

fn fault_6(address: Ipv6Addr) -> Option<&'static str> {
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("a reserved address"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("this machine itself"),
        // IPv4-mapped, IPv4-compatible, and NAT64's well-known prefix.
        [0, 0, 0, 0, 0, 0xffff | 0, g, h] | [0x64, 0xff9b, 0, 0, 0, 0, g, h] => fault_4(embedded(g, h)),
        [0x2002, b, c, ..] => fault_4(embedded(b, c)).or(Some("a relay's address")),
        [0xfc00..=0xfdff, ..] => Some("a private address"),
        [0xfe80..=0xfebf, ..] => Some("a link-local address"),
        [0xff00..=0xffff, ..] => Some("a multicast address"),
        [0x2001, 0, ..] => Some("a relay's address"),
        [0x2001, 0x0db8, ..] | [0x2001, 2, 0, ..] | [0x3fff, 0..=0x0fff, ..] => {
            Some("an address for documents and tests")
        }
        [0x2000..=0x3fff, ..] => None,
        _ => Some("a reserved address"),
    }
}

#[cfg(test)]
mod tests;
