//! The connections to libvirt: one for orders, one for events.
//!
//! Owns: opening them once and again, the breaker in front, the words for what libvirt says.
//! Refuses: to repeat an order. Whoever gives one knows whether it may be given twice.

use super::breaker::{Breaker, BreakerState};
use crate::HypervisorError;
use perigee_clock::Clock;
use perigee_libvirt::{Connection, Endpoint, Error, Settings, codes};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How libvirt has been lately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LibvirtHealth {
    /// What the breaker lets through.
    pub breaker: BreakerState,
    /// How often the breaker opened.
    pub opened_total: u64,
    /// Connections that were opened, the first ones included.
    pub connected_total: u64,
    /// Calls and attempts to connect that libvirt did not answer.
    pub failures_total: u64,
    /// Calls that the breaker kept back.
    pub refused_total: u64,
    /// Why the newest failure was one.
    pub last_failure: Option<String>,
}

/// Why libvirt did not do something.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Ask {
    /// libvirt, or the way to it.
    #[error(transparent)]
    Said(#[from] Error),
    /// No connection came about in time.
    #[error("libvirt gave no connection within {0:?}")]
    NoConnection(Duration),
    /// It failed too often just now and is left alone.
    #[error("libvirt is left alone for {0:?}: {1}")]
    Resting(Duration, String),
}

impl Ask {
    /// libvirt's own number, when it is libvirt that says no.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Said(error) => error.code(),
            Self::NoConnection(_) | Self::Resting(..) => None,
        }
    }

    /// In the seam's words.
    pub fn told(self) -> HypervisorError {
        match self.code() {
            Some(codes::NO_DOMAIN) => HypervisorError::NotRunning,
            _ => HypervisorError::Channel(self.to_string()),
        }
    }
}

/// The breaker and the counters, shared by all connections.
#[derive(Debug, Default)]
struct Guarded {
    breaker: Breaker,
    connected: u64,
    failures: u64,
    refused: u64,
    last: Option<String>,
}

/// One connection, reopened when it broke.
#[derive(Debug)]
pub struct Link {
    endpoint: Endpoint,
    uri: String,
    settings: Settings,
    clock: Clock,
    guarded: Arc<Mutex<Guarded>>,
    held: tokio::sync::Mutex<Option<Connection>>,
}

impl Link {
    /// Nothing is asked yet.
    pub fn new(endpoint: Endpoint, uri: String, deadline: Duration, clock: Clock) -> Self {
        let settings = Settings { deadline, ..Settings::default() };
        Self { endpoint, uri, settings, clock, guarded: Arc::default(), held: tokio::sync::Mutex::default() }
    }

    /// Another connection to the same libvirt behind the same breaker.
    pub fn another(&self) -> Self {
        Self {
            endpoint: self.endpoint.clone(),
            uri: self.uri.clone(),
            settings: self.settings.clone(),
            clock: self.clock.clone(),
            guarded: self.guarded.clone(),
            held: tokio::sync::Mutex::default(),
        }
    }

    /// Whether libvirt may be on another machine.
    pub fn is_far(&self) -> bool {
        self.endpoint.is_far()
    }

    /// How libvirt has been lately.
    pub fn health(&self) -> LibvirtHealth {
        let guarded = self.guarded();
        LibvirtHealth {
            breaker: guarded.breaker.state(self.clock.instant()),
            opened_total: guarded.breaker.opened(),
            connected_total: guarded.connected,
            failures_total: guarded.failures,
            refused_total: guarded.refused,
            last_failure: guarded.last.clone(),
        }
    }

    /// Asks something: `call` is given the connection, which is opened where there is none.
    ///
    /// # Errors
    /// What libvirt said; `Unreachable` and the like within the deadline when it says nothing.
    pub async fn ask<T>(&self, call: impl AsyncFnOnce(Connection) -> Result<T, Error>) -> Result<T, Ask> {
        self.admit()?;
        // The wait for others who are opening it counts, too.
        let within = self.settings.deadline;
        let connected = tokio::time::timeout(within, self.connected()).await;
        let connection = match connected {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(self.failed(error.into())),
            Err(_) => return Err(self.failed(Ask::NoConnection(within))),
        };
        match call(connection).await {
            Err(error @ (Error::Broken(_) | Error::Reply { .. })) => Err(self.failed(error.into())),
            // One guest's VMM may be stuck: that says nothing of libvirt, whose keepalive is watched.
            Err(error @ Error::Deadline { .. }) => Err(error.into()),
            answer => {
                self.guarded().breaker.answered();
                Ok(answer?)
            }
        }
    }

    /// The connection, opened where there is none.
    async fn connected(&self) -> Result<Connection, Error> {
        let mut held = self.held.lock().await;
        if let Some(connection) = held.as_ref().filter(|connection| connection.broken().is_none()) {
            return Ok(connection.clone());
        }
        *held = None;
        let opened = Connection::open_with(&self.endpoint, Some(&self.uri), 0, &self.settings).await?;
        self.guarded().connected += 1;
        Ok(held.insert(opened).clone())
    }

    fn admit(&self) -> Result<(), Ask> {
        let mut guarded = self.guarded();
        let admitted = guarded.breaker.admit(self.clock.instant());
        admitted.map_err(|wait| {
            guarded.refused += 1;
            Ask::Resting(wait, guarded.last.clone().unwrap_or_default())
        })
    }

    fn failed(&self, why: Ask) -> Ask {
        let mut guarded = self.guarded();
        guarded.failures += 1;
        guarded.last = Some(why.to_string());
        guarded.breaker.failed(self.clock.instant(), |rest| self.clock.jitter(rest));
        why
    }

    fn guarded(&self) -> MutexGuard<'_, Guarded> {
        self.guarded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
