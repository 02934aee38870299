//! A seeded world: several agents on simulated hosts and the real control plane, in virtual time.
//!
//! Owns: the network, disks, users and faults around the product's own code, and the checkers that
//! hold its promises against what happens.
//! Refuses: threads, real I/O and any chance but the seed's (the SQLite runs are the exception).
//!
//! ```text
//!  users ─▶ Plane: Control on a truth that outlives it ─▶ link ─▶ Host: Agent, journal, spool
//!              ▲                                      network       │ driver with checkers
//!              └── crashes, slow store     cuts, doubles, delays    ▼
//!  verdict: truth = hosts = what users were told          SimulatedHost outlives the agent
//! ```
//! The same seed tells the same story only with `--cfg tokio_unstable`: without it tokio throws
//! its own dice for `select!` and for the order in which the readers of a `watch` wake up.
#![forbid(unsafe_code)]

mod checks;
mod chunks;
mod draw;
mod driver;
mod faults;
pub mod fleet;
mod hands;
mod host;
mod images;
mod journal;
mod ledger;
mod link;
mod machines;
mod network;
mod pipe;
mod plane;
mod scene;
mod settle;
mod story;
mod truth;
mod users;
mod verdict;
mod world;

pub use checks::Tally;
pub use scene::{Sabotage, Settings};
pub use world::{Ending, play};

/// Plays a world in virtual time, in a runtime of its own on this thread.
///
/// # Errors
/// When the runtime cannot be made.
pub fn run(settings: Settings) -> std::io::Result<Ending> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&settings.seed.to_le_bytes()));
    Ok(builder.build()?.block_on(play(settings, None)))
}
