//! Watching: the bulk statistics of a host, tick after tick.
//!
//! Owns: its connection, the ticks, reconnecting with backoff.
//! Refuses: a task of its own, and history: whoever calls [`Watch::next`] decides what to keep.
//!
//! One call at most is in flight: a daemon that hangs is not given a second one to hang on, and the
//! connection is kept until its keepalive fails, because each new one would hang another of its threads.

use crate::connection::{Connection, Endpoint, Settings};
use crate::domain::list;
use crate::error::Error;
use crate::stats::{DomainStats, groups};
use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior};

/// After a failed attempt to connect this many ticks pass before the next, at most.
const BACKOFF_TICKS_MAX: u32 = 30;

/// What to watch, and how often.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Where libvirtd listens.
    pub endpoint: Endpoint,
    /// The driver, `qemu:///system`.
    pub uri: String,
    /// Between two answers; also how long one may take.
    pub every: Duration,
}

/// A host being watched.
#[derive(Debug)]
pub struct Watch {
    wish: Wish,
    settings: Settings,
    ticks: Interval,
    link: Link,
}

#[derive(Debug)]
enum Link {
    Up(Connection),
    /// The attempts that failed so far, the ticks to let pass before the next, and why the last one failed.
    Down {
        failed: u32,
        wait: u32,
        why: Option<Error>,
    },
}

impl Watch {
    /// Nothing is asked before the first [`Watch::next`]. Needs a tokio runtime.
    pub fn new(wish: Wish) -> Self {
        let every = wish.every.max(Duration::from_millis(1));
        let mut ticks = tokio::time::interval(every);
        // Late is late: nobody wants the same counters twice in a row.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let settings = Settings { deadline: every, in_flight: 1, ..Settings::default() };
        Self { wish, settings, ticks, link: Link::Down { failed: 0, wait: 0, why: None } }
    }

    /// At the next tick: every running domain's statistics, or why there are none this time. Errors pass;
    /// calling again goes on. While the daemon is away most ticks repeat the last reason without asking.
    pub async fn next(&mut self) -> Result<Vec<DomainStats>, Error> {
        self.ticks.tick().await;
        let connection = self.connected().await?;
        let answer = connection.all_stats(&[], groups::ALL, list::ACTIVE).await;
        if connection.broken().is_some() {
            // It worked until now: the next tick tries at once.
            self.link = Link::Down { failed: 0, wait: 0, why: None };
        }
        answer
    }

    async fn connected(&mut self) -> Result<Connection, Error> {
        let failed = match &mut self.link {
            Link::Up(connection) if connection.broken().is_none() => return Ok(connection.clone()),
            Link::Down { wait, why: Some(why), .. } if *wait > 0 => {
                *wait -= 1;
                return Err(why.clone());
            }
            Link::Up(_) => 0,
            Link::Down { failed, .. } => *failed,
        };
        let opened = Connection::open_with(&self.wish.endpoint, Some(&self.wish.uri), 0, &self.settings).await;
        self.link = match &opened {
            Ok(connection) => Link::Up(connection.clone()),
            Err(why) => {
                let wait = 1u32.checked_shl(failed).map_or(BACKOFF_TICKS_MAX, |wait| wait.min(BACKOFF_TICKS_MAX)) - 1;
                Link::Down { failed: failed.saturating_add(1), wait, why: Some(why.clone()) }
            }
        };
        opened
    }
}
