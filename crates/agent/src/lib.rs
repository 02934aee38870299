//! The host's hands: makes what the control plane wants be so on one machine.
//!
//! Owns: one task per guest and per execution, their documents and output, the link to the control
//! plane, admission of boots, image builds, enrolment and identity, health; and the frames of what
//! is measured, from the tick to where they are durable.
//! Refuses: deciding what should be (the control plane's), knowing how a guest is run (the
//! hypervisor's), and forgetting: what it was told is written down before it is done, and what it
//! saw is repeated until it was taken. It works on when the control plane is away.
//!
//! ```text
//!            ┌── outbox ◀── reports ───┬─────────────┬──────────┐
//!  control   ▼                         │             │          │
//!  plane ◀▶ link ── orders ──▶ guest actors   executions     builds
//!            └── tunnels ──────────────┴─────────────┘
//!                                 hypervisor · journal · spool
//! ```
//! One seed gives one story in a simulation, so nothing here iterates over a hash map, and every
//! `select!` is `biased`: the order of its arms is part of the code.
#![forbid(unsafe_code)]

pub mod admission;
mod agent;
mod backups;
pub mod builds;
mod cards;
pub mod enrol;
mod execution;
pub mod frames;
mod guest;
pub mod health;
pub mod home;
pub mod identity;
mod inherit;
mod intents;
pub mod journal;
mod link;
pub mod local;
mod networks;
mod nursery;
mod outbox;
pub mod parts;
pub mod spool;
pub mod tls;
mod tunnel;
pub mod uplink;
pub mod usage;
mod volumes;
pub mod watch;
pub mod web;
mod world;

pub use agent::{Agent, AgentError};
pub use builds::{BuildProgress, Builder, Built, Recipes};
pub use cards::{CardError, Cards, HostCards, Kept, NoCards, Stage};
pub use health::Health;
pub use inherit::{LOOK_EVERY, may_have};
pub use journal::{DirJournal, Journal, MemoryJournal};
pub use parts::{Budget, CachedParts, Parts, PartsError, Tally, Uses};
pub use perigee_network::Surroundings;
pub use spool::{DirSpool, MemorySpool, Spool};
pub use uplink::{Session, Tunnel, Uplink, UplinkError};
pub use world::Describe;

/// An error with everything that lies behind it, for the log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text
}
