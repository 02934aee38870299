//! The task of one execution.

use super::end::{Ending, Kept};
use super::input::Input;
use super::{Document, Live, Progress, SHELF};
use crate::guest::Reach;
use crate::journal::{self, Keep};
use crate::spool::Stream;
use crate::world::World;
use bytes::Bytes;
use perigee_agent_api::ExecutionReport;
use perigee_hypervisor::{ExecEvent, ExecStart, ExecStream, HypervisorError, Session};
use perigee_model::guest::Problem;
use perigee_model::limits::OUTPUT_BYTES_DEFAULT;
use perigee_model::{Code, Timestamp};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// A session that refused this execution's stream but stays open is tried again after this.
const ATTACH_AGAIN: Duration = Duration::from_millis(100);
/// The longest such wait.
const ATTACH_AGAIN_MAX: Duration = Duration::from_secs(5);

pub(super) struct Run {
    world: Arc<World>,
    live: Arc<Live>,
    document: Document,
    kept: [Kept; 2],
    stdin: Arc<Mutex<Input>>,
    /// This life of the agent has handed it to the guest or found it handed over.
    last: Option<Arc<dyn Session>>,
    wait: Duration,
}

/// What is left of a document's streams and end, for followers.
pub(super) fn progress_of(world: &World, document: &Document) -> Progress {
    let len = |stream| world.spool.len(document.execute.execution, stream).unwrap_or(0);
    Progress {
        sent: document.sent,
        started: document.started_at.is_some(),
        stdout: len(Stream::Stdout),
        stderr: len(Stream::Stderr),
        ended: document.end.is_some().then(|| Arc::new(document.report())),
    }
}

impl Run {
    pub(super) fn new(
        world: Arc<World>,
        live: Arc<Live>,
        document: Document,
        stdin: Option<mpsc::Receiver<Bytes>>,
    ) -> Self {
        let kept = [Kept::default(); 2];
        let stdin = Arc::new(Mutex::new(Input::new(stdin)));
        Self { world, live, document, kept, stdin, last: None, wait: ATTACH_AGAIN }
    }

    /// To its end. `room`: the guest has room for one more.
    pub(super) async fn run(mut self, room: bool) {
        let progress = progress_of(&self.world, &self.document);
        self.kept[0].bytes = progress.stdout;
        self.kept[1].bytes = progress.stderr;
        self.live.progress.send_replace(progress);
        if self.document.started_at.is_some() {
            self.world.outbox.execution(self.document.report());
        }
        let ending = match self.refuse(room) {
            Some(problem) => Ending::NotStarted(problem),
            None => self.follow_guest().await,
        };
        self.finish(ending).await;
    }

    fn refuse(&self, room: bool) -> Option<Problem> {
        if !room {
            return Some(Problem::new(Code::TooManyExecutions, "too many executions run in this guest"));
        }
        let fault = self.document.execute.command.check().err()?;
        Some(Problem::new(fault.code, fault.shown))
    }

    async fn save(&self) -> bool {
        let key = self.live.id.to_string();
        let written = journal::write(self.world.journal.as_ref(), SHELF, &key, &self.document, Keep::Process).await;
        self.world.health.journal(written.as_ref().err());
        written.inspect_err(|e| warn!(execution = %key, error = %crate::chain(e), "document not written")).is_ok()
    }

    /// Attaches again and again until it ended.
    async fn follow_guest(&mut self) -> Ending {
        let guest = loop {
            match self.world.guest(self.live.guest).await {
                Ok(guest) => break guest,
                Err(problem) if !self.document.sent => return Ending::NotStarted(problem),
                // It may run on all the same.
                Err(problem) if problem.code == Code::ChannelBroken.number() => {}
                Err(_) => return self.no_guest(),
            }
        };
        let mut reach = guest.reach();
        loop {
            let session = match self.session(&mut reach).await {
                Ok(session) => session,
                Err(ending) => return ending,
            };
            let attach_only = self.document.sent;
            if !attach_only {
                self.document.sent = true;
                if !self.save().await {
                    self.document.sent = false;
                    let text = "the host cannot write the execution down";
                    return Ending::NotStarted(Problem::new(Code::DiskFull, text));
                }
                self.live.progress.send_modify(|p| p.sent = true);
            }
            self.last = Some(session.clone());
            if let Some(ending) = self.attached(session, attach_only, &mut reach).await {
                return ending;
            }
        }
    }

    fn no_guest(&self) -> Ending {
        if self.document.sent {
            let text = "the guest is gone; whether the command finished is not known";
            return Ending::Lost(Problem::new(Code::ExecutionLost, text));
        }
        Ending::NotStarted(Problem::new(Code::GuestNotRunning, "the guest is not running"))
    }

    /// Waits for a session. One that was tried is tried again only after a pause.
    async fn session(&mut self, reach: &mut watch::Receiver<Reach>) -> Result<Arc<dyn Session>, Ending> {
        let cancelled = self.live.cancelled.clone();
        loop {
            if cancelled.is_cancelled() && !self.document.sent {
                return Err(cancelled_early());
            }
            let now = reach.borrow_and_update().clone();
            let mut pause = None;
            match now {
                Reach::Up(session) => {
                    if self.last.as_ref().is_none_or(|last| !Arc::ptr_eq(last, &session)) {
                        self.wait = ATTACH_AGAIN;
                        return Ok(session);
                    }
                    pause = Some((self.wait, session));
                    self.wait = (self.wait * 2).min(ATTACH_AGAIN_MAX);
                }
                Reach::Down => return Err(self.no_guest()),
                Reach::Soon | Reach::Broken => {}
            }
            let paused = async {
                match &pause {
                    Some((wait, _)) => tokio::time::sleep(*wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                changed = reach.changed() => if changed.is_err() { return Err(self.no_guest()) },
                () = paused => if let Some((_, session)) = pause { return Ok(session) },
                () = cancelled.cancelled(), if !self.document.sent => return Err(cancelled_early()),
            }
        }
    }

    /// One attachment; `None` when it broke and must be made again.
    async fn attached(
        &mut self,
        session: Arc<dyn Session>,
        attach_only: bool,
        reach: &mut watch::Receiver<Reach>,
    ) -> Option<Ending> {
        let start = self.start(attach_only);
        let mut effect = self.world.nursery.effect(async move { session.exec(start).await });
        let answer = tokio::select! {
            biased;
            answer = effect.wait() => answer?,
            // The guest ends: nothing is lost by not waiting.
            _ = reach.wait_for(|r| matches!(r, Reach::Down)) => return Some(self.no_guest()),
        };
        let stream = match answer {
            Ok(stream) => stream,
            Err(e) => return self.refused(e),
        };
        self.events(stream, reach).await
    }

    fn start(&self, attach_only: bool) -> ExecStart {
        let command = &self.document.execute.command;
        ExecStart {
            id: self.live.id.uuid(),
            argv: command.argv.clone(),
            env: command.env.clone(),
            cwd: command.cwd.clone(),
            user: command.user.clone(),
            stdin: self.document.execute.stdin,
            timeout_ms: command.timeout_ms,
            output_limit_bytes: self.limit(),
            stdout_offset: self.kept[0].bytes + self.kept[0].dropped,
            stderr_offset: self.kept[1].bytes + self.kept[1].dropped,
            attach_only,
        }
    }
    fn limit(&self) -> u64 {
        self.document.execute.command.output_limit_bytes.unwrap_or(OUTPUT_BYTES_DEFAULT)
    }

    fn refused(&self, error: HypervisorError) -> Option<Ending> {
        let problem = |code, text: String| Problem::new(code, text);
        match error {
            HypervisorError::UnknownExecution => {
                let text = "the guest does not know the execution; whether it ran is not known";
                Some(Ending::Lost(problem(Code::ExecutionLost, text.to_owned())))
            }
            HypervisorError::GuestRefused { code, text } if code == "too_many_executions" => {
                Some(Ending::NotStarted(problem(Code::TooManyExecutions, text)))
            }
            HypervisorError::GuestRefused { code, text } if code == "offset_gone" => {
                Some(Ending::Lost(problem(Code::ExecutionLost, text)))
            }
            HypervisorError::GuestRefused { text, .. } => Some(Ending::NotStarted(problem(Code::BadRequest, text))),
            other => {
                info!(execution = %self.live.id, error = %crate::chain(&other), "not attached, once more");
                None
            }
        }
    }

    async fn events(&mut self, mut stream: Box<dyn ExecStream>, reach: &mut watch::Receiver<Reach>) -> Option<Ending> {
        // The source is handed to the next session when this one is given up.
        let attached = CancellationToken::new();
        let _given_up = attached.clone().drop_guard();
        if let Some(mut stdin) = stream.stdin() {
            let input = self.stdin.clone();
            self.world.nursery.spawn(async move {
                tokio::select! {
                    biased;
                    () = attached.cancelled() => {}
                    () = async { _ = input.lock().await.carry(&mut *stdin).await } => {}
                }
            });
        }
        loop {
            let event = tokio::select! {
                biased;
                event = stream.next() => event,
                // The stream is given up with the guest.
                _ = reach.wait_for(|r| matches!(r, Reach::Down)) => return Some(self.no_guest()),
            };
            match event {
                Some(Ok(ExecEvent::Started)) => self.started().await,
                Some(Ok(ExecEvent::Stdout(bytes))) => self.keep(Stream::Stdout, &bytes),
                Some(Ok(ExecEvent::Stderr(bytes))) => self.keep(Stream::Stderr, &bytes),
                Some(Ok(ExecEvent::End(end))) => return Some(Ending::Told(end)),
                Some(Err(e)) => return self.refused(e),
                None => return None,
            }
        }
    }

    async fn started(&mut self) {
        if self.document.started_at.is_none() {
            self.document.started_at = Some(self.world.clock.now());
            self.live.progress.send_modify(|p| p.started = true);
            self.save().await;
            self.world.outbox.execution(self.document.report());
        }
    }

    /// Writes output down, up to the limit; the rest is counted.
    fn keep(&mut self, stream: Stream, bytes: &[u8]) {
        let limit = self.limit();
        let kept = &mut self.kept[stream as usize];
        let room = usize::try_from(limit.saturating_sub(kept.bytes)).unwrap_or(usize::MAX);
        let (keep, drop) = bytes.split_at(bytes.len().min(room));
        match self.world.spool.append(self.live.id, stream, keep) {
            Ok(()) => kept.bytes += keep.len() as u64,
            Err(e) => {
                // Part of it may be there: readers go by our count, so they see no more than that.
                warn!(execution = %self.live.id, error = %e, "output was not written");
                self.world.health.set("spool", false, "output cannot be written");
                kept.dropped += keep.len() as u64;
            }
        }
        kept.dropped += drop.len() as u64;
        let bytes = kept.bytes;
        self.live.progress.send_modify(|p| match stream {
            Stream::Stdout => p.stdout = bytes,
            Stream::Stderr => p.stderr = bytes,
        });
    }

    /// Writes the end down, lets the guest forget it, and reports it until it is taken.
    async fn finish(mut self, ending: Ending) {
        let now: Timestamp = self.world.clock.now();
        let told = matches!(ending, Ending::Told(_));
        let end = ending.conclude(&self.document, self.world.spool.as_ref(), self.kept, now);
        self.document.end = Some(end);
        let written = self.save().await;
        let report: ExecutionReport = self.document.report();
        // In this order: an answer to the report finds it ended.
        self.live.progress.send_modify(|p| p.ended = Some(Arc::new(report.clone())));
        self.world.outbox.execution(report);
        if let (true, true, Some(session)) = (written, told, &self.last) {
            // Not acknowledged is no harm: the guest keeps it until it ends.
            if let Err(e) = session.acknowledge(self.live.id.uuid()).await {
                info!(execution = %self.live.id, error = %crate::chain(&e), "not acknowledged");
            }
        }
    }
}

fn cancelled_early() -> Ending {
    Ending::NotStarted(Problem::new(Code::TaskCancelled, "it was cancelled before it started"))
}
