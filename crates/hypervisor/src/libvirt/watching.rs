//! Watching: what happens to our domains, as it happens.
//!
//! Owns: the connection for events, opening it again, one look at everything after each opening, and
//! a look at a domain after each of its events.
//! Refuses: to make of an event more than a reason to look.

use super::connections::Link;
use super::host::Host;
use crate::HypervisorError;
use perigee_libvirt::{EventKind, Events, Notice};
use perigee_model::GuestId;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use uuid::Uuid;

/// The longest wait before another attempt to connect, before chance shortens it.
const WAIT_MAX: Duration = Duration::from_secs(30);
const WAIT_MIN: Duration = Duration::from_millis(250);

/// Watches until nobody has the driver any more.
pub async fn watch(host: Weak<Host>, link: Link) {
    let (mut wait, pending) = (WAIT_MIN, Arc::default());
    while let Some(alive) = host.upgrade() {
        // Listening first: what happens during the look is looked at again.
        let listening = link.ask(async |libvirt| libvirt.events(&[EventKind::Lifecycle], None).await).await;
        let clock = alive.clock.clone();
        let ended = match listening {
            Ok(events) => {
                if let Err(error) = alive.ask_facts().await {
                    tracing::debug!(%error, "no look at what libvirt makes machines of");
                }
                alive.cards.listen(true);
                match everything(&alive, &pending).await {
                    Ok(()) => wait = WAIT_MIN,
                    Err(error) => tracing::debug!(%error, "no look at everything"),
                }
                drop(alive);
                listen(&host, events, &pending).await
            }
            Err(ask) => ask.to_string(),
        };
        tracing::debug!(why = ended, "libvirt's events stop");
        tokio::time::sleep(clock.jitter(wait)).await;
        wait = (wait * 2).min(WAIT_MAX);
    }
}

type Pending = Arc<Mutex<BTreeSet<GuestId>>>;

/// Why it stopped.
async fn listen(host: &Weak<Host>, mut events: Events, pending: &Pending) -> String {
    loop {
        let notice = events.next().await;
        let Some(host) = host.upgrade() else { return "nobody listens".to_owned() };
        match notice {
            Ok(Notice::Event(event)) => happened(&host, event.domain.uuid, pending),
            Ok(Notice::Missed(_)) => {
                host.cards.listen(true);
                if let Err(error) = everything(&host, pending).await {
                    tracing::debug!(%error, "no look at everything");
                }
            }
            Err(error) => {
                host.cards.listen(false);
                return error.to_string();
            }
        }
    }
}

/// What is not known as ours is found by the next inventory, if it ever is.
fn happened(host: &Arc<Host>, uuid: Uuid, pending: &Pending) {
    host.cards.changed(uuid);
    let guest = GuestId::new(uuid);
    if host.seen.knows(guest) {
        look_soon(host, guest, pending);
    }
}

/// Looks at all that was known and all that there is.
async fn everything(host: &Arc<Host>, pending: &Pending) -> Result<(), HypervisorError> {
    host.learn().await?;
    for guest in host.seen.guests() {
        look_soon(host, guest, pending);
    }
    Ok(())
}

/// Looks when nobody works on the guest: then what was done to it has been noted. One look waits at a
/// time; it sees what every event before it told of.
fn look_soon(host: &Arc<Host>, guest: GuestId, pending: &Pending) {
    host.changed.notify_waiters();
    if !pending.lock().unwrap_or_else(PoisonError::into_inner).insert(guest) {
        return;
    }
    let (host, pending) = (host.clone(), pending.clone());
    tokio::spawn(async move {
        let _alone = host.gates.alone(guest).await;
        pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&guest);
        let now = match host.find(guest).await {
            Ok(found) => found.map(|ours| ours.life),
            // Somebody took it, mark and all.
            Err(HypervisorError::BadPlan(_)) => None,
            // The next connection looks at everything again.
            Err(error) => return tracing::debug!(%guest, %error, "no look"),
        };
        if let Some(event) = host.seen.compare(guest, now) {
            // Nobody listens: then nobody is told.
            _ = host.events.send(event);
        }
    });
}
