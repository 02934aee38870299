//! Ethernet frames, byte by byte.

use std::net::{Ipv4Addr, Ipv6Addr};

pub type MacBytes = [u8; 6];
pub const BROADCAST: MacBytes = [0xff; 6];

pub fn mac(address: Ipv4Addr) -> MacBytes {
    let [_, b, c, d] = address.octets();
    [0x52, 0x54, 0, b, c, d]
}

pub fn ethernet(to: MacBytes, from: MacBytes, kind: u16, body: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), body].concat()
}

pub struct Arp {
    pub operation: u16,
    pub from: (MacBytes, Ipv4Addr),
    pub to: (MacBytes, Ipv4Addr),
}

impl Arp {
    pub fn body(&self) -> Vec<u8> {
        let head = [0, 1, 8, 0, 6, 4];
        let operation = self.operation.to_be_bytes();
        let (from, to) = (self.from.1.octets(), self.to.1.octets());
        [&head[..], &operation, &self.from.0, &from, &self.to.0, &to].concat()
    }
}

/// A packet (RFC 791) without options.
pub fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, body: &[u8]) -> Vec<u8> {
    let length = (20 + body.len()) as u16;
    let mut head = [&[0x45, 0][..], &length.to_be_bytes(), &[0, 0, 0x40, 0, 64, protocol, 0, 0]].concat();
    head.extend(from.octets());
    head.extend(to.octets());
    let sum = checksum(&head);
    head[10..12].copy_from_slice(&sum.to_be_bytes());
    [head, body.to_vec()].concat()
}

/// A datagram without a checksum (RFC 768 lets it be 0).
pub fn udp(from: u16, to: u16, text: &[u8]) -> Vec<u8> {
    let length = (8 + text.len()) as u16;
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &length.to_be_bytes(), &[0, 0], text].concat()
}

/// An echo request (RFC 792).
pub fn ping(text: &[u8]) -> Vec<u8> {
    let mut body = [&[8, 0, 0, 0, 0, 1, 0, 1][..], text].concat();
    let sum = checksum(&body);
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    body
}

/// A packet (RFC 8200) without extensions.
pub fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    [&[0x60, 0, 0, 0][..], &length, &[next, 255], &from.octets(), &to.octets(), body].concat()
}

/// With the checksum that IPv6 wants, at this place of the body.
fn summed(from: Ipv6Addr, to: Ipv6Addr, next: u8, mut body: Vec<u8>, at: usize) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    let sum = checksum(&[&from.octets()[..], &to.octets(), &length, &[0, 0, 0, next], &body].concat());
    body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    ipv6(from, to, next, &body)
}

/// A packet with a datagram.
pub fn udp6(from: (Ipv6Addr, u16), to: (Ipv6Addr, u16), text: &[u8]) -> Vec<u8> {
    summed(from.0, to.0, 17, udp(from.1, to.1, text), 6)
}

/// A packet of ICMPv6 (RFC 4443).
pub fn icmp6(from: Ipv6Addr, to: Ipv6Addr, kind: u8, rest: &[u8]) -> Vec<u8> {
    summed(from, to, 58, [&[kind, 0, 0, 0], rest].concat(), 2)
}

/// What a solicitation or an announcement of a neighbour (RFC 4861) says: of whom, with one option.
pub fn neighbour(flags: u8, target: Ipv6Addr, option: u8, mac: MacBytes) -> Vec<u8> {
    [&[flags, 0, 0, 0][..], &target.octets(), &[option, 1], &mac].concat()
}

/// Who is asked for an address (RFC 4291), and at which card.
pub fn solicited(target: Ipv6Addr) -> (MacBytes, Ipv6Addr) {
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    ([0x33, 0x33, 0xff, a, b, c], group)
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
