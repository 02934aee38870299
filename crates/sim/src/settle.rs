//! Waiting until a world without faults has nothing more to do.
//!
//! Owns: what "settled" means. Refuses: judging: that is [`crate::verdict`]'s.

use crate::host::Host;
use crate::plane::Plane;
use perigee_control::{Cause, Control};
use perigee_model::{Guest, GuestId, GuestKind, HostId, Phase, Power, Switch, TaskKind, Who};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A guest whose time to live is over within this is about to end.
const ABOUT_TO_END: Duration = Duration::from_secs(2);

/// Waits until all is as it should be, or the time is over. Gives what is still open. Whoever waits for a
/// command in a paused VM lets it go on: a command stands still with its guest.
pub async fn settle(plane: &Plane, hosts: &[Arc<Host>], who: &Who, within: Duration, look: Duration) -> Vec<String> {
    let deadline = Instant::now() + within;
    loop {
        let open = match plane.control() {
            Some(control) => {
                for guest in standing(&control) {
                    // Refused: it does not stand any more.
                    drop(control.switch_vm(who, &guest.to_string(), Switch::Resume, &Cause::default()).await);
                }
                open_ends(&control, hosts)
            }
            None => vec!["nobody reigns".to_owned()],
        };
        if open.is_empty() || Instant::now() >= deadline {
            return open;
        }
        sleep(look).await;
    }
}

/// Paused VMs in which a command has not ended, and which nobody switches.
fn standing(control: &Control) -> BTreeSet<GuestId> {
    let rows = control.view().read();
    let paused = |id: &GuestId| {
        let is = |g: &Arc<Guest>| g.is_caught_up() && g.desired.power == Power::Paused && !g.is_gone();
        rows.guests.get(id).is_some_and(is)
    };
    let switched = |id: &GuestId| rows.open_tasks_of(*id).any(|t| matches!(t.kind, TaskKind::GuestPower { .. }));
    rows.open_executions().map(|e| e.guest).filter(|id| paused(id) && !switched(id)).collect()
}

/// What is not as it should be yet, in words.
pub fn open_ends(control: &Control, hosts: &[Arc<Host>]) -> Vec<String> {
    let mut open = Vec::new();
    for host in hosts.iter().filter(|host| !control.links().is_connected(host.id)) {
        open.push(format!("{} has no link", host.name));
    }
    for host in hosts {
        // A hint may be lost: the agent looks once a minute.
        let alive: BTreeSet<GuestId> = host.machine.copies().into_keys().collect();
        let off = off_on(control, host.id);
        let stray = host.machine.guests().iter().any(|g| !g.alive && !off.contains(&g.guest));
        if alive != running_on(control, host.id) || stray {
            open.push(format!("{} has other guests than are desired", host.name));
        }
        // Said again with each heartbeat until they are taken.
        let untaken = host.journal.count("intents");
        if untaken > 0 {
            open.push(format!("{} acts on {} are not taken yet", untaken, host.name));
        }
    }
    let rows = control.view().read();
    for task in rows.open_tasks() {
        open.push(format!("task {} is {:?} ({})", task.kind.text(), task.state, task.note.as_deref().unwrap_or("")));
    }
    for execution in rows.open_executions() {
        open.push(format!("execution of {:?} is {:?}", execution.command.argv, execution.state));
    }
    // Whoever judges now must not meet a guest on its way out.
    let soon = control.clock().now() + ABOUT_TO_END;
    for guest in rows.living_guests() {
        if guest.desired.expires_at.is_some_and(|at| at <= soon) {
            open.push(format!("guest {} is about to end", guest.name));
        }
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

/// The guests that run on a host, as the control plane wants and sees it.
pub fn running_on(control: &Control, host: HostId) -> BTreeSet<GuestId> {
    let rows = control.view().read();
    let runs = |g: &&Arc<Guest>| {
        let running = g.observed.as_ref().is_some_and(|o| matches!(o.phase, Phase::Running | Phase::Paused));
        g.desired.host == Some(host) && matches!(g.desired.power, Power::Running | Power::Paused) && running
    };
    rows.living_guests().filter(runs).map(|g| g.id).collect()
}

/// The VMs that lie on a host, stopped or failed: their disks are kept.
pub fn off_on(control: &Control, host: HostId) -> BTreeSet<GuestId> {
    let rows = control.view().read();
    let off = |g: &&Arc<Guest>| {
        let ended = g.observed.as_ref().is_some_and(|o| matches!(o.phase, Phase::Stopped | Phase::Failed));
        g.kind == GuestKind::Vm && g.desired.host == Some(host) && ended
    };
    rows.living_guests().filter(off).map(|g| g.id).collect()
}
