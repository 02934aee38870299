//! The executions this guest knows.
//!
//! Owns: the table by id. Refuses: a second run of an id, more than 256 ids, forgetting what runs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::execution::Running;
use super::reaper::Reaper;
use crate::protocol::{EXECUTIONS_MAX, ErrorCode, ExecStart, GuestError};

/// See the module.
pub struct Executions {
    reaper: Arc<Reaper>,
    known: Mutex<HashMap<Uuid, Arc<Running>>>,
}

impl Executions {
    /// An empty table.
    pub fn new(reaper: Arc<Reaper>) -> Self {
        Self { reaper, known: Mutex::new(HashMap::new()) }
    }

    /// The execution of this id, started if it is new.
    pub fn start(&self, start: &ExecStart) -> Result<Arc<Running>, GuestError> {
        let mut known = self.known();
        if let Some(running) = known.get(&start.id) {
            return Ok(Arc::clone(running));
        }
        if start.attach_only {
            return Err(unknown(start.id));
        }
        if start.argv.is_empty() {
            let message = "argv needs at least the program";
            return Err(GuestError::new(ErrorCode::Invalid, message));
        }
        if start.stdout_offset != 0 || start.stderr_offset != 0 {
            let message = "a new execution has no output to resume";
            return Err(GuestError::new(ErrorCode::Invalid, message));
        }
        if known.len() >= EXECUTIONS_MAX {
            let message = format!("{EXECUTIONS_MAX} executions wait to be acknowledged");
            return Err(GuestError::new(ErrorCode::TooManyExecutions, message));
        }
        let running = Running::start(start, &self.reaper);
        known.insert(start.id, Arc::clone(&running));
        Ok(running)
    }

    /// The execution of this id.
    pub fn get(&self, id: Uuid) -> Result<Arc<Running>, GuestError> {
        self.known().get(&id).cloned().ok_or_else(|| unknown(id))
    }

    /// Forgets an execution that has ended.
    pub fn acknowledge(&self, id: Uuid) -> Result<(), GuestError> {
        let mut known = self.known();
        let running = known.get(&id).ok_or_else(|| unknown(id))?;
        if !running.has_ended() {
            let message = format!("execution {id} has not ended");
            return Err(GuestError::new(ErrorCode::StillRunning, message));
        }
        known.remove(&id);
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<Running>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unknown(id: Uuid) -> GuestError {
    GuestError::new(ErrorCode::UnknownExecution, format!("no execution {id} is known here"))
}
