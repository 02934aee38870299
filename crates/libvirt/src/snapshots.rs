//! A domain's snapshots, and QEMU's own monitor.
//!
//! Owns: the calls, their flags by name. Refuses: knowing what is in a snapshot, which is its XML's, and
//! what a monitor command means. Making, reverting to and deleting one may take as long as writing the
//! guest's memory does: [`Connection::within`].

use crate::connection::Connection;
use crate::domain::Domain;
use crate::error::Error;
#[cfg(doc)]
use crate::error::codes;
use crate::limits;
use crate::procedure;
use crate::xdr::{Decoder, Encoder, Malformed};

/// How a snapshot is made, as bits to be or-ed; 0 is one inside the domain's disks, with the memory of
/// one that runs.
pub mod snapshot {
    /// It is there already: libvirt is only told of it.
    pub const REDEFINE: u32 = 1;
}

/// What becomes of a domain that goes back to a snapshot, as bits to be or-ed; 0: what it was.
pub mod revert {
    /// It runs.
    pub const RUNNING: u32 = 1;
}

/// What is deleted of a snapshot, as bits to be or-ed; 0: all of it, not those made after it.
pub mod delete_snapshot {
    /// What libvirt knows of it; the disks are left as they are.
    pub const METADATA_ONLY: u32 = 2;
}

/// A snapshot as libvirt names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Unique in its domain.
    pub name: String,
    /// Whose.
    pub domain: Domain,
}

impl Snapshot {
    fn encode(&self, to: &mut Encoder) {
        to.string(&self.name);
        self.domain.encode(to);
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, Malformed> {
        Ok(Self { name: from.string(limits::STRING)?, domain: Domain::decode(from)? })
    }
}

impl Connection {
    /// Makes a snapshot by its XML. `flags`: [`snapshot`].
    ///
    /// # Errors
    /// [`codes::BAD_XML`] for what is not understood, [`codes::UNSUPPORTED`] and the like for a domain
    /// that cannot have such a one.
    pub async fn create_snapshot(&self, domain: &Domain, xml: &str, flags: u32) -> Result<Snapshot, Error> {
        let arguments = |to: &mut Encoder| {
            domain.encode(to);
            to.string(xml);
            to.u32(flags);
        };
        self.call(procedure::SNAPSHOT_CREATE, arguments, Snapshot::decode).await
    }

    /// The names of all snapshots that libvirt knows of.
    pub async fn snapshot_names(&self, domain: &Domain) -> Result<Vec<String>, Error> {
        let arguments = |to: &mut Encoder| {
            domain.encode(to);
            to.i32(i32::try_from(limits::SNAPSHOTS).unwrap_or(i32::MAX));
            to.u32(0);
        };
        let name = |reply: &mut Decoder<'_>| reply.string(limits::STRING);
        self.call(procedure::SNAPSHOT_NAMES, arguments, |reply| reply.array(limits::SNAPSHOTS, name)).await
    }

    /// Puts a domain back to where it was; what it is now is lost. `flags`: [`revert`].
    ///
    /// # Errors
    /// [`codes::NO_SNAPSHOT`] when there is no such one.
    pub async fn revert_to(&self, snapshot: &Snapshot, flags: u32) -> Result<(), Error> {
        let arguments = |to: &mut Encoder| {
            snapshot.encode(to);
            to.u32(flags);
        };
        self.call(procedure::SNAPSHOT_REVERT, arguments, |_| Ok(())).await
    }

    /// Deletes a snapshot; the domain goes on as it is. `flags`: [`delete_snapshot`].
    ///
    /// # Errors
    /// [`codes::NO_SNAPSHOT`] when there is no such one.
    pub async fn delete_snapshot(&self, snapshot: &Snapshot, flags: u32) -> Result<(), Error> {
        let arguments = |to: &mut Encoder| {
            snapshot.encode(to);
            to.u32(flags);
        };
        self.call(procedure::SNAPSHOT_DELETE, arguments, |_| Ok(())).await
    }

    /// What a domain's QEMU answers to a command in JSON (QMP), an error of QEMU's included. libvirt notes
    /// in the domain's log that it was spoken to.
    ///
    /// # Errors
    /// [`codes::NOT_NOW`] when it does not run.
    pub async fn monitor(&self, domain: &Domain, command: &str) -> Result<String, Error> {
        let arguments = |to: &mut Encoder| {
            domain.encode(to);
            to.string(command);
            to.u32(0);
        };
        self.call(procedure::MONITOR, arguments, |reply| reply.string(limits::STRING)).await
    }
}
