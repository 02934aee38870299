//! What users were told.
//!
//! Owns: every acknowledged verb, to be held against the truth at the end. A verb whose answer was
//! lost with a control plane is written down as tried: it may or may not have happened.
//! Refuses: asking the control plane.

use perigee_model::{ExecutionId, GuestId, Outcome, TaskId, TaskState};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// What users know of a guest they made.
#[derive(Clone, Debug)]
pub struct MadeGuest {
    /// Its name.
    pub name: String,
    /// The task that makes it.
    pub task: TaskId,
    /// It is a full VM.
    pub vm: bool,
    /// It has a time to live.
    pub expires: bool,
    /// A delete was acknowledged; its task may have been cancelled since.
    pub deleted: Option<TaskId>,
    /// A delete or cancel was tried, whatever became of it.
    pub touched: bool,
}

/// What users know of a command they ran.
#[derive(Clone, Debug)]
pub struct RanCommand {
    /// What.
    pub argv: Vec<String>,
    /// By which task; none when somebody waited for it.
    pub task: Option<TaskId>,
    /// How it ended, as somebody who followed it saw.
    pub seen: Option<Outcome>,
}

/// What somebody did on a host itself.
#[derive(Clone, Debug)]
pub struct Act {
    /// For the story.
    pub what: String,
    /// The host said that it is done: it was written down. Otherwise it may have been.
    pub done: bool,
}

#[derive(Debug, Default)]
struct State {
    acts: BTreeMap<String, Act>,
    guests: BTreeMap<GuestId, MadeGuest>,
    commands: BTreeMap<ExecutionId, RanCommand>,
    tasks: BTreeMap<TaskId, Option<TaskState>>,
}

/// What users were told.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<State>);

impl Ledger {
    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A create was acknowledged.
    pub fn made(&self, id: GuestId, guest: MadeGuest) {
        self.with(|s| {
            s.tasks.insert(guest.task, None);
            s.guests.insert(id, guest);
        });
    }
    /// A delete is about to be tried.
    pub fn touched(&self, id: GuestId) {
        self.with(|s| {
            s.guests.entry(id).and_modify(|g| g.touched = true);
        });
    }
    /// A delete was acknowledged.
    pub fn deleted(&self, id: GuestId, task: TaskId) {
        self.with(|s| {
            s.tasks.entry(task).or_default();
            s.guests.entry(id).and_modify(|g| g.deleted = Some(task));
        });
    }
    /// Another task was acknowledged.
    pub fn asked(&self, task: TaskId) {
        self.with(|s| s.tasks.insert(task, None));
    }
    /// Somebody, `uid:N@HOST`, did something on a host itself; each act has a user of its own.
    pub fn acted(&self, actor: String, act: Act) {
        self.with(|s| s.acts.insert(actor, act));
    }
    /// A command was acknowledged.
    pub fn ran(&self, id: ExecutionId, command: RanCommand) {
        self.with(|s| {
            s.tasks.extend(command.task.map(|task| (task, None)));
            s.commands.insert(id, command);
        });
    }
    /// Somebody who followed a command saw its end.
    pub fn saw(&self, id: ExecutionId, outcome: Outcome) {
        self.with(|s| {
            s.commands.entry(id).and_modify(|c| c.seen = Some(outcome));
        });
    }
    /// Somebody saw a task end.
    pub fn ended(&self, id: TaskId, state: TaskState) {
        self.with(|s| s.tasks.insert(id, Some(state)));
    }

    /// Every act on a host, by who did it.
    pub fn acts(&self) -> BTreeMap<String, Act> {
        self.with(|s| s.acts.clone())
    }
    /// Every guest.
    pub fn guests(&self) -> BTreeMap<GuestId, MadeGuest> {
        self.with(|s| s.guests.clone())
    }
    /// Every command.
    pub fn commands(&self) -> BTreeMap<ExecutionId, RanCommand> {
        self.with(|s| s.commands.clone())
    }
    /// Every task, and how it ended if somebody saw it.
    pub fn tasks(&self) -> BTreeMap<TaskId, Option<TaskState>> {
        self.with(|s| s.tasks.clone())
    }
    /// Guests that a user would still use.
    pub fn usable(&self) -> Vec<(GuestId, MadeGuest)> {
        let usable = |(id, g): (&GuestId, &MadeGuest)| g.deleted.is_none().then(|| (*id, g.clone()));
        self.with(|s| s.guests.iter().filter_map(usable).collect())
    }
}
