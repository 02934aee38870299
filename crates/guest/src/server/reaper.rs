//! Learns how child processes end.
//!
//! Owns: reaping. Refuses: to lose the exit of a process that ends before anyone looks. A child is
//! first seen without being reaped; it is reaped under the lock that is held across every spawn, so
//! its pid is known by then, and so a group is never signalled after its leader's pid was freed.

use std::collections::HashMap;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use nix::libc;
use tokio::sync::oneshot;

use crate::syscall;

/// Which children are reaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaping {
    /// Every child of this process, adopted ones too: for the guest's binary, also as PID 1.
    Everyone,
    /// Only those started here, each by a thread of its own: for a server inside another program.
    Own,
}

/// See the module.
pub struct Reaper {
    reaping: Reaping,
    waiting: Mutex<HashMap<i32, oneshot::Sender<ExitStatus>>>,
    spawned: Condvar,
}

impl Reaper {
    /// Starts reaping.
    pub fn start(reaping: Reaping) -> io::Result<Arc<Self>> {
        let reaper = Arc::new(Self { reaping, waiting: Mutex::new(HashMap::new()), spawned: Condvar::new() });
        if reaping == Reaping::Everyone {
            let everyone = Arc::clone(&reaper);
            std::thread::Builder::new().name("reaper".to_owned()).spawn(move || everyone.reap_everyone())?;
        }
        Ok(reaper)
    }

    /// Starts a process whose end arrives on the receiver.
    pub fn spawn(self: &Arc<Self>, command: &mut Command) -> io::Result<(Child, oneshot::Receiver<ExitStatus>)> {
        let mut waiting = self.waiting();
        let child = command.spawn()?;
        let pid = child.id().cast_signed();
        let (sender, receiver) = oneshot::channel();
        waiting.insert(pid, sender);
        drop(waiting);
        match self.reaping {
            Reaping::Everyone => self.spawned.notify_one(),
            Reaping::Own => {
                let own = Arc::clone(self);
                std::thread::Builder::new().spawn(move || {
                    while let Err(error) = syscall::peek_exit(Some(pid)) {
                        if error.kind() != io::ErrorKind::Interrupted {
                            break;
                        }
                    }
                    own.settle(pid);
                })?;
            }
        }
        Ok((child, receiver))
    }

    /// Signals the process group of a child that was not reaped yet.
    pub fn signal_group(&self, pid: u32, signal: i32) -> io::Result<()> {
        let waiting = self.waiting();
        let pid = pid.cast_signed();
        if !waiting.contains_key(&pid) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        syscall::kill_group(pid, signal)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<i32, oneshot::Sender<ExitStatus>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reap_everyone(&self) {
        loop {
            match syscall::peek_exit(None) {
                Ok(pid) => self.settle(pid),
                Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {
                    let mut waiting = self.waiting();
                    while waiting.is_empty() {
                        waiting = self.spawned.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                    }
                }
                Err(_) => {}
            }
        }
    }

    fn settle(&self, pid: i32) {
        let mut waiting = self.waiting();
        // An error means that `Command::spawn` reaped a child that could not exec.
        if let Ok(Some(status)) = syscall::reap(pid)
            && let Some(sender) = waiting.remove(&pid)
        {
            let _ = sender.send(ExitStatus::from_raw(status));
        }
    }
}
