//! The checks at the end of a world.
//!
//! Owns: what must be so once faults have ended and all has settled: the truth, the hosts and what
//! users were told agree. Refuses: waiting.

use crate::host::Host;
use crate::ledger::{Ledger, MadeGuest, RanCommand};
use crate::scene::Scene;
use crate::settle::{off_on, running_on};
use perigee_control::{Control, View};
use perigee_model::limits::TASK_DEADLINE;
use perigee_model::{Code, Execution, ExecutionId, Guest, GuestId, Outcome, Phase, Task, TaskState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The reconciler looks each second and may meet a slow store.
const DEADLINE_SLACK: Duration = Duration::from_secs(10);
const LOOKS: u32 = 50;
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What the checks look at.
pub struct Verdict<'a> {
    pub scene: &'a Scene,
    pub control: &'a Control,
    pub hosts: &'a [Arc<Host>],
    pub ledger: &'a Ledger,
}

impl Verdict<'_> {
    pub(crate) fn that(&self, holds: bool, law: &str, why: impl FnOnce() -> String) {
        self.scene.checks.that(holds, law, why);
    }

    /// Everything at once.
    pub async fn speak(&self) {
        self.scene.check_starts();
        self.tasks_ended();
        self.hosts_have_what_is_desired();
        self.guests_are_as_told();
        self.commands_are_as_told();
        self.pauses_are_told();
        self.acts_count_once().await;
        self.view_is_the_truth().await;
    }

    fn tasks_ended(&self) {
        let told = self.ledger.tasks();
        let rows = self.control.view().read();
        for task in rows.tasks.values() {
            self.task_ended(task, told.get(&task.id).copied().flatten());
        }
        for id in told.keys() {
            self.that(rows.tasks.contains_key(id), "an acknowledged verb is not lost", || format!("task {id} is"));
        }
    }

    fn task_ended(&self, task: &Task, seen: Option<TaskState>) {
        let about = || {
            let guest = task.kind.guest().map_or_else(String::new, |g| self.scene.story.guest(g));
            format!("{} {guest}", task.kind.text())
        };
        let took = task.completed_at.map(|at| at.since(task.created_at));
        let in_time = task.state.is_final() && took.is_some_and(|t| t <= TASK_DEADLINE + DEADLINE_SLACK);
        self.that(in_time, "every task ends within its deadline", || {
            format!("{} is {:?} after {took:?}, note {:?}", about(), task.state, task.note)
        });
        // Faults lasted minutes: only what was never claimed, for want of room, may wait so long.
        let overdue = task.attempts > 0 && task.problem.as_ref().is_some_and(|p| p.code == Code::TaskDeadline.number());
        self.that(!overdue, "no task is forgotten until its deadline", || {
            format!("{} failed at its deadline, attempt {}, started {:?}", about(), task.attempts, task.started_at)
        });
        self.that(seen.is_none_or(|s| s == task.state), "what has ended stays so", || {
            format!("{} was seen as {seen:?} and is {:?}", about(), task.state)
        });
    }

    fn hosts_have_what_is_desired(&self) {
        for host in self.hosts {
            let desired = running_on(self.control, host.id);
            let found = host.machine.guests();
            let alive: BTreeSet<GuestId> = found.iter().filter(|f| f.alive).map(|f| f.guest).collect();
            let off = off_on(self.control, host.id);
            let left = found.iter().filter(|f| !f.alive && !off.contains(&f.guest)).count();
            self.that(left == 0, "nothing is left over", || format!("{left} dead guests' leftovers on {}", host.name));
            let names = |ids: BTreeSet<&GuestId>| ids.into_iter().map(|g| self.scene.story.guest(*g)).collect();
            let more: Vec<String> = names(alive.difference(&desired).collect());
            let less: Vec<String> = names(desired.difference(&alive).collect());
            self.that(more.is_empty(), "a host has no guest that is not desired", || {
                format!("{more:?} live on {}", host.name)
            });
            self.that(less.is_empty(), "a host has every guest that is desired", || {
                format!("{less:?} do not live on {}", host.name)
            });
        }
    }

    fn guests_are_as_told(&self) {
        let rows = self.control.view().read();
        for (id, told) in self.ledger.guests() {
            let Some(guest) = rows.guests.get(&id) else {
                self.that(false, "an acknowledged verb is not lost", || {
                    format!("{} was made and is unknown", told.name)
                });
                continue;
            };
            let delete = told.deleted.and_then(|id| rows.tasks.get(&id));
            self.delete_is_done(guest, &told, delete);
            self.guest_is_as_told(guest, &told, rows.tasks.get(&told.task));
        }
    }

    fn delete_is_done(&self, guest: &Guest, told: &MadeGuest, delete: Option<&Arc<Task>>) {
        if delete.is_none_or(|task| task.state == TaskState::Cancelled) {
            return;
        }
        self.that(guest.is_gone(), "an acknowledged delete is done", || format!("{} is there", told.name));
        let homes = self.scene.homes(guest.id);
        self.that(homes.is_empty(), "an acknowledged delete is done", || format!("{} lives on {homes:?}", told.name));
    }

    fn guest_is_as_told(&self, guest: &Guest, told: &MadeGuest, create: Option<&Arc<Task>>) {
        let current = guest.observed.as_ref().filter(|o| o.generation >= guest.desired.generation);
        let failed = current.is_some_and(|o| o.phase == Phase::Failed);
        let settled = guest.is_gone() || guest.is_caught_up() || failed;
        self.that(settled, "what is observed is what is desired", || {
            format!("{}: desired {:?}, observed {:?}", told.name, guest.desired, guest.observed)
        });
        let made = create.is_some_and(|t| t.state == TaskState::Succeeded);
        if made && !told.touched && !told.expires {
            self.that(!guest.is_gone(), "nobody's guest goes by itself", || format!("{} is gone", told.name));
        }
        if let Some(create) = create.filter(|t| t.state != TaskState::Succeeded) {
            self.that(guest.is_gone(), "a failed create leaves nothing", || {
                format!("{} is there, its task {:?}: {:?}", told.name, create.state, create.problem)
            });
        }
        let over = guest.desired.expires_at.is_some_and(|at| at <= self.scene.clock.now());
        self.that(!over || guest.is_gone(), "a guest ends with its time to live", || format!("{} lives on", told.name));
    }

    fn commands_are_as_told(&self) {
        let starts = self.starts();
        let rows = self.control.view().read();
        for (id, told) in self.ledger.commands() {
            match rows.executions.get(&id) {
                Some(execution) => self.command_is_as_told(execution, &told, starts.get(&id).copied().unwrap_or(0)),
                None => self.that(false, "an acknowledged verb is not lost", || {
                    format!("{} is unknown", self.scene.story.execution(id))
                }),
            }
        }
    }

    fn starts(&self) -> BTreeMap<ExecutionId, u64> {
        let mut starts = BTreeMap::new();
        for host in self.hosts {
            for (id, count) in host.machine.execution_starts() {
                *starts.entry(ExecutionId::new(id)).or_default() += count;
            }
        }
        starts
    }

    fn command_is_as_told(&self, execution: &Execution, told: &RanCommand, starts: u64) {
        let name = self.scene.story.execution(execution.id);
        self.that(execution.outcome.is_some(), "every command ends", || format!("{name} is {:?}", execution.state));
        let same = told.seen.is_none() || told.seen == execution.outcome;
        self.that(same, "what has ended stays so", || {
            format!("{name} was seen as {:?} and is {:?}", told.seen, execution.outcome)
        });
        let ran = |o: &Outcome| matches!(o, Outcome::Exited { .. } | Outcome::Signaled { .. } | Outcome::TimedOut);
        if execution.outcome.as_ref().is_some_and(ran) {
            self.that(starts == 1, "what ended has run", || format!("{name} ended and was started {starts} times"));
        }
        if execution.outcome == Some(Outcome::Exited { code: 0 }) {
            let wrote = (execution.stdout.bytes, execution.stdout.head.as_slice());
            let (bytes, head) = expected(&told.argv);
            let whole = wrote.0 == bytes && wrote.1.len() == head.len() && wrote.1 == head;
            self.that(whole, "a command's output is whole", || {
                format!("{name} wrote {} bytes, {} kept at its head, not {bytes}", wrote.0, wrote.1.len())
            });
        }
    }

    /// What is in memory is what a restart would read. A write may be under way at any moment, so
    /// only a difference that stays is one.
    async fn view_is_the_truth(&self) {
        let mut same = false;
        for _ in 0..LOOKS {
            let Ok(fresh) = View::load(self.control.store()).await else {
                return self.that(false, "the truth can be read", || "it cannot".to_owned());
            };
            same = {
                let (ours, truth) = (self.control.view().read(), fresh.read());
                ours.guests == truth.guests
                    && ours.tasks == truth.tasks
                    && ours.executions == truth.executions
                    && ours.hosts == truth.hosts
                    && ours.images == truth.images
            };
            if same {
                break;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.that(same, "the view is the truth", || "a record in memory is not as it is stored".to_owned());
    }

    /// After everything was deleted and retention is over.
    pub fn nothing_is_kept(&self) {
        for host in self.hosts {
            let guests = host.machine.guests().len();
            self.that(guests == 0, "nothing is left over", || format!("{guests} guests on {}", host.name));
            for shelf in ["guests", "executions", "builds", "intents"] {
                let count = host.journal.count(shelf);
                self.that(count == 0, "documents end with their retention", || {
                    format!("{count} of {shelf} on {}", host.name)
                });
            }
            let files = perigee_agent::Spool::list(&host.spool).map_or(usize::MAX, |l| l.len());
            self.that(files == 0, "output ends with its retention", || format!("{files} on {}", host.name));
        }
    }
}

/// What a command that exits with 0 writes: how much, and its first bytes.
fn expected(argv: &[String]) -> (u64, Vec<u8>) {
    let words: Vec<&str> = argv.iter().map(String::as_str).collect();
    let whole = match words.as_slice() {
        ["echo", rest @ ..] => format!("{}\n", rest.join(" ")).into_bytes(),
        ["yes", lines] => b"y\n".repeat(lines.parse().unwrap_or(0)),
        _ => Vec::new(),
    };
    let head = whole.iter().take(perigee_model::limits::OUTPUT_EXCERPT_BYTES).copied().collect();
    (whole.len() as u64, head)
}
