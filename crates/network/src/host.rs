//! The effects: bridge, TAPs and rules of one instance, in the network namespace of whoever opens it.
//!
//! Everything is looked for by name, and every step may be repeated: nothing is remembered between two calls.

mod found;
mod links;
mod nft;
mod ports;
mod recall;
mod six;
mod steps;
mod tap;

pub(crate) use found::name_of;
pub use found::{Bridge, Found, Tap};
pub use steps::{Step, steps};

use crate::names::{DeviceName, Names};
use crate::plan::Plan;
use crate::ruleset::{Held, Resolved, Ruleset};
use perigee_model::egress::{Block, Protocol};
use perigee_model::{InstanceId, Mac};
use std::collections::BTreeSet;
use std::io;
use std::net::Ipv6Addr;
use std::path::Path;

/// Bridge, TAPs and rules of one instance.
#[derive(Debug)]
pub struct Host {
    names: Names,
    netlink: rtnetlink::Handle,
    connection: tokio::task::JoinHandle<()>,
}

/// Why a host's network is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The kernel refused.
    #[error("the kernel refused: {0}")]
    Netlink(#[from] rtnetlink::Error),
    /// A file of the kernel could not be used.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A TAP could not be made.
    #[error("cannot make the TAP {0}: {1}")]
    Tap(DeviceName, io::Error),
    /// A switch of the kernel could not be set.
    #[error("cannot write {0}: {1}")]
    Switch(String, io::Error),
    /// No tool.
    #[error("cannot run nft (package nftables): {0}")]
    NoNft(io::Error),
    /// The ruleset was refused; nothing of it holds.
    #[error("nft refused the rules: {0}")]
    Nft(String),
    /// Guests cannot have it either.
    #[error("the kernel of this host speaks no IPv6 (ipv6.disable=1?)")]
    NoSix,
    /// Somebody took it away in the meantime.
    #[error("the device {0} is gone")]
    Gone(DeviceName),
}

impl Host {
    /// Opens the network namespace of the calling thread. Needs CAP_NET_ADMIN, and a runtime of tokio.
    pub fn open(instance: &InstanceId) -> Result<Self, HostError> {
        let (connection, netlink, _) = rtnetlink::new_connection()?;
        Ok(Self { names: Names::of(instance), netlink, connection: tokio::spawn(connection) })
    }

    /// Networks that this host has routes to beside its own bridge's: what a subnet must not overlap.
    pub async fn taken(&self) -> Result<Vec<Block>, HostError> {
        found::routes(&self.netlink, &self.names).await
    }

    /// The same for IPv6, which the kernel must speak.
    pub async fn taken6(&self) -> Result<Vec<Block<Ipv6Addr>>, HostError> {
        if !Path::new(six::CONF).exists() {
            return Err(HostError::NoSix);
        }
        found::routes(&self.netlink, &self.names).await
    }

    /// Ports at which programs of this host are reached, and that a forward would take from them; `own`: the
    /// guests' network, whose address is ours.
    pub fn listening(&self, own: Block) -> Result<BTreeSet<(Protocol, u16)>, HostError> {
        Ok(ports::listening(own)?)
    }
    /// What there is of this instance.
    pub async fn look(&self) -> Result<Found, HostError> {
        let mut found = found::devices(&self.netlink, &self.names).await?;
        let tables = nft::ask(&["list", "tables"]).await?;
        found.rules = tables.lines().any(|line| line.split(' ').next_back() == Some(self.names.table()));
        found.forwarding = is_on(FORWARD);
        found.forwarding6 = is_on(six::FORWARD);
        if let Some(bridge) = &mut found.bridge {
            bridge.six = six::speaks(&self.names.bridge());
        }
        Ok(found)
    }

    /// Makes all that the plan names and takes away all else that is this instance's; may be repeated, and goes on
    /// where it was killed. Answers what was done.
    pub async fn bring_about(&self, plan: &Plan, resolved: Resolved<'_>) -> Result<Vec<Step>, HostError> {
        let steps = steps(Some((plan, resolved)), &self.names, &self.look().await?);
        self.perform_all(&steps).await?;
        Ok(steps)
    }

    /// Takes away all that is this instance's. Answers what was done.
    pub async fn take_away(&self) -> Result<Vec<Step>, HostError> {
        let steps = steps(None, &self.names, &self.look().await?);
        self.perform_all(&steps).await?;
        Ok(steps)
    }

    async fn perform_all(&self, steps: &[Step]) -> Result<(), HostError> {
        for step in steps {
            self.perform(step).await?;
        }
        Ok(())
    }

    /// The rules alone, at once: for a changed policy of guests that are there.
    pub async fn judge(&self, plan: &Plan, resolved: Resolved<'_>) -> Result<(), HostError> {
        nft::apply(Ruleset::of(plan, resolved).text()).await
    }

    /// What names mean to guests, as far as the kernel still knows: it outlives us.
    pub async fn held(&self) -> Result<Vec<Held>, HostError> {
        Ok(recall::held(&nft::ask(&["-j", "list", "sets", "inet"]).await?, self.names.table()))
    }

    /// Opens what names mean, beside what is open.
    pub(crate) async fn admit(&self, held: &[Held]) -> Result<(), HostError> {
        nft::apply(Ruleset::opened(&self.names, held).text()).await
    }

    /// One step.
    pub async fn perform(&self, step: &Step) -> Result<(), HostError> {
        let (netlink, bridge) = (&self.netlink, self.names.bridge());
        match step {
            Step::TakeTaps(names) => links::take_together(netlink, names).await,
            Step::TakeBridge => links::take(netlink, &bridge).await,
            Step::Forget(address) => links::forget(netlink, &bridge, *address).await,
            Step::Forward => switch(FORWARD, "1"),
            Step::Forward6 => six::forward(),
            Step::MakeBridge(subnet) => links::make_bridge(netlink, &bridge, *subnet).await,
            Step::Address(address, bits) => links::address(netlink, &bridge, *address, *bits).await,
            Step::RaiseBridge => self.raise(&bridge).await,
            Step::Speak6 => six::speak(&bridge),
            Step::Hush6 => six::hush(&bridge),
            Step::Rules(ruleset) => nft::apply(ruleset.text()).await,
            Step::MakeTap(name, owner) => tap::make(name, *owner).map_err(|error| HostError::Tap(name.clone(), error)),
            Step::Attach(name) => links::port(netlink, name, &bridge).await,
            Step::Know(name, mac) => links::know(netlink, name, *mac).await,
            Step::Meet(address, mac) => links::meet(netlink, &bridge, *address, *mac).await,
            Step::Raise(name) => self.raise(name).await,
            Step::Lower(name) => links::set_up(netlink, name, false).await,
        }
    }

    /// Up, but without any IPv6 of its own.
    async fn raise(&self, name: &DeviceName) -> Result<(), HostError> {
        six::hush(name)?;
        links::set_up(&self.netlink, name, true).await
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

fn switch(path: &str, value: &str) -> Result<(), HostError> {
    std::fs::write(path, value).map_err(|error| HostError::Switch(path.to_owned(), error))
}

fn is_on(path: &str) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
}

fn bytes_of(mac: Mac) -> [u8; 6] {
    let mut bytes = [0; 6];
    for (byte, word) in bytes.iter_mut().zip(mac.to_string().split(':')) {
        *byte = u8::from_str_radix(word, 16).unwrap_or(0);
    }
    bytes
}

fn mac_from(bytes: &[u8]) -> Option<Mac> {
    let words: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Mac::try_from(words.join(":")).ok()
}

#[cfg(test)]
mod tests;
