//! Round trips to configured targets: a TCP connect, or an ICMP echo.

use super::background::{Reading, Task};
use super::{Monotonic, Settings};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use perigee_model::frame::Series;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(10);
/// A target that takes longer is not reachable.
const PATIENCE: Duration = Duration::from_secs(1);
/// Answers to other programs' pings that are read past, on a socket that sees them all.
const FOREIGN_MAX: usize = 1000;
const ECHO_BYTES: usize = 24;

/// How a target is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// An echo; the port of the address has no meaning.
    Icmp,
    /// A connection that is closed at once.
    Tcp,
}

/// Whose latency is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its `target` label.
    pub name: String,
    /// Names are resolved by the caller: a resolver that hangs must not hang here.
    pub address: SocketAddr,
    /// TCP or ICMP.
    pub protocol: Protocol,
}

/// One thread asks all targets in turn.
pub fn task(settings: &Settings) -> Option<(&'static str, Task)> {
    let targets: Vec<Target> = settings.targets.iter().take(Settings::TARGETS_MAX).cloned().collect();
    if targets.is_empty() {
        return None;
    }
    let clock = Arc::clone(&settings.clock);
    let mut sequence = 0u16;
    let seed = settings.seed;
    let ask = move || {
        sequence = sequence.wrapping_add(1);
        Ok(targets.iter().flat_map(|target| measure(target, seed, sequence, &clock)).collect())
    };
    let deadline = EVERY + PATIENCE * u32::try_from(Settings::TARGETS_MAX).unwrap_or(u32::MAX);
    Some(("latency", Task { every: EVERY, first_within: Duration::from_secs(1), deadline, ask: Box::new(ask) }))
}

fn measure(target: &Target, seed: u64, sequence: u16, clock: &Monotonic) -> Vec<Reading> {
    let began = clock();
    let outcome = match target.protocol {
        Protocol::Tcp => TcpStream::connect_timeout(&target.address, PATIENCE).map(drop),
        Protocol::Icmp => echo(target.address.ip(), seed, sequence, clock),
    };
    let took = clock().saturating_sub(began);
    let protocol = if target.protocol == Protocol::Tcp { "tcp" } else { "icmp" };
    let series =
        |name: &str, digits| Series::gauge(name, digits).with("target", &target.name).with("protocol", protocol);
    let reachable = if outcome.is_ok() { 1.0 } else { 0.0 };
    let mut readings = vec![Reading { series: series("perigee_latency_reachable", 0), value: reachable }];
    if outcome.is_ok() {
        readings.push(Reading { series: series("perigee_latency_seconds", 6), value: took.as_secs_f64() });
    }
    readings
}

/// An ICMP socket: the unprivileged kind where the kernel lets us (`ping_group_range`), else the raw one.
/// std's UDP socket sends and receives on it as on any other.
fn open(to: IpAddr) -> io::Result<UdpSocket> {
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let open = |kind| socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol);
    let opened = match open(SockType::Datagram) {
        Err(Errno::EACCES | Errno::EPERM) => open(SockType::Raw),
        other => other,
    };
    Ok(UdpSocket::from(opened?))
}

fn echo(to: IpAddr, seed: u64, sequence: u16, clock: &Monotonic) -> io::Result<()> {
    let socket = open(to)?;
    socket.connect(SocketAddr::new(to, 0))?;
    let began = clock();
    let request = request(to.is_ipv6(), seed, sequence);
    socket.send(&request)?;
    let mut packet = [0u8; 256];
    for _ in 0..FOREIGN_MAX {
        let left = PATIENCE.checked_sub(clock().saturating_sub(began)).filter(|left| !left.is_zero());
        socket.set_read_timeout(Some(left.ok_or(io::ErrorKind::TimedOut)?))?;
        let length = socket.recv(&mut packet)?;
        if is_answer(&packet[..length], &request, to.is_ipv6()) {
            return Ok(());
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// RFC 792 and 4443: type, code, checksum, identifier, sequence, payload.
fn request(v6: bool, seed: u64, sequence: u16) -> [u8; ECHO_BYTES] {
    let mut packet = [0u8; ECHO_BYTES];
    packet[0] = if v6 { 128 } else { 8 };
    packet[4..6].copy_from_slice(&u16::try_from(seed & 0xffff).unwrap_or(0).to_be_bytes());
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    packet[8..16].copy_from_slice(b"perigee\0");
    packet[16..24].copy_from_slice(&seed.to_be_bytes());
    if !v6 {
        // Of ICMPv6 the kernel writes it, for it covers addresses that we do not know.
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// RFC 1071.
fn checksum(packet: &[u8]) -> u16 {
    let words = packet.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// Sequence and payload are compared; the identifier is not, the kernel may have put its own there.
fn is_answer(packet: &[u8], request: &[u8; ECHO_BYTES], v6: bool) -> bool {
    // A raw IPv4 socket gives the IP header too.
    let header = match packet.first() {
        Some(first) if !v6 && first >> 4 == 4 => usize::from(first & 15) * 4,
        _ => 0,
    };
    let Some(packet) = packet.get(header..) else { return false };
    packet.first() == Some(&(if v6 { 129 } else { 0 })) && packet.get(6..ECHO_BYTES) == Some(&request[6..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn clock() -> Monotonic {
        let start = Instant::now();
        Arc::new(move || start.elapsed())
    }

    fn value(readings: &[Reading], name: &str) -> Option<f64> {
        readings.iter().find(|reading| reading.series.name == name).map(|reading| reading.value)
    }

    #[test]
    fn a_port_that_listens_is_reachable_and_a_closed_one_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let target = Target { name: "self".to_owned(), address, protocol: Protocol::Tcp };
        let readings = measure(&target, 1, 1, &clock());
        assert_eq!(value(&readings, "perigee_latency_reachable"), Some(1.0));
        let seconds = value(&readings, "perigee_latency_seconds").unwrap();
        assert!(seconds > 0.0 && seconds < 1.0, "{seconds}");
        drop(listener);
        let readings = measure(&target, 1, 2, &clock());
        assert_eq!(value(&readings, "perigee_latency_reachable"), Some(0.0));
        assert_eq!(value(&readings, "perigee_latency_seconds"), None);
    }

    #[test]
    fn loopback_answers_an_echo() {
        match open(IpAddr::from([127, 0, 0, 1])) {
            // Neither root nor in ping_group_range: then there is nothing to ask with.
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::PermissionDenied, "{e}"),
            Ok(_) => echo([127, 0, 0, 1].into(), 0x1234_5678, 7, &clock()).unwrap(),
        }
    }

    #[test]
    fn only_our_own_answer_counts() {
        let sent = request(false, 99, 5);
        assert_eq!(checksum(&sent), 0, "a packet with its checksum sums up to nothing");
        let mut answer = sent;
        answer[0] = 0;
        answer[4..6].copy_from_slice(&[7, 7]);
        assert!(is_answer(&answer, &sent, false));
        assert!(!is_answer(&sent, &sent, false), "our own request, seen on a raw socket");
        let mut raw = vec![0x45; 20];
        raw.extend(answer);
        assert!(is_answer(&raw, &sent, false));
        assert!(!is_answer(&answer, &request(false, 99, 6), false));
        for cut in 0..ECHO_BYTES {
            assert!(!is_answer(&answer[..cut], &sent, false), "{cut}");
        }
        assert!(!is_answer(&[0x4f], &sent, false));
    }
}
