//! Calls that a guest's own QEMU agent answers: `qemu-guest-agent` in the guest, its channel in the definition.
//!
//! Owns: the calls. Refuses: trusting the agent: it may be silent or lie, so every call has a deadline here and
//! in libvirt.

use crate::connection::Connection;
use crate::domain::Domain;
use crate::error::Error;
#[cfg(doc)]
use crate::error::codes;
use crate::procedure;

impl Connection {
    /// libvirt waits so many seconds for this domain's agent from now on; without, it waits for ever.
    ///
    /// # Errors
    /// What libvirt says of the domain.
    pub async fn set_agent_timeout(&self, domain: &Domain, seconds: i32) -> Result<(), Error> {
        let arguments = |to: &mut crate::xdr::Encoder| {
            domain.encode(to);
            to.i32(seconds);
            to.u32(0);
        };
        self.call(procedure::AGENT_TIMEOUT, arguments, |reply| reply.i32().map(drop)).await
    }

    /// Brings the guest's file systems to rest: what was written is on the disk, and writers wait. Answers how
    /// many there are. Whoever calls this thaws them, whatever became of it.
    ///
    /// # Errors
    /// [`codes::NO_AGENT`] or [`codes::UNSUPPORTED`] without an agent, else what the agent says.
    pub async fn freeze_file_systems(&self, domain: &Domain) -> Result<i32, Error> {
        self.file_systems(domain, procedure::FREEZE).await
    }

    /// Lets writers go on. Fine when nothing was frozen.
    ///
    /// # Errors
    /// As of [`Connection::freeze_file_systems`].
    pub async fn thaw_file_systems(&self, domain: &Domain) -> Result<i32, Error> {
        self.file_systems(domain, procedure::THAW).await
    }

    /// No mount points are named: all of them.
    async fn file_systems(&self, domain: &Domain, procedure: procedure::Procedure) -> Result<i32, Error> {
        let arguments = |to: &mut crate::xdr::Encoder| {
            domain.encode(to);
            to.u32(0);
            to.u32(0);
        };
        self.call(procedure, arguments, |reply| reply.i32()).await
    }
}
