//! A domain's life: its definition, starting and stopping it, its metadata, its devices' addresses.
//!
//! Owns: the calls, their flags by name. Refuses: waiting. `shutdown` only asks the guest; what comes
//! of it is told by events and by the state.

use crate::connection::Connection;
use crate::domain::Domain;
use crate::error::Error;
#[cfg(doc)]
use crate::error::codes;
use crate::limits;
use crate::procedure;
use crate::xdr::{Decoder, Encoder, Malformed};
use std::net::IpAddr;

/// What a definition is checked for, as bits to be or-ed.
pub mod define {
    /// It is checked against libvirt's schema: an element that is not known is refused, not dropped.
    pub const VALIDATE: u32 = 1;
}

/// How a domain is started, as bits to be or-ed.
pub mod create {
    /// Its CPUs stay stopped.
    pub const PAUSED: u32 = 1;
    /// What a managed save kept is thrown away.
    pub const FORCE_BOOT: u32 = 8;
}

/// What goes with a definition, as bits to be or-ed. Without its bit, libvirt refuses where there is
/// such a thing.
pub mod undefine {
    /// The memory that a managed save kept.
    pub const MANAGED_SAVE: u32 = 1;
    /// What is known of snapshots.
    pub const SNAPSHOTS: u32 = 2;
    /// The firmware's variables.
    pub const NVRAM: u32 = 4;
    /// What is known of checkpoints.
    pub const CHECKPOINTS: u32 = 16;
    /// The emulated TPM's state (libvirt 8.9 and newer).
    pub const TPM: u32 = 32;
}

/// How a guest is asked to turn itself off, as bits to be or-ed; 0 is libvirt's own choice.
pub mod shutdown {
    /// The power button.
    pub const ACPI: u32 = 1;
    /// Its agent is told.
    pub const AGENT: u32 = 2;
}

/// What a change is made to, as bits to be or-ed.
pub mod affect {
    /// The domain as it runs.
    pub const LIVE: u32 = 1;
    /// Its definition.
    pub const CONFIG: u32 = 2;
}

/// libvirt's number for an element of the owner's own in a domain's metadata.
const METADATA_ELEMENT: i32 = 2;

/// Who tells a guest's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressSource {
    /// The leases of libvirt's own DHCP servers.
    Lease,
    /// The agent in the guest.
    Agent,
    /// The host's ARP table.
    Arp,
}

impl AddressSource {
    /// `virDomainInterfaceAddressesSource`.
    fn number(self) -> u32 {
        match self {
            Self::Lease => 0,
            Self::Agent => 1,
            Self::Arp => 2,
        }
    }
}

/// A guest's network card with the addresses it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// `vnet3` by lease and ARP, `eth0` by the agent.
    pub name: String,
    /// `52:54:00:01:02:03`.
    pub hardware: Option<String>,
    /// Addresses that are ones; a guest's agent may say anything.
    pub addresses: Vec<IpAddr>,
}

impl Interface {
    fn decode(from: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let name = from.string(limits::STRING)?;
        let hardware = from.optional_string(limits::STRING)?;
        let address = |from: &mut Decoder<'_>| {
            let (_kind, text, _prefix) = (from.i32()?, from.string(limits::STRING)?, from.u32()?);
            Ok(text.parse().ok())
        };
        let addresses = from.array(limits::ADDRESSES, address)?.into_iter().flatten().collect();
        Ok(Self { name, hardware, addresses })
    }
}

impl Connection {
    /// Gives a domain this definition, a new one if need be. `flags`: [`define`].
    ///
    /// # Errors
    /// [`codes::FAILED`] for a name or UUID that another domain has, [`codes::BAD_XML`] for what is not
    /// understood.
    pub async fn define(&self, xml: &str, flags: u32) -> Result<Domain, Error> {
        let arguments = |to: &mut Encoder| {
            to.string(xml);
            to.u32(flags);
        };
        self.call(procedure::DEFINE, arguments, Domain::decode).await
    }

    /// Starts a domain that is defined. `flags`: [`create`].
    ///
    /// # Errors
    /// [`codes::NOT_NOW`] when it runs already.
    pub async fn create(&self, domain: &Domain, flags: u32) -> Result<Domain, Error> {
        self.call(procedure::CREATE, |to| with(to, domain, flags), Domain::decode).await
    }

    /// Ends a domain at once, as if its power were cut.
    ///
    /// # Errors
    /// [`codes::NOT_NOW`] when it does not run.
    pub async fn destroy(&self, domain: &Domain) -> Result<(), Error> {
        self.call(procedure::DESTROY, |to| with(to, domain, 0), |_| Ok(())).await
    }

    /// Removes a domain's definition; one that runs goes on until it ends. `flags`: [`undefine`].
    pub async fn undefine(&self, domain: &Domain, flags: u32) -> Result<(), Error> {
        self.call(procedure::UNDEFINE, |to| with(to, domain, flags), |_| Ok(())).await
    }

    /// Asks the guest to turn itself off; it may not. `flags`: [`shutdown`].
    ///
    /// # Errors
    /// [`codes::NOT_NOW`] when it does not run.
    pub async fn shutdown(&self, domain: &Domain, flags: u32) -> Result<(), Error> {
        self.call(procedure::SHUTDOWN, |to| with(to, domain, flags), |_| Ok(())).await
    }

    /// Asks the guest to start anew. `flags`: [`shutdown`].
    pub async fn reboot(&self, domain: &Domain, flags: u32) -> Result<(), Error> {
        self.call(procedure::REBOOT, |to| with(to, domain, flags), |_| Ok(())).await
    }

    /// Stops a domain's CPUs. Fine when they are stopped.
    pub async fn suspend(&self, domain: &Domain) -> Result<(), Error> {
        self.call(procedure::SUSPEND, |to| domain.encode(to), |_| Ok(())).await
    }

    /// Lets a domain's CPUs run.
    ///
    /// # Errors
    /// [`codes::NOT_NOW`] when they do.
    pub async fn resume(&self, domain: &Domain) -> Result<(), Error> {
        self.call(procedure::RESUME, |to| domain.encode(to), |_| Ok(())).await
    }

    /// Whether libvirt starts the domain when libvirt itself starts.
    pub async fn autostart(&self, domain: &Domain) -> Result<bool, Error> {
        self.call(procedure::AUTOSTART, |to| domain.encode(to), |reply| Ok(reply.i32()? != 0)).await
    }

    /// Says whether libvirt starts the domain when libvirt itself starts.
    pub async fn set_autostart(&self, domain: &Domain, wanted: bool) -> Result<(), Error> {
        let arguments = |to: &mut Encoder| {
            domain.encode(to);
            to.i32(i32::from(wanted));
        };
        self.call(procedure::SET_AUTOSTART, arguments, |_| Ok(())).await
    }

    /// The element of this namespace in a domain's metadata. `flags`: one of [`affect`], or 0 for its
    /// present state.
    ///
    /// # Errors
    /// [`codes::NO_METADATA`] when it has none.
    pub async fn metadata(&self, domain: &Domain, uri: &str, flags: u32) -> Result<String, Error> {
        let arguments = |to: &mut Encoder| {
            domain.encode(to);
            to.i32(METADATA_ELEMENT);
            to.optional_string(Some(uri));
            to.u32(flags);
        };
        self.call(procedure::METADATA, arguments, |reply| reply.string(limits::STRING)).await
    }

    /// Gives a domain this element in its metadata under that namespace, in the place of the one it
    /// had; `None` takes it away. `key` is the namespace's prefix. `flags`: [`affect`], or 0 for its
    /// present state.
    pub async fn set_metadata(
        &self,
        domain: &Domain,
        element: Option<&str>,
        (key, uri): (&str, &str),
        flags: u32,
    ) -> Result<(), Error> {
        let arguments = |to: &mut Encoder| {
            domain.encode(to);
            to.i32(METADATA_ELEMENT);
            to.optional_string(element);
            to.optional_string(element.map(|_| key));
            to.optional_string(Some(uri));
            to.u32(flags);
        };
        self.call(procedure::SET_METADATA, arguments, |_| Ok(())).await
    }

    /// A running domain's cards and their addresses, as `source` knows them.
    pub async fn interfaces(&self, domain: &Domain, source: AddressSource) -> Result<Vec<Interface>, Error> {
        let arguments = |to: &mut Encoder| {
            domain.encode(to);
            to.u32(source.number());
            to.u32(0);
        };
        let read = |reply: &mut Decoder<'_>| reply.array(limits::INTERFACES, Interface::decode);
        self.call(procedure::INTERFACE_ADDRESSES, arguments, read).await
    }
}

fn with(to: &mut Encoder, domain: &Domain, flags: u32) {
    domain.encode(to);
    to.u32(flags);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(addresses: &[&str]) -> Vec<u8> {
        let mut written = Encoder::default();
        written.string("eth0");
        written.optional_string(Some("52:54:00:00:00:01"));
        written.u32(addresses.len() as u32);
        for address in addresses {
            written.i32(0);
            written.string(address);
            written.u32(24);
        }
        written.finish().unwrap()
    }

    #[test]
    fn what_an_agent_says_is_an_address_or_left_out() {
        let bytes = card(&["10.0.0.7", "; rm -rf /", "fe80::1", "300.1.1.1", ""]);
        let interface = Interface::decode(&mut Decoder::new(&bytes)).unwrap();
        assert_eq!(interface.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>(), ["10.0.0.7", "fe80::1"]);
        let flood = card(&vec!["10.0.0.7"; limits::ADDRESSES + 1]);
        assert!(matches!(Interface::decode(&mut Decoder::new(&flood)), Err(Malformed::TooLong { .. })));
    }
}
