//! Frames on their way to the control plane.
//!
//! Owns: which frames are under way, and going on after a break where the control plane is.
//! Refuses: forgetting a frame before it is durable there.
//!
//! ```text
//! away ──open──▶ begun ──"durable: run, n"──▶ sending behind n ──end──▶ away, full jitter
//!                                              ├ window full: waits for `durable`
//!                                              └ want_key: jumps to the next key frame
//! ```

mod pace;
mod spool;

pub use pace::Pace;
pub use spool::{Caps, Cursor, FrameSpool, Record};

use crate::uplink::UplinkError;
use async_trait::async_trait;
use perigee_agent_api::{FramesDown, FramesUp, Mark, StreamName};
use perigee_clock::{Clock, Instant};
use perigee_model::limits::RECONNECT_FIRST;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{info, warn};

/// The control plane says what it has within this.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A stream that lived this long starts the waits from the beginning.
const STEADY_AFTER: Duration = Duration::from_secs(10);
/// Frames read from the spool at once.
const BATCH: usize = 32;
/// What waits unsent and not durable is synced this often …
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// … but what was sent just now is given so long to become durable at the other end.
const SYNC_AFTER: Duration = Duration::from_secs(2);

/// An open stream. Dropping it ends it.
pub struct FrameSession {
    /// To the control plane.
    pub tx: mpsc::Sender<FramesUp>,
    /// From it; its end is the stream's end.
    pub rx: mpsc::Receiver<FramesDown>,
}

/// The way of frames to the control plane.
#[async_trait]
pub trait FrameUplink: Send + Sync {
    /// Opens a stream beside the control link.
    ///
    /// # Errors
    /// `Away` while there is no link, `Certificate`, `Refused`.
    async fn frames(&self, stream: StreamName) -> Result<FrameSession, UplinkError>;
    /// The longest wait between two attempts.
    fn patience(&self) -> Duration;
}

/// One stream's way.
pub struct Sender {
    /// Which.
    pub stream: StreamName,
    /// What is to be sent.
    pub spool: Arc<FrameSpool>,
    /// Where to.
    pub uplink: Arc<dyn FrameUplink>,
    /// What the control plane wants of the measuring.
    pub pace: Arc<Pace>,
    /// Time and chance.
    pub clock: Clock,
}

impl Sender {
    /// Sends for ever.
    pub async fn run(self) {
        let mut failures = 0u32;
        loop {
            let began = self.clock.instant();
            let end = self.converse().await;
            self.pace.set_interval(None);
            failures = if began.elapsed() > STEADY_AFTER { 1 } else { failures.saturating_add(1) };
            let doubled = RECONNECT_FIRST * 2u32.pow(failures.saturating_sub(1).min(16));
            let wait = self.clock.jitter(doubled.min(self.uplink.patience()));
            info!(stream = self.stream.text(), reason = %crate::chain(&end), wait_ms = wait.as_millis(), "no frames sent");
            self.keep_safe(wait).await;
        }
    }

    /// Waits; what piles up meanwhile is synced.
    async fn keep_safe(&self, wait: Duration) {
        let mut left = wait;
        while left > Duration::ZERO {
            let nap = left.min(SYNC_EVERY);
            tokio::time::sleep(nap).await;
            left -= nap;
            self.sync().await;
        }
    }

    async fn sync(&self) {
        if !self.spool.is_sync_due() {
            return;
        }
        let spool = self.spool.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || spool.sync()).await {
            warn!(stream = self.stream.text(), %error, "frames are not synced");
        }
    }

    async fn converse(&self) -> UplinkError {
        let FrameSession { tx, mut rx } = match self.uplink.frames(self.stream).await {
            Ok(session) => session,
            Err(end) => return end,
        };
        let first = match tokio::time::timeout(ANSWER_WITHIN, rx.recv()).await {
            Ok(Some(first)) => first,
            Ok(None) => return UplinkError::Away("the stream ended".to_owned()),
            Err(_) => return UplinkError::Away("the control plane did not say what it has".to_owned()),
        };
        match self.carry(first, &tx, &mut rx).await {
            Ok(()) => UplinkError::Away("the stream ended".to_owned()),
            Err(error) => UplinkError::File(error),
        }
    }

    async fn carry(
        &self,
        first: FramesDown,
        tx: &mpsc::Sender<FramesUp>,
        rx: &mut mpsc::Receiver<FramesDown>,
    ) -> std::io::Result<()> {
        let mut way = Way { cursor: self.behind(first.durable).await?, ..Way::default() };
        self.hear(&mut way, first).await?;
        loop {
            if way.ready.is_empty() && way.has_room() {
                let records = self.spool.read(&mut way.cursor, BATCH)?;
                way.take(records, &self.spool);
                way.owes(self.clock.instant().after(SYNC_AFTER));
            }
            let (room, empty) = (way.has_room(), way.ready.is_empty());
            let sync_at = way.sync_at.unwrap_or_else(|| self.clock.instant());
            tokio::select! {
                biased;
                down = rx.recv() => match down {
                    Some(down) => self.hear(&mut way, down).await?,
                    None => return Ok(()),
                },
                permit = tx.reserve(), if room && !empty => {
                    let Ok(permit) = permit else { return Ok(()) };
                    if let Some(record) = way.ready.pop_front() {
                        let mark = Mark { run: record.run, sequence: record.header.sequence };
                        way.under_way.push_back((mark, record.position));
                        permit.send(FramesUp::Frame { run: record.run, frame: record.frame });
                    }
                }
                () = self.spool.appended.notified(), if empty => {}
                () = tokio::time::sleep_until(sync_at.into_tokio()), if way.sync_at.is_some() => {
                    self.sync().await;
                    way.sync_at = Some(self.clock.instant().after(SYNC_EVERY));
                }
            }
        }
    }

    async fn behind(&self, mark: Option<Mark>) -> std::io::Result<Cursor> {
        let spool = self.spool.clone();
        tokio::task::spawn_blocking(move || spool.behind(mark)).await.map_err(std::io::Error::other)?
    }

    async fn hear(&self, way: &mut Way, down: FramesDown) -> std::io::Result<()> {
        way.window = usize::try_from(down.window).unwrap_or(usize::MAX);
        self.pace.set_interval(down.interval);
        if let Some(problem) = &down.refused {
            warn!(stream = self.stream.text(), code = %problem.code, why = %problem.text, "frames were refused");
        }
        if let Some(position) = down.durable.and_then(|mark| way.done(mark)) {
            self.spool.release(position);
            way.sync_at = None;
            way.owes(self.clock.instant().after(SYNC_AFTER));
        }
        if down.want_key && !way.wants_key {
            *way = Way { cursor: self.behind(down.durable).await?, window: way.window, ..Way::default() };
            self.pace.want_key();
        }
        way.wants_key = down.want_key;
        Ok(())
    }
}

/// What is between the spool and the control plane.
#[derive(Default)]
struct Way {
    cursor: Cursor,
    ready: VecDeque<Record>,
    under_way: VecDeque<(Mark, u64)>,
    window: usize,
    wants_key: bool,
    /// When to sync what is not durable at the other end.
    sync_at: Option<Instant>,
}

impl Way {
    fn has_room(&self) -> bool {
        self.under_way.len() < self.window
    }

    /// Something may not be durable at the other end: it is synced then, or before.
    fn owes(&mut self, sync_at: Instant) {
        if !(self.ready.is_empty() && self.under_way.is_empty()) {
            self.sync_at.get_or_insert(sync_at);
        }
    }

    /// Takes what the spool gave; what the control plane cannot read is given up.
    fn take(&mut self, records: Vec<Record>, spool: &FrameSpool) {
        for record in records {
            let unreadable = self.wants_key && self.ready.is_empty() && self.under_way.is_empty() && !record.header.key;
            if unreadable {
                spool.release(record.position);
            } else {
                self.ready.push_back(record);
            }
        }
    }

    /// The place up to which all is durable.
    fn done(&mut self, mark: Mark) -> Option<u64> {
        let last = self.under_way.iter().rposition(|(m, _)| m.run == mark.run && m.sequence <= mark.sequence)?;
        self.under_way.drain(..=last).next_back().map(|(_, position)| position)
    }
}
