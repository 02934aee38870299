//! The matrix as data: who is killed, in which verb, when, and what may be so afterwards.

use State::{Absent, Off, Paused, Running, Taken, TakenOff, Theirs, TheirsOff};

/// Who is killed, with SIGKILL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Victim {
    /// perigeed.
    Plane,
    /// perigee-agent.
    Agent,
    /// libvirtd.
    Libvirtd,
    /// The machine itself.
    Qemu,
}

/// When.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// The verb is asked for while the victim is away; of a machine, right after it died.
    Before,
    /// At a time of the seed's, while the verb is under way.
    Middle,
    /// Right after the answer.
    After,
}

pub const VICTIMS: [Victim; 4] = [Victim::Plane, Victim::Agent, Victim::Libvirtd, Victim::Qemu];
pub const MOMENTS: [Moment; 3] = [Moment::Before, Moment::Middle, Moment::After];

/// What a machine is, where `perigee vm list` and virsh say the same of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// There is none.
    Absent,
    Running,
    Paused,
    /// Stopped or failed: defined, and shut off.
    Off,
    /// Somebody else's, running.
    Theirs,
    /// Somebody else's, shut off.
    TheirsOff,
    /// Taken over, running.
    Taken,
    /// Taken over, shut off.
    TakenOff,
}

impl State {
    /// There is a QEMU.
    pub fn lives(self) -> bool {
        matches!(self, Running | Paused | Theirs | Taken)
    }
}

/// A verb and where it leads.
pub struct Verb {
    pub name: &'static str,
    pub from: State,
    pub to: State,
    /// What is typed; `CELL` is the number of the cell, `MEMORY` a new size.
    pub words: &'static [&'static str],
    /// About as long it takes here, in milliseconds: kills in its middle come within this.
    pub lasts_ms: u64,
    /// So many times QEMU is started for it.
    pub starts: usize,
    /// What the audit log calls it.
    pub event: &'static str,
}

/// In such an order that each begins where the one before ends.
pub const VERBS: [Verb; 13] = [
    verb(
        "create",
        Absent,
        Running,
        &["create", "db", "--memory", "192MiB", "--disk", "64MiB"],
        3000,
        1,
        "guest.create",
    ),
    verb("exec", Running, Running, &["exec", "db", "--", "sh", "-c", "echo CELL >> /tmp/runs; sleep 1"], 1300, 0, ""),
    verb("pause", Running, Paused, &["pause", "db"], 200, 0, "guest.pause"),
    verb("resume", Paused, Running, &["resume", "db"], 200, 0, "guest.resume"),
    verb("update", Running, Running, &["update", "db", "--memory", "MEMORY"], 100, 0, "guest.update"),
    verb("restart", Running, Running, &["restart", "db", "--force"], 3000, 1, "guest.restart"),
    verb("stop", Running, Off, &["stop", "db", "--grace", "30s"], 1500, 0, "guest.stop"),
    verb("start", Off, Running, &["start", "db"], 3000, 1, "guest.start"),
    verb("stop --force", Running, Off, &["stop", "db", "--force"], 400, 0, "guest.stop"),
    verb("delete a stopped one", Off, Absent, &["delete", "db", "--yes"], 300, 0, "guest.delete"),
    verb("delete a running one", Running, Absent, &["delete", "db", "--yes"], 500, 0, "guest.delete"),
    verb("adopt", Theirs, Taken, &["adopt", "old", "--name", "taken"], 300, 0, "guest.adopt"),
    verb("release", Taken, Theirs, &["release", "taken"], 300, 0, "guest.release"),
];

const fn verb(
    name: &'static str,
    from: State,
    to: State,
    words: &'static [&'static str],
    lasts_ms: u64,
    starts: usize,
    event: &'static str,
) -> Verb {
    Verb { name, from, to, words, lasts_ms, starts, event }
}

/// Beside where a verb begins and where it leads: what else may be, when it was told to have failed or
/// its machine died.
const ALSO: &[(Victim, &str, &[State])] = &[
    // It was ended; then it could not be started.
    (Victim::Libvirtd, "restart", &[Off]),
    (Victim::Qemu, "restart", &[Off]),
    // Nobody starts what is its owner's.
    (Victim::Qemu, "adopt", &[TheirsOff, TakenOff]),
    (Victim::Qemu, "release", &[TheirsOff, TakenOff]),
];

/// How a verb was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It is done.
    Fine,
    /// Refused, failed, or nobody answered; and it was said why.
    Told,
}

/// Whether it may be so after this verb, answered like this, in which this victim was killed.
pub fn may_be(victim: Victim, verb: &Verb, answer: Answer, state: State) -> bool {
    let also = ALSO.iter().filter(|(who, name, _)| (*who, *name) == (victim, verb.name));
    let elsewhere = || also.clone().any(|(_, _, states)| states.contains(&state));
    match (answer, victim) {
        (Answer::Fine, Victim::Plane | Victim::Agent | Victim::Libvirtd) => state == verb.to,
        (Answer::Fine, Victim::Qemu) => state == verb.to || elsewhere(),
        (Answer::Told, _) => state == verb.to || state == verb.from || elsewhere(),
    }
}

/// Whether there is somebody to be killed then.
pub fn is_there(victim: Victim, verb: &Verb, moment: Moment) -> bool {
    match (victim, moment) {
        (Victim::Plane | Victim::Agent | Victim::Libvirtd, _) => true,
        (Victim::Qemu, Moment::Before) => verb.from.lives(),
        (Victim::Qemu, Moment::Middle) => verb.from.lives() || verb.to.lives(),
        (Victim::Qemu, Moment::After) => verb.to.lives(),
    }
}

/// Whether the verb must succeed: nothing it needs was away while it was done.
pub fn must_succeed(victim: Victim, moment: Moment) -> bool {
    moment == Moment::After && victim != Victim::Qemu
}
