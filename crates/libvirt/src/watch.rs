//! Watching: the bulk statistics of a host, again and again.
//!
//! Owns: its connection, reconnecting with backoff.
//! Refuses: a task and ticks of its own, and history: whoever calls [`Watch::ask`] decides when, and what
//! to keep.
//!
//! One call at most is in flight: a daemon that hangs is not given a second one to hang on, and the
//! connection is kept until its keepalive fails, because each new one would hang another of its threads.

use crate::connection::{Connection, Settings};
use crate::error::Error;
use crate::stats::{DomainStats, groups};
use crate::transport::Endpoint;
use std::time::Duration;

/// After a failed attempt to connect this many questions go unasked before the next, at most.
const BACKOFF_MAX: u32 = 30;

/// What to watch.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Where libvirtd listens.
    pub endpoint: Endpoint,
    /// The driver, `qemu:///system`.
    pub uri: String,
    /// How long one answer may take.
    pub deadline: Duration,
}

/// A host being watched.
#[derive(Debug)]
pub struct Watch {
    wish: Wish,
    settings: Settings,
    link: Link,
}

#[derive(Debug)]
enum Link {
    Up(Connection),
    /// The attempts that failed so far, the questions to leave unasked before the next, and why the last one
    /// failed.
    Down {
        failed: u32,
        wait: u32,
        why: Option<Error>,
    },
}

impl Watch {
    /// Nothing is asked before the first [`Watch::ask`].
    pub fn new(wish: Wish) -> Self {
        let settings = Settings { deadline: wish.deadline, in_flight: 1, ..Settings::default() };
        Self { wish, settings, link: Link::Down { failed: 0, wait: 0, why: None } }
    }

    /// Every domain's statistics, those that do not run included, or why there are none this time. Errors
    /// pass; calling again goes on. While the daemon is away most calls repeat the last reason without asking.
    pub async fn ask(&mut self) -> Result<Vec<DomainStats>, Error> {
        let connection = self.connected().await?;
        let answer = connection.all_stats(&[], groups::ALL, 0).await;
        if connection.broken().is_some() {
            // It worked until now: the next call tries at once.
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
                let wait = 1u32.checked_shl(failed).map_or(BACKOFF_MAX, |wait| wait.min(BACKOFF_MAX)) - 1;
                Link::Down { failed: failed.saturating_add(1), wait, why: Some(why.clone()) }
            }
        };
        opened
    }
}
