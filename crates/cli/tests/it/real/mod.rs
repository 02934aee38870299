//! Perigee as its user meets it: real processes, real microVMs, killed where it hurts.
//!
//! These boot guests, so they run one at a time and nothing else beside them (`.config/nextest.toml`).

mod fleet;
mod instance;
mod kills;
mod leftovers;
mod life;
mod namespace;
mod watch;

pub use instance::Instance;
pub use leftovers::Inventory;
