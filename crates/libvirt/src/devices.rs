//! A domain's devices: put in, taken out, made larger.
//!
//! Owns: the calls, their flags by name. Refuses: knowing what a device is, which is its XML's; and waiting
//! until a guest lets go of one: that is told by the domain's XML.

use crate::connection::Connection;
use crate::domain::Domain;
use crate::error::Error;
use crate::limits;
use crate::procedure;
use crate::xdr::{Decoder, Encoder};
#[cfg(doc)]
use crate::{error::codes, lifecycle::affect};

/// How a disk's new size is told, as bits to be or-ed; 0: in KiB.
pub mod resize {
    /// In bytes.
    pub const BYTES: u32 = 1;
}

/// Most disks whose faults one answer tells.
const DISKS_MAX: u32 = 256;

/// Why a disk's last request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// Its storage is full.
    NoSpace,
    /// Anything else.
    Other,
}

impl Connection {
    /// The disks of a running domain that failed, by their targets, and how.
    ///
    /// # Errors
    /// [`codes::NOT_NOW`] when it does not run.
    pub async fn disk_faults(&self, domain: &Domain) -> Result<Vec<(String, DiskFault)>, Error> {
        let arguments = |to: &mut Encoder| {
            domain.encode(to);
            to.u32(DISKS_MAX);
            to.u32(0);
        };
        let disk = |reply: &mut Decoder<'_>| {
            let target = reply.string(limits::STRING)?;
            Ok((target, if reply.i32()? == 2 { DiskFault::NoSpace } else { DiskFault::Other }))
        };
        let read = |reply: &mut Decoder<'_>| {
            let faults = reply.array(DISKS_MAX as usize, disk)?;
            reply.i32()?;
            Ok(faults)
        };
        self.call(procedure::DISK_ERRORS, arguments, read).await
    }

    /// Puts a device in by its XML. `flags`: [`affect`].
    ///
    /// # Errors
    /// [`codes::NOT_NOW`] for a domain that does not run and should; else what QEMU says.
    pub async fn attach_device(&self, domain: &Domain, xml: &str, flags: u32) -> Result<(), Error> {
        let arguments = |to: &mut Encoder| {
            domain.encode(to);
            to.string(xml);
            to.u32(flags);
        };
        self.call(procedure::ATTACH_DEVICE, arguments, |_| Ok(())).await
    }

    /// Takes a device out; a guest that runs may not have let go of it when this returns. `flags`: [`affect`].
    ///
    /// # Errors
    /// [`codes::NO_DEVICE`] when it has no such one.
    pub async fn detach_device(&self, domain: &Domain, xml: &str, flags: u32) -> Result<(), Error> {
        let arguments = |to: &mut Encoder| {
            domain.encode(to);
            to.string(xml);
            to.u32(flags);
        };
        self.call(procedure::DETACH_DEVICE, arguments, |_| Ok(())).await
    }

    /// Makes a disk of a domain that runs larger: `disk` is its target or its source. `flags`: [`resize`].
    ///
    /// # Errors
    /// [`codes::NOT_NOW`] when it does not run.
    pub async fn resize_disk(&self, domain: &Domain, disk: &str, size: u64, flags: u32) -> Result<(), Error> {
        let arguments = |to: &mut Encoder| {
            domain.encode(to);
            to.string(disk);
            to.u64(size);
            to.u32(flags);
        };
        self.call(procedure::BLOCK_RESIZE, arguments, |_| Ok(())).await
    }
}
