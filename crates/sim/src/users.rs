//! Users: what they ask for, and when.
//!
//! Owns: a seeded stream of verbs against whoever reigns. Refuses: mending. A user who gets no
//! answer does not know, and does not ask again.

use crate::draw::Draw;
use crate::ledger::{Ledger, MadeGuest, RanCommand};
use crate::plane::Plane;
use crate::scene::Scene;
use perigee_agent_api::TunnelFrame;
use perigee_control::guests::NewGuest;
use perigee_control::{Cause, Control, Tunnel};
use perigee_model::execution::Command;
use perigee_model::{ExecutionId, GuestId, GuestKind, Labels, Name, Priority, Refusal, Resources, TaskId, Who};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const FIRST_NAMES: [&str; 6] = ["web", "ci", "db", "agent", "test", "build"];
const PRIORITIES: [Priority; 4] = [Priority::Critical, Priority::High, Priority::Default, Priority::Low];

/// One user.
pub struct User {
    pub scene: Arc<Scene>,
    pub plane: Arc<Plane>,
    pub ledger: Arc<Ledger>,
    /// Shown with each verb.
    pub token: String,
    pub number: usize,
    pub hosts: Vec<String>,
    pub draw: Draw,
    /// Asks for little, and for nothing long: real time passes.
    pub modest: bool,
}

impl User {
    /// Asks for things until the time is over.
    pub async fn live(mut self, until: tokio::time::Instant, pause_most: u64) {
        let mut made = 0;
        while tokio::time::Instant::now() < until {
            let pause = self.draw.millis(50, pause_most);
            tokio::time::sleep(pause).await;
            match self.draw.below(100) {
                0..24 => {
                    made += 1;
                    self.create(made).await;
                }
                24..48 => self.execute().await,
                48..60 => self.execute_now().await,
                60..82 => self.switch().await,
                82..92 => self.delete().await,
                92..97 => self.cancel().await,
                _ => self.wait().await,
            }
        }
    }

    /// Asks as this user. `None`: refused (which is told) or no answer.
    pub(crate) async fn ask<T, F>(
        &self,
        what: &str,
        question: impl FnOnce(Control, Who) -> F + Send + 'static,
    ) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Refusal>> + Send + 'static,
    {
        let token = self.token.clone();
        let answer = self.plane.ask(async move |control: Control| {
            let who = control.authenticate(&token)?;
            question(control, who).await
        });
        match answer.await {
            Some(Ok(answer)) => Some(answer),
            Some(Err(refusal)) => {
                self.scene.checks.deed("refusals");
                self.scene.story.tell(format!("user {}: {what}: refused, {}", self.number, refusal.shown));
                None
            }
            None => {
                self.scene.checks.deed("unanswered");
                self.scene.story.tell(format!("user {}: {what}: no answer", self.number));
                None
            }
        }
    }

    async fn create(&mut self, number: usize) {
        let stem = self.draw.pick(&FIRST_NAMES).copied().unwrap_or("guest");
        let name = format!("{stem}-{}{number:02}", self.number);
        let memory_mib = [128, 256, 512, 1024][self.draw.below(if self.modest { 1 } else { 4 })];
        let ttl_most = if self.modest { 5_000 } else { 90_000 };
        let vm = self.draw.chance(40).then(|| self.some_vm());
        let ttl = (vm.is_none() && self.draw.chance(40)).then(|| self.draw.millis(3_000, ttl_most));
        let host = if self.draw.chance(15) { self.draw.pick(&self.hosts).cloned() } else { None };
        let wanted = NewGuest {
            name: Name::parse(&name).ok(),
            kind: if vm.is_some() { GuestKind::Vm } else { GuestKind::Sandbox },
            image: "base".to_owned(),
            resources: Resources { cpus: 1, memory_bytes: memory_mib << 20 },
            ttl,
            env: BTreeMap::new(),
            labels: Labels::new(),
            host,
            priority: PRIORITIES[self.draw.below(4)],
            vm,
            egress: None,
            egress6: None,
        };
        let is_vm = wanted.vm.is_some();
        let what = format!("create {name}");
        let made = self.ask(&what, async move |c: Control, who| c.create_guest(&who, wanted, &Cause::default()).await);
        let Some((guest, task)) = made.await else { return };
        self.scene.story.name_guest(guest.id, &name);
        self.scene.checks.deed("creates");
        self.ledger.made(
            guest.id,
            MadeGuest {
                name: name.clone(),
                task: task.id,
                vm: is_vm,
                expires: ttl.is_some(),
                deleted: None,
                touched: false,
            },
        );
        let life = ttl.map_or_else(String::new, |t| format!(", to live {:.1} s", t.as_secs_f64()));
        let kind = if is_vm { "the VM " } else { "" };
        self.scene.story.tell(format!("user {}: creates {kind}{name} ({memory_mib} MiB{life})", self.number));
    }

    fn some_guest(&mut self) -> Option<(GuestId, MadeGuest)> {
        let usable = self.ledger.usable();
        // The newest ones are used most.
        let newest = usable.len().saturating_sub(8);
        self.draw.pick(&usable[newest..]).cloned()
    }

    fn some_command(&mut self) -> Command {
        let longest = if self.modest { 1_500 } else { 20_000 };
        let argv: Vec<String> = match self.draw.below(9) {
            0 => vec!["true".into()],
            1 => vec!["exit".into(), self.draw.below(200).to_string()],
            2 | 3 => vec!["echo".into(), format!("hello-{}", self.draw.below(1000))],
            4..=6 => vec!["sleep".into(), self.draw.millis(100, longest).as_millis().to_string()],
            7 => vec!["yes".into(), self.draw.below(40_000).to_string()],
            _ => vec!["nonsense".into()],
        };
        let timeout_ms = self.draw.chance(20).then(|| self.draw.millis(500, 10_000).as_millis() as u64);
        Command { argv, env: BTreeMap::new(), cwd: None, user: None, timeout_ms, output_limit_bytes: None }
    }

    async fn execute(&mut self) {
        let Some((id, guest)) = self.some_guest() else { return };
        let (command, priority) = (self.some_command(), PRIORITIES[self.draw.below(4)]);
        let argv = command.argv.clone();
        let what = format!("run {} in {}", argv.join(" "), guest.name);
        let ran = self.ask(&what, async move |c: Control, who| {
            c.execute(&who, &id.to_string(), command, priority, &Cause::default()).await
        });
        let Some((execution, task)) = ran.await else { return };
        let named = self.scene.story.name_execution(execution.id, &argv);
        self.scene.checks.deed("queued commands");
        self.ledger.ran(execution.id, RanCommand { argv, task: Some(task.id), seen: None });
        self.scene.story.tell(format!("user {}: queues {named} in {}", self.number, guest.name));
    }

    async fn execute_now(&mut self) {
        let Some((id, guest)) = self.some_guest() else { return };
        let command = self.some_command();
        let argv = command.argv.clone();
        let what = format!("run {} now in {}", argv.join(" "), guest.name);
        let ran = self.ask(&what, async move |c: Control, who| {
            c.execute_now(&who, &id.to_string(), command, false, &Cause::default()).await
        });
        let Some((execution, tunnel)) = ran.await else { return };
        let named = self.scene.story.name_execution(execution.id, &argv);
        self.scene.checks.deed("direct commands");
        self.ledger.ran(execution.id, RanCommand { argv, task: None, seen: None });
        self.scene.story.tell(format!("user {}: runs {named} now in {}", self.number, guest.name));
        let patience = self.draw.millis(200, 12_000);
        let signals = self.draw.chance(20);
        self.follow(execution.id, &named, tunnel, patience, signals).await;
    }

    async fn follow(&self, id: ExecutionId, named: &str, mut tunnel: Tunnel, patience: Duration, signals: bool) {
        let deadline = tokio::time::Instant::now() + patience;
        while let Ok(Some(frame)) = tokio::time::timeout_at(deadline, tunnel.rx.recv()).await {
            match frame {
                TunnelFrame::Ended(report) => {
                    let Some(end) = report.end else { return };
                    self.scene.story.tell(format!("user {}: sees {named} end: {:?}", self.number, end.outcome));
                    self.ledger.saw(id, end.outcome);
                    return;
                }
                TunnelFrame::Started if signals => drop(tunnel.tx.send(TunnelFrame::Signal(15)).await),
                TunnelFrame::Failed(problem) => {
                    self.scene.story.tell(format!("user {}: cannot follow {named}: {}", self.number, problem.text));
                    return;
                }
                _ => {}
            }
        }
        self.scene.story.tell(format!("user {}: follows {named} no longer", self.number));
    }

    async fn delete(&mut self) {
        let Some((id, guest)) = self.some_guest() else { return };
        self.ledger.touched(id);
        let what = format!("delete {}", guest.name);
        let asked = self.ask(&what, async move |c: Control, who| {
            c.delete_guest(&who, &id.to_string(), None, &Cause::default()).await
        });
        let Some(task) = asked.await else { return };
        self.scene.checks.deed("deletes");
        self.ledger.deleted(id, task.id);
        self.scene.story.tell(format!("user {}: deletes {}", self.number, guest.name));
    }

    fn some_task(&mut self) -> Option<TaskId> {
        let tasks: Vec<TaskId> = self.ledger.tasks().into_keys().collect();
        let newest = tasks.len().saturating_sub(6);
        self.draw.pick(&tasks[newest..]).copied()
    }

    async fn cancel(&mut self) {
        let Some(id) = self.some_task() else { return };
        for (guest, made) in self.ledger.guests() {
            if made.task == id {
                self.ledger.touched(guest);
            }
        }
        let asked = self.ask("cancel a task", async move |c: Control, who| {
            c.cancel_task(&who, &id.to_string(), &Cause::default()).await
        });
        let Some(task) = asked.await else { return };
        self.scene.checks.deed("cancels");
        self.scene.story.tell(format!("user {}: cancels {} ({:?})", self.number, task.kind.text(), task.state));
    }

    async fn wait(&mut self) {
        let Some(id) = self.some_task() else { return };
        let waited =
            self.ask("wait for a task", async move |c: Control, _| c.wait_task(id, Duration::from_secs(5)).await);
        let Some(task) = waited.await else { return };
        if task.state.is_final() {
            self.ledger.ended(id, task.state);
        }
    }
}
