//! The few calls that need `unsafe`: what a child does between fork and exec, and pidfds.
//!
//! Owns: dropping privileges for good, killing and reaping a process without naming its pid.
//! Refuses: anything in the child that is not async-signal-safe (no allocation, no lock).
#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid, setsid};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Capabilities that any kernel may come to have; the first unknown one ends the dropping.
const CAPABILITIES_MAX: libc::c_ulong = 64;

/// What the child does before it becomes the VMM.
pub struct Confinement {
    /// Own user and group, when we may change it.
    pub uid: Option<u32>,
    /// Descriptors that stay open, under the same numbers.
    pub kept: Vec<RawFd>,
}

/// Makes `command`'s child a session of its own, so that it outlives us, without any privilege
/// that it or anything it runs could get back.
pub fn confine(command: &mut Command, confinement: Confinement) {
    // SAFETY: the closure runs in the child of a fork of a threaded process. It makes system calls
    // and reads memory that was allocated before; it allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(move || confinement.apply());
    }
}

impl Confinement {
    fn apply(&self) -> io::Result<()> {
        setsid()?;
        umask(Mode::from_bits_truncate(0o077));
        forbid_core_dump()?;
        if let Some(uid) = self.uid {
            drop_bounding_set()?;
            setgroups(&[])?;
            setresgid(Gid::from_raw(uid), Gid::from_raw(uid), Gid::from_raw(uid))?;
            setresuid(Uid::from_raw(uid), Uid::from_raw(uid), Uid::from_raw(uid))?;
        }
        nix::sys::prctl::set_no_new_privs()?;
        for fd in &self.kept {
            keep_over_exec(*fd)?;
        }
        Ok(())
    }
}

/// A core of the VMM would hold the guest's memory.
fn forbid_core_dump() -> io::Result<()> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `none` is a valid rlimit for the whole call, which only reads it.
    Errno::result(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) })?;
    Ok(())
}

fn drop_bounding_set() -> io::Result<()> {
    for capability in 0..CAPABILITIES_MAX {
        // SAFETY: PR_CAPBSET_DROP takes one number and touches no memory of ours.
        match Errno::result(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) }) {
            Ok(_) => {}
            Err(Errno::EINVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn keep_over_exec(fd: RawFd) -> io::Result<()> {
    // SAFETY: F_SETFD changes a flag of a descriptor; the number is of one that the parent holds
    // open while it spawns, and the child has its own table.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) })?;
    Ok(())
}

nix::ioctl_write_int!(tun_set_interface, b'T', 202);

nix::ioctl_read!(tun_get_interface, b'T', 210, libc::c_uint);
/// Of a TAP that stays without a descriptor (linux/if_tun.h).
const IFF_PERSIST: i16 = 0x0800;

/// A TAP that is there, for its frames with virtio's header before them (Linux, networking/tuntap.rst). Opening makes
/// one that is not there; it is not taken, and goes again.
pub fn open_tap(name: &str) -> io::Result<File> {
    let tun = File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: an `ifreq` is numbers and bytes alone; all zero is one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
    let at = std::ptr::from_mut(&mut request);
    // SAFETY: both calls read or write one `ifreq` at the address, which lives through them; the second's number says
    // less than the kernel writes.
    unsafe {
        tun_set_interface(tun.as_raw_fd(), at as libc::c_ulong)?;
        tun_get_interface(tun.as_raw_fd(), at.cast())?;
    }
    // SAFETY: the flags are what the kernel just wrote.
    let stays = unsafe { request.ifr_ifru.ifru_flags } & IFF_PERSIST != 0;
    if stays { Ok(tun) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// A descriptor of the process that has this pid now.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two numbers and returns a new descriptor or an error.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just made this descriptor (close-on-exec) and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Kills the process. Fine when it is dead.
pub fn kill(pidfd: &OwnedFd) -> io::Result<()> {
    let no_details = std::ptr::null::<libc::siginfo_t>();
    let signal = Signal::SIGKILL as libc::c_int;
    // SAFETY: a null siginfo asks the kernel to fill in its own; the descriptor is open.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, no_details, 0) };
    match Errno::result(sent) {
        Ok(_) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Waits until the process is dead.
pub async fn dead(pidfd: &OwnedFd) -> io::Result<()> {
    let own = pidfd.try_clone()?;
    // SAFETY: the AsyncFd owns `own`, an open descriptor whose number never changes.
    let watched = unsafe { AsyncFd::register_with_interest(own, Interest::READABLE) }?;
    watched.readable().await.map(drop)
}

/// How the dead process ended, as far as its parent may know: nothing about one that was adopted.
pub fn reap(pidfd: &OwnedFd) -> String {
    match waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
        Ok(WaitStatus::Exited(_, code)) => format!("the VMM exited with {code}"),
        Ok(WaitStatus::Signaled(_, signal, _)) => format!("the VMM was killed by {signal}"),
        Ok(_) | Err(_) => "the VMM ended".to_owned(),
    }
}

/// The processor's time stamp counter now.
#[cfg(target_arch = "x86_64")]
pub fn time_stamp_counter() -> Option<u64> {
    // SAFETY: RDTSC is part of x86-64 and touches no memory.
    Some(unsafe { core::arch::x86_64::_rdtsc() })
}

/// Other processors have another clock.
#[cfg(not(target_arch = "x86_64"))]
pub fn time_stamp_counter() -> Option<u64> {
    None
}
