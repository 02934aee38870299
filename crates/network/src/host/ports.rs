//! Which ports programs of this host are reached at (Linux, networking/proc_net_tcp.rst).

use perigee_model::egress::{Block, Protocol};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Of the network namespace of the calling thread: ports that programs listen at, on an address that a forward
/// would take from them. Those of the loopback device and of `own`, the guests' network, are not touched by any.
pub(super) fn listening(own: Block) -> io::Result<BTreeSet<(Protocol, u16)>> {
    let mut found = BTreeSet::new();
    for (file, protocol) in
        [("tcp", Protocol::Tcp), ("tcp6", Protocol::Tcp), ("udp", Protocol::Udp), ("udp6", Protocol::Udp)]
    {
        match std::fs::read_to_string(format!("/proc/thread-self/net/{file}")) {
            Ok(table) => found.extend(ports(&table, protocol, own).map(|port| (protocol, port))),
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound && file.ends_with('6') => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn ports(table: &str, protocol: Protocol, own: Block) -> impl Iterator<Item = u16> {
    // A listening socket, and one of UDP that is connected to nobody.
    let open = match protocol {
        Protocol::Tcp => "0A",
        Protocol::Udp => "07",
    };
    let port = move |line: &str| -> Option<u16> {
        let mut words = line.split_whitespace().skip(1);
        let (address, port) = words.next()?.split_once(':')?;
        let is_open = words.nth(1)? == open;
        let address = address_of(address)?;
        (is_open && !address.is_loopback() && !own.covers(Block::around(address, 32)))
            .then(|| u16::from_str_radix(port, 16).ok())?
    };
    table.lines().skip(1).filter_map(port)
}

/// As IPv4 sees it; `None` for an address that only IPv6 reaches. Words are in the byte order of the machine.
fn address_of(hex: &str) -> Option<Ipv4Addr> {
    let bytes = hex.as_bytes().chunks(8).map(|word| {
        let word = std::str::from_utf8(word).ok()?;
        Some(u32::from_str_radix(word, 16).ok()?.to_ne_bytes())
    });
    let words: Vec<[u8; 4]> = bytes.collect::<Option<_>>()?;
    let address = match words.as_slice() {
        [word] => IpAddr::from(*word),
        [_, _, _, _] => IpAddr::from(<[u8; 16]>::try_from(words.concat()).ok()?),
        _ => return None,
    };
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Some(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(address) => address.to_ipv4_mapped(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn who_listens_is_read_from_the_kernels_tables() {
        let own = Block::around(Ipv4Addr::new(172, 16, 0, 1), 24);
        let line = |address: &str, state: &str| {
            format!("   0: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0 0 1 1 0 100\n")
        };
        let check = |address: &str, state: &str, protocol: Protocol, expected: &[u16]| {
            let table = format!("  sl  local_address rem_address   st\n{}", line(address, state));
            assert_eq!(ports(&table, protocol, own).collect::<Vec<_>>(), expected, "{address} {state}");
        };
        check("00000000:1F90", "0A", Protocol::Tcp, &[8080]);
        check("22D8B85D:0050", "0A", Protocol::Tcp, &[80]);
        check("00000000:1F90", "01", Protocol::Tcp, &[]);
        check("0100007F:1F90", "0A", Protocol::Tcp, &[]);
        check("010010AC:0035", "07", Protocol::Udp, &[]);
        check("00000000:0035", "07", Protocol::Udp, &[53]);
        check("00000000000000000000000000000000:0016", "0A", Protocol::Tcp, &[22]);
        check("00000000000000000000000001000000:0016", "0A", Protocol::Tcp, &[]);
        check("0000000000000000FFFF00000100007F:0016", "0A", Protocol::Tcp, &[]);
        check("0000000000000000FFFF000022D8B85D:0016", "0A", Protocol::Tcp, &[22]);
        check("nonsense", "0A", Protocol::Tcp, &[]);
    }
}
