//! Events: what happens to domains, as it happens.
//!
//! Owns: registering, the events that are understood, their decoding.
//! Refuses: keeping history. Events hurry a look at the state, they do not replace it: whoever reads too
//! slowly is told how many were missed, and lists the domains again.

use crate::connection::Connection;
use crate::domain::Domain;
use crate::error::{Broken, Error};
use crate::limits;
use crate::procedure;
use crate::xdr::{Decoder, Encoder, Malformed};
use tokio::sync::broadcast;

const LIFECYCLE: u32 = 318;
const REBOOT: u32 = 319;
const BLOCK_JOB: u32 = 339;
const AGENT_LIFECYCLE: u32 = 348;

/// Kinds of events to be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// Defined, started, paused, stopped…
    Lifecycle,
    /// The guest rebooted.
    Reboot,
    /// A copy, commit or pull of a disk moved on.
    BlockJob,
    /// The agent in the guest came or went.
    AgentLifecycle,
}

impl EventKind {
    /// `virDomainEventID`.
    fn number(self) -> i32 {
        match self {
            Self::Lifecycle => 0,
            Self::Reboot => 1,
            Self::BlockJob => 16,
            Self::AgentLifecycle => 18,
        }
    }
}

/// What happened to which domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    callback: i32,
    /// The domain, with the id it had.
    pub domain: Domain,
    /// What happened.
    pub happened: Happened,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// A step in its life, with libvirt's number for the detail.
    Lifecycle(Lifecycle, i32),
    /// It rebooted.
    Reboot,
    /// A block job moved on.
    BlockJob {
        /// The disk's target, `vda`.
        disk: String,
        /// `virDomainBlockJobType`.
        job: i32,
        /// `virConnectDomainEventBlockJobStatus`: 0 completed, 1 failed, 2 cancelled, 3 ready.
        status: i32,
    },
    /// The agent in the guest: connected or not, and libvirt's number for the reason.
    Agent {
        /// Whether it is there now.
        connected: bool,
        /// `virConnectDomainEventAgentLifecycleReason`.
        reason: i32,
    },
}

/// A step in a domain's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifecycle {
    /// Has a (new) definition.
    Defined,
    /// Has none any more.
    Undefined,
    /// Runs.
    Started,
    /// Paused.
    Suspended,
    /// Runs again.
    Resumed,
    /// Does not run any more.
    Stopped,
    /// Going down.
    Shutdown,
    /// Suspended by its own power management.
    PmSuspended,
    /// Ended by a fault.
    Crashed,
    /// Newer than this crate.
    Other(i32),
}

impl From<i32> for Lifecycle {
    fn from(number: i32) -> Self {
        match number {
            0 => Self::Defined,
            1 => Self::Undefined,
            2 => Self::Started,
            3 => Self::Suspended,
            4 => Self::Resumed,
            5 => Self::Stopped,
            6 => Self::Shutdown,
            7 => Self::PmSuspended,
            8 => Self::Crashed,
            other => Self::Other(other),
        }
    }
}

/// An event packet; `None` for one that nobody here asked for, or that is too large to keep.
pub(crate) fn read(procedure: u32, payload: &[u8]) -> Result<Option<Event>, Malformed> {
    if payload.len() > limits::EVENT {
        return Ok(None);
    }
    let mut from = Decoder::new(payload);
    let (callback, domain) = match procedure {
        LIFECYCLE | REBOOT | BLOCK_JOB | AGENT_LIFECYCLE => (from.i32()?, Domain::decode(&mut from)?),
        _ => return Ok(None),
    };
    let happened = match procedure {
        LIFECYCLE => Happened::Lifecycle(Lifecycle::from(from.i32()?), from.i32()?),
        BLOCK_JOB => Happened::BlockJob { disk: from.string(limits::EVENT)?, job: from.i32()?, status: from.i32()? },
        AGENT_LIFECYCLE => Happened::Agent { connected: from.i32()? == 1, reason: from.i32()? },
        _ => Happened::Reboot,
    };
    from.finish()?;
    Ok(Some(Event { callback, domain, happened }))
}

/// A registration's events. Dropped without [`Events::stop`], the daemon goes on sending until the
/// connection ends.
#[derive(Debug)]
pub struct Events {
    connection: Connection,
    receiver: broadcast::Receiver<Event>,
    callbacks: Vec<i32>,
}

/// What a registration brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// An event.
    Event(Event),
    /// This many were dropped, of this or another registration, because they were not read in time.
    Missed(u64),
}

impl Connection {
    /// Asks to be told of these kinds, for one domain or for all.
    pub async fn events(&self, kinds: &[EventKind], domain: Option<&Domain>) -> Result<Events, Error> {
        // Listening first: an event may follow the answer closely.
        let receiver = self.listen()?;
        let mut events = Events { connection: self.clone(), receiver, callbacks: Vec::new() };
        for kind in kinds {
            let wanted = |to: &mut Encoder| {
                to.i32(kind.number());
                to.u32(u32::from(domain.is_some()));
                domain.into_iter().for_each(|domain| domain.encode(to));
            };
            events.callbacks.push(self.call(procedure::EVENT_REGISTER, wanted, |reply| reply.i32()).await?);
        }
        Ok(events)
    }
}

impl Events {
    /// The next one; an error when the connection is broken. Safe to cancel.
    pub async fn next(&mut self) -> Result<Notice, Error> {
        loop {
            match self.receiver.recv().await {
                Ok(event) if self.callbacks.contains(&event.callback) => return Ok(Notice::Event(event)),
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(missed)) => return Ok(Notice::Missed(missed)),
                Err(broadcast::error::RecvError::Closed) => {
                    return Err(self.connection.broken().unwrap_or(Broken::Closed).into());
                }
            }
        }
    }

    /// Ends the registration.
    pub async fn stop(self) -> Result<(), Error> {
        for callback in &self.callbacks {
            self.connection.call(procedure::EVENT_DEREGISTER, |to| to.i32(*callback), |_| Ok(())).await?;
        }
        Ok(())
    }
}
