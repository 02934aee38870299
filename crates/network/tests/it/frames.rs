//! Ethernet frames, byte by byte.

use std::net::Ipv4Addr;

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

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
