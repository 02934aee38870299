//! Domains: who they are, which exist, what state they are in, their XML.

use crate::connection::Connection;
use crate::error::Error;
use crate::limits;
use crate::procedure;
use crate::xdr::{Decoder, Encoder, Malformed};
use uuid::Uuid;

/// A domain as libvirt names it. Two records with the same `uuid` and another `id` are two lives of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Domain {
    /// Unique on its host, may be changed.
    pub name: String,
    /// Never changes.
    pub uuid: Uuid,
    /// A number for each start; `None` while it does not run.
    pub id: Option<i32>,
}

impl Domain {
    pub(crate) fn encode(&self, to: &mut Encoder) {
        to.string(&self.name);
        to.fixed(self.uuid.as_bytes());
        to.i32(self.id.unwrap_or(-1));
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let name = from.string(limits::STRING)?;
        let mut uuid = [0; 16];
        uuid.copy_from_slice(from.fixed(16)?);
        let id = Some(from.i32()?).filter(|id| *id >= 0);
        Ok(Self { name, uuid: Uuid::from_bytes(uuid), id })
    }
}

/// What a domain does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum State {
    /// libvirt does not say.
    #[default]
    Unknown,
    /// On a CPU or ready for one.
    Running,
    /// Waiting for a resource (Xen).
    Blocked,
    /// Stopped, with its memory.
    Paused,
    /// On its way down.
    ShuttingDown,
    /// Not running.
    ShutOff,
    /// Ended by a fault.
    Crashed,
    /// Suspended by its own power management.
    Suspended,
}

impl From<i32> for State {
    /// From `virDomainState`; a number that is newer than this crate is [`State::Unknown`].
    fn from(number: i32) -> Self {
        match number {
            1 => Self::Running,
            2 => Self::Blocked,
            3 => Self::Paused,
            4 => Self::ShuttingDown,
            5 => Self::ShutOff,
            6 => Self::Crashed,
            7 => Self::Suspended,
            _ => Self::Unknown,
        }
    }
}

/// What libvirt knows of a domain without asking its hypervisor (`virDomainInfo`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DomainInfo {
    /// Its state.
    pub state: State,
    /// Memory it may have, in bytes.
    pub memory_max_bytes: u64,
    /// Memory it has now, in bytes.
    pub memory_bytes: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// CPU time of its whole process in nanoseconds, in steps of the kernel's clock tick (10 ms mostly).
    pub cpu_ns: u64,
}

impl DomainInfo {
    fn decode(from: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let kib = |from: &mut Decoder<'_>| from.u64().map(|kib| kib.saturating_mul(1024));
        Ok(Self {
            state: State::from(from.i32()?),
            memory_max_bytes: kib(from)?,
            memory_bytes: kib(from)?,
            vcpus: from.u32()?,
            cpu_ns: from.u64()?,
        })
    }
}

/// Which domains a list holds, as bits to be or-ed; none of a group means all of it.
pub mod list {
    /// Running or paused.
    pub const ACTIVE: u32 = 1;
    /// Defined only.
    pub const INACTIVE: u32 = 2;
    /// With a definition that outlives a stop.
    pub const PERSISTENT: u32 = 4;
    /// Gone when stopped.
    pub const TRANSIENT: u32 = 8;
    /// Running.
    pub const RUNNING: u32 = 16;
    /// Paused.
    pub const PAUSED: u32 = 32;
    /// Shut off.
    pub const SHUT_OFF: u32 = 64;
}

impl Connection {
    /// The domains that `flags` ([`list`]) select; 0 selects all.
    pub async fn domains(&self, flags: u32) -> Result<Vec<Domain>, Error> {
        let wanted = |to: &mut Encoder| {
            to.i32(1);
            to.u32(flags);
        };
        let read = |reply: &mut Decoder<'_>| {
            let domains = reply.array(limits::DOMAINS, Domain::decode)?;
            reply.u32()?;
            Ok(domains)
        };
        self.call(procedure::LIST_DOMAINS, wanted, read).await
    }

    /// The domain of that UUID; libvirt's code 42 when there is none.
    pub async fn domain_by_uuid(&self, uuid: Uuid) -> Result<Domain, Error> {
        self.call(procedure::LOOKUP_UUID, |to| to.fixed(uuid.as_bytes()), Domain::decode).await
    }

    /// The domain of that name; libvirt's code 42 when there is none.
    pub async fn domain_by_name(&self, name: &str) -> Result<Domain, Error> {
        self.call(procedure::LOOKUP_NAME, |to| to.string(name), Domain::decode).await
    }

    /// Its state and libvirt's number for the reason.
    pub async fn domain_state(&self, domain: &Domain) -> Result<(State, i32), Error> {
        let read = |reply: &mut Decoder<'_>| Ok((State::from(reply.i32()?), reply.i32()?));
        self.call(procedure::DOMAIN_STATE, |to| with_flags(to, domain, 0), read).await
    }

    /// What libvirt knows of it without asking its hypervisor: neither a busy nor a hung one delays it.
    pub async fn domain_info(&self, domain: &Domain) -> Result<DomainInfo, Error> {
        self.call(procedure::DOMAIN_INFO, |to| domain.encode(to), DomainInfo::decode).await
    }

    /// Its definition. `flags` are libvirt's: 1 with secrets, 2 the inactive one.
    pub async fn domain_xml(&self, domain: &Domain, flags: u32) -> Result<String, Error> {
        let read = |reply: &mut Decoder<'_>| reply.string(limits::STRING);
        self.call(procedure::DOMAIN_XML, |to| with_flags(to, domain, flags), read).await
    }
}

fn with_flags(to: &mut Encoder, domain: &Domain, flags: u32) {
    domain.encode(to);
    to.u32(flags);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_domain_is_read_as_it_was_written(name in ".{0,60}", uuid: u128, id in proptest::option::of(0..i32::MAX)) {
            let domain = Domain { name, uuid: Uuid::from_u128(uuid), id };
            let mut written = Encoder::default();
            domain.encode(&mut written);
            let written = written.finish().unwrap();
            let mut read = Decoder::new(&written);
            prop_assert_eq!(Domain::decode(&mut read), Ok(domain));
            prop_assert_eq!(read.finish(), Ok(()));
        }
    }
}
