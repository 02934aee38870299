//! Link speed and duplex, by ethtool's generic netlink.
//!
//! One dump for all interfaces, rarely: each reading of /sys/class/net/*/speed takes the lock that all
//! network configuration takes.

use super::Settings;
use super::background::{Reading, Task};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};
use nix::sys::time::TimeVal;
use perigee_model::frame::Series;
use std::fs::File;
use std::io::{self, Read, Write};
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(60);
const DEADLINE: Duration = Duration::from_secs(10);
const PATIENCE_SECONDS: i64 = 5;
/// Messages of one dump; each holds many interfaces.
const MESSAGES_MAX: usize = 1024;
const LINKS_MAX: usize = 500;

/// linux/netlink.h, linux/genetlink.h, linux/ethtool_netlink.h.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const CONTROL: u16 = 0x10;
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
const NESTED: u16 = 0x8000;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
const LINK_MODES_GET: u8 = 4;
const MODES_HEADER: u16 = 1;
const MODES_SPEED: u16 = 5;
const MODES_DUPLEX: u16 = 6;
const HEADER_NAME: u16 = 2;
const UNKNOWN_SPEED: u32 = u32::MAX;

/// Of this machine only: netlink has no root folder to point elsewhere.
pub fn task(settings: &Settings) -> Option<(&'static str, Task)> {
    if settings.proc_root.as_os_str() != "/proc" {
        return None;
    }
    let ask = Box::new(|| links().map(|links| links.iter().flat_map(readings).collect()).map_err(|e| e.to_string()));
    Some(("links", Task { every: EVERY, first_within: Duration::from_secs(2), deadline: DEADLINE, ask }))
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Link {
    name: String,
    megabits: Option<u32>,
    full_duplex: Option<bool>,
}

fn readings(link: &Link) -> Vec<Reading> {
    let reading = |name: &str, value: f64| Reading { series: Series::gauge(name, 0).with("device", &link.name), value };
    let speed = link.megabits.map(|megabits| reading("node_network_speed_bytes", f64::from(megabits) * 125_000.0));
    let duplex = link.full_duplex.map(|full| reading("perigee_network_full_duplex", if full { 1.0 } else { 0.0 }));
    speed.into_iter().chain(duplex).collect()
}

/// Kernels before 5.6 do not know ethtool's family: no links then.
fn links() -> io::Result<Vec<Link>> {
    let kind = (AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkGeneric);
    let socket = socket(kind.0, kind.1, kind.2, kind.3)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE_SECONDS, 0))?;
    let mut socket = File::from(socket);
    socket.write_all(&request(CONTROL, REQUEST, GET_FAMILY, FAMILY_NAME, b"ethtool\0"))?;
    let mut buffer = vec![0u8; 64 << 10];
    let length = socket.read(&mut buffer)?;
    let Some(family) = family(&buffer[..length]) else { return Ok(Vec::new()) };
    socket.write_all(&request(family, REQUEST | DUMP, LINK_MODES_GET, MODES_HEADER | NESTED, &[]))?;
    let mut links = Vec::new();
    for _ in 0..MESSAGES_MAX {
        let length = socket.read(&mut buffer)?;
        if take_links(&buffer[..length], &mut links) || links.len() >= LINKS_MAX {
            break;
        }
    }
    links.truncate(LINKS_MAX);
    Ok(links)
}

/// A header, a generic header, one attribute.
fn request(kind: u16, flags: u16, command: u8, attribute: u16, value: &[u8]) -> Vec<u8> {
    let attribute_length = u16::try_from(4 + value.len()).unwrap_or(4);
    let length = 20 + usize::from(attribute_length).next_multiple_of(4);
    let mut out = Vec::with_capacity(length);
    out.extend(u32::try_from(length).unwrap_or(0).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend([0; 8]);
    out.extend([command, 1, 0, 0]);
    out.extend(attribute_length.to_ne_bytes());
    out.extend(attribute.to_ne_bytes());
    out.extend(value);
    out.resize(length, 0);
    out
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The netlink messages of one datagram: kind and what follows the header.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let message = (u16_at(bytes, 4)?, bytes.get(16..length)?);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(message)
    })
}

/// Attributes: kind without its flags, and value.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let attribute = (u16_at(bytes, 2)? & 0x3fff, bytes.get(4..length)?);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(attribute)
    })
}

fn family(datagram: &[u8]) -> Option<u16> {
    let (kind, body) = messages(datagram).next()?;
    let mut found = attributes(body.get(4..)?).filter(|_| kind == CONTROL);
    found.find(|(attribute, _)| *attribute == FAMILY_ID).and_then(|(_, value)| u16_at(value, 0))
}

/// Adds the links of one datagram; says whether it was the last.
fn take_links(datagram: &[u8], links: &mut Vec<Link>) -> bool {
    let mut any = false;
    for (kind, body) in messages(datagram) {
        any = true;
        if kind == DONE || kind == ERROR {
            return true;
        }
        let mut link = Link::default();
        for (attribute, value) in attributes(body.get(4..).unwrap_or(&[])) {
            match attribute {
                MODES_HEADER => {
                    let name = attributes(value).find(|(kind, _)| *kind == HEADER_NAME);
                    link.name = name.map(|(_, name)| crate::scan::lossy(name.trim_ascii())).unwrap_or_default();
                    link.name.truncate(link.name.trim_end_matches('\0').len());
                }
                // Down and virtual links say -1 or nothing.
                MODES_SPEED => link.megabits = u32_at(value, 0).filter(|speed| *speed != UNKNOWN_SPEED && *speed > 0),
                MODES_DUPLEX => link.full_duplex = value.first().filter(|duplex| **duplex < 2).map(|d| *d == 1),
                _ => {}
            }
        }
        if !link.name.is_empty() {
            links.push(link);
        }
    }
    !any
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut out = u16::try_from(4 + value.len()).unwrap().to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend(value);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut out = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend([0; 10]);
        out.extend(body);
        out
    }

    fn modes(name: &str, speed: u32, duplex: u8) -> Vec<u8> {
        let mut body = vec![LINK_MODES_GET, 1, 0, 0];
        let name = attribute(HEADER_NAME, format!("{name}\0").as_bytes());
        body.extend(attribute(MODES_HEADER | NESTED, &name));
        body.extend(attribute(MODES_SPEED, &speed.to_ne_bytes()));
        body.extend(attribute(MODES_DUPLEX, &[duplex]));
        message(30, &body)
    }

    #[test]
    fn a_dump_is_read_to_its_end() {
        let mut datagram = modes("eth0", 2500, 1);
        datagram.extend(modes("wifi", UNKNOWN_SPEED, 255));
        let mut links = Vec::new();
        assert!(!take_links(&datagram, &mut links));
        assert!(take_links(&message(DONE, &[0; 4]), &mut links));
        let eth0 = Link { name: "eth0".to_owned(), megabits: Some(2500), full_duplex: Some(true) };
        assert_eq!(links, [eth0.clone(), Link { name: "wifi".to_owned(), ..Link::default() }]);
        let values: Vec<f64> = readings(&eth0).into_iter().map(|reading| reading.value).collect();
        assert_eq!(values, [312_500_000.0, 1.0]);
    }

    #[test]
    fn this_kernel_answers() {
        // In a network of this thread's own: an end of a cable that both ends are of, which veth.c says is of 10 Gb/s.
        let links = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("this test runs as root");
            let mut command = std::process::Command::new("ip");
            command.args(["link", "add", "near", "type", "veth", "peer", "name", "far"]);
            assert!(command.status().unwrap().success());
            links().unwrap()
        });
        let mut links = links.join().unwrap();
        links.sort_by(|a, b| a.name.cmp(&b.name));
        let link = |name: &str| Link { name: name.to_owned(), megabits: Some(10_000), full_duplex: Some(true) };
        assert_eq!(links, ["far", "near"].map(link), "lo has no speed, and is not in the dump");
    }

    proptest! {
        #[test]
        fn broken_messages_are_no_panic(at in 0usize..200, byte: u8, cut in 0usize..200) {
            let mut datagram = modes("eth0", 1000, 1);
            let length = datagram.len();
            datagram[at % length] = byte;
            datagram.truncate(cut);
            let mut links = Vec::new();
            let _ = (take_links(&datagram, &mut links), family(&datagram));
            prop_assert!(links.len() <= 50);
        }
    }
}
