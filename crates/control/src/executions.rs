//! Verbs on executions: through the queue, or straight through a tunnel for a person who waits.

use crate::{Cause, Control, Span, Tunnel, refuse_store};
use perigee_agent_api::{Execute, Purpose};
use perigee_model::execution::{Command, Excerpt};
use perigee_model::guest::Problem;
use perigee_model::limits::{EXECUTIONS_PER_GUEST_MAX, PATH_BYTES_MAX};
use perigee_model::{
    Code, Execution, ExecutionId, ExecutionState, Guest, GuestStatus, HostId, Outcome, Priority, Refusal, Task, TaskId,
    TaskKind, Verb, Who,
};
use perigee_store::{Batch, Record};
use std::sync::Arc;

impl Control {
    /// Records an execution and the task that runs it.
    ///
    /// # Errors
    /// `Denied`, `NoSuchGuest`, `BadField`, `GuestNotRunning` when it can never run,
    /// `TooManyExecutions`, `TooManyTasks`.
    pub async fn execute(
        &self,
        who: &Who,
        guest: &str,
        command: Command,
        priority: Priority,
        cause: &Cause,
    ) -> Result<(Arc<Execution>, Arc<Task>), Refusal> {
        who.authorize(Verb::Operate)?;
        command.check()?;
        let guest = self.find_guest(who, guest)?;
        self.check_executable(&guest)?;
        self.check_queue(who)?;
        let id = ExecutionId::new(self.clock().uuid());
        let task = self.new_task(who, TaskKind::GuestExecute { guest: guest.id, execution: id }, priority);
        let execution = self.new_execution(who, &guest, id, command, Some(task.id));
        let mut batch = Batch { idempotency: cause.row(task.id), ..Batch::default() };
        let about = ("execution", id.to_string());
        batch.events.push(self.event((&who.tenant, &who.actor), "execution.create", about, cause, guest.name.as_str()));
        batch.insert(Record::Execution(execution.clone()));
        batch.insert(Record::Task(task.clone()));
        self.commit(batch).await.map_err(refuse_store)?;
        self.0.queue_wake.notify_one();
        Ok((Arc::new(execution), Arc::new(task)))
    }

    /// Records an execution and opens a tunnel that starts and follows it.
    ///
    /// # Errors
    /// As [`Control::execute`], and `HostAway`.
    pub async fn execute_now(
        &self,
        who: &Who,
        guest: &str,
        command: Command,
        stdin: bool,
        cause: &Cause,
    ) -> Result<(Arc<Execution>, Tunnel), Refusal> {
        who.authorize(Verb::Operate)?;
        command.check()?;
        let guest = self.find_guest(who, guest)?;
        let host = self.running_on(&guest)?;
        self.check_executable(&guest)?;
        let id = ExecutionId::new(self.clock().uuid());
        let execution = self.new_execution(who, &guest, id, command, None);
        let mut batch = Batch::default();
        let about = ("execution", id.to_string());
        batch.events.push(self.event((&who.tenant, &who.actor), "execution.create", about, cause, guest.name.as_str()));
        batch.insert(Record::Execution(execution.clone()));
        self.commit(batch).await.map_err(refuse_store)?;
        let order = order(&execution, &guest, stdin);
        match self.links().open(host, Purpose::Execute(order)).await {
            Ok(tunnel) => Ok((Arc::new(execution), tunnel)),
            Err(refusal) => {
                let mut batch = Batch::default();
                self.lose_execution(id, "its host was not reached", &mut batch);
                self.commit(batch).await.map_err(refuse_store)?;
                Err(refusal)
            }
        }
    }

    /// Opens a tunnel that writes a file into a guest.
    ///
    /// # Errors
    /// `Denied`, `NoSuchGuest`, `GuestNotRunning`, `HostAway`, `BadField`.
    pub async fn put_file(
        &self,
        who: &Who,
        guest: &str,
        path: &str,
        mode: u32,
        cause: &Cause,
    ) -> Result<Tunnel, Refusal> {
        who.authorize(Verb::Operate)?;
        check_path(path)?;
        if mode > 0o7777 {
            return Err(Refusal::field("mode", "mode is a decimal number of permission bits, at most 4095"));
        }
        let guest = self.find_guest(who, guest)?;
        let host = self.running_on(&guest)?;
        let about = ("guest", guest.id.to_string());
        let mut batch = Batch::default();
        batch.events.push(self.event((&who.tenant, &who.actor), "guest.put-file", about, cause, ""));
        self.commit(batch).await.map_err(refuse_store)?;
        self.links().open(host, Purpose::PutFile { guest: guest.id, path: path.to_owned(), mode }).await
    }

    /// Opens a tunnel that reads a file of a guest.
    ///
    /// # Errors
    /// As [`Control::put_file`].
    pub async fn get_file(&self, who: &Who, guest: &str, path: &str) -> Result<Tunnel, Refusal> {
        who.authorize(Verb::Operate)?;
        check_path(path)?;
        let guest = self.find_guest(who, guest)?;
        let host = self.running_on(&guest)?;
        self.links().open(host, Purpose::GetFile { guest: guest.id, path: path.to_owned() }).await
    }

    /// Opens a tunnel that reads the kept output of an execution from its host.
    ///
    /// # Errors
    /// `NoSuchExecution`, `HostAway`.
    pub async fn read_output(&self, execution: &Execution) -> Result<Tunnel, Refusal> {
        let host = self.view().guest(execution.guest).and_then(|g| g.desired.host);
        let host = host.ok_or_else(|| Refusal::new(Code::NoSuchExecution, "the execution never reached a host"))?;
        self.links().open(host, Purpose::ReadOutput { execution: execution.id }).await
    }

    /// Executions of the caller's tenant, newest first.
    ///
    /// # Errors
    /// `Denied`.
    pub fn list_executions(
        &self,
        who: &Who,
        span: Span<ExecutionId>,
        fits: impl Fn(&Execution) -> bool,
    ) -> Result<Vec<Arc<Execution>>, Refusal> {
        who.authorize(Verb::See)?;
        Ok(span.newest(&self.view().read().executions, |e| e.tenant == who.tenant && fits(e)))
    }

    /// One execution by id.
    ///
    /// # Errors
    /// `NoSuchExecution`.
    pub fn find_execution(&self, who: &Who, text: &str) -> Result<Arc<Execution>, Refusal> {
        who.authorize(Verb::See)?;
        let found = text.parse().ok().and_then(|id| self.view().execution(id));
        let found = found.filter(|e| e.tenant == who.tenant);
        found.ok_or_else(|| Refusal::new(Code::NoSuchExecution, "no execution of yours has this id"))
    }

    /// Puts the end of an execution that was not heard of again into a batch.
    pub(crate) fn lose_execution(&self, id: ExecutionId, text: &str, batch: &mut Batch) {
        let Some(held) = self.view().execution(id).filter(|e| e.outcome.is_none()) else { return };
        let mut next = held.as_ref().clone();
        next.state = ExecutionState::Ended;
        next.outcome = Some(Outcome::Lost);
        next.ended_at = Some(self.clock().now());
        next.problem = Some(Problem::new(Code::ExecutionLost, text));
        next.revision += 1;
        batch.update(Record::Execution(next));
    }

    /// The host of a guest that runs, or may: one that is connected and has not said so yet knows better.
    fn running_on(&self, guest: &Guest) -> Result<HostId, Refusal> {
        let status = self.guest_status(guest);
        match (status, guest.desired.host) {
            (GuestStatus::Running, Some(host)) => Ok(host),
            (GuestStatus::Unknown, Some(host)) if self.links().is_connected(host) => Ok(host),
            (GuestStatus::Unknown, _) => {
                Err(Refusal::new(Code::HostAway, "the guest's host is not connected; what is so there is not known"))
            }
            (other, _) => {
                let text = format!("the guest is {other:?}, not running").to_lowercase();
                Err(Refusal::new(Code::GuestNotRunning, text))
            }
        }
    }

    /// Refuses what can never run; a guest that still starts may be waited for.
    fn check_executable(&self, guest: &Guest) -> Result<(), Refusal> {
        match self.guest_status(guest) {
            GuestStatus::Pending
            | GuestStatus::Waiting
            | GuestStatus::Starting
            | GuestStatus::Running
            | GuestStatus::Unknown => {}
            status @ (GuestStatus::Suspended
            | GuestStatus::Stopping
            | GuestStatus::Stopped
            | GuestStatus::Failed
            | GuestStatus::Deleting
            | GuestStatus::Deleted) => {
                let text = format!("the guest is {status:?}, not running").to_lowercase();
                return Err(Refusal::new(Code::GuestNotRunning, text));
            }
        }
        let open = self.view().read().open_executions().filter(|e| e.guest == guest.id).count();
        if open >= EXECUTIONS_PER_GUEST_MAX {
            let text = format!("{EXECUTIONS_PER_GUEST_MAX} executions are open in this guest");
            return Err(Refusal::new(Code::TooManyExecutions, text));
        }
        Ok(())
    }

    fn new_execution(
        &self,
        who: &Who,
        guest: &Guest,
        id: ExecutionId,
        command: Command,
        task: Option<TaskId>,
    ) -> Execution {
        Execution {
            id,
            guest: guest.id,
            task,
            tenant: who.tenant.clone(),
            owner: who.actor.clone(),
            command,
            state: ExecutionState::Pending,
            outcome: None,
            stdout: Excerpt::default(),
            stderr: Excerpt::default(),
            created_at: self.clock().now(),
            started_at: None,
            ended_at: None,
            duration_ms: None,
            problem: None,
            revision: 1,
        }
    }
}

/// The order for the host, with the guest's environment under the command's own.
pub(crate) fn order(execution: &Execution, guest: &Guest, stdin: bool) -> Execute {
    let mut command = execution.command.clone();
    for (key, value) in &guest.spec.env {
        command.env.entry(key.clone()).or_insert_with(|| value.clone());
    }
    Execute { execution: execution.id, guest: guest.id, command, stdin }
}

fn check_path(path: &str) -> Result<(), Refusal> {
    if path.starts_with('/') && path.len() <= PATH_BYTES_MAX && !path.contains('\0') {
        return Ok(());
    }
    Err(Refusal::field("path", format!("path is absolute, without NUL, at most {PATH_BYTES_MAX} bytes")))
}
