//! What the control plane still has to hear.
//!
//! Owns: the newest report of every guest, execution and build, and which of them the present link
//! has not carried yet. A report is kept, not queued: a slow link skips what is out of date, and
//! what the outbox holds is bounded by the things there are.
//! Refuses: forgetting. A guest, the end of an execution and the end of a build stay until their
//! owner removes them, and are said again on every link.

use perigee_agent_api::{BuildReport, ExecutionReport, FromAgent, GuestReport, Intent};
use perigee_model::{ExecutionId, GuestId, ImageId};
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
}

#[derive(Default)]
struct State {
    guests: BTreeMap<GuestId, GuestReport>,
    executions: BTreeMap<ExecutionId, ExecutionReport>,
    builds: BTreeMap<ImageId, BuildReport>,
    intents: BTreeMap<Uuid, Intent>,
    unsaid: BTreeSet<Key>,
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

    pub(crate) fn intent(&self, intent: Intent) {
        self.say(Key::Intent(intent.id), |s| {
            s.intents.insert(intent.id, intent);
        });
    }
    pub(crate) fn drop_intent(&self, id: Uuid) -> Option<Intent> {
        self.with(|s| s.intents.remove(&id))
    }

    /// Whether something was done on this host to the guest of which the control plane has not heard.
    pub(crate) fn has_act_on(&self, id: GuestId) -> bool {
        self.with(|s| s.intents.values().any(|intent| intent.guest == id))
    }
    /// Says every act again: a receipt may have been lost.
    pub(crate) fn repeat_intents(&self) {
        self.with(|s| s.unsaid.extend(s.intents.keys().map(|id| Key::Intent(*id))));
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

    /// For a new link: all guests go into its hello, everything else is unsaid again.
    pub(crate) fn start_link(&self) -> (Vec<GuestReport>, Vec<ExecutionId>) {
        self.with(|s| {
            s.unsaid = s.executions.keys().map(|id| Key::Execution(*id)).collect();
            s.unsaid.extend(s.builds.keys().map(|id| Key::Build(*id)));
            s.unsaid.extend(s.intents.keys().map(|id| Key::Intent(*id)));
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
