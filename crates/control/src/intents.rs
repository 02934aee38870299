//! Acts of hosts: what was done there while nobody could be asked, applied once as ordinary verbs.
//!
//! Owns: taking an act once, refusing one that comes too late. Refuses: losing one: the host repeats
//! it until it is told that it was written down, here or in the audit log.

use crate::guests::desired_of;
use crate::vms::changed_by;
use crate::{Cause, Control};
use perigee_agent_api::{Act, FromServer, Intent};
use perigee_model::{
    Code, Desired, Guest, GuestKind, GuestSpec, HostId, Labels, Name, Power, Refusal, TakenAct, Tenant, VmChange,
};
use perigee_store::{Batch, Record};
use std::sync::Arc;

impl Control {
    /// Takes one act of a host.
    ///
    /// # Errors
    /// What the store says; the host repeats it.
    pub(crate) async fn settle_intent(&self, host: HostId, intent: &Intent) -> Result<(), Refusal> {
        let nudge = self
            .decide(|| {
                let known = self.view().guest(intent.guest);
                Ok(match (&intent.act, known) {
                    (Act::Create { name, labels, spec }, None) => {
                        self.created_there(host, intent, name, (labels, spec))
                    }
                    (Act::Create { .. }, Some(_)) => (Batch::default(), None),
                    (_, Some(guest)) if guest.desired.host == Some(host) => self.acted_there(host, intent, &guest),
                    (_, Some(_) | None) => {
                        let tenant = Tenant::first();
                        (self.refused_act(host, intent, &tenant, "the guest is not on this host any more"), None)
                    }
                })
            })
            .await?;
        // Of a gone one nothing is ordered: its host may have forgotten it, and would make it anew.
        if let Some(guest) = nudge.filter(|guest| !guest.is_gone()) {
            self.links().send(host, FromServer::Desired(Box::new(desired_of(&guest))));
        }
        self.links().send(host, FromServer::IntentTaken { intent: intent.id });
        self.0.queue_wake.notify_one();
        Ok(())
    }

    fn acted_there(&self, host: HostId, intent: &Intent, guest: &Arc<Guest>) -> (Batch, Option<Guest>) {
        if guest.acted.is_some_and(|newest| intent.id <= newest.id) {
            return (Batch::default(), None);
        }
        let mut next = guest.as_ref().clone();
        next.revision += 1;
        // What it deleted is gone by its own report.
        let deleted = guest.is_gone() && intent.act == Act::Delete;
        let ends = guest.is_gone() || (guest.desired.power == Power::Absent && intent.act != Act::Delete);
        if !deleted && (ends || !guest.allows_act(intent.id, intent.base_generation)) {
            let why = "something else was asked for meanwhile; that holds";
            let mut batch = self.refused_act(host, intent, &guest.tenant, why);
            next.acted = Some(TakenAct { id: intent.id, base: 0, after: guest.desired.generation });
            batch.update(Record::Guest(next.clone()));
            return (batch, Some(next));
        }
        match &intent.act {
            Act::Switch(switch) => switch.apply(&mut next.desired),
            Act::Update(change) => match self.updated_there(guest, change) {
                Ok(changed) => (next.name, next.labels, next.spec, next.desired) = changed,
                Err(refusal) => {
                    // Its host goes back to what it was.
                    next.desired.generation += 1;
                    next.acted = Some(TakenAct { id: intent.id, base: 0, after: next.desired.generation });
                    let mut batch = self.refused_act(host, intent, &guest.tenant, &refusal.shown);
                    batch.update(Record::Guest(next.clone()));
                    return (batch, Some(next));
                }
            },
            Act::Delete | Act::Create { .. } => {
                next.desired.power = Power::Absent;
                next.desired.generation += 1;
            }
        }
        next.acted = Some(TakenAct { id: intent.id, base: intent.base_generation, after: next.desired.generation });
        let mut batch = Batch::default();
        batch.events.push(self.act_event(host, intent, &guest.tenant, &intent.act.verb(), guest.name.as_str()));
        batch.update(Record::Guest(next.clone()));
        (batch, Some(next))
    }

    /// A guest's name, labels, wishes and generation after a change of its host.
    fn updated_there(&self, guest: &Guest, change: &VmChange) -> Result<(Name, Labels, GuestSpec, Desired), Refusal> {
        let next = changed_by(guest, change)?;
        let namesake = self.view().read().guest_named(&next.tenant, next.name.as_str()).map(|other| other.id);
        if namesake.is_some_and(|other| other != guest.id) {
            return Err(Refusal::new(Code::NameTaken, format!("the name {} is taken", next.name)));
        }
        Ok((next.name, next.labels, next.spec, next.desired))
    }

    /// A guest that was made on the host. A name that is taken here gets its id's end added.
    fn created_there(
        &self,
        host: HostId,
        intent: &Intent,
        name: &Name,
        (labels, spec): (&Labels, &GuestSpec),
    ) -> (Batch, Option<Guest>) {
        let tenant = Tenant::first();
        let taken = self.view().read().guest_named(&tenant, name.as_str()).is_some();
        let end = &intent.guest.short()[8..];
        let other = Name::parse(&format!("{}-{end}", &name.as_str()[..name.as_str().len().min(50)]));
        let called = if taken { other.unwrap_or_else(|_| name.clone()) } else { name.clone() };
        let generation = if taken { 2 } else { 1 };
        let guest = Guest {
            owner: actor(host, intent),
            labels: labels.clone(),
            desired: Desired::running(generation, Some(host)),
            acted: Some(TakenAct { id: intent.id, base: 1, after: generation }),
            ..Guest::new(intent.guest, called, GuestKind::Vm, spec.clone(), intent.at)
        };
        let mut batch = Batch::default();
        batch.events.push(self.act_event(host, intent, &tenant, "guest.create", guest.name.as_str()));
        batch.insert(Record::Guest(guest.clone()));
        (batch, taken.then_some(guest))
    }

    fn refused_act(&self, host: HostId, intent: &Intent, tenant: &Tenant, why: &str) -> Batch {
        let mut batch = Batch::default();
        let text = format!("{} of {}: {why}", intent.act.verb(), intent.at);
        batch.events.push(self.act_event(host, intent, tenant, "guest.act.refuse", &text));
        batch
    }

    fn act_event(
        &self,
        host: HostId,
        intent: &Intent,
        tenant: &Tenant,
        verb: &str,
        detail: &str,
    ) -> perigee_model::Event {
        let about = ("guest", intent.guest.to_string());
        self.event((tenant, &actor(host, intent)), verb, about, &Cause::default(), detail)
    }
}

/// `uid:1000@HOST`.
fn actor(host: HostId, intent: &Intent) -> String {
    match intent.uid {
        Some(uid) => format!("uid:{uid}@{host}"),
        None => format!("token@{host}"),
    }
}
