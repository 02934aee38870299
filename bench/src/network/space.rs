//! Network namespaces of the bench, and a guest's card played by this process.
//!
//! A guest under translation would use so much CPU of its own that the host's share could not be seen. So the guest
//! is a namespace with the host's own TCP, and its VMM is a thread that carries frames between two TAPs, with
//! virtio's header and large segments as QEMU has them.
#![allow(unsafe_code, reason = "ioctl")]

use anyhow::{Context as _, Result, ensure};
use nix::libc::{self, c_ulong, ifreq};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

nix::ioctl_write_int!(tun_set_interface, b'T', 202);
nix::ioctl_write_int!(tun_set_offload, b'T', 208);

/// Checksums and segments are left to whoever takes the frame (Linux, if_tun.h: CSUM, TSO4, TSO6).
const OFFLOADS: c_ulong = 1 | 2 | 4;
/// The largest segment with its headers.
const FRAME_BYTES_MAX: usize = 65_536 + 64;
/// So long a carrier waits before it looks whether it should end.
const LOOK_MS: u8 = 50;

/// A network namespace; gone with its last holder.
pub struct Space(File);

impl Space {
    /// An empty one, its loopback up. Needs root.
    pub fn new() -> Result<Self> {
        let made = std::thread::spawn(|| -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET).context("a network namespace needs root")?;
            Ok(File::open("/proc/thread-self/ns/net")?)
        });
        let file = made.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        let space = Self(file);
        space.tool("ip", "link set lo up")?;
        Ok(space)
    }

    /// Does something in it: sockets made there stay in it.
    pub fn run<R: Send>(&self, act: impl FnOnce() -> Result<R> + Send) -> Result<R> {
        std::thread::scope(|scope| {
            let done = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET)?;
                act()
            });
            done.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?
        })
    }

    /// The same, on a runtime of one thread.
    pub fn block_on<R: Send, F: Future<Output = Result<R>>>(&self, act: impl FnOnce() -> F + Send) -> Result<R> {
        self.run(|| tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(act()))
    }

    /// Runs a tool with these words.
    pub fn tool(&self, tool: &str, words: &str) -> Result<()> {
        self.run(|| {
            let said = Command::new(tool).args(words.split_whitespace()).output().with_context(|| tool.to_owned())?;
            ensure!(said.status.success(), "{tool} {words}: {}", String::from_utf8_lossy(&said.stderr));
            Ok(())
        })
    }

    /// A cable between two: `name` here, `other` there.
    pub fn cable(&self, name: &str, there: &Self, other: &str) -> Result<()> {
        let path = format!("/proc/{}/fd/{}", std::process::id(), there.0.as_raw_fd());
        self.tool("ip", &format!("link add {name} type veth peer name {other} netns {path}"))?;
        self.tool("ip", &format!("link set dev {name} up"))?;
        there.tool("ip", &format!("link set dev {other} up"))
    }

    /// The other end of a TAP: the one of this name, or a new one.
    fn card(&self, name: &str) -> Result<File> {
        self.run(|| {
            let tun = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
            // SAFETY: all zero is an `ifreq`; the kernel reads and writes one at its address, which lives on; the
            // other call takes a number.
            unsafe {
                let mut request: ifreq = std::mem::zeroed();
                for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
                    *to = from as libc::c_char;
                }
                request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
                tun_set_interface(tun.as_raw_fd(), std::ptr::from_mut(&mut request) as c_ulong)?;
                tun_set_offload(tun.as_raw_fd(), OFFLOADS)?;
            }
            Ok(tun)
        })
    }
}

/// A guest: a namespace whose only card is the other end of a TAP of the host.
pub struct Guest {
    pub space: Space,
    stop: Arc<AtomicBool>,
    carrier: Option<JoinHandle<()>>,
}

impl Guest {
    /// Behind this TAP, with this hardware address, address and gateway.
    pub fn start(host: &Space, tap: &str, mac: &str, address: &str, gateway: &str) -> Result<Self> {
        let space = Space::new()?;
        let (outer, inner) = (host.card(tap)?, space.card("eth0")?);
        for words in [
            format!("link set dev eth0 address {mac}"),
            format!("addr add {address}/24 dev eth0"),
            "link set dev eth0 up".to_owned(),
            format!("route add default via {gateway}"),
        ] {
            space.tool("ip", &words)?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let carrier = std::thread::spawn({
            let stop = stop.clone();
            move || carry(&outer, &inner, &stop)
        });
        Ok(Self { space, stop, carrier: Some(carrier) })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(carrier) = self.carrier.take() {
            // It ends by itself: there is nothing to be told of it.
            _ = carrier.join();
        }
    }
}

/// As a VMM: what comes at one end goes out at the other.
fn carry(outer: &File, inner: &File, stop: &AtomicBool) {
    let mut frame = vec![0; FRAME_BYTES_MAX];
    while !stop.load(Ordering::Relaxed) {
        let mut moved = false;
        for (mut from, mut to) in [(outer, inner), (inner, outer)] {
            while let Ok(length) = from.read(&mut frame) {
                // A card whose other end is down loses frames.
                _ = to.write(&frame[..length]);
                moved = true;
            }
        }
        if !moved {
            let mut ends = [outer, inner].map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN));
            if poll(&mut ends, LOOK_MS).is_err_and(|error| io::Error::from(error).kind() != io::ErrorKind::Interrupted)
            {
                return;
            }
        }
    }
}
