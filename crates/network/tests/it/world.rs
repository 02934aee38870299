//! A host with guests, and the world outside it.
//!
//! ```text
//!   guest's card ─ TAP ─ bridge 172.16.0.1 │ host │ uplink 93.184.216.1 ─── out 93.184.216.34 │ world │
//! ```
//! The host's default route leads to the world, which has addresses of many kinds: whatever a guest may send
//! anywhere arrives there.

use crate::card::{Card, Machine};
use crate::frames::{ethernet, ipv4, mac, udp};
use crate::ns::Ns;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use perigee_model::{GuestId, InstanceId};
use perigee_network::{Egress, Egress6, Host, Member, Owner, Plan, Resolved, Subnet};
use std::fs::File;
use std::io::Read as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};
use uuid::Uuid;

pub const WORLD: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 34);
pub const HOST: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 1);
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
pub const WORLD6: Ipv6Addr = Ipv6Addr::new(0x2606, 0x2800, 0, 0, 0, 0, 0, 0x34);
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0x2606, 0x2800, 0, 0, 0, 0, 0, 1);
/// What comes at all comes in this time.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub struct World {
    pub host: Ns,
    pub out: Ns,
    pub instance: InstanceId,
    /// Who listens to the datagrams of the tests: without them the world would answer that nobody does.
    _listeners: Vec<UdpSocket>,
}

impl World {
    pub fn new() -> Self {
        let (host, out) = (Ns::new(), Ns::new());
        host.cable("uplink", &out, "out");
        host.ip(&format!("addr add {HOST}/24 dev uplink"));
        for address in ["93.184.216.34/24", "8.8.8.8/32", "10.9.9.9/32", "192.168.9.9/32", "169.254.169.254/32"] {
            out.ip(&format!("addr add {address} dev out"));
        }
        host.ip(&format!("route add default via {WORLD}"));
        host.ip(&format!("addr add {HOST6}/64 dev uplink nodad"));
        for address in ["2606:2800::34/64", "2606:4700::1111", "fd12::9", "fd00:ec2::254", "64:ff9b::a09:909"] {
            out.ip(&format!("addr add {address} dev out nodad"));
        }
        host.ip(&format!("-6 route add default via {WORLD6}"));
        let listeners = [7, 9, 67].map(|port| out.run(|| UdpSocket::bind(("::", port)).unwrap()));
        Self { _listeners: listeners.into(), out, ..Self::of(host) }
    }

    /// This host, and no world.
    pub fn of(host: Ns) -> Self {
        Self { out: host.clone(), host, _listeners: vec![], instance: InstanceId::from_bits(0x0a1b_2c3d) }
    }

    /// A plan of these guests, on the default subnet.
    pub fn plan(&self, members: Vec<Member>) -> Plan {
        let six = Subnet::choose6(&self.instance, &[]).unwrap();
        Plan::new(&self.instance, Subnet::choose(None, &[]).unwrap().with6(six), members).unwrap()
    }

    /// Does something with the host's network.
    pub fn with<R: Send, F: Future<Output = R>>(&self, act: impl FnOnce(Host) -> F + Send) -> R {
        self.host.block_on(|| async { act(Host::open(&self.instance).unwrap()).await })
    }

    /// Makes the host as the plan says.
    pub fn bring_about(&self, plan: &Plan) {
        self.with(|host| async move { host.bring_about(plan, Resolved::default()).await.map(drop) }).unwrap();
    }

    /// Frames of a guest that its policy ended, so far.
    pub fn drops(&self, plan: &Plan, last: u8) -> u64 {
        self.drops_of("from", plan, last)
    }

    /// The same of those of IPv6.
    pub fn drops6(&self, plan: &Plan, last: u8) -> u64 {
        self.drops_of("from6", plan, last)
    }

    fn drops_of(&self, kind: &str, plan: &Plan, last: u8) -> u64 {
        let chain = format!("{kind}_{}", guest(last).to_string().replace('.', "_"));
        self.counted(&format!("list chain inet {} {chain}", plan.names().table()))
    }

    /// The sum of the packets that rules counted.
    pub fn counted(&self, list: &str) -> u64 {
        let listed = self.host.tool("nft", list);
        let numbers = listed.split("counter packets ").skip(1).map(|rest| rest.split(' ').next().unwrap());
        numbers.map(|number| number.parse::<u64>().unwrap()).sum()
    }

    pub fn machine(&self, plan: &Plan, last: u8) -> Machine {
        let member = plan.at(guest(last)).unwrap();
        let tap = plan.tap(member);
        let six = plan.six(member).zip(plan.gateway6()).map(|(address, gateway)| [address, gateway]);
        let machine = Machine::start(&self.host, tap.as_str(), guest(last), plan.subnet().gateway(), six);
        self.is_forwarding(tap.as_str());
        machine
    }

    pub fn card(&self, plan: &Plan, address: Ipv4Addr) -> Card {
        let tap = plan.tap(plan.at(address).unwrap());
        let card = Card::open(&self.host, tap.as_str());
        self.is_forwarding(tap.as_str());
        card
    }

    /// Once its TAP is opened, a moment passes until the bridge takes frames from it.
    fn is_forwarding(&self, tap: &str) {
        let shown = || self.host.tool("bridge", &format!("link show dev {tap}"));
        until("the bridge takes frames", || shown().contains("state forwarding"));
    }
}

/// A guest by the last byte of its address.
pub fn member(last: u8, egress: Egress) -> Member {
    Member {
        guest: GuestId::new(Uuid::from_u128(0x7000_0000 + u128::from(last))),
        address: guest(last),
        owner: Owner { uid: 64_000, gid: 64_000 },
        up: true,
        egress,
        egress6: None,
        host: vec![],
        forwards: vec![],
    }
}

pub fn guest(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 16, 0, last)
}

/// The same, with this policy of IPv6.
pub fn member6(last: u8, egress: Egress, egress6: Egress6) -> Member {
    Member { egress6: Some(egress6), ..member(last, egress) }
}

pub fn list6(openings: &str) -> Egress6 {
    Egress::List(openings.split_whitespace().map(|opening| opening.parse().unwrap()).collect())
}

pub fn list(openings: &str) -> Egress {
    Egress::List(openings.split_whitespace().map(|opening| opening.parse().unwrap()).collect())
}

/// A datagram as a well-behaved guest sends it.
pub fn datagram(last: u8, to: Ipv4Addr, port: u16, text: &str) -> Vec<u8> {
    let packet = ipv4(guest(last), to, 17, &udp(4000, port, text.as_bytes()));
    ethernet(mac(GATEWAY), mac(guest(last)), 0x0800, &packet)
}

/// Waits for it, with a deadline.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

/// Calls, and sees what becomes of the call: it is taken, or it is dropped, which is counted.
pub fn call(from: &Ns, to: SocketAddr, dropped: impl Fn() -> u64) -> Option<TcpStream> {
    use nix::sys::socket::{SockaddrStorage, connect};
    use std::os::fd::{AsFd as _, AsRawFd as _};
    let before = dropped();
    let kind = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let caller = from.run(|| socket(family, SockType::Stream, kind, None).unwrap());
    assert_eq!(connect(caller.as_raw_fd(), &SockaddrStorage::from(to)), Err(nix::errno::Errno::EINPROGRESS));
    let taken = || {
        let mut polled = [PollFd::new(caller.as_fd(), PollFlags::POLLOUT)];
        poll(&mut polled, PollTimeout::ZERO).unwrap() > 0
    };
    until("the call is taken or dropped", || taken() || dropped() > before);
    let stream = taken().then(|| TcpStream::from(caller))?;
    assert!(stream.take_error().unwrap().is_none());
    stream.set_nonblocking(false).unwrap();
    Some(stream)
}

/// Every frame that comes in at a device.
pub struct Wire(File);

impl Wire {
    pub fn tap(ns: &Ns, device: &str) -> Self {
        use nix::sys::socket::{LinkAddr, SockaddrLike as _, bind};
        ns.run(|| {
            let kind = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let socket = socket(AddressFamily::Packet, SockType::Raw, kind, SockProtocol::EthAll).unwrap();
            let index = nix::net::if_::if_nametoindex(device).unwrap();
            let address = nix::libc::sockaddr_ll {
                sll_family: nix::libc::AF_PACKET as u16,
                sll_protocol: (nix::libc::ETH_P_ALL as u16).to_be(),
                sll_ifindex: index as i32,
                sll_hatype: 0,
                sll_pkttype: 0,
                sll_halen: 0,
                sll_addr: [0; 8],
            };
            // SAFETY: it is an address of this length.
            #[allow(unsafe_code, reason = "the only way to make one")]
            let address =
                unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(size_of_val(&address) as u32)) };
            bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &address.unwrap()).unwrap();
            Self(File::from(socket))
        })
    }

    /// What came until a frame with this text came, that one left out.
    pub fn until(&self, text: &str) -> Vec<Vec<u8>> {
        let begun = Instant::now();
        let (mut frames, mut bytes) = (Vec::new(), [0; 65_536]);
        while begun.elapsed() < PATIENCE {
            match (&self.0).read(&mut bytes) {
                Ok(length) if has(&bytes[..length], text) => return frames,
                Ok(length) => frames.push(bytes[..length].to_vec()),
                Err(_) => std::thread::yield_now(),
            }
        }
        panic!("no frame with {text} came; these did: {frames:02x?}");
    }
}

pub fn has(frame: &[u8], text: &str) -> bool {
    frame.windows(text.len()).any(|window| window == text.as_bytes())
}
