//! Snapshots of VMs: verbs, and what comes of them.

use crate::operations::{Operated, Planned};
use crate::{Cause, Control};
use perigee_agent_api::OperationResult;
use perigee_model::snapshot::{room_fault, snapshot_fault};
use perigee_model::vm::description_fault;
use perigee_model::{
    Code, Guest, GuestStatus, Name, Operation, Power, Refusal, Snapshot, SnapshotId, SnapshotState, Verb, Who,
};
use std::sync::Arc;

/// What is wanted of a new snapshot.
#[derive(Clone, Debug)]
pub struct NewSnapshot {
    /// Unique in its VM.
    pub name: Name,
    /// For people.
    pub description: String,
    /// With what is in the VM's memory.
    pub memory: bool,
}

impl Control {
    /// Records a snapshot and the task that makes it.
    ///
    /// # Errors
    /// `Denied`, `NoSuchGuest`, `NoSnapshots` for a guest that can have none, `NameTaken`,
    /// `TooManySnapshots`, `BadField`, `GuestNotRunning` when there is no memory to keep, `TooManyTasks`.
    pub async fn create_snapshot(&self, who: &Who, text: &str, wanted: NewSnapshot, cause: &Cause) -> Operated {
        who.authorize(Verb::Operate)?;
        if let Some(fault) = description_fault(&wanted.description) {
            return Err(Refusal::field("description", fault));
        }
        let snapshot = Snapshot {
            id: SnapshotId::new(self.clock().uuid()),
            name: wanted.name,
            description: wanted.description,
            memory: wanted.memory,
            state: SnapshotState::Creating,
            created_at: self.clock().now(),
            taken: None,
        };
        self.operate(who, cause, || {
            let mut guest = self.guest_with_snapshots(who, text)?.as_ref().clone();
            self.check_new_snapshot(&guest, &snapshot)?;
            guest.snapshots.push(snapshot.clone());
            let Snapshot { id, ref name, memory, .. } = snapshot;
            let operation = Operation::CreateSnapshot { snapshot: id, name: name.clone(), memory };
            Ok(Planned { detail: format!("{} {name}", guest.name), guest, operation, also: Vec::new() })
        })
        .await
    }

    /// Records the task that puts a VM back to a snapshot.
    ///
    /// # Errors
    /// `Denied`, `NoSuchGuest`, `NoSnapshots`, `NoSuchSnapshot`, `TooManyTasks`.
    pub async fn revert_snapshot(&self, who: &Who, which: (&str, &str), cause: &Cause) -> Operated {
        self.operate_on_snapshot(who, which, cause, |snapshot| Operation::RevertSnapshot {
            snapshot: snapshot.id,
            memory: snapshot.memory,
            booted: snapshot.taken.as_ref().and_then(|taken| taken.booted),
        })
        .await
    }

    /// Records the task that deletes a snapshot; the VM goes on as it is.
    ///
    /// # Errors
    /// As of `revert_snapshot`.
    pub async fn delete_snapshot(&self, who: &Who, which: (&str, &str), cause: &Cause) -> Operated {
        self.operate_on_snapshot(who, which, cause, |snapshot| {
            snapshot.state = SnapshotState::Deleting;
            Operation::DeleteSnapshot { snapshot: snapshot.id }
        })
        .await
    }

    async fn operate_on_snapshot(
        &self,
        who: &Who,
        (text, name): (&str, &str),
        cause: &Cause,
        operation: impl Fn(&mut Snapshot) -> Operation,
    ) -> Operated {
        who.authorize(Verb::Operate)?;
        self.operate(who, cause, || {
            let mut guest = self.guest_with_snapshots(who, text)?.as_ref().clone();
            let place = place(&guest, name)?;
            let operation = operation(&mut guest.snapshots[place]);
            let detail = format!("{} {}", guest.name, guest.snapshots[place].name);
            Ok(Planned { guest, operation, detail, also: Vec::new() })
        })
        .await
    }

    /// A VM with its snapshots.
    ///
    /// # Errors
    /// `Denied`, `NoSuchGuest`, `NoSnapshots` for a guest that can have none.
    pub fn guest_with_snapshots(&self, who: &Who, text: &str) -> Result<Arc<Guest>, Refusal> {
        who.authorize(Verb::See)?;
        let guest = self.find_guest(who, text)?;
        if guest.is_gone() {
            return Err(Refusal::new(Code::NoSuchGuest, "the guest is deleted"));
        }
        match snapshot_fault(guest.kind, &guest.spec) {
            Some(fault) => Err(Refusal::new(Code::NoSnapshots, fault)),
            None => Ok(guest),
        }
    }

    fn check_new_snapshot(&self, guest: &Guest, wanted: &Snapshot) -> Result<(), Refusal> {
        if guest.snapshots.iter().any(|snapshot| snapshot.name == wanted.name) {
            let text = format!("the VM has a snapshot {} already: delete it, or take another name", wanted.name);
            return Err(Refusal::new(Code::NameTaken, text));
        }
        if let Some(fault) = room_fault(guest.snapshots.len()) {
            return Err(Refusal::new(Code::TooManySnapshots, fault));
        }
        let status = self.guest_status(guest);
        if wanted.memory && matches!(status, GuestStatus::Stopped | GuestStatus::Failed) {
            let text = "the VM does not run, so it has no memory to keep: start it, or leave the memory out";
            return Err(Refusal::new(Code::GuestNotRunning, text));
        }
        Ok(())
    }
}

/// Why a VM that has volumes cannot have this done to it, if it cannot: a snapshot holds the VM's own disk, and
/// one that goes back would lose the volumes it has.
pub(crate) fn volumes_fault(guest: &Guest, operation: &Operation) -> Option<&'static str> {
    let whole = matches!(operation, Operation::CreateSnapshot { .. } | Operation::RevertSnapshot { .. });
    (whole && !guest.volumes().is_empty())
        .then_some("it has volumes, which no snapshot of it holds: detach its volumes first")
}

/// What an operation's end makes of its guest and its snapshots; without a result it failed.
pub(crate) fn ended(guest: &mut Guest, operation: &Operation, result: Option<&OperationResult>) {
    let id = operation.snapshot();
    let place = guest.snapshots.iter().position(|snapshot| Some(snapshot.id) == id);
    match (operation, result, place) {
        (Operation::CreateSnapshot { .. }, Some(OperationResult::Kept(taken)), Some(place)) => {
            guest.snapshots[place].state = SnapshotState::Ready;
            guest.snapshots[place].taken = Some(taken.clone());
        }
        (Operation::CreateSnapshot { .. }, _, Some(place))
        | (Operation::DeleteSnapshot { .. }, Some(_), Some(place)) => {
            drop(guest.snapshots.remove(place));
        }
        (Operation::DeleteSnapshot { .. }, None, Some(place)) => guest.snapshots[place].state = SnapshotState::Ready,
        // It runs now, whatever its switch was.
        (Operation::RevertSnapshot { memory: true, .. }, Some(_), _) if guest.desired.power != Power::Absent => {
            if guest.desired.power != Power::Running {
                guest.desired.power = Power::Running;
                guest.desired.generation += 1;
            }
        }
        (Operation::RevertSnapshot { .. } | Operation::CreateBackup { .. }, _, _) | (_, _, None) => {}
    }
}

/// Where one of this name or id is, when it can be gone back to.
fn place(guest: &Guest, text: &str) -> Result<usize, Refusal> {
    let id = text.parse::<SnapshotId>().ok();
    let named = |snapshot: &Snapshot| Some(snapshot.id) == id || snapshot.name.as_str() == text;
    let place = guest.snapshots.iter().position(named).ok_or_else(|| {
        Refusal::new(Code::NoSuchSnapshot, "the VM has no snapshot of this name or id: list its snapshots")
    })?;
    match guest.snapshots[place].state {
        SnapshotState::Ready => Ok(place),
        SnapshotState::Creating => {
            Err(Refusal::new(Code::NoSuchSnapshot, "the snapshot is still being made: wait for its task"))
        }
        SnapshotState::Deleting => Err(Refusal::new(Code::NoSuchSnapshot, "the snapshot is being deleted")),
    }
}
