//! A domain's backup jobs and its checkpoints.
//!
//! Owns: the calls, their flags by name. Refuses: reading what a job shows, which is NBD's. A *checkpoint*
//! is a point from which QEMU remembers what is written to a disk; a job can show the disk as it was when
//! the job began, and which of it was written since a checkpoint.

use crate::connection::Connection;
use crate::domain::Domain;
use crate::error::Error;
#[cfg(doc)]
use crate::error::codes;
use crate::limits;
use crate::procedure;
use crate::xdr::{Decoder, Encoder, Malformed};

/// What is deleted of a checkpoint, as bits to be or-ed; 0: all of it, and what was written since goes
/// into the one before.
pub mod delete_checkpoint {
    /// What libvirt knows of it; the disks are left as they are. All that can be done to one of a domain
    /// that is off.
    pub const METADATA_ONLY: u32 = 2;
}

impl Connection {
    /// Begins to show a running domain's disks as they are now, by the XML of a backup, and makes a
    /// checkpoint of that moment.
    ///
    /// # Errors
    /// [`codes::NOT_NOW`] when it does not run, [`codes::UNSUPPORTED`] and the like for a disk that cannot
    /// be shown, or not since that checkpoint.
    pub async fn begin_backup(&self, domain: &Domain, xml: &str, checkpoint: Option<&str>) -> Result<(), Error> {
        let arguments = |to: &mut Encoder| {
            domain.encode(to);
            to.string(xml);
            to.optional_string(checkpoint);
            to.u32(0);
        };
        self.call(procedure::BACKUP_BEGIN, arguments, |_| Ok(())).await
    }

    /// Ends the job that a domain is at; for a backup that is all there is to its end.
    ///
    /// # Errors
    /// [`codes::NOT_NOW`] when there is none, or it does not run.
    pub async fn abort_job(&self, domain: &Domain) -> Result<(), Error> {
        self.call(procedure::ABORT_JOB, |to| domain.encode(to), |_| Ok(())).await
    }

    /// The names of all checkpoints that libvirt knows of.
    pub async fn checkpoint_names(&self, domain: &Domain) -> Result<Vec<String>, Error> {
        let arguments = |to: &mut Encoder| {
            domain.encode(to);
            to.i32(1); // with their names
            to.u32(0);
        };
        let name = |reply: &mut Decoder<'_>| -> Result<String, Malformed> {
            let name = reply.string(limits::STRING)?;
            Domain::decode(reply).map(|_| name)
        };
        let names = |reply: &mut Decoder<'_>| {
            let names = reply.array(limits::SNAPSHOTS, name)?;
            reply.i32().map(|_count| names)
        };
        self.call(procedure::CHECKPOINT_LIST, arguments, names).await
    }

    /// Deletes a checkpoint. `flags`: [`delete_checkpoint`].
    ///
    /// # Errors
    /// [`codes::UNSUPPORTED`] and the like when there is no such one, or its record in the disk is gone.
    pub async fn delete_checkpoint(&self, domain: &Domain, name: &str, flags: u32) -> Result<(), Error> {
        let arguments = |to: &mut Encoder| {
            to.string(name);
            domain.encode(to);
            to.u32(flags);
        };
        self.call(procedure::CHECKPOINT_DELETE, arguments, |_| Ok(())).await
    }
}
