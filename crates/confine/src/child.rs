//! What the child does between fork and exec, and holding on to it afterwards.
//!
//! Owns: the calls that need `unsafe`. Refuses: anything in the child that is not async-signal-safe: no
//! allocation, no lock, no log.
#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::libc::{self, rlim_t};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Pid, Uid, getppid, setgroups, setresgid, setresuid};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Capabilities that any kernel may come to have; the first unknown one ends the dropping.
const CAPABILITIES_MAX: libc::c_ulong = 64;

/// What the child does before it becomes the program.
pub struct Child {
    /// Whose it becomes, when we may change that.
    pub user: Option<(u32, u32)>,
    /// Us.
    pub parent: Pid,
    /// Address space, size of a file, open files.
    pub limits: [rlim_t; 3],
    /// Landlock's rules, where the kernel has it.
    pub rules: Option<OwnedFd>,
    /// They keep it from the network by themselves.
    pub denies_tcp: bool,
}

impl Child {
    /// Has `command`'s child do all of it.
    pub fn shut_in(self, command: &mut Command) {
        command.process_group(0);
        // SAFETY: the closure runs in the child of a fork of a threaded process. It makes system calls
        // and reads memory that was allocated before; it allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(move || self.apply().map_err(io::Error::from));
        }
    }

    fn apply(&self) -> Result<(), Errno> {
        umask(Mode::from_bits_truncate(0o077));
        let resources = [Resource::RLIMIT_AS, Resource::RLIMIT_FSIZE, Resource::RLIMIT_NOFILE];
        for (resource, most) in resources.into_iter().zip(self.limits) {
            let most = most.min(getrlimit(resource)?.1);
            setrlimit(resource, most, most)?;
        }
        setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
        self.leave_the_network()?;
        if let Some((user, group)) = self.user {
            let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
            drop_bounding_set()?;
            setgroups(&[])?;
            setresgid(group, group, group)?;
            setresuid(user, user, user)?;
        }
        // After the change of user, which takes it back.
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        if getppid() != self.parent {
            return Err(Errno::ESRCH); // we ended meanwhile
        }
        prctl::set_no_new_privs()?;
        self.rules.as_ref().map_or(Ok(()), restrict)
    }

    /// Who is not root, and the root of some containers, may have another network only as another user; not on
    /// every system. Where Landlock keeps it from TCP, that is enough.
    fn leave_the_network(&self) -> Result<(), Errno> {
        match unshare(CloneFlags::CLONE_NEWNET) {
            Err(Errno::EPERM) if self.denies_tcp => Ok(()),
            Err(Errno::EPERM) => unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET),
            left => left,
        }
    }
}

/// Which Landlock the kernel has; below 1 it has none.
pub fn landlock_version() -> i64 {
    const VERSION: libc::c_int = 1;
    // SAFETY: with this flag the call reads nothing: the address is null and the size 0.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, VERSION) }
}

fn restrict(rules: &OwnedFd) -> Result<(), Errno> {
    // SAFETY: landlock_restrict_self takes a descriptor, which is open, and flags.
    Errno::result(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0) }).map(drop)
}

/// Root itself has no capability after exec when there is none in this set.
fn drop_bounding_set() -> Result<(), Errno> {
    for capability in 0..CAPABILITIES_MAX {
        // SAFETY: PR_CAPBSET_DROP takes one number and touches no memory of ours.
        match Errno::result(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) }) {
            Ok(_) => {}
            Err(Errno::EINVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A descriptor of a child that is not reaped yet.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two numbers and returns a new descriptor or an error.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just made this descriptor (close-on-exec) and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Kills it. Fine when it is dead.
pub fn kill(process: &OwnedFd) -> io::Result<()> {
    let no_details = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo asks the kernel to fill in its own; the descriptor is open.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), libc::SIGKILL, no_details, 0) };
    match Errno::result(sent) {
        Ok(_) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
