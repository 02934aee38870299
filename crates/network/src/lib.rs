//! The network that guests are on: a bridge, a TAP for each guest, and what each may reach.
//!
//! Owns: choosing a subnet that the host does not use, addresses and hardware addresses, the ruleset that holds
//! guests to their own address, apart from one another, from the host and from private networks, and lets each
//! reach what its policy says; the names that a policy lists; taking away whatever a plan does not name.
//! Refuses: a guest's own DHCP, routing or announcements, text of users in a ruleset; IPv6 of a guest that has no
//! policy for it.
//! Deliberately absent: who has which policy and address (the caller keeps it), and the guest's side.
//!
//! ```text
//!   Plan ──▶ Ruleset (text) ──▶ nft, one transaction
//!     │
//!     └──▶ steps(plan, found) ──▶ Host: bridge, TAPs by netlink ──▶ found … until nothing is left to do
//! ```
//! Killed between any two steps, the next [`Host::bring_about`] finds what is there by its name and goes on.

mod host;
mod names;
mod network;
mod plan;
mod resolver;
mod ruleset;
mod subnet;
mod surroundings;

pub use host::{Bridge, Found, Host, HostError, Step, Tap, steps};
pub use names::{DeviceName, Names};
pub use network::{Network, NetworkError};
pub use perigee_model::egress::{
    Block, BlockError, Domain, DomainError, Egress, Egress6, NEVER, OPENINGS_MAX, Opening, OpeningError, PORTS_MAX,
    PRIVATE, Place, Ports, Protocol, Reach, is_public,
};
pub use perigee_model::forward::{FORWARDS_MAX, Forward};
pub use plan::{MEMBERS_MAX, Member, Owner, Plan, PlanFault};
pub use resolver::{Lasting, upstreams};
pub use ruleset::{CONNECTIONS_MAX, Held, Resolved, Ruleset};
pub use subnet::{BITS6, Subnet, SubnetError, mac_of};
pub use surroundings::Surroundings;
