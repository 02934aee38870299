//! One direction of a network: messages under way.
//!
//! Owns: when each message arrives, how often, and in which order. Refuses: looking into it.

use crate::draw::Draw;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How rough a network is, in percent of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rough {
    /// Never arrive, where that is allowed.
    pub lost: u32,
    /// Arrive once more, later.
    pub twice: u32,
    /// Are overtaken by others.
    pub late: u32,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Arrives, in its turn.
    Plain,
    /// Never arrives.
    Lost,
    /// Arrives twice.
    Twice,
    /// Is overtaken.
    Late,
}

/// Messages under way, by the time they arrive.
#[derive(Debug)]
pub struct Pipe<T> {
    under_way: BTreeMap<(Instant, u64), T>,
    count: u64,
    newest: Instant,
}

impl<T: Clone> Pipe<T> {
    /// Empty.
    pub fn new() -> Self {
        Self { under_way: BTreeMap::new(), count: 0, newest: Instant::now() }
    }

    /// Sends a message that arrives at once, before everything sent later.
    pub fn push_now(&mut self, message: T) {
        self.put(Instant::now(), message);
    }

    /// Sends a message.
    pub fn push(&mut self, message: T, rough: Rough, may_be_lost: bool, draw: &mut Draw) -> Fate {
        let plain = (Instant::now() + draw.millis(1, 12)).max(self.newest);
        if may_be_lost && draw.chance(rough.lost) {
            return Fate::Lost;
        }
        if draw.chance(rough.late) {
            self.put(plain + draw.millis(20, 2500), message);
            return Fate::Late;
        }
        self.newest = plain;
        if draw.chance(rough.twice) {
            self.put(plain + draw.millis(0, 4000), message.clone());
            self.put(plain, message);
            return Fate::Twice;
        }
        self.put(plain, message);
        Fate::Plain
    }

    /// Resolves when a message arrives. May be dropped.
    pub async fn arrival(&self) {
        match self.under_way.first_key_value() {
            Some(((at, _), _)) => tokio::time::sleep_until(*at).await,
            None => std::future::pending().await,
        }
    }

    /// The next message that has arrived.
    pub fn pop(&mut self) -> Option<T> {
        self.under_way.first_entry().filter(|e| e.key().0 <= Instant::now()).map(|e| e.remove())
    }

    /// Everything still under way, in order.
    pub fn drain(&mut self) -> Vec<T> {
        std::mem::take(&mut self.under_way).into_values().collect()
    }

    /// The last message arrives after this long.
    pub fn rest(&self) -> Duration {
        let last = self.under_way.last_key_value().map(|((at, _), _)| *at);
        last.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()))
    }

    fn put(&mut self, at: Instant, message: T) {
        self.count += 1;
        self.under_way.insert((at, self.count), message);
    }
}
