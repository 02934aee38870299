//! libvirt's networks: which there are, which are up, made and taken away.
//!
//! Owns: the calls. Refuses: knowing what a network is, which is its XML's.

use crate::connection::Connection;
use crate::error::Error;
#[cfg(doc)]
use crate::error::codes;
use crate::limits;
use crate::procedure;
use crate::xdr::{Decoder, Encoder, Malformed};
use uuid::Uuid;

/// A network as libvirt names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Network {
    /// Unique on its host.
    pub name: String,
    /// Never changes.
    pub uuid: Uuid,
}

impl Network {
    fn encode(&self, to: &mut Encoder) {
        to.string(&self.name);
        to.fixed(self.uuid.as_bytes());
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let name = from.string(limits::STRING)?;
        let mut uuid = [0; 16];
        uuid.copy_from_slice(from.fixed(16)?);
        Ok(Self { name, uuid: Uuid::from_bytes(uuid) })
    }
}

impl Connection {
    /// Every network that is defined or up.
    pub async fn networks(&self) -> Result<Vec<Network>, Error> {
        let wanted = |to: &mut Encoder| {
            to.i32(1);
            to.u32(0);
        };
        let read = |reply: &mut Decoder<'_>| {
            let networks = reply.array(limits::NETWORKS, Network::decode)?;
            reply.u32()?;
            Ok(networks)
        };
        self.call(procedure::LIST_NETWORKS, wanted, read).await
    }

    /// The network of that name; [`codes::NO_NETWORK`] when there is none.
    pub async fn network_by_name(&self, name: &str) -> Result<Network, Error> {
        self.call(procedure::NETWORK_LOOKUP, |to| to.string(name), Network::decode).await
    }

    /// The network of that UUID; [`codes::NO_NETWORK`] when there is none.
    pub async fn network_by_uuid(&self, uuid: Uuid) -> Result<Network, Error> {
        self.call(procedure::NETWORK_LOOKUP_UUID, |to| to.fixed(uuid.as_bytes()), Network::decode).await
    }

    /// Its definition: as it is up, or as it will be when it comes up.
    pub async fn network_xml(&self, network: &Network) -> Result<String, Error> {
        let arguments = |to: &mut Encoder| {
            network.encode(to);
            to.u32(0);
        };
        self.call(procedure::NETWORK_XML, arguments, |reply| reply.string(limits::STRING)).await
    }

    /// Gives a network this definition, a new one if need be.
    ///
    /// # Errors
    /// [`codes::FAILED`] for a name or UUID that another one has, [`codes::BAD_XML`] for what is not understood.
    pub async fn define_network(&self, xml: &str) -> Result<Network, Error> {
        self.call(procedure::NETWORK_DEFINE, |to| to.string(xml), Network::decode).await
    }

    /// Says whether libvirt brings it up when libvirt itself starts.
    pub async fn set_network_autostart(&self, network: &Network, wanted: bool) -> Result<(), Error> {
        let arguments = |to: &mut Encoder| {
            network.encode(to);
            to.i32(i32::from(wanted));
        };
        self.call(procedure::NETWORK_SET_AUTOSTART, arguments, |_| Ok(())).await
    }

    /// Takes it down, whoever is on it. [`codes::NOT_NOW`] when it is not up.
    pub async fn stop_network(&self, network: &Network) -> Result<(), Error> {
        self.call(procedure::NETWORK_DESTROY, |to| network.encode(to), |_| Ok(())).await
    }

    /// Removes its definition; one that is up goes on until it is taken down.
    pub async fn undefine_network(&self, network: &Network) -> Result<(), Error> {
        self.call(procedure::NETWORK_UNDEFINE, |to| network.encode(to), |_| Ok(())).await
    }

    /// Whether it is up: only then can guests be put on it.
    pub async fn network_is_active(&self, network: &Network) -> Result<bool, Error> {
        self.call(procedure::NETWORK_ACTIVE, |to| network.encode(to), |reply| Ok(reply.i32()? != 0)).await
    }

    /// Brings it up, its DHCP server included. [`codes::NOT_NOW`] when it is.
    pub async fn start_network(&self, network: &Network) -> Result<(), Error> {
        self.call(procedure::NETWORK_CREATE, |to| network.encode(to), |_| Ok(())).await
    }
}
