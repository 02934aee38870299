//! One stream's conversation with its agent.
//!
//! A stream of which a frame comes each second or more often is answered with its next frame, when both ends are
//! awake: an answer of its own for each would cost either of them as much as the frame. A slower one is answered as
//! soon as its frame is durable.

use super::{Watching, problem};
use perigee_agent_api::{FramesDown, Mark};
use perigee_clock::Instant;
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
/// Frames that follow each other within this are answered together …
const TOGETHER_WITHIN: Duration = Duration::from_millis(1200);
/// … with the first frame that comes so much later than the oldest unanswered one …
const ANSWER_AFTER: Duration = Duration::from_millis(800);
/// … or without any so much later: an agent writes to its disk what is not answered in two seconds …
const ANSWER_WITHIN: Duration = Duration::from_millis(1500);
/// … or once there are so many.
const TOGETHER_MAX: usize = WINDOW as usize / 4;

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

/// A frame that was taken, and is durable when its position is.
struct Pending {
    mark: Mark,
    position: Position,
    taken: Instant,
}

/// Takes frames and says how far they are durable.
pub struct Feed {
    watching: Watching,
    stream: StreamId,
    pending: VecDeque<Pending>,
    done: Option<Mark>,
    /// Of the frames that are durable without the agent's knowing it: how many, and when the oldest was taken.
    unsaid: (usize, Option<Instant>),
    /// When the last frame was taken, and whether it came soon after the one before.
    last: Option<Instant>,
    quick: bool,
    want_key: bool,
    refused: Option<Problem>,
    said: Option<FramesDown>,
    durable: watch::Receiver<Position>,
    attention: watch::Receiver<u64>,
    second: Instant,
    /// What was done in this second.
    work: u64,
}

impl Feed {
    pub(super) fn new(watching: Watching, stream: StreamId) -> Self {
        let mark = watching.0.database.mark(stream).map(|(run, sequence)| Mark { run, sequence });
        // What was taken on a link before may not be durable yet.
        let second = watching.0.clock.instant();
        let position = watching.0.database.last_position(stream);
        let pending = mark.map(|mark| Pending { mark, position, taken: second });
        let (durable, attention) = (watching.0.durable.clone(), watching.0.live.attention());
        let (pending, done) = (VecDeque::from_iter(pending), None);
        let (want_key, refused, said, work) = (false, None, None, 0);
        let (unsaid, last, quick) = ((0, None), None, false);
        Self {
            watching,
            stream,
            pending,
            done,
            unsaid,
            last,
            quick,
            want_key,
            refused,
            said,
            durable,
            attention,
            second,
            work,
        }
    }

    /// Takes a frame.
    pub fn take(&mut self, run: RunId, frame: &[u8]) -> Taken {
        let parts = &self.watching.0;
        let now = parts.clock.instant();
        self.quick = self.last.replace(now).is_some_and(|last| now.since(last) <= TOGETHER_WITHIN);
        let sequence = Header::read(frame).map_or(0, |header| header.sequence);
        let mark = Mark { run, sequence };
        let mut work = frame.len() as u64;
        match parts.database.append(self.stream, run, frame, parts.clock.now()) {
            Ok(appended) => {
                self.want_key = false;
                work += CHANGE_WORK * appended.change.changed.len() as u64;
                self.pending.push_back(Pending { mark, position: appended.position, taken: now });
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
                self.pending.push_back(Pending { mark, position: parts.database.durable(), taken: now });
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

    /// When to answer at the latest, if not at once.
    fn answer_by(&self) -> Option<Instant> {
        let oldest = self.unsaid.1.or(self.pending.front().map(|frame| frame.taken))?;
        let many = self.unsaid.0 + self.pending.len() >= TOGETHER_MAX;
        let may_wait = self.said.is_some() && self.quick && !many && oldest.elapsed() < ANSWER_AFTER;
        may_wait.then(|| oldest.after(ANSWER_WITHIN))
    }

    /// What the agent should hear, as soon as it is something new. May be dropped.
    pub async fn next(&mut self) -> FramesDown {
        loop {
            let durable = *self.durable.borrow_and_update();
            let durable = durable.max(self.watching.0.database.durable());
            self.attention.borrow_and_update();
            while let Some(frame) = self.pending.pop_front_if(|frame| frame.position <= durable) {
                self.done = Some(frame.mark);
                self.unsaid = (self.unsaid.0 + 1, self.unsaid.1.or(Some(frame.taken)));
            }
            let answer_by = self.answer_by();
            let close = self.watching.0.live.is_watched(self.stream.host);
            let down = FramesDown {
                durable: self.done,
                window: WINDOW,
                interval: close.then_some(CLOSE_INTERVAL),
                want_key: self.want_key,
                refused: self.refused.clone(),
            };
            let is_news = match &self.said {
                Some(said) if answer_by.is_some() => *said != FramesDown { durable: said.durable, ..down.clone() },
                Some(said) => *said != down,
                None => self.pending.is_empty(),
            };
            if is_news {
                self.refused = None;
                self.said = Some(FramesDown { refused: None, ..down.clone() });
                self.unsaid = (0, None);
                return down;
            }
            // A fleet's feeds are not all woken by each sync: only those that wait for one.
            let waits = !self.pending.is_empty() && answer_by.is_none();
            let later = answer_by.unwrap_or_else(|| self.watching.0.clock.instant()).into_tokio();
            tokio::select! {
                () = tokio::time::sleep_until(later), if answer_by.is_some() => {}
                changed = self.durable.changed(), if waits => if changed.is_err() { std::future::pending::<()>().await },
                changed = self.attention.changed() => if changed.is_err() { std::future::pending::<()>().await },
            }
        }
    }
}
