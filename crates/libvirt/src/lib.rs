//! libvirt's remote protocol in async Rust: no C library, no threads of its own.
//!
//! Owns: the protocol, on a local socket, behind `ssh` or TLS ([`Endpoint`], [`uri`]), the calls Perigee needs,
//! events, consoles ([`Stream`]), and [`Watch`], which polls a host's statistics.
//! Refuses: deciding anything about domains, and authentication inside the protocol (SASL, polkit).
//!
//! ```no_run
//! use perigee_libvirt::{Connection, Endpoint, groups};
//!
//! # async fn example() -> Result<(), perigee_libvirt::Error> {
//! let socket = Endpoint::Unix("/run/libvirt/libvirt-sock".into());
//! let libvirt = Connection::open(&socket, Some("qemu:///system"), 0).await?;
//! for guest in libvirt.all_stats(&[], groups::ALL, 0).await? {
//!     let cpu_ns = guest.cpu.time_ns.unwrap_or(0);
//!     let busy = if guest.busy { " (busy)" } else { "" };
//!     assert!(!format!("{} {:?}{busy} {cpu_ns}", guest.domain.name, guest.state).is_empty());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A call fails alone ([`Error::Libvirt`], [`Error::Deadline`], [`Error::Reply`]) or with the connection
//! ([`Error::Broken`]). Nothing reconnects by itself but [`Watch`]. Another procedure of libvirt's is a
//! [`Procedure`] and a [`Connection::call`].
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod backups;
mod connection;
mod devices;
mod domain;
mod error;
mod events;
mod guest_agent;
mod host;
mod lifecycle;
pub mod limits;
mod network;
mod packet;
mod procedure;
mod snapshots;
mod ssh;
mod stats;
mod stream;
mod tls;
mod transport;
pub mod uri;
mod watch;
pub mod xdr;

pub use backups::delete_checkpoint;
pub use connection::{Connection, Settings};
pub use devices::{DiskFault, resize};
pub use domain::{Domain, DomainInfo, State, list};
pub use error::{Broken, Error, codes};
pub use events::{Event, EventKind, Events, Happened, Lifecycle, Notice};
pub use host::{Named, Node, Version};
pub use lifecycle::{AddressSource, Interface, affect, create, define, shutdown, undefine};
pub use network::Network;
pub use procedure::Procedure;
pub use snapshots::{Snapshot, delete_snapshot, revert, snapshot};
pub use ssh::Ssh;
pub use stats::{Cpu, Disk, DomainStats, Memory, Nic, Traffic, Transfer, Vcpu, groups};
pub use stream::{Stream, console};
pub use tls::Tls;
pub use transport::Endpoint;
pub use watch::{Glance, NodeUse, Watch, Wish};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What the lock guards is whole at every moment it is released, so a panic elsewhere spoils nothing.
fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
