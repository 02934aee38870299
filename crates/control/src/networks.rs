//! Verbs on networks of VMs: create, list, get, delete; and what their hosts say of them.
//!
//! ```text
//!   create, delete: network and task ─▶ claim ─▶ its host ─▶ report ─▶ settled
//! ```
//! Owns: that a network is taken away only when no VM is on it, and that a VM goes where its network is. Refuses:
//! choosing addresses: what is free is known at the host.

mod settling;

pub(crate) use settling::{leftovers, order_of};

use crate::guests::check_revision;
use crate::{Cause, Control, Span, refuse_store};
use perigee_agent_api::{PlannedNetwork, Purpose, TunnelFrame};
use perigee_model::egress::Block;
use perigee_model::limits::NETWORKS_PER_HOST_MAX;
use perigee_model::network::fault;
use perigee_model::vm::description_fault;
use perigee_model::{
    Code, Guest, Host, HostId, Name, Network, NetworkId, NetworkKind, NetworkStatus, Priority, Refusal, Task, TaskKind,
    Verb, Who,
};
use perigee_store::{Batch, Record};
use settling::desired;
use std::sync::Arc;
use std::time::Duration;

/// Longest answer of a host that is asked what it would make.
const PLAN_BYTES_MAX: usize = 1 << 20;
/// A host says at once what it would make.
const PLAN_WITHIN: Duration = Duration::from_secs(15);

/// What is wanted of a new network.
#[derive(Clone, Debug)]
pub struct NewNetwork {
    /// Unique in the tenant, and on its host.
    pub name: Name,
    /// Where it leads.
    pub kind: NetworkKind,
    /// Its addresses; its host chooses when none are given.
    pub subnet: Option<Block>,
    /// The bridge that a bridged one is on.
    pub bridge: Option<String>,
    /// Name or id of its host; may be left out where only one can have it.
    pub host: Option<String>,
    /// For people.
    pub description: String,
}

impl Control {
    /// Records a network and the task that makes it.
    ///
    /// # Errors
    /// `Denied`, `BadField`, `NoSuchHost`, `NoRoom` when no host can have it, `NameTaken`, `TooManyNetworks`,
    /// `TooManyTasks`.
    pub async fn create_network(
        &self,
        who: &Who,
        wanted: NewNetwork,
        cause: &Cause,
    ) -> Result<(Arc<Network>, Arc<Task>), Refusal> {
        let network = self.preview_network(who, wanted)?;
        self.check_queue(who)?;
        let task = self.new_task(who, TaskKind::NetworkCreate { network: network.id }, Priority::High);
        let mut batch = Batch { idempotency: cause.row(task.id), ..Batch::default() };
        let about = ("network", network.id.to_string());
        let detail = format!("{} ({})", network.name, network.kind);
        batch.events.push(self.event((&who.tenant, &who.actor), "network.create", about, cause, detail));
        batch.insert(Record::Network(network.clone()));
        batch.insert(Record::Task(task.clone()));
        self.commit(batch).await.map_err(refuse_store)?;
        self.0.queue_wake.notify_one();
        Ok((Arc::new(network), Arc::new(task)))
    }

    /// What a create would record. Nothing is written.
    ///
    /// # Errors
    /// As of `create_network`.
    pub fn preview_network(&self, who: &Who, wanted: NewNetwork) -> Result<Network, Refusal> {
        who.authorize(Verb::Operate)?;
        if let Some((field, text)) = fault(wanted.kind, wanted.subnet, wanted.bridge.as_deref()) {
            return Err(Refusal::field(field, text));
        }
        if let Some(fault) = description_fault(&wanted.description) {
            return Err(Refusal::field("description", fault));
        }
        let host = self.host_for_network(who, wanted.host.as_deref())?;
        let rows = self.view().read();
        let of_host = || rows.networks.values().filter(|network| network.host == host.id);
        if rows.networks.values().any(|n| n.tenant == who.tenant && n.name == wanted.name) {
            return Err(Refusal::new(Code::NameTaken, format!("the name {} is taken", wanted.name)));
        }
        // Another tenant's is nobody to name.
        if of_host().any(|other| other.name == wanted.name) {
            let text = format!("{} has a network {} already: choose another name", host.name, wanted.name);
            return Err(Refusal::new(Code::NameTaken, text));
        }
        if of_host().count() >= NETWORKS_PER_HOST_MAX {
            let text = format!("{} has {NETWORKS_PER_HOST_MAX} networks already: delete one of them first", host.name);
            return Err(Refusal::new(Code::TooManyNetworks, text));
        }
        Ok(Network {
            id: NetworkId::new(self.clock().uuid()),
            name: wanted.name,
            tenant: who.tenant.clone(),
            owner: who.actor.clone(),
            description: wanted.description,
            host: host.id,
            kind: wanted.kind,
            subnet: wanted.subnet,
            bridge: wanted.bridge,
            made: false,
            absent: false,
            generation: 1,
            created_at: self.clock().now(),
            revision: 1,
        })
    }

    /// What a network's host would make of it now. Nothing is changed.
    ///
    /// # Errors
    /// `HostAway`, `ChannelBroken`; and what the host says: `NameTaken`, `SubnetTaken`, `NoSuchBridge`,
    /// `NetworkFailed`.
    pub async fn plan_network(&self, network: &Network) -> Result<PlannedNetwork, Refusal> {
        if !self.links().is_connected(network.host) {
            return Err(Refusal::new(Code::HostAway, "the host is not connected; what is free there is not known"));
        }
        let mut tunnel = self.links().open(network.host, Purpose::PlanNetwork(desired(network))).await?;
        let silent = || Refusal::new(Code::ChannelBroken, "the host did not say what it would make");
        let mut text = Vec::new();
        loop {
            match tokio::time::timeout(PLAN_WITHIN, tunnel.rx.recv()).await {
                Ok(Some(TunnelFrame::Data(bytes))) if text.len() + bytes.len() <= PLAN_BYTES_MAX => text.extend(bytes),
                Ok(Some(TunnelFrame::End)) => return PlannedNetwork::read(&text).ok_or_else(silent),
                Ok(Some(TunnelFrame::Failed(problem))) => {
                    return Err(Refusal::new(Code::parse(&problem.code).unwrap_or(Code::Bug), problem.text));
                }
                Ok(_) | Err(_) => return Err(silent()),
            }
        }
    }

    /// The host that was named, or the only one that can have networks.
    fn host_for_network(&self, who: &Who, named: Option<&str>) -> Result<Arc<Host>, Refusal> {
        let can = |host: &Host| host.inventory.as_ref().is_some_and(|i| i.drivers.iter().any(|d| d.networks));
        if let Some(named) = named {
            let host = self.find_host(who, named)?;
            let none = || Refusal::field("host", format!("{} has no libvirt, which networks need", host.name));
            return if can(&host) { Ok(host) } else { Err(none()) };
        }
        let rows = self.view().read();
        let mut able = rows.hosts.values().filter(|host| !host.revoked && can(host));
        match (able.next(), able.next()) {
            (Some(host), None) => Ok(host.clone()),
            (Some(_), Some(_)) => Err(Refusal::field("host", "several hosts can have it: name one of them")),
            (None, _) => Err(Refusal::new(Code::NoRoom, "no host can have networks: they need libvirt")),
        }
    }

    /// Networks of the caller's tenant, oldest first.
    ///
    /// # Errors
    /// `Denied`.
    pub fn list_networks(
        &self,
        who: &Who,
        span: Span<NetworkId>,
        fits: impl Fn(&Network) -> bool,
    ) -> Result<Vec<Arc<Network>>, Refusal> {
        who.authorize(Verb::See)?;
        Ok(span.oldest(&self.view().read().networks, |n| n.tenant == who.tenant && fits(n)))
    }

    /// One network by id or name.
    ///
    /// # Errors
    /// `NoSuchNetwork`.
    pub fn find_network(&self, who: &Who, text: &str) -> Result<Arc<Network>, Refusal> {
        who.authorize(Verb::See)?;
        let id = text.parse::<NetworkId>().ok();
        let rows = self.view().read();
        let mut mine = rows.networks.values().filter(|n| n.tenant == who.tenant);
        let found = mine.find(|n| Some(n.id) == id || n.name.as_str() == text).cloned();
        found.ok_or_else(|| Refusal::new(Code::NoSuchNetwork, "no network of yours has this name or id"))
    }

    /// What is shown of it.
    pub fn network_status(&self, network: &Network) -> NetworkStatus {
        let rows = self.view().read();
        network.status(rows.open_task_of_network(network.id).map(|task| &task.kind))
    }

    /// The living VMs on it, whoever's, oldest first.
    pub fn guests_on(&self, network: &Network) -> Vec<Arc<Guest>> {
        let is_on = |guest: &&Arc<Guest>| {
            let at = guest.desired.host.or(guest.spec.host_wanted);
            at == Some(network.host)
                && guest.spec.vm.as_ref().is_some_and(|vm| vm.network.as_ref() == Some(&network.name))
        };
        self.view().read().living_guests().filter(is_on).cloned().collect()
    }

    /// Where a VM on the network of that name goes: to its host, when it is one of the caller's. One that is not is
    /// looked for at whichever host the VM is placed on.
    ///
    /// # Errors
    /// `NetworkElsewhere` when another host was asked for, `NetworkBusy` while it is being made or deleted.
    pub(crate) fn host_of_network(
        &self,
        who: &Who,
        name: Option<&Name>,
        wanted: Option<HostId>,
    ) -> Result<Option<HostId>, Refusal> {
        let rows = self.view().read();
        let mine = |n: &&Arc<Network>| n.tenant == who.tenant && Some(&n.name) == name;
        let Some(network) = rows.networks.values().find(mine) else { return Ok(wanted) };
        if wanted.is_some_and(|host| host != network.host) {
            let at = rows.hosts.get(&network.host).map_or_else(String::new, |host| format!(", on {}", host.name));
            let text =
                format!("the network {} is on another host{at}: a network does not leave its host", network.name);
            return Err(Refusal::new(Code::NetworkElsewhere, text));
        }
        match network.status(rows.open_task_of_network(network.id).map(|task| &task.kind)) {
            NetworkStatus::Ready => Ok(Some(network.host)),
            NetworkStatus::Creating => Err(busy(&format!("the network {} is being made: wait for it", network.name))),
            NetworkStatus::Deleting => Err(busy(&format!("the network {} is being deleted", network.name))),
        }
    }

    /// Records the task that leaves nothing of a network. A second delete gives the first's task.
    ///
    /// # Errors
    /// `Denied`, `NoSuchNetwork`, `PreconditionFailed`, `NetworkBusy`, `NetworkInUse`, `TooManyTasks`.
    pub async fn delete_network(
        &self,
        who: &Who,
        text: &str,
        revision: Option<u64>,
        cause: &Cause,
    ) -> Result<Arc<Task>, Refusal> {
        who.authorize(Verb::Operate)?;
        check_revision(revision, self.find_network(who, text)?.revision)?;
        self.check_queue(who)?;
        let task = self
            .decide(|| {
                let mut next = self.find_network(who, text)?.as_ref().clone();
                if let Some(task) = self.under_way(&next)? {
                    return Ok((Batch::default(), task));
                }
                self.check_unused(who, &next)?;
                let task = self.new_task(who, TaskKind::NetworkDelete { network: next.id }, Priority::High);
                let mut batch = Batch { idempotency: cause.row(task.id), ..Batch::default() };
                let about = ("network", next.id.to_string());
                let detail = next.name.to_string();
                batch.events.push(self.event((&who.tenant, &who.actor), "network.delete", about, cause, detail));
                // Written also though nothing changes of it: of two at once one is second.
                next.revision += 1;
                batch.update(Record::Network(next));
                batch.insert(Record::Task(task.clone()));
                Ok((batch, Arc::new(task)))
            })
            .await?;
        self.0.queue_wake.notify_one();
        Ok(task)
    }

    /// The delete that is under way; refused when it is something else.
    fn under_way(&self, network: &Network) -> Result<Option<Arc<Task>>, Refusal> {
        match self.view().read().open_task_of_network(network.id) {
            Some(task) if matches!(task.kind, TaskKind::NetworkDelete { .. }) => Ok(Some(task.clone())),
            Some(task) => Err(busy(&format!("{} is under way: wait for task {}", task.kind.text(), task.id))),
            None if network.absent => Err(busy("it is being deleted")),
            None => Ok(None),
        }
    }

    fn check_unused(&self, who: &Who, network: &Network) -> Result<(), Refusal> {
        let on = self.guests_on(network);
        let Some(first) = on.first() else { return Ok(()) };
        // Another tenant's guest is nobody to name.
        let whose = if first.tenant == who.tenant { first.name.to_string() } else { "another's VM".to_owned() };
        let more = if on.len() > 1 { format!(" and {} more are", on.len() - 1) } else { " is".to_owned() };
        let text = format!("{whose}{more} on {}: delete what is on it first", network.name);
        Err(Refusal::new(Code::NetworkInUse, text))
    }
}

fn busy(text: &str) -> Refusal {
    Refusal::new(Code::NetworkBusy, text)
}
