//! A guest's card: had before it boots, up when it has its address, changed while it runs, resting while it is off.

use super::Document;
use super::actor::{Actor, Stoppable, Waited, bounded};
use perigee_hypervisor::{HypervisorError, Nic};
use perigee_model::guest::Problem;
use perigee_model::{Code, Forward};
use std::net::IpAddr;

impl Document {
    /// The addresses that are its own, as they are told.
    pub(super) fn own_addresses(&self) -> Vec<IpAddr> {
        self.address.map(IpAddr::V4).into_iter().chain(self.address6.map(IpAddr::V6)).collect()
    }
}

impl Actor {
    /// Its card, when it is to have one; not up yet.
    pub(super) async fn plug_card(&mut self) -> Result<Option<Nic>, Problem> {
        let Some(reach) = self.document.order.spec.reach() else { return Ok(None) };
        let (cards, id) = (self.world.cards.clone(), self.id());
        let plug = self.effect(async move { cards.plug(id, &reach).await });
        match self.during(plug, Stoppable::No).await {
            Waited::Done(Ok(mut nic)) => {
                self.document.address = Some(nic.address);
                self.document.address6 = nic.six.map(|six| six.address);
                // It lives long: a later policy of its may list names.
                nic.names = nic.names.or_else(|| self.document.order.spec.vm.as_ref().map(|_| nic.gateway));
                Ok(Some(nic))
            }
            Waited::Done(Err(e)) => Err(Problem::new(e.code(), bounded(&crate::chain(&e)))),
            Waited::Turned | Waited::Fell => Err(Problem::new(Code::BootFailed, "it should not run any more")),
        }
    }

    /// Takes its card away and keeps its address, if it has a card.
    pub(super) async fn rest_card(&mut self) -> Result<(), HypervisorError> {
        if self.document.order.spec.egress.is_none() {
            return Ok(());
        }
        let (cards, id) = (self.world.cards.clone(), self.id());
        let rest = self.effect(async move { cards.rest(id).await });
        match self.during(rest, Stoppable::No).await {
            Waited::Done(rested) => Ok(rested?),
            Waited::Turned | Waited::Fell => Err(HypervisorError::NotRunning),
        }
    }

    /// It has its address: from here on it is on the network, as its newest order says. Answers what leads to it.
    pub(super) async fn raise_card(&mut self) -> Result<Vec<Forward>, HypervisorError> {
        let spec = &self.document.order.spec;
        let (Some(reach), Some(_)) = (spec.reach(), self.document.address) else { return Ok(Vec::new()) };
        let (cards, id, forwards) = (self.world.cards.clone(), self.id(), spec.forwards.clone());
        let raise = self.effect(async move { cards.raise(id, &reach, &forwards).await });
        match self.during(raise, Stoppable::No).await {
            Waited::Done(raised) => Ok(raised?),
            Waited::Turned | Waited::Fell => Err(HypervisorError::NotRunning),
        }
    }

    /// Of one that runs: another policy, or other forwards. Tried again until the host has taken it.
    pub(super) async fn change_card(&mut self) {
        let wanted = self.document.order.spec.forwards.clone();
        match self.raise_card().await {
            Ok(led) => {
                let taken = taken(&wanted, &led);
                self.observe(self.document.observed.phase, |o| {
                    o.forwards = led;
                    o.problem = taken;
                })
                .await;
            }
            Err(e) => drop(self.not_done("its card cannot be changed", &e).await),
        }
    }
}

/// Forwards that do not lead to it, in published words.
pub(super) fn taken(wanted: &[Forward], led: &[Forward]) -> Option<Problem> {
    let ports: Vec<_> = wanted.iter().filter(|forward| !led.contains(forward)).map(ToString::to_string).collect();
    let text = || bounded(&format!("not forwarded, because the host's port is in use there: {}", ports.join(", ")));
    (!ports.is_empty()).then(|| Problem::new(Code::PortTaken, text()))
}
