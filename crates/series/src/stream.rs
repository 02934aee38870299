//! What is known of one stream: its latest values, its runs, and its frames that are in no block.

use crate::error::Refused;
use crate::head::Head;
use crate::journal::Position;
use perigee_model::frame::{Change, Columns, FrameError, Header};
use perigee_model::{RunId, Timestamp};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Runs that are remembered.
const RUNS_MAX: usize = 64;
/// A frame this far from our clock is no live one.
const LIVE_WITHIN: Duration = Duration::from_secs(30);
/// A frame further ahead is not believed.
const FUTURE_MAX: Duration = Duration::from_secs(3600);

/// A frame's class by its age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Measured now.
    Live,
    /// Measured before, and sent late.
    Backfill,
}

/// What was not as it should be, counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Frames that were measured and will never come.
    pub lost: u64,
    /// Frames that came again.
    pub duplicates: u64,
    /// Frames that were refused.
    pub refused: u64,
}

/// One stream's state.
#[derive(Default)]
pub struct Stream {
    /// The latest values.
    pub columns: Columns,
    /// Runs, the newest last, and the last frame taken of each.
    pub runs: VecDeque<(RunId, u64)>,
    /// Closed stretches that wait for their block, oldest first, each with the positions of its
    /// first and last record in the log.
    pub closed: VecDeque<(Arc<Head>, Position)>,
    /// The newest stretch, and the position of its first record.
    pub open: Option<(Head, Position)>,
    /// The position of the last record.
    pub last: Position,
    /// The first record behind all heads whose frame was passed over.
    passed: Option<Position>,
    /// What was lost.
    pub losses: Losses,
}

impl Stream {
    /// The newest run's last frame.
    pub fn mark(&self) -> Option<(RunId, u64)> {
        self.runs.back().copied()
    }

    /// Whether the frame is the next one, before anything is changed.
    ///
    /// # Errors
    /// `Duplicate`, `OldRun`, `NeedsKey`.
    pub fn admit(&mut self, run: RunId, header: Header) -> Result<(), Refused> {
        let place = self.runs.iter().position(|(known, _)| *known == run);
        let newest = place.is_some_and(|place| place + 1 == self.runs.len());
        match place.map(|place| self.runs[place].1) {
            Some(last) if header.sequence <= last => {
                self.losses.duplicates += 1;
                Err(Refused::Duplicate)
            }
            Some(_) if !newest => {
                self.losses.refused += 1;
                Err(Refused::OldRun)
            }
            Some(last) if !header.key && last.checked_add(1) != Some(header.sequence) => Err(Refused::NeedsKey),
            None if !header.key => Err(Refused::NeedsKey),
            Some(_) | None => Ok(()),
        }
    }

    /// Takes the frame into the latest values.
    ///
    /// # Errors
    /// `NeedsKey`, `Frame`.
    pub fn apply(&mut self, run: RunId, frame: &[u8]) -> Result<Change, Refused> {
        let change = self.columns.apply(frame).map_err(|error| match error {
            FrameError::Gap { .. } => Refused::NeedsKey,
            other => {
                self.losses.refused += 1;
                Refused::Frame(other)
            }
        })?;
        self.note(run, change.header.sequence);
        Ok(change)
    }

    /// Remembers that a frame was taken; those jumped over are lost.
    pub fn note(&mut self, run: RunId, sequence: u64) {
        let before = match self.runs.back_mut() {
            Some((known, last)) if *known == run => std::mem::replace(last, sequence),
            Some(_) | None => {
                self.runs.push_back((run, sequence));
                if self.runs.len() > RUNS_MAX {
                    self.runs.pop_front();
                }
                0
            }
        };
        let missing = sequence.saturating_sub(before.saturating_add(1));
        self.losses.lost = self.losses.lost.saturating_add(missing);
    }

    /// Keeps an applied frame for its block.
    pub fn keep(&mut self, run: RunId, change: &Change, position: Position) {
        self.last = position;
        let begins = self.passed.take().unwrap_or(position);
        let fits = match &mut self.open {
            Some((head, _)) => head.push(run, change, &self.columns),
            None => false,
        };
        if !fits {
            self.close();
            self.open = Some((Head::begin(run, change, &self.columns), begins));
        }
    }

    /// Remembers an applied frame that goes into no block: the log must have it as long as it has
    /// those that build on it.
    pub fn pass_over(&mut self, position: Position) {
        self.last = position;
        self.losses.refused += 1;
        self.passed.get_or_insert(position);
    }

    /// Ends the newest stretch.
    pub fn close(&mut self) {
        if let Some((head, first)) = self.open.take() {
            self.closed.push_back((Arc::new(head), first));
        }
    }

    /// The oldest record that is in no block.
    pub fn unsealed_from(&self) -> Option<Position> {
        let closed = self.closed.front().map(|(_, first)| *first);
        closed.or(self.open.as_ref().map(|(_, first)| *first)).or(self.passed)
    }
}

/// A frame's class, or why its time is not taken.
///
/// # Errors
/// `Future`, `TooOld`.
pub fn class(at: Timestamp, now: Timestamp, kept: Duration) -> Result<Class, Refused> {
    if at.since(now) > FUTURE_MAX {
        return Err(Refused::Future);
    }
    if now.since(at) > kept {
        return Err(Refused::TooOld);
    }
    let skew = at.since(now).max(now.since(at));
    Ok(if skew > LIVE_WITHIN { Class::Backfill } else { Class::Live })
}
