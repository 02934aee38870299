//! The system calls that have no safe wrapper among our dependencies.
//!
//! Owns: every `unsafe` block of this crate. Refuses: policy; each function is one call.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;

/// Whom a process becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// Waits until a child has ended and names it without reaping it; `None` waits for any child.
pub fn peek_exit(pid: Option<i32>) -> io::Result<i32> {
    let (which, id) = match pid {
        Some(pid) => (libc::P_PID, pid.cast_unsigned()),
        None => (libc::P_ALL, 0),
    };
    // SAFETY: siginfo_t is plain old data, for which all zeros is a value.
    let mut about: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `about` lives through the call, which writes at most one siginfo_t.
    let rc = unsafe { libc::waitid(which, id, &mut about, libc::WEXITED | libc::WNOWAIT) };
    check(rc)?;
    // SAFETY: after a successful waitid the SIGCHLD fields are the valid ones.
    Ok(unsafe { about.si_pid() })
}

/// Reaps a child that has ended; `None` if it has not.
pub fn reap(pid: i32) -> io::Result<Option<i32>> {
    let mut status = 0;
    // SAFETY: `status` lives through the call.
    let rc = unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) };
    check(rc)?;
    Ok((rc == pid).then_some(status))
}

/// Signals a process group.
pub fn kill_group(group: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes no pointers.
    check(unsafe { libc::kill(-group, signal) })
}

/// Bytes ready in a pipe.
pub fn readable_bytes(pipe: impl AsFd) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, and `count` lives through the call.
    check(unsafe { libc::ioctl(pipe.as_fd().as_raw_fd(), libc::FIONREAD, &mut count) })?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Makes the command's process leader of its own session, and `identity` if one is given.
pub fn isolate(command: &mut Command, identity: Option<Identity>) {
    let become_it = move || {
        // SAFETY: setsid, setgroups, setgid and setuid are async-signal-safe system calls; the
        // slice was allocated before the fork and is only read.
        unsafe {
            check(libc::setsid())?;
            if let Some(identity) = &identity {
                check(libc::setgroups(identity.groups.len(), identity.groups.as_ptr()))?;
                check(libc::setgid(identity.gid))?;
                check(libc::setuid(identity.uid))?;
            }
        }
        Ok(())
    };
    // SAFETY: the closure only makes async-signal-safe calls and does not allocate.
    unsafe { command.pre_exec(become_it) };
}

/// Loads an uncompressed kernel module.
pub fn load_module(module: &File) -> io::Result<()> {
    // SAFETY: the parameters are an empty C string; the kernel only reads the descriptor.
    let rc = unsafe { libc::syscall(libc::SYS_finit_module, module.as_raw_fd(), c"".as_ptr(), 0 as libc::c_int) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets an interface up, through any socket.
pub fn set_up(socket: impl AsFd, name: &str) -> io::Result<()> {
    let mut request = request(name);
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: both ioctls read and write one ifreq, which lives through the calls; the flags are
    // the union's member for these two.
    unsafe {
        check(libc::ioctl(fd, libc::SIOCGIFFLAGS, &mut request))?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        check(libc::ioctl(fd, libc::SIOCSIFFLAGS, &mut request))
    }
}

/// Gives an interface its address and the mask of its network.
pub fn set_address(socket: impl AsFd, name: &str, address: Ipv4Addr, mask: Ipv4Addr) -> io::Result<()> {
    let mut request = request(name);
    let fd = socket.as_fd().as_raw_fd();
    request.ifr_ifru.ifru_addr = internet(address);
    // SAFETY: both ioctls read one ifreq, which lives through the calls; the address is the union's
    // member for these two.
    unsafe {
        check(libc::ioctl(fd, libc::SIOCSIFADDR, &request))?;
        request.ifr_ifru.ifru_netmask = internet(mask);
        check(libc::ioctl(fd, libc::SIOCSIFNETMASK, &request))
    }
}

/// Sends what no other route takes to a gateway.
pub fn set_default_route(socket: impl AsFd, gateway: Ipv4Addr) -> io::Result<()> {
    // SAFETY: rtentry is plain old data, for which all zeros is a value.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = internet(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = internet(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = internet(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    // SAFETY: the ioctl reads one rtentry, which lives through the call; its device is null.
    check(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCADDRT, &route) })
}

/// Gives an interface an IPv6 address of a network of this size.
pub fn set_address6(socket: impl AsFd, name: &str, address: Ipv6Addr, network_bits: u8) -> io::Result<()> {
    let request = libc::in6_ifreq {
        ifr6_addr: internet6(address),
        ifr6_prefixlen: network_bits.into(),
        ifr6_ifindex: index(&socket, name)?,
    };
    // SAFETY: the ioctl of such a socket reads one in6_ifreq, which lives through the call.
    check(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFADDR, &request) })
}

/// Sends what no other IPv6 route takes to a gateway at an interface.
pub fn set_default_route6(socket: impl AsFd, name: &str, gateway: Ipv6Addr) -> io::Result<()> {
    let any = internet6(Ipv6Addr::UNSPECIFIED);
    let route = Route6 {
        destination: any,
        source: any,
        gateway: internet6(gateway),
        metric: 1,
        flags: u32::from(libc::RTF_UP | libc::RTF_GATEWAY),
        index: index(&socket, name)?,
        kind: 0,
        destination_bits: 0,
        source_bits: 0,
        info: 0,
    };
    // SAFETY: the ioctl of such a socket reads one in6_rtmsg, which lives through the call.
    check(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCADDRT, &route) })
}

/// `struct in6_rtmsg` (linux/ipv6_route.h), whose fields the crate keeps to itself.
#[repr(C)]
#[allow(dead_code, reason = "the kernel reads them")]
struct Route6 {
    destination: libc::in6_addr,
    source: libc::in6_addr,
    gateway: libc::in6_addr,
    kind: u32,
    destination_bits: u16,
    source_bits: u16,
    metric: u32,
    info: libc::c_ulong,
    flags: u32,
    index: libc::c_int,
}

/// The number of an interface.
fn index(socket: impl AsFd, name: &str) -> io::Result<libc::c_int> {
    let mut request = request(name);
    // SAFETY: the ioctl reads and writes one ifreq, which lives through the call; the number is the union's member
    // for it.
    unsafe {
        check(libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCGIFINDEX, &mut request))?;
        Ok(request.ifr_ifru.ifru_ifindex)
    }
}

fn internet6(address: Ipv6Addr) -> libc::in6_addr {
    libc::in6_addr { s6_addr: address.octets() }
}

/// A request about an interface; a name is cut at its 15 bytes.
fn request(name: &str) -> libc::ifreq {
    // SAFETY: ifreq is plain old data, for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(15).zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request
}

/// `sockaddr_in` (ip(7)) in a `sockaddr`: family, port, and four bytes in network order.
fn internet(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    for (to, from) in data.iter_mut().skip(2).zip(address.octets()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}

/// Ends the machine: by power-off, or by a reset where that is what ends it.
pub fn end_machine(reset: bool) -> io::Result<()> {
    let how = if reset { libc::RB_AUTOBOOT } else { libc::RB_POWER_OFF };
    // SAFETY: sync and reboot take no pointers.
    check(unsafe {
        libc::sync();
        libc::reboot(how)
    })
}

fn check(rc: libc::c_int) -> io::Result<()> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
