//! One execution: a process, what it wrote, and how it ended.
//!
//! Owns: the rings, the reader that is attached, stdin, the end. Refuses: two readers; the newest
//! wins. Nothing here depends on a session, so an execution survives the host that started it.
//!
//! ```text
//! running ──process exits──▶ draining ──pipes empty, or 200 ms──▶ ended ──DELETE──▶ forgotten
//! ```

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::process::{self, NotStarted, Process};
use super::reaper::Reaper;
use super::ring::Ring;
use crate::protocol::{ErrorCode, ExecEnd, ExecOutcome, ExecStart, GuestError};
use crate::record::{self, answer};
use crate::syscall;

/// How long pipes that children still hold stay open after the process exited.
const LINGER: Duration = Duration::from_millis(200);
const READ_BYTES: usize = 32 * 1024;
const SIGKILL: i32 = 9;

/// See the module.
pub struct Running {
    reaper: Arc<Reaper>,
    pid: Option<u32>,
    started: Instant,
    state: Mutex<State>,
    /// Changes with new output, the end, and a new reader.
    news: watch::Sender<u64>,
    /// Changes when a reader was handed output.
    taken: watch::Sender<u64>,
    /// Once the process exited: until when its pipes stay open.
    exited: watch::Sender<Option<Instant>>,
    stdin: tokio::sync::Mutex<Option<pipe::Sender>>,
}

struct State {
    stdout: Ring,
    stderr: Ring,
    stderr_first: bool,
    reader: u64,
    stdin_offset: u64,
    end: Option<ExecEnd>,
}

/// What a reader gets next.
pub enum Next {
    /// Nothing now.
    Wait,
    /// This many bytes wait.
    Output(usize),
    /// Everything was handed over.
    End(ExecEnd),
    /// Another reader took over.
    Superseded,
}

#[derive(Clone, Copy)]
enum Which {
    Stdout,
    Stderr,
}

impl Running {
    /// Starts the process. A process that could not start is an execution that ended.
    pub fn start(start: &ExecStart, reaper: &Arc<Reaper>) -> Arc<Self> {
        match process::spawn(start, reaper) {
            Ok(process) => {
                let Process { pid, exit, stdin, stdout, stderr } = process;
                let running = Arc::new(Self::new(start, reaper, Some(pid), stdin));
                let timeout = start.timeout_ms.map(Duration::from_millis);
                tokio::spawn(Arc::clone(&running).follow(exit, timeout, stdout, stderr));
                running
            }
            Err(reason) => {
                let running = Arc::new(Self::new(start, reaper, None, None));
                running.finish(NotStarted::outcome(reason));
                running
            }
        }
    }

    fn new(start: &ExecStart, reaper: &Arc<Reaper>, pid: Option<u32>, stdin: Option<pipe::Sender>) -> Self {
        Self {
            reaper: Arc::clone(reaper),
            pid,
            started: Instant::now(),
            state: Mutex::new(State {
                stdout: Ring::new(start.output_limit_bytes),
                stderr: Ring::new(start.output_limit_bytes),
                stderr_first: false,
                reader: 0,
                stdin_offset: 0,
                end: None,
            }),
            news: watch::Sender::new(0),
            taken: watch::Sender::new(0),
            exited: watch::Sender::new(None),
            stdin: tokio::sync::Mutex::new(stdin),
        }
    }

    /// The process id, unless it never ran.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Whether the end is known.
    pub fn has_ended(&self) -> bool {
        self.state().end.is_some()
    }

    /// Stdin bytes the process was given so far.
    pub fn stdin_offset(&self) -> u64 {
        self.state().stdin_offset
    }

    /// Makes the caller the only reader, from these offsets on.
    pub fn attach(&self, stdout: u64, stderr: u64) -> Result<Reader, GuestError> {
        let mut state = self.state();
        state.stderr.check(stderr)?;
        state.stdout.attach(stdout)?;
        state.stderr.attach(stderr)?;
        state.reader += 1;
        let number = state.reader;
        drop(state);
        bump(&self.news);
        bump(&self.taken);
        Ok(Reader { number, news: self.news.subscribe() })
    }

    /// What this reader can have.
    pub fn next(&self, reader: &Reader) -> Next {
        let state = self.state();
        if state.reader != reader.number {
            return Next::Superseded;
        }
        let waiting = state.stdout.waiting().max(state.stderr.waiting());
        match (&state.end, waiting) {
            (Some(end), 0) => Next::End(end.clone()),
            (None, 0) => Next::Wait,
            (_, waiting) => Next::Output(waiting),
        }
    }

    /// One output record of at most `room` bytes, header included; the streams take turns.
    pub fn hand(&self, reader: &Reader, room: usize) -> Option<Bytes> {
        let mut state = self.state();
        if state.reader != reader.number {
            return None;
        }
        let stderr = state.stderr.waiting() > 0 && (state.stderr_first || state.stdout.waiting() == 0);
        state.stderr_first = !stderr;
        let (kind, ring) =
            if stderr { (answer::STDERR, &mut state.stderr) } else { (answer::STDOUT, &mut state.stdout) };
        let count = ring.waiting().min(room.checked_sub(record::HEADER_BYTES)?);
        if count == 0 {
            return None;
        }
        let mut bytes = BytesMut::with_capacity(record::HEADER_BYTES + count);
        bytes.put_u8(kind);
        bytes.put_u32(u32::try_from(count).ok()?);
        ring.hand(count, &mut bytes);
        drop(state);
        bump(&self.taken);
        Some(bytes.freeze())
    }

    /// Gives bytes to the process. Bytes for a process that no longer reads are dropped.
    pub async fn write_stdin(&self, mut bytes: &[u8]) {
        let mut exited = self.exited.subscribe();
        let mut stdin = self.stdin.lock().await;
        while !bytes.is_empty() {
            let Some(pipe) = stdin.as_mut() else { return };
            // A child may hold the other end open for ever; the execution ends without it.
            let written = tokio::select! {
                biased;
                written = pipe.write(bytes) => written.unwrap_or(0),
                _ = exited.wait_for(Option::is_some) => 0,
            };
            if written == 0 {
                *stdin = None;
                return;
            }
            bytes = &bytes[written..];
            self.state().stdin_offset += written as u64;
        }
    }

    /// End of file for the process.
    pub async fn close_stdin(&self) {
        *self.stdin.lock().await = None;
    }

    /// Signals the process group.
    pub fn signal(&self, signal: i32) -> Result<(), GuestError> {
        let gone = || GuestError::new(ErrorCode::NotRunning, "the process has ended");
        let pid = self.pid.ok_or_else(gone)?;
        self.reaper.signal_group(pid, signal).map_err(|error| match error.raw_os_error() {
            Some(nix::libc::ESRCH) => gone(),
            Some(nix::libc::EINVAL) => GuestError::new(ErrorCode::Invalid, "no such signal"),
            _ => GuestError::new(ErrorCode::Denied, error.to_string()),
        })
    }

    async fn follow(
        self: Arc<Self>,
        mut exit: oneshot::Receiver<ExitStatus>,
        timeout: Option<Duration>,
        stdout: pipe::Receiver,
        stderr: pipe::Receiver,
    ) {
        let pumps = futures::future::join(self.pump(Which::Stdout, stdout), self.pump(Which::Stderr, stderr));
        tokio::pin!(pumps);
        let deadline = timeout.and_then(|timeout| self.started.checked_add(timeout));
        let mut pumped = false;
        let mut timed_out = false;
        let status = loop {
            let expire = async {
                match deadline {
                    Some(deadline) if !timed_out => tokio::time::sleep_until(deadline).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                status = &mut exit => break status,
                () = expire => {
                    timed_out = true;
                    let _ = self.signal(SIGKILL);
                }
                _ = &mut pumps, if !pumped => pumped = true,
            }
        };
        let outcome = outcome(status, timed_out);
        let took = self.started.elapsed();
        self.exited.send_replace(Some(Instant::now() + LINGER));
        self.close_stdin().await;
        if !pumped {
            pumps.await;
        }
        self.finish_after(outcome, took);
    }

    /// Moves one pipe into its ring until end of file, or until the process has exited, all it had
    /// written was read, and the linger time is over.
    async fn pump(&self, which: Which, mut pipe: pipe::Receiver) {
        let mut exited = self.exited.subscribe();
        let mut buffer = Vec::new();
        let mut taken = self.taken.subscribe();
        let mut owed: Option<usize> = None;
        loop {
            let until = *exited.borrow_and_update();
            if until.is_some() && owed.is_none() {
                owed = Some(syscall::readable_bytes(&pipe).unwrap_or(0));
            }
            if owed == Some(0) && until.is_some_and(|until| Instant::now() >= until) {
                return;
            }
            taken.borrow_and_update();
            let room = which.of(&mut self.state()).room().min(READ_BYTES);
            if room == 0 {
                let _ = taken.changed().await;
                continue;
            }
            buffer.resize(READ_BYTES, 0);
            let linger = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => drop(exited.changed().await),
                }
            };
            let count = tokio::select! {
                biased;
                read = pipe.read(&mut buffer[..room]) => match read {
                    Ok(0) | Err(_) => return,
                    Ok(count) => count,
                },
                () = linger => continue,
            };
            owed = owed.map(|owed| owed.saturating_sub(count));
            which.of(&mut self.state()).append(&buffer[..count]);
            bump(&self.news);
        }
    }

    fn finish(&self, outcome: ExecOutcome) {
        self.finish_after(outcome, self.started.elapsed());
    }

    fn finish_after(&self, outcome: ExecOutcome, took: Duration) {
        let mut state = self.state();
        state.end = Some(ExecEnd {
            outcome,
            stdout_bytes: state.stdout.written(),
            stderr_bytes: state.stderr.written(),
            stdout_truncated: state.stdout.truncated(),
            stderr_truncated: state.stderr.truncated(),
            duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        });
        drop(state);
        bump(&self.news);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Which {
    fn of(self, state: &mut State) -> &mut Ring {
        match self {
            Self::Stdout => &mut state.stdout,
            Self::Stderr => &mut state.stderr,
        }
    }
}

/// A place in an execution's output.
pub struct Reader {
    number: u64,
    news: watch::Receiver<u64>,
}

impl Reader {
    /// Marks what was seen; call before [`Running::next`].
    pub fn look(&mut self) {
        self.news.borrow_and_update();
    }

    /// Waits for something after [`Reader::look`].
    pub async fn changed(&mut self) {
        let _ = self.news.changed().await;
    }
}

fn bump(counter: &watch::Sender<u64>) {
    counter.send_modify(|count| *count += 1);
}

fn outcome(status: Result<ExitStatus, oneshot::error::RecvError>, timed_out: bool) -> ExecOutcome {
    let status = match status {
        _ if timed_out => return ExecOutcome::TimedOut,
        Ok(status) => status,
        Err(_) => {
            let error = io::Error::from_raw_os_error(nix::libc::ECHILD);
            return NotStarted::from(error).outcome();
        }
    };
    match (status.code(), status.signal()) {
        (Some(code), _) => ExecOutcome::Exited { code },
        (None, signal) => ExecOutcome::Signaled { signal: signal.unwrap_or(0) },
    }
}
