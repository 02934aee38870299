//! Making a TAP: the one thing that is not done by netlink (Linux, networking/tuntap.rst).
#![allow(unsafe_code, reason = "ioctl")]

use crate::names::DeviceName;
use crate::plan::Owner;
use nix::libc::{self, c_ulong, ifreq};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd as _;

nix::ioctl_write_int!(tun_set_interface, b'T', 202);
nix::ioctl_write_int!(tun_set_persist, b'T', 203);
nix::ioctl_write_int!(tun_set_owner, b'T', 204);
nix::ioctl_write_int!(tun_set_group, b'T', 206);

/// Makes a TAP that stays, down, for this user: only `owner` (or root) may open it. It speaks frames with virtio's
/// header, as VMMs do. One of that name that is there becomes this user's.
///
/// Killed in the midst of it, it is either gone or whole: it stays only from the last call on.
pub(super) fn make(name: &DeviceName, owner: Owner) -> io::Result<()> {
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: an `ifreq` is numbers and bytes alone; all zero is one.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_str().bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
    let at = std::ptr::from_mut(&mut request) as c_ulong;
    // SAFETY: `tun` is open, and the kernel reads and writes one `ifreq` at the address, which lives on; the others
    // take numbers.
    unsafe {
        tun_set_interface(tun.as_raw_fd(), at)?;
        tun_set_owner(tun.as_raw_fd(), c_ulong::from(owner.uid))?;
        tun_set_group(tun.as_raw_fd(), c_ulong::from(owner.gid))?;
        tun_set_persist(tun.as_raw_fd(), 1)?;
    }
    Ok(())
}
