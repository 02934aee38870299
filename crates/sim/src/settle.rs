//! Waiting until a world without faults has nothing more to do.
//!
//! Owns: what "settled" means. Refuses: judging: that is [`crate::verdict`]'s.

use crate::host::Host;
use crate::plane::Plane;
use perigee_control::Control;
use perigee_model::Phase;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Waits until all is as it should be, or the time is over. Gives what is still open.
pub async fn settle(plane: &Plane, hosts: &[Arc<Host>], within: Duration, look_every: Duration) -> Vec<String> {
    let deadline = Instant::now() + within;
    loop {
        let open = match plane.control() {
            Some(control) => open_ends(&control, hosts),
            None => vec!["nobody reigns".to_owned()],
        };
        if open.is_empty() || Instant::now() >= deadline {
            return open;
        }
        sleep(look_every).await;
    }
}

/// What is not as it should be yet, in words.
pub fn open_ends(control: &Control, hosts: &[Arc<Host>]) -> Vec<String> {
    let mut open = Vec::new();
    for host in hosts.iter().filter(|host| !control.links().is_connected(host.id)) {
        open.push(format!("{} has no link", host.name));
    }
    let rows = control.view().read();
    for task in rows.open_tasks() {
        open.push(format!("task {} is {:?} ({})", task.kind.text(), task.state, task.note.as_deref().unwrap_or("")));
    }
    for execution in rows.open_executions() {
        open.push(format!("execution of {:?} is {:?}", execution.command.argv, execution.state));
    }
    for guest in rows.living_guests() {
        let current = guest.observed.as_ref().filter(|o| o.generation >= guest.desired.generation);
        let failed = current.is_some_and(|o| o.phase == Phase::Failed);
        if !guest.is_caught_up() && !failed {
            let observed = guest.observed.as_ref().map(|o| (o.generation, o.phase, o.note.clone()));
            let text = format!("guest {} is {observed:?}, desired {:?}", guest.name, guest.desired);
            open.push(text);
        }
    }
    open
}
