//! A guest's card as its VMM has it: frames written into a TAP and read from it.
#![allow(unsafe_code, reason = "ioctl")]

use crate::ns::Ns;
use nix::libc::{self, c_ulong, ifreq};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

nix::ioctl_write_int!(tun_set_interface, b'T', 202);

/// Virtio's header before each frame: nothing to say.
const HEADER: [u8; 10] = [0; 10];

pub struct Card(File);

impl Card {
    /// Opens the TAP of this name, as a VMM does.
    pub fn open(ns: &Ns, name: &str) -> Self {
        Self::try_open(ns, name).unwrap()
    }

    pub fn try_open(ns: &Ns, name: &str) -> io::Result<Self> {
        ns.run(|| {
            let tun = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
            // SAFETY: all zero is an `ifreq`; the kernel reads and writes one at its address, which lives on.
            unsafe {
                let mut request: ifreq = std::mem::zeroed();
                for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
                    *to = from as libc::c_char;
                }
                request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
                tun_set_interface(tun.as_raw_fd(), std::ptr::from_mut(&mut request) as c_ulong)?;
            }
            Ok(Self(tun))
        })
    }

    pub fn send(&self, frame: &[u8]) {
        // A frame shorter than Ethernet's least is padded by a card.
        let mut whole = [&HEADER, frame].concat();
        whole.resize(whole.len().max(HEADER.len() + 60), 0);
        (&self.0).write_all(&whole).unwrap();
    }

    /// The next frame for the guest, if one comes in time.
    pub fn receive(&self, within: Duration) -> Option<Vec<u8>> {
        let until = Instant::now() + within;
        let mut bytes = [0; 4096];
        loop {
            match (&self.0).read(&mut bytes) {
                Ok(length) => return Some(bytes[HEADER.len()..length].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("reading a TAP: {error}"),
            }
            let left = until.checked_duration_since(Instant::now())?;
            let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            poll(&mut polled, PollTimeout::try_from(left + Duration::from_millis(1)).unwrap()).unwrap();
        }
    }

    /// All that lies there now.
    pub fn drain(&self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.receive(Duration::ZERO)).collect()
    }

    /// A frame as it is with its header, if one is there.
    fn take(&self, bytes: &mut [u8]) -> Option<usize> {
        match (&self.0).read(bytes) {
            Ok(length) => Some(length),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => panic!("reading a TAP: {error}"),
        }
    }
}

/// A guest with a kernel of its own kind: a namespace whose only card is the other end of a TAP of the host.
pub struct Machine {
    pub ns: Ns,
    stop: Arc<AtomicBool>,
    pump: Option<JoinHandle<()>>,
}

impl Machine {
    pub fn start(host: &Ns, tap: &str, address: Ipv4Addr, gateway: Ipv4Addr, six: Option<[Ipv6Addr; 2]>) -> Self {
        let ns = Ns::new();
        let (outer, inner) = (Card::open(host, tap), Card::open(&ns, "eth0"));
        let mac = crate::frames::mac(address).map(|byte| format!("{byte:02x}")).join(":");
        ns.ip(&format!("link set dev eth0 address {mac}"));
        ns.ip(&format!("addr add {address}/24 dev eth0"));
        ns.ip("link set dev eth0 up");
        ns.ip(&format!("route add default via {gateway}"));
        if let Some([address, gateway]) = six {
            ns.ip(&format!("addr add {address}/64 dev eth0 nodad"));
            ns.ip(&format!("-6 route add default via {gateway}"));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let pump = std::thread::spawn({
            let stop = stop.clone();
            move || pump(&outer, &inner, &stop)
        });
        Self { ns, stop, pump: Some(pump) }
    }
}

/// As a VMM: what one has written the other reads.
fn pump(outer: &Card, inner: &Card, stop: &AtomicBool) {
    let mut bytes = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        let mut moved = false;
        for (from, to) in [(outer, inner), (inner, outer)] {
            while let Some(length) = from.take(&mut bytes) {
                // A card whose other end is down loses frames.
                _ = (&to.0).write(&bytes[..length]);
                moved = true;
            }
        }
        if !moved {
            let mut polled = [&outer.0, &inner.0].map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN));
            poll(&mut polled, 50u8).unwrap();
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.pump.take().map(JoinHandle::join);
    }
}
