//! Sessions with simulated guests.
//!
//! Owns: waiting, in virtual time, for what an execution does next.
//! Refuses: to outlive its boot: after a kill or a reboot every call says that the channel broke.

use super::host::{Key, SimulatedHost, Vmm};
use super::knobs::{Fault, Knobs};
use super::program::Execution;
use crate::{ExecEvent, ExecStdin, ExecStream, FileSource, GuestHello, HypervisorError, Session};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use perigee_clock::{Clock, Instant};
use perigee_guest::protocol::ExecStart;
use perigee_model::limits::{FILE_BYTES_MAX, PATH_BYTES_MAX};
use std::sync::Arc;
use tokio::sync::mpsc;
use uuid::Uuid;

const PIECE_BYTES: usize = 16 << 10;

/// One session: it belongs to one boot of one guest.
#[derive(Clone)]
pub(super) struct SimulatedSession {
    pub host: SimulatedHost,
    pub clock: Clock,
    pub knobs: Arc<Knobs>,
    pub key: Key,
    pub pid: u32,
    pub number: u64,
    pub hello: GuestHello,
}

impl SimulatedSession {
    /// Looks at, or changes, the guest this session is with. Wakes nobody.
    fn within<T>(&self, act: impl FnOnce(&mut Vmm) -> T) -> Result<T, HypervisorError> {
        self.host.quietly(|world| {
            let vmm = world.vmm(&self.key).filter(|vmm| vmm.pid == self.pid && vmm.sessions == self.number);
            vmm.map(act).ok_or_else(broken)
        })
    }

    fn execution<T>(&self, id: Uuid, act: impl FnOnce(&mut Execution) -> T) -> Result<T, HypervisorError> {
        let done = self.within(|vmm| vmm.executions.get_mut(&id).map(act))?;
        done.ok_or(HypervisorError::UnknownExecution)
    }

    fn may_break(&self) -> Result<(), HypervisorError> {
        if self.knobs.strikes(Fault::SessionBreaks, &self.clock) {
            self.host.break_sessions(self.key.1);
        }
        self.within(|_| ())
    }
}

#[async_trait]
impl Session for SimulatedSession {
    fn hello(&self) -> GuestHello {
        self.hello.clone()
    }

    async fn exec(&self, start: ExecStart) -> Result<Box<dyn ExecStream>, HypervisorError> {
        self.may_break()?;
        let (id, now) = (start.id, self.clock.instant());
        let known = self.within(|vmm| vmm.executions.contains_key(&id))?;
        if !known {
            if start.attach_only {
                return Err(HypervisorError::UnknownExecution);
            }
            let execution = Execution::new(&start, now);
            if execution.ran() {
                self.host.quietly(|world| world.count_execution(id));
            }
            self.within(|vmm| vmm.executions.insert(id, execution))?;
        }
        let told_started = !self.execution(id, |execution| execution.ran())?;
        let stdin = start.stdin.then(|| Input { session: self.clone(), id });
        Ok(Box::new(Attached {
            session: self.clone(),
            id,
            offset: start.stdout_offset,
            told_started,
            over: false,
            stdin,
        }))
    }

    async fn signal(&self, execution: Uuid, signal: i32) -> Result<(), HypervisorError> {
        let now = self.clock.instant();
        let running = self.execution(execution, |execution| {
            let running = !execution.is_over(now);
            if running {
                execution.signal(signal, now);
            }
            running
        })?;
        self.host.wake();
        if running { Ok(()) } else { Err(refused("not_running", "the execution has ended")) }
    }

    async fn acknowledge(&self, execution: Uuid) -> Result<(), HypervisorError> {
        let now = self.clock.instant();
        let over = match self.execution(execution, |execution| execution.is_over(now)) {
            Err(HypervisorError::UnknownExecution) => return Ok(()),
            over => over?,
        };
        if !over {
            return Err(refused("still_running", "the execution has not ended"));
        }
        self.within(|vmm| vmm.executions.remove(&execution)).map(drop)
    }

    async fn put_file(&self, path: &str, _mode: u32, mut bytes: FileSource) -> Result<u64, HypervisorError> {
        check_path(path)?;
        let mut file = BytesMut::new();
        while let Some(piece) = bytes.recv().await {
            file.extend_from_slice(&piece?);
            if file.len() as u64 > FILE_BYTES_MAX {
                return Err(refused("too_large", "the file is too large"));
            }
        }
        let length = file.len() as u64;
        self.within(|vmm| vmm.files.insert(path.to_owned(), file.freeze()))?;
        Ok(length)
    }

    async fn get_file(&self, path: &str) -> Result<FileSource, HypervisorError> {
        check_path(path)?;
        let file = self.within(|vmm| vmm.files.get(path).cloned())?;
        let file = file.ok_or_else(|| refused("not_found", "No such file or directory"))?;
        let (sender, receiver) = mpsc::channel(1);
        if !file.is_empty() {
            // The channel is new: there is room for one.
            _ = sender.try_send(Ok(file));
        }
        Ok(receiver)
    }

    async fn closed(&self) {
        loop {
            let mut changes = self.host.changes();
            let open = self.host.look(|world| {
                let vmm = world.guests.get(&self.key).and_then(Option::as_ref);
                vmm.is_some_and(|vmm| vmm.pid == self.pid && vmm.sessions == self.number)
            });
            if !open || changes.changed().await.is_err() {
                return;
            }
        }
    }
}

struct Attached {
    session: SimulatedSession,
    id: Uuid,
    offset: u64,
    told_started: bool,
    over: bool,
    stdin: Option<Input>,
}

/// What an execution does now.
enum Now {
    Event(ExecEvent),
    /// Nothing before then.
    Quiet(Option<Instant>),
}

impl Attached {
    fn look(&mut self) -> Result<Now, HypervisorError> {
        let (now, offset, told_started) = (self.session.clock.instant(), self.offset, self.told_started);
        let paused = self.session.within(|vmm| vmm.paused)?;
        if paused {
            return Ok(Now::Quiet(None));
        }
        self.session.execution(self.id, |execution| {
            let stdout = execution.stdout(offset, PIECE_BYTES);
            match execution.end() {
                _ if !told_started => Now::Event(ExecEvent::Started),
                _ if !stdout.is_empty() => Now::Event(ExecEvent::Stdout(stdout)),
                Some(end) if execution.is_over(now) => Now::Event(ExecEvent::End(end)),
                Some(_) | None => Now::Quiet(execution.outcome().map(|(_, at)| at)),
            }
        })
    }

    fn take(&mut self, event: &ExecEvent) {
        match event {
            ExecEvent::Started => self.told_started = true,
            ExecEvent::Stdout(bytes) => self.offset += bytes.len() as u64,
            ExecEvent::Stderr(_) => {}
            ExecEvent::End(_) => self.over = true,
        }
    }
}

#[async_trait]
impl ExecStream for Attached {
    async fn next(&mut self) -> Option<Result<ExecEvent, HypervisorError>> {
        if self.over {
            return None;
        }
        let broke = self.session.may_break();
        loop {
            let mut changes = self.session.host.changes();
            let happens = if broke.is_err() { Err(broken()) } else { self.look() };
            let until = match happens {
                Ok(Now::Event(event)) => {
                    self.take(&event);
                    return Some(Ok(event));
                }
                Ok(Now::Quiet(until)) => until,
                Err(error) => {
                    self.over = true;
                    return Some(Err(error));
                }
            };
            match until {
                Some(until) => tokio::select! {
                    _ = changes.changed() => {}
                    () = tokio::time::sleep_until(until.into_tokio()) => {}
                },
                None => _ = changes.changed().await,
            }
        }
    }

    fn stdin(&mut self) -> Option<Box<dyn ExecStdin>> {
        self.stdin.take().map(|input| Box::new(input) as Box<dyn ExecStdin>)
    }
}

struct Input {
    session: SimulatedSession,
    id: Uuid,
}

#[async_trait]
impl ExecStdin for Input {
    fn offset(&self) -> u64 {
        self.session.execution(self.id, |execution| execution.input_offset()).unwrap_or(0)
    }
    async fn write(&mut self, bytes: Bytes) -> Result<(), HypervisorError> {
        let now = self.session.clock.instant();
        let taken = self.session.execution(self.id, |execution| execution.take_input(&bytes, now))?;
        self.session.host.wake();
        if taken { Ok(()) } else { Err(HypervisorError::Channel("the execution takes no more stdin".to_owned())) }
    }
    async fn finish(&mut self) -> Result<(), HypervisorError> {
        let now = self.session.clock.instant();
        self.session.execution(self.id, |execution| execution.end_input(now))?;
        self.session.host.wake();
        Ok(())
    }
}

fn check_path(path: &str) -> Result<(), HypervisorError> {
    if path.starts_with('/') && path.len() <= PATH_BYTES_MAX && !path.contains('\0') {
        return Ok(());
    }
    Err(refused("bad_path", "a path is absolute and has no NUL"))
}

fn refused(code: &str, text: &str) -> HypervisorError {
    HypervisorError::GuestRefused { code: code.to_owned(), text: text.to_owned() }
}

fn broken() -> HypervisorError {
    HypervisorError::Channel("the session is over".to_owned())
}
