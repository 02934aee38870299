//! What becomes of the tasks on networks: claimed, told to their hosts, settled by reports, given up.

use crate::Control;
use crate::queue::Claim;
use crate::view::Rows;
use perigee_agent_api::{DesiredNetwork, FromServer, NetworkReport, NetworkStage};
use perigee_model::guest::Problem;
use perigee_model::task::TaskEvent;
use perigee_model::{Code, HostId, Network, NetworkId, Refusal, Task, TaskKind, TaskState};
use perigee_store::{Batch, Change, Noun, Record};

impl Control {
    /// The claim of a task that its host does alone.
    pub(crate) fn claim_network(&self, task: &Task, network: NetworkId) -> Option<Claim> {
        let Some(network) = self.view().network(network) else {
            return self.fall(task, Problem::new(Code::NoSuchNetwork, "the network was deleted first"));
        };
        if !self.links().is_connected(network.host) {
            return self.hold(task, "waiting for its host to connect".to_owned());
        }
        let mut next = network.as_ref().clone();
        if matches!(task.kind, TaskKind::NetworkDelete { .. }) {
            next.absent = true;
            next.generation += 1;
        }
        let mut claim = self.claimed(task, Some(next.host), Some(next.generation))?;
        claim.nudge = Some((next.host, order_of(&next)));
        if next != *network {
            next.revision += 1;
            claim.batch.update(Record::Network(next));
        }
        Some(claim)
    }

    /// Takes one report on a network.
    ///
    /// # Errors
    /// What the store says; it is asked for again.
    pub(crate) async fn settle_network(&self, host: HostId, report: &NetworkReport) -> Result<(), Refusal> {
        self.decide(|| {
            let mut batch = Batch::default();
            let held = self.view().network(report.network);
            let Some(network) = held.filter(|n| n.host == host && n.generation <= report.generation) else {
                return Ok((batch, ()));
            };
            let task = self.view().read().open_task_of_network(network.id).cloned();
            let task = task.filter(|t| t.host == Some(host) && t.state == TaskState::Running);
            if let Some(task) = &task {
                self.step_task(task, &event_of(&report.stage), None, &mut batch);
            }
            match reported(&network, task.as_deref(), &report.stage) {
                Some(next) if next != *network => {
                    batch.update(Record::Network(Network { revision: network.revision + 1, ..next }));
                }
                Some(_) => {}
                None => batch.changes.push(Change::Delete(Noun::Network, network.id.to_string())),
            }
            Ok((batch, ()))
        })
        .await?;
        self.0.queue_wake.notify_one();
        Ok(())
    }

    /// A task on a network that ends without its host's word: what it asked for is taken back.
    pub(crate) fn give_up_network(&self, task: &Task, batch: &mut Batch) -> Option<(HostId, FromServer)> {
        let network = self.view().network(task.kind.network()?)?;
        match task.kind {
            TaskKind::NetworkCreate { .. } if task.started_at.is_none() => {
                batch.changes.push(Change::Delete(Noun::Network, network.id.to_string()));
                None
            }
            TaskKind::NetworkCreate { .. } => {
                let mut next = Network { absent: true, ..network.as_ref().clone() };
                next.generation += 1;
                next.revision += 1;
                let nudge = (next.host, order_of(&next));
                batch.update(Record::Network(next));
                Some(nudge)
            }
            // One that its host has begun with ends without a task; one that it has not has changed nothing.
            _ => None,
        }
    }
}

/// What its host is told of it.
pub(crate) fn order_of(network: &Network) -> FromServer {
    FromServer::Network(desired(network))
}

pub(super) fn desired(network: &Network) -> DesiredNetwork {
    let Network { id, name, kind, subnet, generation, absent, .. } = network.clone();
    // Of one that has a bridge of its own its host says which.
    let bridge = network.bridge.clone().filter(|_| kind == perigee_model::NetworkKind::Bridged);
    DesiredNetwork { network: id, generation, name, kind, subnet, bridge, absent }
}

/// Networks of which nothing should be left, and that no task asks for: for a resync.
pub(crate) fn leftovers(rows: &Rows, host: HostId) -> Vec<FromServer> {
    let left = rows.networks.values().filter(|n| n.host == host && n.absent);
    left.filter(|n| rows.open_task_of_network(n.id).is_none()).map(|n| order_of(n)).collect()
}

fn event_of(stage: &NetworkStage) -> TaskEvent {
    match stage {
        NetworkStage::Trying { note } => TaskEvent::Progressed { note: note.clone(), percent: None },
        NetworkStage::Made { .. } | NetworkStage::Gone => TaskEvent::Done,
        NetworkStage::Failed(problem) => TaskEvent::Fell { problem: problem.clone(), again: false },
    }
}

/// The network after its host's word; `None`: nothing is left of it.
fn reported(network: &Network, task: Option<&Task>, stage: &NetworkStage) -> Option<Network> {
    let mut next = network.clone();
    match (stage, task.map(|task| &task.kind)) {
        (NetworkStage::Trying { .. }, _) => {}
        (NetworkStage::Made { subnet, bridge }, _) => {
            next.made = true;
            next.subnet = *subnet;
            next.bridge.clone_from(bridge);
        }
        (NetworkStage::Gone, _) => return None,
        // Nothing of it was made.
        (NetworkStage::Failed(_), Some(TaskKind::NetworkCreate { .. })) => return None,
        // It is as it was, whether its delete was asked for or its create taken back: that is asked for again.
        (NetworkStage::Failed(_), Some(_)) => {
            next.absent = false;
            next.generation += 1;
        }
        (NetworkStage::Failed(_), None) => {}
    }
    Some(next)
}
