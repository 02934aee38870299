//! Verbs on a guest with a card on its host's own network: what it may reach, and ports of its host that lead to it;
//! and a sandbox's labels.

use crate::guests::{check_revision, desired_of};
use crate::{Cause, Control};
use perigee_agent_api::{FromServer, Purpose, TunnelFrame};
use perigee_model::forward::{FORWARDS_MAX, ForwardFault, fault};
use perigee_model::name::labels_fault;
use perigee_model::{Code, Egress, Egress6, Forward, Guest, HostId, Phase, Power, Reach, Refusal, Verb, Who, change};
use perigee_store::{Batch, Record};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Longest text of an audit event here.
const DETAIL_BYTES_MAX: usize = 512;
/// Longest ruleset of one guest that is shown.
const RULES_BYTES_MAX: usize = 1 << 20;
/// A host says at once which rules it would have.
const RULES_WITHIN: Duration = Duration::from_secs(15);

/// What may be changed of a sandbox; `None` leaves it.
#[derive(Clone, Debug, Default)]
pub struct SandboxChange {
    /// Labels to set or remove.
    pub labels: BTreeMap<String, Option<String>>,
    /// What it may reach by its card, from now on.
    pub egress: Option<Egress>,
    /// What it may reach by IPv6.
    pub egress6: Option<Egress6>,
}

/// The sandbox as the change makes it.
fn changed_by(guest: &Guest, change: &SandboxChange) -> Result<Guest, Refusal> {
    let mut next = guest.clone();
    change::merge(&mut next.labels, &change.labels);
    if let Some(fault) = labels_fault(&next.labels) {
        return Err(Refusal::field("labels", fault));
    }
    if let Some(egress) = &change.egress {
        change::reach(&mut next.spec, egress)?;
    }
    if let Some(egress6) = &change.egress6 {
        if next.spec.egress6.is_none() {
            let text = "it has no IPv6, and gets none later: create it with --egress6, none at least";
            return Err(Refusal::field("egress6", text));
        }
        next.spec.egress6 = Some(egress6.clone());
    }
    Ok(next)
}

impl Control {
    /// Changes a sandbox, if it still has this revision. Of a policy that is taken back nothing is open any more
    /// when its host has heard of it; what both policies allow goes on.
    ///
    /// # Errors
    /// `Denied`, `NoSuchGuest`, `PreconditionFailed`, `BadField`, also for a policy of a guest without a card.
    pub async fn update_sandbox(
        &self,
        who: &Who,
        text: &str,
        change: &SandboxChange,
        revision: Option<u64>,
        cause: &Cause,
    ) -> Result<Arc<Guest>, Refusal> {
        who.authorize(Verb::Operate)?;
        let next = self
            .decide(|| {
                let guest = self.find_guest(who, text)?;
                check_revision(revision, guest.revision)?;
                let mut next = changed_by(&guest, change)?;
                let mut batch = Batch { idempotency: cause.row(""), ..Batch::default() };
                match next.spec == guest.spec {
                    true => self.note(who, &mut next, &mut batch, (cause, "guest.label", String::new())),
                    false => {
                        next.desired.generation += 1;
                        let words = bounded(&next.spec.reach().map(|reach| words(&reach)).unwrap_or_default());
                        self.note(who, &mut next, &mut batch, (cause, "guest.egress", words));
                    }
                }
                Ok((batch, next))
            })
            .await?;
        self.tell_host(&next);
        Ok(Arc::new(next))
    }

    /// A port of the guest's host leads to it from now on; fine when it does already.
    ///
    /// # Errors
    /// `Denied`, `NoSuchGuest`, `BadField` for a guest that has no card or too many forwards, `GuestNotRunning`
    /// for one that has no host yet, `PortTaken`.
    pub async fn add_forward(
        &self,
        who: &Who,
        text: &str,
        forward: Forward,
        cause: &Cause,
    ) -> Result<Arc<Guest>, Refusal> {
        let add = |guest: &mut Guest| self.lead(guest, forward);
        self.change_forwards(who, text, (cause, "guest.forward", forward), add).await
    }

    /// It does not lead there any more: what came by it ends.
    ///
    /// # Errors
    /// `Denied`, `NoSuchGuest`, `NoSuchForward`.
    pub async fn remove_forward(
        &self,
        who: &Who,
        text: &str,
        forward: Forward,
        cause: &Cause,
    ) -> Result<Arc<Guest>, Refusal> {
        self.change_forwards(who, text, (cause, "guest.unforward", forward), |guest| {
            let before = guest.spec.forwards.len();
            guest.spec.forwards.retain(|one| !one.clashes(forward));
            if guest.spec.forwards.len() == before {
                let text = format!("{} port {} leads not to it", forward.protocol, forward.host_port);
                return Err(Refusal::new(Code::NoSuchForward, text));
            }
            Ok(())
        })
        .await
    }

    /// One living guest that ports can lead to, by id or name.
    fn find_carded(&self, who: &Who, text: &str) -> Result<Arc<Guest>, Refusal> {
        let guest = self.find_guest(who, text)?;
        if guest.is_gone() || guest.desired.power == Power::Absent {
            return Err(Refusal::new(Code::NoSuchGuest, "the guest is deleted"));
        }
        if guest.spec.egress.is_none() {
            let text = "it has no card on its host's own network: create it with --egress, none at least, to forward \
                        ports to it";
            return Err(Refusal::field("id", text));
        }
        Ok(guest)
    }

    /// Waits until the guest's host has done what is desired of it, `within` at most; the guest as it is then.
    pub async fn wait_caught_up(&self, guest: Arc<Guest>, within: Duration) -> Arc<Guest> {
        let deadline = self.clock().instant().after(within);
        loop {
            let shown = self.0.shown.notified();
            let now = self.view().guest(guest.id).unwrap_or_else(|| guest.clone());
            let heard = now.observed.as_ref().is_some_and(|o| o.generation >= guest.desired.generation);
            if heard || now.is_gone() || tokio::time::timeout_at(deadline.into_tokio(), shown).await.is_err() {
                return now;
            }
        }
    }

    /// Of a forward that was asked for and waited for: takes it back when its host found the port in use.
    ///
    /// # Errors
    /// `PortTaken`.
    pub async fn settle_forward(
        &self,
        who: &Who,
        guest: Arc<Guest>,
        forward: Forward,
        cause: &Cause,
    ) -> Result<Arc<Guest>, Refusal> {
        let Some(observed) = &guest.observed else { return Ok(guest) };
        let heard = observed.generation >= guest.desired.generation && observed.phase == Phase::Running;
        if !heard || observed.forwards.contains(&forward) || !guest.spec.forwards.contains(&forward) {
            return Ok(guest);
        }
        self.remove_forward(who, &guest.id.to_string(), forward, cause).await?;
        let text = format!("{} port {} of its host is in use there", forward.protocol, forward.host_port);
        Err(Refusal::new(Code::PortTaken, text))
    }

    /// The rules that a guest's card would have on this host, as text for `nft`. Nothing is changed. `None`: the
    /// host is not connected.
    ///
    /// # Errors
    /// `NoCard` with the host's reason, `ChannelBroken`.
    pub async fn preview_card(&self, guest: &Guest, host: HostId) -> Result<Option<String>, Refusal> {
        let Some(Reach { egress, egress6 }) = guest.spec.reach().filter(|_| self.links().is_connected(host)) else {
            return Ok(None);
        };
        let purpose = Purpose::PlanCard { guest: guest.id, egress, egress6, forwards: guest.spec.forwards.clone() };
        let mut tunnel = self.links().open(host, purpose).await?;
        let silent = || Refusal::new(Code::ChannelBroken, "the host did not say which rules it would have");
        let mut text = Vec::new();
        loop {
            match tokio::time::timeout(RULES_WITHIN, tunnel.rx.recv()).await {
                Ok(Some(TunnelFrame::Data(bytes))) if text.len() + bytes.len() <= RULES_BYTES_MAX => text.extend(bytes),
                Ok(Some(TunnelFrame::End)) => return String::from_utf8(text).map(Some).map_err(|_| silent()),
                Ok(Some(TunnelFrame::Failed(problem))) => {
                    return Err(Refusal::new(Code::parse(&problem.code).unwrap_or(Code::Bug), problem.text));
                }
                Ok(_) | Err(_) => return Err(silent()),
            }
        }
    }

    /// The guest as it would be with one forward more. Nothing is changed.
    ///
    /// # Errors
    /// As of `add_forward`.
    pub fn preview_forward(&self, who: &Who, text: &str, forward: Forward) -> Result<Guest, Refusal> {
        who.authorize(Verb::Operate)?;
        let mut guest = self.find_carded(who, text)?.as_ref().clone();
        self.lead(&mut guest, forward)?;
        Ok(guest)
    }

    /// One forward more, on a record that is not written yet.
    fn lead(&self, guest: &mut Guest, forward: Forward) -> Result<(), Refusal> {
        let Some(host) = guest.desired.host else {
            return Err(Refusal::new(Code::GuestNotRunning, "the guest has no host yet; wait until it runs"));
        };
        if guest.spec.forwards.contains(&forward) {
            return Ok(());
        }
        self.check_forward(guest, host, forward)?;
        guest.spec.forwards.push(forward);
        guest.spec.forwards.sort_unstable();
        Ok(())
    }

    fn check_forward(&self, guest: &Guest, host: HostId, forward: Forward) -> Result<(), Refusal> {
        let rows = self.view().read();
        let there = rows.living_guests().filter(|other| other.holds_room_on(host) && other.id != guest.id);
        let others = there.map(|other| (other.id, other.spec.forwards.as_slice()));
        let port = format!("{} port {} of its host", forward.protocol, forward.host_port);
        match fault(forward, &guest.spec.forwards, others) {
            None => Ok(()),
            Some(ForwardFault::Long) => {
                Err(Refusal::field("host_port", format!("a guest has {FORWARDS_MAX} forwards at most")))
            }
            Some(ForwardFault::Own) => {
                Err(Refusal::new(Code::PortTaken, format!("{port} leads to another port of it")))
            }
            Some(ForwardFault::Taken(id)) => {
                // Another tenant's guest is nobody to name.
                let other = rows.guests.get(&id).filter(|other| other.tenant == guest.tenant);
                let whose = other.map_or("another guest".to_owned(), |other| other.name.to_string());
                Err(Refusal::new(Code::PortTaken, format!("{port} leads to {whose}")))
            }
        }
    }

    async fn change_forwards(
        &self,
        who: &Who,
        text: &str,
        (cause, verb, forward): (&Cause, &str, Forward),
        change: impl Fn(&mut Guest) -> Result<(), Refusal>,
    ) -> Result<Arc<Guest>, Refusal> {
        who.authorize(Verb::Operate)?;
        let guest = self
            .decide(|| {
                let mut next = self.find_carded(who, text)?.as_ref().clone();
                let before = next.spec.forwards.clone();
                change(&mut next)?;
                let mut batch = Batch { idempotency: cause.row(""), ..Batch::default() };
                if next.spec.forwards == before {
                    return Ok((batch, next));
                }
                next.desired.generation += 1;
                self.note(who, &mut next, &mut batch, (cause, verb, forward.to_string()));
                Ok((batch, next))
            })
            .await?;
        self.tell_host(&guest);
        Ok(Arc::new(guest))
    }
    /// The changed record, and who changed it.
    fn note(&self, who: &Who, guest: &mut Guest, batch: &mut Batch, (cause, verb, detail): (&Cause, &str, String)) {
        guest.revision += 1;
        let about = ("guest", guest.id.to_string());
        batch.events.push(self.event((&who.tenant, &who.actor), verb, about, cause, detail));
        batch.update(Record::Guest(guest.clone()));
    }

    fn tell_host(&self, guest: &Guest) {
        if let Some(host) = guest.desired.host {
            self.links().send(host, FromServer::Desired(Box::new(desired_of(guest))));
        }
    }
}

/// A policy as an event tells it.
fn words(reach: &Reach) -> String {
    let six = reach.egress6.as_ref().map(|egress6| format!("; IPv6: {}", egress6.words().join(" ")));
    format!("{}{}", reach.egress.words().join(" "), six.unwrap_or_default())
}

/// As much of a text as an audit event should have.
pub(crate) fn bounded(text: &str) -> String {
    let most = text.floor_char_boundary(DETAIL_BYTES_MAX);
    text[..most].to_owned()
}
