//! Watching: what a host's domains use, again and again.
//!
//! Owns: its connection, reconnecting with backoff, and asking for many domains side by side.
//! Refuses: a task and ticks of its own, and history: whoever calls decides when, and what to keep.
//!
//! ```text
//! glance   state, network of all in one call ─▶ info of each      libvirt alone: some 0.06 ms a domain
//! inquire  memory and disks, four parts side by side               each one's hypervisor: 1.3 ms and more
//! node     processors and memory of libvirtd's own machine
//! ```
//! Who glances and inquires does it with two of these: a hypervisor that does not answer keeps a slot of its
//! connection, and a daemon that hangs is not given another connection to hang on, because each new one would
//! hang another of its threads.

use crate::connection::{Connection, Settings};
use crate::domain::{Domain, DomainInfo};
use crate::error::Error;
use crate::host::Named;
use crate::limits;
use crate::stats::{DomainStats, groups};
use crate::transport::Endpoint;
use futures::future::{join_all, try_join_all, try_join3};
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

/// What the machine uses that libvirtd is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeUse {
    /// The machine's name.
    pub hostname: String,
    /// See [`Connection::node_cpu`].
    pub cpu: Vec<Named>,
    /// See [`Connection::node_memory`].
    pub memory: Vec<Named>,
}

/// What libvirt itself knows of a domain.
#[derive(Debug, Clone, PartialEq)]
pub struct Glance {
    /// Its state and its network cards; the rest is not told.
    pub stats: DomainStats,
    /// Its CPU time and memory; `None` when it went meanwhile.
    pub info: Option<DomainInfo>,
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
    /// Nothing is asked before the first question.
    pub fn new(wish: Wish) -> Self {
        let settings = Settings { deadline: wish.deadline, ..Settings::default() };
        Self { wish, settings, link: Link::Down { failed: 0, wait: 0, why: None } }
    }

    /// Every domain, those that do not run included, as libvirt knows it without asking a hypervisor, or why
    /// there are none this time. Errors pass; calling again goes on. While the daemon is away most calls repeat
    /// the last reason without asking.
    pub async fn glance(&mut self) -> Result<Vec<Glance>, Error> {
        let connection = self.connected().await?;
        let glances = async {
            let stats = connection.all_stats(&[], groups::KNOWN, 0).await?;
            let infos = try_join_all(stats.iter().map(|stats| known(&connection, &stats.domain))).await?;
            Ok(stats.into_iter().zip(infos).map(|(stats, info)| Glance { stats, info }).collect())
        };
        let glances = glances.await;
        self.look_after(&connection);
        glances
    }

    /// Whether libvirtd may be on another machine than who asks.
    pub fn is_far(&self) -> bool {
        self.wish.endpoint.is_far()
    }

    /// What the machine uses that libvirtd is on.
    pub async fn node(&mut self) -> Result<NodeUse, Error> {
        let connection = self.connected().await?;
        let told = try_join3(connection.hostname(), connection.node_cpu(), connection.node_memory()).await;
        self.look_after(&connection);
        told.map(|(hostname, cpu, memory)| NodeUse { hostname, cpu, memory })
    }

    /// What the hypervisors of these say of their memory and disks, without waiting for those that are busy.
    /// Missing are those that went meanwhile, and those whose part was not answered in time: one that hangs holds
    /// up its part the first time, and is busy from then on. An error when no part was answered.
    pub async fn inquire(&mut self, domains: &[Domain]) -> Result<Vec<DomainStats>, Error> {
        let connection = self.connected().await?;
        let part = domains.len().div_ceil(limits::IN_FLIGHT).max(1);
        let parts = domains.chunks(part).map(|part| connection.all_stats(part, groups::BALLOON | groups::BLOCK, 0));
        let (mut told, mut why) = (None, None);
        for answer in join_all(parts).await {
            match answer {
                Ok(stats) => told.get_or_insert_with(Vec::new).extend(stats),
                Err(error) => why = Some(error),
            }
        }
        self.look_after(&connection);
        match (told, why) {
            (None, Some(why)) => Err(why),
            (told, _) => Ok(told.unwrap_or_default()),
        }
    }

    /// It worked until now: when it broke, the next question tries at once.
    fn look_after(&mut self, connection: &Connection) {
        if connection.broken().is_some() {
            self.link = Link::Down { failed: 0, wait: 0, why: None };
        }
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

/// A domain's information; `None` when libvirt will not tell it, which a domain that just went is.
async fn known(connection: &Connection, domain: &Domain) -> Result<Option<DomainInfo>, Error> {
    match connection.domain_info(domain).await {
        Ok(info) => Ok(Some(info)),
        Err(Error::Libvirt { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
