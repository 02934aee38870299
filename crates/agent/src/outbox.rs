//! What the control plane still has to hear.
//!
//! Owns: the newest report of every guest, execution, build and operation, and which of them the present link
//! has not carried yet. A report is kept, not queued: a slow link skips what is out of date, and
//! what the outbox holds is bounded by the things there are.
//! Refuses: forgetting. A guest, the end of an execution, of a build and of an operation stay until their
//! owner removes them, and are said again on every link.

use perigee_agent_api::{
    BuildReport, ExecutionReport, FromAgent, GuestReport, Intent, NetworkReport, OperationReport, VolumeReport,
};
use perigee_model::{ExecutionId, GuestId, ImageId, NetworkId, TaskId, VolumeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;
use uuid::Uuid;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    /// Before all else, in their order: what follows from them is judged by them.
    Intent(Uuid),
    Guest(GuestId),
    Execution(ExecutionId),
    Build(ImageId),
    Operation(TaskId),
    Volume(VolumeId),
    Network(NetworkId),
}

#[derive(Default)]
struct State {
    guests: BTreeMap<GuestId, GuestReport>,
    executions: BTreeMap<ExecutionId, ExecutionReport>,
    builds: BTreeMap<ImageId, BuildReport>,
    operations: BTreeMap<TaskId, OperationReport>,
    /// Until it is said: whoever still wants to know asks again.
    volumes: BTreeMap<VolumeId, VolumeReport>,
    /// The same.
    networks: BTreeMap<NetworkId, NetworkReport>,
    intents: BTreeMap<Uuid, Intent>,
    unsaid: BTreeSet<Key>,
}

impl State {
    /// What is said of a guest's acts: one after the other, each when the control plane has the one before.
    /// Should one be lost, those after it are not judged without it.
    fn next_act_on(&self, guest: GuestId) -> Option<Uuid> {
        self.intents.values().find(|intent| intent.guest == guest).map(|intent| intent.id)
    }
    fn say_acts(&mut self) {
        let mut guests = BTreeSet::new();
        let first = self.intents.values().filter(|intent| guests.insert(intent.guest));
        self.unsaid.extend(first.map(|intent| Key::Intent(intent.id)));
    }
}

/// The newest reports.
#[derive(Default)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    changed: Notify,
}

impl Outbox {
    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn say(&self, key: Key, put: impl FnOnce(&mut State)) {
        self.with(|s| {
            put(s);
            s.unsaid.insert(key);
        });
        self.changed.notify_one();
    }

    pub(crate) fn guest(&self, report: GuestReport) {
        self.say(Key::Guest(report.guest), |s| {
            s.guests.insert(report.guest, report);
        });
    }
    pub(crate) fn execution(&self, report: ExecutionReport) {
        self.say(Key::Execution(report.execution), |s| {
            s.executions.insert(report.execution, report);
        });
    }
    pub(crate) fn build(&self, report: BuildReport) {
        self.say(Key::Build(report.image), |s| {
            s.builds.insert(report.image, report);
        });
    }
    pub(crate) fn operation(&self, report: OperationReport) {
        self.say(Key::Operation(report.task), |s| {
            s.operations.insert(report.task, report);
        });
    }
    pub(crate) fn volume(&self, report: VolumeReport) {
        self.say(Key::Volume(report.volume), |s| {
            s.volumes.insert(report.volume, report);
        });
    }

    pub(crate) fn network(&self, report: NetworkReport) {
        self.say(Key::Network(report.network), |s| {
            s.networks.insert(report.network, report);
        });
    }

    pub(crate) fn intent(&self, intent: Intent) {
        self.with(|s| {
            let (id, guest) = (intent.id, intent.guest);
            s.intents.insert(id, intent);
            if s.next_act_on(guest) == Some(id) {
                s.unsaid.insert(Key::Intent(id));
            }
        });
        self.changed.notify_one();
    }
    /// The control plane has it; the next act on that guest is said.
    pub(crate) fn drop_intent(&self, id: Uuid) -> Option<Intent> {
        let dropped = self.with(|s| {
            let dropped = s.intents.remove(&id)?;
            let next = s.next_act_on(dropped.guest);
            s.unsaid.extend(next.map(Key::Intent));
            Some(dropped)
        });
        self.changed.notify_one();
        dropped
    }

    /// Whether something was done on this host to the guest of which the control plane has not heard.
    pub(crate) fn has_act_on(&self, id: GuestId) -> bool {
        self.with(|s| s.intents.values().any(|intent| intent.guest == id))
    }
    /// Says every act again: a receipt may have been lost.
    pub(crate) fn repeat_intents(&self) {
        self.with(State::say_acts);
    }

    pub(crate) fn repeat_guest(&self, id: GuestId) {
        let known = self.with(|s| s.guests.contains_key(&id) && s.unsaid.insert(Key::Guest(id)));
        if known {
            self.changed.notify_one();
        }
    }

    pub(crate) fn drop_guest(&self, id: GuestId) {
        self.with(|s| s.guests.remove(&id));
    }
    pub(crate) fn drop_execution(&self, id: ExecutionId) {
        self.with(|s| s.executions.remove(&id));
    }
    pub(crate) fn drop_build(&self, id: ImageId) {
        self.with(|s| s.builds.remove(&id));
    }
    pub(crate) fn drop_operation(&self, id: TaskId) {
        self.with(|s| s.operations.remove(&id));
    }

    /// For a new link: all guests go into its hello, everything else is unsaid again.
    pub(crate) fn start_link(&self) -> (Vec<GuestReport>, Vec<ExecutionId>) {
        self.with(|s| {
            s.unsaid = s.executions.keys().map(|id| Key::Execution(*id)).collect();
            s.unsaid.extend(s.builds.keys().map(|id| Key::Build(*id)));
            s.unsaid.extend(s.operations.keys().map(|id| Key::Operation(*id)));
            s.volumes.clear();
            s.networks.clear();
            s.say_acts();
            (s.guests.values().cloned().collect(), s.executions.keys().copied().collect())
        })
    }

    /// The next unsaid report. Guests first: they are what others wait for.
    pub(crate) fn next(&self) -> Option<FromAgent> {
        self.with(|s| {
            while let Some(key) = s.unsaid.pop_first() {
                let message = match key {
                    Key::Intent(id) => s.intents.get(&id).cloned().map(|i| FromAgent::Intent(Box::new(i))),
                    Key::Guest(id) => s.guests.get(&id).cloned().map(FromAgent::Guest),
                    Key::Execution(id) => s.executions.get(&id).cloned().map(|r| FromAgent::Execution(Box::new(r))),
                    Key::Build(id) => s.builds.get(&id).cloned().map(FromAgent::Build),
                    Key::Volume(id) => s.volumes.remove(&id).map(FromAgent::Volume),
                    Key::Network(id) => s.networks.remove(&id).map(FromAgent::Network),
                    Key::Operation(id) => s.operations.get(&id).cloned().map(|r| FromAgent::Operation(Box::new(r))),
                };
                if message.is_some() {
                    return message;
                }
            }
            None
        })
    }

    /// Resolves when something may be unsaid. May be dropped at any time.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perigee_agent_api::Act;
    use perigee_model::{Switch, Timestamp};

    fn act(outbox: &Outbox, id: u128, guest: u128) {
        outbox.intent(Intent {
            id: Uuid::from_u128(id),
            uid: None,
            at: Timestamp::from_micros(0),
            guest: GuestId::new(Uuid::from_u128(guest)),
            base_generation: 1,
            act: Act::Switch(Switch::Start),
        });
    }

    fn said(outbox: &Outbox) -> Vec<u128> {
        let all = std::iter::from_fn(|| outbox.next());
        all.filter_map(|said| if let FromAgent::Intent(intent) = said { Some(intent.id.as_u128()) } else { None })
            .collect()
    }

    #[test]
    fn the_acts_on_a_guest_are_said_one_after_the_other() {
        let outbox = Outbox::default();
        [(1, 7), (2, 7), (3, 8), (4, 7)].into_iter().for_each(|(id, guest)| act(&outbox, id, guest));
        assert_eq!(said(&outbox), [1, 3]);
        outbox.repeat_intents();
        assert_eq!(said(&outbox), [1, 3], "a lost one is said again, before the next");
        assert!(outbox.drop_intent(Uuid::from_u128(1)).is_some());
        assert_eq!(said(&outbox), [2]);
        outbox.start_link();
        assert_eq!(said(&outbox), [2, 3]);
        [2, 3, 4].into_iter().for_each(|id| drop(outbox.drop_intent(Uuid::from_u128(id))));
        assert_eq!(said(&outbox), Vec::<u128>::new());
    }
}
