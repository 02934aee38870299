//! What happened, in plain lines.
//!
//! Owns: the lines with their virtual time, and the names under which things appear in them.
//! Refuses: printing, and any word that another run of the same seed would not say again.

use perigee_model::{ExecutionId, GuestId};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use tokio::time::Instant;

/// The story of one world.
#[derive(Debug)]
pub struct Story {
    began: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    text: String,
    guests: BTreeMap<GuestId, String>,
    executions: BTreeMap<ExecutionId, String>,
}

impl Story {
    /// Begins now.
    pub fn begin() -> Self {
        Self { began: Instant::now(), state: Mutex::default() }
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// One more line, at the time it is now.
    pub fn tell(&self, line: impl AsRef<str>) {
        let time = self.began.elapsed();
        let (minutes, seconds, millis) = (time.as_secs() / 60, time.as_secs() % 60, time.subsec_millis());
        self.with(|s| {
            // Writing to a String cannot fail.
            let _ = writeln!(s.text, "{minutes:02}:{seconds:02}.{millis:03} {}", line.as_ref());
        });
    }

    /// All lines so far.
    pub fn text(&self) -> String {
        self.with(|s| s.text.clone())
    }

    /// Names a guest.
    pub fn name_guest(&self, id: GuestId, name: &str) {
        self.with(|s| s.guests.insert(id, name.to_owned()));
    }
    /// The name of a guest. One that nobody was told of is made up by the world's own order.
    pub fn guest(&self, id: GuestId) -> String {
        self.with(|s| {
            let nameless = format!("nameless-{}", s.guests.len() + 1);
            s.guests.entry(id).or_insert(nameless).clone()
        })
    }
    /// Names an execution by its number and what it runs.
    pub fn name_execution(&self, id: ExecutionId, argv: &[String]) -> String {
        self.with(|s| {
            let name = format!("command {} ({})", s.executions.len() + 1, argv.join(" "));
            s.executions.insert(id, name.clone());
            name
        })
    }
    /// The name of an execution.
    pub fn execution(&self, id: ExecutionId) -> String {
        self.with(|s| s.executions.get(&id).cloned().unwrap_or_else(|| "a nameless command".to_owned()))
    }
}
