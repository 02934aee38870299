//! Consoles: tickets to them, and who sits where.
//!
//! Owns: tickets (256 random bits, good once, for one seat at one guest, for half a minute, kept in memory
//! alone), opening a seat, and the audit of it. Refuses: what flows through it.
//!
//! A ticket is for those who cannot send a token with what they open, such as a browser's WebSocket.

use crate::keys::digest;
use crate::{Cause, Control, Tunnel, refuse_store};
use perigee_agent_api::{Purpose, TunnelFrame};
use perigee_clock::Instant;
use perigee_model::limits::{CONSOLE_OPEN_TIMEOUT, CONSOLE_TICKET_LIFE, CONSOLE_TICKETS_MAX};
use perigee_model::{Code, Guest, GuestId, GuestStatus, HostId, Refusal, Seat, Timestamp, Verb, Who};
use perigee_store::Batch;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The right to sit down once.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// Shown once; only its SHA-256 is kept.
    pub secret: String,
    /// To which guest.
    pub guest: GuestId,
    /// It is good until then.
    pub expires_at: Timestamp,
}

/// Tickets that were given and not used.
#[derive(Default)]
pub(crate) struct Tickets(Mutex<BTreeMap<String, Promise>>);

struct Promise {
    who: Who,
    guest: GuestId,
    seat: Seat,
    until: Timestamp,
}

/// An open console. Dropping it leaves, which is recorded.
pub struct Console {
    /// `Data` both ways. `End` or `Failed` from the host is the end.
    pub tunnel: Tunnel,
    _sitting: Sitting,
}

struct Sitting {
    control: Control,
    who: Who,
    guest: GuestId,
    seat: Seat,
    cause: Cause,
    since: Instant,
}

impl Control {
    /// A ticket to a seat at a guest.
    ///
    /// # Errors
    /// `Denied`, `NoSuchGuest`, `GuestNotRunning`, `HostAway`, `TooManyExecutions` while too many tickets are
    /// unused.
    pub fn console_ticket(&self, who: &Who, guest: &str, seat: Seat) -> Result<Ticket, Refusal> {
        who.authorize(Verb::Operate)?;
        let guest = self.find_guest(who, guest)?;
        self.seated_on(&guest)?;
        let now = self.clock().now();
        let secret = self.new_secret().0;
        let expires_at = now + CONSOLE_TICKET_LIFE;
        let promise = Promise { who: who.clone(), guest: guest.id, seat, until: expires_at };
        let mut tickets = self.0.tickets.0.lock().unwrap_or_else(PoisonError::into_inner);
        tickets.retain(|_, promise| promise.until > now);
        if tickets.len() >= CONSOLE_TICKETS_MAX {
            let mut refusal = Refusal::new(Code::TooManyExecutions, "too many tickets to consoles are unused");
            refusal.retry_after_s = Some(CONSOLE_TICKET_LIFE.as_secs());
            return Err(refusal);
        }
        tickets.insert(digest(&secret), promise);
        Ok(Ticket { secret, guest: guest.id, expires_at })
    }

    /// Uses a ticket up and opens what it is for.
    ///
    /// # Errors
    /// `NoToken` for a ticket that is unknown, used, too old or for another guest, without saying which;
    /// `GuestNotRunning`, `NoSuchSeat`, `HostAway`, `ChannelBroken`.
    pub async fn open_console(&self, guest: &str, secret: &str, cause: &Cause) -> Result<Console, Refusal> {
        let Promise { who, guest: id, seat, .. } = self.redeem(guest, secret)?;
        let guest = self.find_guest(&who, &id.to_string())?;
        let tunnel = self.seat_at(&guest, seat).await?;
        let (control, cause, since) = (self.clone(), cause.clone(), self.clock().instant());
        let mut batch = Batch::default();
        let about = ("guest", id.to_string());
        batch.events.push(self.event((&who.tenant, &who.actor), "console.open", about, &cause, seat.text()));
        self.commit(batch).await.map_err(refuse_store)?;
        Ok(Console { tunnel, _sitting: Sitting { control, who, guest: id, seat, cause, since } })
    }

    /// The way to a seat at a guest: open, and nobody sits there yet.
    pub(crate) async fn seat_at(&self, guest: &Guest, seat: Seat) -> Result<Tunnel, Refusal> {
        let host = self.seated_on(guest)?;
        let mut tunnel = self.links().open(host, Purpose::Console { guest: guest.id, seat }).await?;
        match tokio::time::timeout(CONSOLE_OPEN_TIMEOUT, tunnel.rx.recv()).await {
            Ok(Some(TunnelFrame::Started)) => Ok(tunnel),
            Ok(Some(TunnelFrame::Failed(problem))) => {
                Err(self.unseated(guest, Code::parse(&problem.code).unwrap_or(Code::Bug), problem.text))
            }
            Ok(_) | Err(_) => Err(Refusal::new(Code::ChannelBroken, "the host did not open the console")),
        }
    }

    /// Its host cannot seat anybody.
    fn unseated(&self, guest: &Guest, code: Code, text: String) -> Refusal {
        if code != Code::GuestNotRunning || self.guest_status(guest) != GuestStatus::Starting {
            return Refusal::new(code, text);
        }
        let mut refusal = Refusal::new(code, "the guest is still starting; try again in a moment");
        refusal.retry_after_s = Some(1);
        refusal
    }

    fn redeem(&self, guest: &str, secret: &str) -> Result<Promise, Refusal> {
        let refused = || Refusal::new(Code::NoToken, "the ticket is not known, was used, or has expired");
        let mut tickets = self.0.tickets.0.lock().unwrap_or_else(PoisonError::into_inner);
        let promise = tickets.remove(&digest(secret)).ok_or_else(refused)?;
        let good = promise.until > self.clock().now() && promise.guest.to_string() == guest;
        if good { Ok(promise) } else { Err(refused()) }
    }

    /// The host of a guest that somebody can sit at: it lives, though it may still boot or stand still.
    fn seated_on(&self, guest: &Guest) -> Result<HostId, Refusal> {
        match (self.guest_status(guest), guest.desired.host) {
            (
                GuestStatus::Starting | GuestStatus::Running | GuestStatus::Suspended | GuestStatus::Stopping,
                Some(host),
            ) => Ok(host),
            // It knows better, when it has found out.
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
}

impl Drop for Sitting {
    fn drop(&mut self) {
        let mut batch = Batch::default();
        let about = ("guest", self.guest.to_string());
        let detail = format!("{} after {} s", self.seat.text(), self.since.elapsed().as_secs());
        let by = (&self.who.tenant, self.who.actor.as_str());
        batch.events.push(self.control.event(by, "console.close", about, &self.cause, detail));
        let control = self.control.clone();
        // Whoever leaves does not wait for it; a runtime that ends takes its consoles along unrecorded.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = control.commit(batch).await {
                    tracing::warn!(%error, "the end of a console could not be recorded");
                }
            });
        }
    }
}
