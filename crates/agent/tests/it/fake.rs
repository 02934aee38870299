//! A hypervisor with guests made of nothing, which outlives the agent that drives it.

use async_trait::async_trait;
use bytes::Bytes;
use perigee_guest::protocol::ExecOutcome;
use perigee_hypervisor::*;
use perigee_model::{Abilities, Acceleration, GuestId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Boots {
    Well,
    OnlySteady,
    Never,
}

pub struct FakeGuest {
    pub alive: bool,
    hello_at: Option<Instant>,
    said_hello: bool,
    pub execs: BTreeMap<Uuid, FakeExec>,
    sessions: Vec<CancellationToken>,
}

pub struct FakeExec {
    argv: Vec<String>,
    began: Instant,
    killed: Option<i32>,
    stdin: Vec<u8>,
    stdin_done: bool,
    pub signals: Vec<i32>,
}

#[derive(Default)]
pub struct State {
    pub guests: BTreeMap<GuestId, FakeGuest>,
    pub boots: BTreeMap<GuestId, Boots>,
    pub starts: BTreeMap<GuestId, u32>,
    pub exec_starts: BTreeMap<Uuid, u32>,
    pub booting_most: usize,
    pub files: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone)]
pub struct Fake {
    pub state: Arc<Mutex<State>>,
    events: broadcast::Sender<GuestEvent>,
    changed: Arc<watch::Sender<u64>>,
    pub boot: Duration,
    pub slots: u32,
}

impl Fake {
    pub fn new() -> Self {
        let changed = Arc::new(watch::Sender::new(0));
        Self {
            state: Arc::default(),
            events: broadcast::channel(64).0,
            changed,
            boot: Duration::from_millis(500),
            slots: 2,
        }
    }
    pub fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let answer = f(&mut self.state.lock().unwrap());
        self.changed.send_modify(|n| *n += 1);
        answer
    }
    /// The VMM dies.
    pub fn kill(&self, guest: GuestId) {
        self.with(|s| {
            let guest = s.guests.get_mut(&guest).unwrap();
            guest.alive = false;
            guest.sessions.drain(..).for_each(|s| s.cancel());
        });
        let _ = self.events.send(GuestEvent::Ended { guest, text: "exit status 1".into(), clean: false });
    }
    /// The channel breaks, the VMM lives.
    pub fn cut(&self, guest: GuestId) {
        self.with(|s| s.guests.get_mut(&guest).unwrap().sessions.drain(..).for_each(|s| s.cancel()));
    }
    pub fn living(&self) -> BTreeSet<GuestId> {
        self.with(|s| s.guests.iter().filter(|(_, g)| g.alive).map(|(id, _)| *id).collect())
    }
}

#[async_trait]
impl Hypervisor for Fake {
    fn abilities(&self) -> Abilities {
        Abilities {
            driver: "fake".into(),
            kinds: vec![perigee_model::GuestKind::Sandbox],
            version: "1".into(),
            acceleration: Acceleration::Simulated,
            channel: true,
            pause: false,
            halt: false,
            console: false,
            snapshots: false,
            volumes: false,
            networks: false,
            adopt: true,
            boots_in_flight_max: self.slots,
        }
    }
    async fn inventory(&self) -> Result<Vec<Found>, HypervisorError> {
        tokio::task::yield_now().await;
        Ok(self.with(|s| {
            s.guests.iter().map(|(id, g)| if g.alive { Found::living(*id, None) } else { Found::dead(*id) }).collect()
        }))
    }
    async fn start(&self, plan: &Plan) -> Result<Found, HypervisorError> {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let boot = self.boot;
        self.with(|s| {
            if s.guests.get(&plan.guest).is_some_and(|g| g.alive) {
                return;
            }
            *s.starts.entry(plan.guest).or_default() += 1;
            let says = match s.boots.get(&plan.guest).copied().unwrap_or(Boots::Well) {
                Boots::Well => true,
                Boots::OnlySteady => plan.pace == Pace::Steady,
                Boots::Never => false,
            };
            let hello_at = says.then(|| Instant::now() + boot);
            let guest =
                FakeGuest { alive: true, hello_at, said_hello: false, execs: BTreeMap::new(), sessions: vec![] };
            s.guests.insert(plan.guest, guest);
            let booting = s.guests.values().filter(|g| g.alive && !g.said_hello).count();
            s.booting_most = s.booting_most.max(booting);
        });
        tokio::time::sleep(Duration::from_millis(10)).await;
        Ok(Found::living(plan.guest, None))
    }
    async fn destroy(&self, guest: GuestId) -> Result<(), HypervisorError> {
        tokio::time::sleep(Duration::from_millis(5)).await;
        self.with(|s| {
            if let Some(guest) = s.guests.get_mut(&guest) {
                guest.alive = false;
                guest.sessions.drain(..).for_each(|s| s.cancel());
            }
        });
        tokio::time::sleep(Duration::from_millis(5)).await;
        self.with(|s| s.guests.remove(&guest));
        Ok(())
    }
    fn events(&self) -> broadcast::Receiver<GuestEvent> {
        self.events.subscribe()
    }
    fn channel(&self) -> Option<&dyn Channel> {
        Some(self)
    }
}

#[async_trait]
impl Channel for Fake {
    async fn open(&self, guest: GuestId, within: Duration) -> Result<Arc<dyn Session>, HypervisorError> {
        let deadline = Instant::now() + within;
        let mut changed = self.changed.subscribe();
        loop {
            let hello_at = self.state.lock().unwrap().guests.get(&guest).filter(|g| g.alive).map(|g| g.hello_at);
            let Some(hello_at) = hello_at else { return Err(HypervisorError::NotRunning) };
            if hello_at.is_some_and(|at| at <= Instant::now()) {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep_until(hello_at.unwrap_or(deadline).min(deadline)) => {}
                _ = changed.changed() => {}
            }
            if Instant::now() >= deadline {
                return Err(HypervisorError::Silent(within));
            }
        }
        let closed = CancellationToken::new();
        self.with(|s| {
            let guest = s.guests.get_mut(&guest).unwrap();
            guest.said_hello = true;
            guest.sessions.push(closed.clone());
        });
        Ok(Arc::new(FakeSession { fake: self.clone(), guest, closed }))
    }
}

struct FakeSession {
    fake: Fake,
    guest: GuestId,
    closed: CancellationToken,
}

impl FakeSession {
    /// Without waking anybody: two streams that look must not wake each other for ever.
    fn peek(&self, id: Uuid) -> Result<Seen, HypervisorError> {
        if self.closed.is_cancelled() {
            return Err(HypervisorError::Channel("closed".into()));
        }
        let state = self.fake.state.lock().unwrap();
        let exec = state.guests.get(&self.guest).and_then(|g| g.execs.get(&id));
        exec.map(look).ok_or(HypervisorError::UnknownExecution)
    }
    fn exec_with<T>(&self, id: Uuid, f: impl FnOnce(&mut FakeExec) -> T) -> Result<T, HypervisorError> {
        if self.closed.is_cancelled() {
            return Err(HypervisorError::Channel("closed".into()));
        }
        self.fake.with(|s| {
            let exec = s.guests.get_mut(&self.guest).and_then(|g| g.execs.get_mut(&id));
            exec.map(f).ok_or(HypervisorError::UnknownExecution)
        })
    }
}

#[async_trait]
impl Session for FakeSession {
    fn hello(&self) -> GuestHello {
        GuestHello {
            version: "1".into(),
            boot_id: "b".into(),
            clone_id: "c".into(),
            kernel_release: "6.1-fake".into(),
            uptime_ms: 1,
        }
    }
    async fn exec(&self, start: ExecStart) -> Result<Box<dyn ExecStream>, HypervisorError> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        if self.closed.is_cancelled() {
            return Err(HypervisorError::Channel("closed".into()));
        }
        self.fake.with(|s| {
            let guest = s.guests.get_mut(&self.guest).ok_or(HypervisorError::NotRunning)?;
            if guest.execs.contains_key(&start.id) {
                return Ok(());
            }
            if start.attach_only {
                return Err(HypervisorError::UnknownExecution);
            }
            let exec = FakeExec {
                argv: start.argv.clone(),
                began: Instant::now(),
                killed: None,
                stdin: vec![],
                stdin_done: !start.stdin,
                signals: vec![],
            };
            guest.execs.insert(start.id, exec);
            *s.exec_starts.entry(start.id).or_default() += 1;
            Ok(())
        })?;
        tokio::time::sleep(Duration::from_millis(1)).await;
        let session = FakeSession { fake: self.fake.clone(), guest: self.guest, closed: self.closed.clone() };
        let stdin = start.stdin.then(|| FakeSession {
            fake: self.fake.clone(),
            guest: self.guest,
            closed: self.closed.clone(),
        });
        let changed = self.fake.changed.subscribe();
        let at = usize::try_from(start.stdout_offset).unwrap();
        Ok(Box::new(FakeStream { session, id: start.id, at, started: false, ended: false, stdin, changed }))
    }
    async fn signal(&self, execution: Uuid, signal: i32) -> Result<(), HypervisorError> {
        self.exec_with(execution, |e| {
            e.signals.push(signal);
            if signal == 9 || e.argv[0] != "stubborn" {
                e.killed.get_or_insert(signal);
            }
        })
    }
    async fn acknowledge(&self, execution: Uuid) -> Result<(), HypervisorError> {
        self.fake.with(|s| s.guests.get_mut(&self.guest).map(|g| g.execs.remove(&execution)));
        Ok(())
    }
    async fn put_file(&self, path: &str, _: u32, mut bytes: FileSource) -> Result<u64, HypervisorError> {
        let mut all = Vec::new();
        while let Some(chunk) = bytes.recv().await {
            all.extend_from_slice(&chunk?);
        }
        let length = all.len() as u64;
        self.fake.with(|s| s.files.insert(path.to_owned(), all));
        Ok(length)
    }
    async fn get_file(&self, path: &str) -> Result<FileSource, HypervisorError> {
        let found = self.fake.with(|s| s.files.get(path).cloned());
        let refused = || HypervisorError::GuestRefused { code: "not_found".into(), text: "no such file".into() };
        let bytes = found.ok_or_else(refused)?;
        let (tx, rx) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move { tx.send(Ok(Bytes::from(bytes))).await });
        Ok(rx)
    }
    async fn closed(&self) {
        self.closed.cancelled().await;
    }
}

struct FakeStream {
    session: FakeSession,
    id: Uuid,
    at: usize,
    started: bool,
    ended: bool,
    stdin: Option<FakeSession>,
    changed: watch::Receiver<u64>,
}

type Seen = (Vec<u8>, Option<Instant>, Option<ExecOutcome>);

/// What a program has written by now, when it writes next, and how it ended.
fn look(exec: &FakeExec) -> Seen {
    let word = |n: usize| exec.argv.get(n).cloned().unwrap_or_default();
    let number = word(1).parse::<u64>().unwrap_or(0);
    let seconds = exec.began.elapsed().as_secs();
    let exited = |code| Some(ExecOutcome::Exited { code });
    let (out, next, end) = match word(0).as_str() {
        "echo" => (word(1).into_bytes(), None, exited(0)),
        "exit" => (vec![], None, exited(i32::try_from(number).unwrap())),
        "cat" => (exec.stdin.clone(), None, exec.stdin_done.then_some(ExecOutcome::Exited { code: 0 })),
        // tick, stubborn: a line each second
        _ => {
            let lines: String = (1..=seconds.min(number)).map(|i| format!("tick {i}\n")).collect();
            let done = seconds >= number;
            let next = exec.began + Duration::from_secs(seconds + 1);
            (lines.into_bytes(), (!done).then_some(next), done.then_some(ExecOutcome::Exited { code: 0 }))
        }
    };
    match exec.killed {
        Some(signal) if end.is_none() => (out, None, Some(ExecOutcome::Signaled { signal })),
        _ => (out, next, end),
    }
}

#[async_trait]
impl ExecStream for FakeStream {
    async fn next(&mut self) -> Option<Result<ExecEvent, HypervisorError>> {
        if self.ended {
            return None;
        }
        if !std::mem::replace(&mut self.started, true) {
            return Some(Ok(ExecEvent::Started));
        }
        loop {
            self.changed.mark_unchanged();
            let (out, next, end) = match self.session.peek(self.id) {
                Ok(seen) => seen,
                Err(e) => return Some(Err(e)),
            };
            if out.len() > self.at {
                let bytes = Bytes::copy_from_slice(&out[self.at..]);
                self.at = out.len();
                return Some(Ok(ExecEvent::Stdout(bytes)));
            }
            if let Some(outcome) = end {
                self.ended = true;
                return Some(Ok(ExecEvent::End(ExecEnd {
                    outcome,
                    stdout_bytes: out.len() as u64,
                    stderr_bytes: 0,
                    stdout_truncated: false,
                    stderr_truncated: false,
                    duration_ms: 1,
                })));
            }
            let pause = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = pause => {}
                _ = self.changed.changed() => {}
                () = self.session.closed.cancelled() => {}
            }
        }
    }
    fn stdin(&mut self) -> Option<Box<dyn ExecStdin>> {
        let session = self.stdin.take()?;
        Some(Box::new(FakeStdin { session, id: self.id }))
    }
}

struct FakeStdin {
    session: FakeSession,
    id: Uuid,
}

#[async_trait]
impl ExecStdin for FakeStdin {
    fn offset(&self) -> u64 {
        self.session.exec_with(self.id, |e| e.stdin.len() as u64).unwrap_or(0)
    }
    async fn write(&mut self, bytes: Bytes) -> Result<(), HypervisorError> {
        let taken = self.session.exec_with(self.id, |e| e.stdin.extend_from_slice(&bytes));
        self.session.fake.changed.send_modify(|_| {});
        taken
    }
    async fn finish(&mut self) -> Result<(), HypervisorError> {
        self.session.exec_with(self.id, |e| e.stdin_done = true)
    }
}
