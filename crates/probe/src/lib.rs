//! Reading a host: what the machine is and has.
//!
//! Owns: parsers over the texts of /proc, /etc and /sys (pure, in [`text`]) and, at the edge, the
//! few reads and system calls that feed them ([`machine`]); and measuring it again and again
//! ([`node`]), also as Prometheus reads it ([`exposition`]).
//! Refuses: failing over what is not there. What cannot be read is empty or zero, and says so.
#![forbid(unsafe_code)]

pub mod exposition;
pub mod machine;
pub mod node;
mod scan;
pub mod text;

pub use machine::{Disk, Machine, ProbeError, disk, machine};
pub use node::{Node, Settings};
