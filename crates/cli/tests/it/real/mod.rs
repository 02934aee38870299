//! Perigee as its user meets it: real processes, real microVMs, killed where it hurts.
//!
//! These boot guests, so they run one at a time and nothing else beside them (`.config/nextest.toml`).

mod backups;
mod cards;
mod console;
mod dashboard;
mod debian;
mod fleet;
mod forwards;
mod ground;
mod hostile;
mod images;
mod ingest;
mod instance;
mod kills;
mod leftovers;
#[path = "../../../../libvirt/tests/it/daemon.rs"]
#[allow(dead_code, clippy::expect_used, reason = "the tests of the libvirt crate use all of it, where this is allowed")]
mod libvirtd;
mod life;
mod machines;
mod matrix;
mod namespace;
mod networks;
#[path = "../../../../network/tests/it/ns.rs"]
#[allow(dead_code, clippy::expect_used, reason = "the tests of the network crate use all of it, where this is allowed")]
mod ns;
mod sitter;
mod snapshots;
mod twins;
mod vm_cards;
mod vms;
mod volumes;
mod watch;

pub use instance::Instance;
pub use leftovers::Inventory;
