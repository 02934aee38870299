//! One stream's conversation with its agent.

use super::{Watching, problem};
use perigee_agent_api::{FramesDown, Mark};
use perigee_model::RunId;
use perigee_model::frame::{Header, StreamId};
use perigee_model::guest::Problem;
use perigee_series::{Position, Refused};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::watch;

/// Frames that may be under way without being durable.
const WINDOW: u32 = 256;
/// What one stream may cost in a second: 200 frames of the usual size, enough to catch up with an
/// hour in half a minute, too little to keep others waiting.
const WORK_PER_SECOND: u64 = 200 * FRAME_WORK;
/// What a frame costs at least. One byte costs 1.
const FRAME_WORK: u64 = 10_000;
/// A changed value costs as much as so many bytes.
const CHANGE_WORK: u64 = 16;
/// A frame that is not what it should be: nobody knows what reading it cost.
const BAD_FRAME_WORK: u64 = 100_000;
/// How often a host is measured while somebody looks closely.
const CLOSE_INTERVAL: Duration = Duration::from_secs(1);

/// No more frames wait to become durable, whatever an agent sends.
const PENDING_MAX: usize = 4 * WINDOW as usize;
/// A disk that takes nothing is asked again after this.
const STUCK_WAIT: Duration = Duration::from_millis(250);

/// What to do after a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Take no other for so long.
    Wait(Duration),
    /// It was not taken: take it again after so long.
    Again(Duration),
}

/// Takes frames and says how far they are durable.
pub struct Feed {
    watching: Watching,
    stream: StreamId,
    /// Taken, and durable when the position is.
    pending: VecDeque<(Mark, Position)>,
    done: Option<Mark>,
    want_key: bool,
    refused: Option<Problem>,
    said: Option<FramesDown>,
    durable: watch::Receiver<Position>,
    attention: watch::Receiver<u64>,
    second: perigee_clock::Instant,
    /// What was done in this second.
    work: u64,
}

impl Feed {
    pub(super) fn new(watching: Watching, stream: StreamId) -> Self {
        let mark = watching.0.database.mark(stream).map(|(run, sequence)| Mark { run, sequence });
        // What was taken on a link before may not be durable yet.
        let pending = mark.map(|mark| (mark, watching.0.database.last_position(stream)));
        let (durable, attention) = (watching.0.durable.clone(), watching.0.live.attention());
        let second = watching.0.clock.instant();
        let (pending, done) = (VecDeque::from_iter(pending), None);
        let (want_key, refused, said, work) = (false, None, None, 0);
        Self { watching, stream, pending, done, want_key, refused, said, durable, attention, second, work }
    }

    /// Takes a frame.
    pub fn take(&mut self, run: RunId, frame: &[u8]) -> Taken {
        let parts = &self.watching.0;
        let sequence = Header::read(frame).map_or(0, |header| header.sequence);
        let mark = Mark { run, sequence };
        let mut work = frame.len() as u64;
        match parts.database.append(self.stream, run, frame, parts.clock.now()) {
            Ok(appended) => {
                self.want_key = false;
                work += CHANGE_WORK * appended.change.changed.len() as u64;
                self.pending.push_back((mark, appended.position));
                let known = || parts.database.latest(self.stream);
                parts.live.take(self.stream, frame, known);
            }
            // Both are behind what was said to be durable already.
            Err(Refused::Duplicate | Refused::OldRun) => {}
            Err(Refused::NeedsKey) => self.want_key = true,
            // Nothing was changed: the same frame can be taken when there is room.
            Err(Refused::Store(_)) => return Taken::Again(STUCK_WAIT),
            Err(refused @ (Refused::Future | Refused::TooOld)) => {
                self.refused = Some(problem(&refused));
                work = work.max(BAD_FRAME_WORK);
                self.pending.push_back((mark, parts.database.durable()));
            }
            Err(refused @ Refused::Frame(_)) => {
                self.refused = Some(problem(&refused));
                work = work.max(BAD_FRAME_WORK);
                self.want_key = true;
            }
        }
        if self.pending.len() > PENDING_MAX { Taken::Wait(STUCK_WAIT) } else { Taken::Wait(self.pace(work)) }
    }

    /// How long the stream rests after so much work.
    fn pace(&mut self, work: u64) -> Duration {
        let passed = self.second.elapsed();
        if passed >= Duration::from_secs(1) {
            self.second = self.watching.0.clock.instant();
            self.work = 0;
        }
        self.work += work.max(FRAME_WORK);
        if self.work < WORK_PER_SECOND { Duration::ZERO } else { Duration::from_secs(1).saturating_sub(passed) }
    }

    /// What the agent should hear, as soon as it is something new. May be dropped.
    pub async fn next(&mut self) -> FramesDown {
        loop {
            let durable = *self.durable.borrow_and_update();
            let durable = durable.max(self.watching.0.database.durable());
            self.attention.borrow_and_update();
            while let Some((mark, _)) = self.pending.front().copied().filter(|(_, position)| *position <= durable) {
                self.pending.pop_front();
                self.done = Some(mark);
            }
            let close = self.watching.0.live.is_watched(self.stream.host);
            let down = FramesDown {
                durable: self.done,
                window: WINDOW,
                interval: close.then_some(CLOSE_INTERVAL),
                want_key: self.want_key,
                refused: self.refused.take(),
            };
            if self.said.as_ref() != Some(&down) && (self.said.is_some() || self.pending.is_empty()) {
                self.said = Some(FramesDown { refused: None, ..down.clone() });
                return down;
            }
            // A fleet's feeds are not all woken by each sync: only those that wait for one.
            let waits = !self.pending.is_empty();
            tokio::select! {
                changed = self.durable.changed(), if waits => if changed.is_err() { std::future::pending::<()>().await },
                changed = self.attention.changed() => if changed.is_err() { std::future::pending::<()>().await },
            }
        }
    }
}
