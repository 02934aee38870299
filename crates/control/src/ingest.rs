//! Ingest: hosts whose agent is not ours report over HTTP.
//!
//! Owns: who may report for which host, how old and how often reports may be, and events of hosts.
//! Refuses: tokens as texts and signatures (`server` reads those), and measurements, which
//! `watch` takes. A reporter speaks for one host and can do nothing else.
//!
//! ```text
//! operator ─allow_reporting─▶ Claim ─signed by server─▶ token ─▶ agent
//! agent ─token, report─▶ server ─Claim─▶ reporter ─pace─▶ register · post_events · Watching::post
//! ```

mod rate;

pub(crate) use rate::Rates;

use crate::{Cause, Control, refuse_store};
use perigee_model::limits::{
    INGEST_AGE_MAX, INGEST_AHEAD_MAX, INGEST_EVENTS_MAX, INGEST_TOKEN_LIFE, INGEST_TOKEN_LIFE_MAX, SEQUENCE_MAX,
    TEXT_BYTES_MAX,
};
use perigee_model::{Code, Event, Host, HostId, Inventory, Labels, Name, Refusal, RunId, Tenant, Timestamp, Verb, Who};
use perigee_store::{Batch, IdempotencyRow, Record, StoreError};
use std::sync::Arc;
use std::time::Duration;

/// What an ingest token says, once its signature is known to be ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// For which host it speaks.
    pub host: HostId,
    /// The host's generation when it was made.
    pub generation: u64,
    /// When it was made.
    pub issued_at: Timestamp,
    /// Refused from then on.
    pub expires_at: Timestamp,
}

/// How to allow reporting.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowance {
    /// Life of the token.
    pub life: Option<Duration>,
    /// Make the host if there is none of this name: a machine without our agent.
    pub create: bool,
    /// End every earlier token of the host and forget its key.
    pub reset: bool,
}

/// Proof that an agent may report for a host. Only [`Control::reporter`] makes one.
#[derive(Clone, Debug)]
pub struct Reporter {
    host: Arc<Host>,
    claim: Claim,
}

impl Reporter {
    /// The host it speaks for.
    pub fn host(&self) -> HostId {
        self.host.id
    }
    /// The Ed25519 key with which its reports must be signed.
    pub fn key(&self) -> Option<&[u8; 32]> {
        self.host.reporting.key.as_ref()
    }
    /// Refuses a report that names another host.
    ///
    /// # Errors
    /// `WrongHost`.
    pub fn speaks_for(&self, host: HostId) -> Result<(), Refusal> {
        if host == self.host.id {
            return Ok(());
        }
        Err(Refusal::new(Code::WrongHost, "the token is for another host than the one that the report names"))
    }
}

/// Where a report stands among those of its agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// One life of the reporting process.
    pub run: RunId,
    /// Counts up in it, from 1.
    pub sequence: u64,
}

/// What an agent says of its host.
#[derive(Clone, Debug)]
pub struct Registration {
    /// What it is and has.
    pub inventory: Inventory,
    /// Marks.
    pub tags: Labels,
    /// Sign with this from now on; without one, the key stays what it is.
    pub key: Option<[u8; 32]>,
}

/// Something that happened on a host.
#[derive(Clone, Debug)]
pub struct Occurrence {
    /// When.
    pub at: Timestamp,
    /// `disk.failed`: 1 to 64 of a-z, 0-9, dot, hyphen, underscore.
    pub kind: String,
    /// For people.
    pub text: String,
}

impl Control {
    /// Lets another agent report for a host: what its token says.
    ///
    /// # Errors
    /// `Denied`, `BadField`, `NoSuchHost`, or what the store says.
    pub async fn allow_reporting(
        &self,
        who: &Who,
        text: &str,
        allowance: Allowance,
        cause: &Cause,
    ) -> Result<(Arc<Host>, Claim), Refusal> {
        who.authorize(Verb::Administer)?;
        let life = allowance.life.unwrap_or(INGEST_TOKEN_LIFE);
        if life < Duration::from_secs(1) || life > INGEST_TOKEN_LIFE_MAX {
            let text = format!("ttl_ms is 1000 to {}", INGEST_TOKEN_LIFE_MAX.as_millis());
            return Err(Refusal::field("ttl_ms", text));
        }
        let host = self
            .decide(|| {
                let (mut host, is_new) = match self.find_host(who, text) {
                    Ok(host) => (host.as_ref().clone(), false),
                    Err(refusal) if refusal.code == Code::NoSuchHost && allowance.create => {
                        (self.silent_host(text)?, true)
                    }
                    Err(refusal) => return Err(refusal),
                };
                let mut batch = Batch { idempotency: cause.row(host.id), ..Batch::default() };
                let about = ("host", host.id.to_string());
                let detail = if allowance.reset { "earlier tokens ended" } else { "" };
                let actor = (&who.tenant, who.actor.as_str());
                batch.events.push(self.event(actor, "host.allow_reporting", about, cause, detail));
                if allowance.reset {
                    host.reporting.generation += 1;
                    host.reporting.key = None;
                }
                if is_new {
                    batch.insert(Record::Host(host.clone()));
                } else if allowance.reset {
                    host.revision += 1;
                    batch.update(Record::Host(host.clone()));
                }
                Ok((batch, Arc::new(host)))
            })
            .await?;
        let claim = self.fresh_claim(&host, life);
        Ok((host, claim))
    }

    /// Who a token of ours speaks for, if it still does.
    ///
    /// # Errors
    /// `IngestTokenEnded`, `NoSuchHost`, `HostRevoked`.
    pub fn reporter(&self, claim: Claim) -> Result<Reporter, Refusal> {
        let host = self.admit_host(claim.host)?;
        let ended = |text: &str| Err(Refusal::new(Code::IngestTokenEnded, text));
        if claim.expires_at <= self.clock().now() {
            return ended("the ingest token has expired; renew tokens before they do");
        }
        if claim.generation != host.reporting.generation {
            return ended("the ingest token was revoked; ask for a new one");
        }
        Ok(Reporter { host, claim })
    }

    /// A token like the one it has, from now on.
    pub fn renew_reporting(&self, reporter: &Reporter) -> Claim {
        self.fresh_claim(&reporter.host, reporter.claim.expires_at.since(reporter.claim.issued_at))
    }

    /// Counts a report against what its host may do.
    ///
    /// # Errors
    /// `TooManyReports` with the time to wait.
    pub fn pace_reporter(&self, reporter: &Reporter) -> Result<(), Refusal> {
        self.0.report_rates.take(reporter.host(), self.clock()).map_err(|wait| {
            let mut refusal = Refusal::new(Code::TooManyReports, "the host reports too often; wait and go on slower");
            refusal.retry_after_s = Some(wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
            refusal
        })
    }

    /// Refuses what is too old or too far ahead.
    ///
    /// # Errors
    /// `StaleTimestamp`, `FutureTimestamp`.
    pub fn timely(&self, at: Timestamp) -> Result<(), Refusal> {
        let now = self.clock().now();
        if now.since(at) > INGEST_AGE_MAX {
            let text = format!("{at} is more than {} s ago; here it is {now}", INGEST_AGE_MAX.as_secs());
            return Err(Refusal::new(Code::StaleTimestamp, text));
        }
        if at.since(now) > INGEST_AHEAD_MAX {
            let text = format!("{at} is more than {} s ahead; here it is {now}", INGEST_AHEAD_MAX.as_secs());
            return Err(Refusal::new(Code::FutureTimestamp, text));
        }
        Ok(())
    }

    /// Keeps what an agent says of its host. The inventory of a host with our agent stays as that
    /// one has it.
    ///
    /// # Errors
    /// `BadField`, or what the store says.
    pub async fn register_reporter(
        &self,
        reporter: &Reporter,
        registration: Registration,
        cause: &Cause,
    ) -> Result<Arc<Host>, Refusal> {
        if let Some(fault) = perigee_model::name::labels_fault(&registration.tags) {
            return Err(Refusal::field("tags", fault));
        }
        self.decide(|| {
            let host = self.reporter(reporter.claim)?.host;
            // Another key came first: this request was signed for the one before.
            if host.reporting.key != reporter.host.reporting.key {
                return Err(Refusal::new(Code::BadSignature, "the host's key was just changed"));
            }
            let mut next = host.as_ref().clone();
            if host.run.is_none() {
                next.inventory = Some(registration.inventory.clone());
                next.seen_at = Some(self.clock().now());
            }
            next.reporting.tags.clone_from(&registration.tags);
            next.reporting.key = registration.key.or(next.reporting.key);
            if next.reporting == host.reporting && next.inventory == host.inventory {
                return Ok((Batch::default(), host));
            }
            next.revision += 1;
            let mut batch = Batch::default();
            let about = ("host", host.id.to_string());
            let actor = actor(host.id);
            batch.events.push(self.event((&Tenant::first(), &actor), "host.register", about, cause, ""));
            batch.update(Record::Host(next.clone()));
            Ok((batch, Arc::new(next)))
        })
        .await
    }

    /// Keeps events of a host: all of them, once. Whatever they say, they are recorded as said by
    /// that host and about it.
    ///
    /// # Errors
    /// `BadField`, `StaleTimestamp`, `FutureTimestamp`, `DuplicateSequence`, or what the store says.
    pub async fn post_events(
        &self,
        reporter: &Reporter,
        mark: Mark,
        occurrences: Vec<Occurrence>,
        cause: &Cause,
    ) -> Result<(), Refusal> {
        check_sequence(mark.sequence)?;
        if occurrences.is_empty() || occurrences.len() > INGEST_EVENTS_MAX {
            return Err(Refusal::field("events", format!("a report has 1 to {INGEST_EVENTS_MAX} events")));
        }
        let actor = actor(reporter.host());
        let mut batch = Batch::default();
        for (place, occurrence) in occurrences.into_iter().enumerate() {
            check_occurrence(place, &occurrence)?;
            self.timely(occurrence.at)?;
            let about = ("host", reporter.host().to_string());
            let verb = format!("reported.{}", occurrence.kind);
            let event = self.event((&Tenant::first(), &actor), &verb, about, cause, occurrence.text);
            batch.events.push(Event { at: occurrence.at, ..event });
        }
        // Kept longer than a report can be old, so that none is taken twice.
        batch.idempotency = Some(IdempotencyRow {
            scope: format!("{actor} events"),
            key: format!("{} {}", mark.run, mark.sequence),
            fingerprint: String::new(),
            subject: String::new(),
            at: self.clock().now(),
            answer: None,
        });
        self.commit(batch).await.map_err(|error| match error {
            StoreError::KeyUsed => duplicate(mark),
            other => refuse_store(other),
        })
    }

    fn fresh_claim(&self, host: &Host, life: Duration) -> Claim {
        let issued_at = self.clock().now();
        let generation = host.reporting.generation;
        Claim { host: host.id, generation, issued_at, expires_at: issued_at + life }
    }

    /// A host that has no agent of ours.
    fn silent_host(&self, name: &str) -> Result<Host, Refusal> {
        let name = Name::parse(name).map_err(|fault| Refusal::field("name", fault.to_string()))?;
        Ok(self.new_host(name, Labels::new()))
    }
}

/// Refuses numbers that not every JSON reader holds.
///
/// # Errors
/// `BadField`.
pub(crate) fn check_sequence(sequence: u64) -> Result<(), Refusal> {
    if sequence == 0 || sequence > SEQUENCE_MAX {
        return Err(Refusal::field("sequence_id", format!("sequence_id is 1 to {SEQUENCE_MAX}")));
    }
    Ok(())
}

pub(crate) fn duplicate(mark: Mark) -> Refusal {
    let text =
        format!("of run {} sequence id {}, or a later one, was taken; go on with the next", mark.run, mark.sequence);
    Refusal::new(Code::DuplicateSequence, text)
}

fn check_occurrence(place: usize, occurrence: &Occurrence) -> Result<(), Refusal> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    if occurrence.kind.is_empty() || occurrence.kind.len() > 64 || !occurrence.kind.bytes().all(plain) {
        return Err(Refusal::field(&format!("events.{place}.kind"), "kind is 1 to 64 of a-z, 0-9 and .-_"));
    }
    if occurrence.text.len() > TEXT_BYTES_MAX || occurrence.text.contains(|c: char| c.is_control() && c != '\n') {
        let text = format!("text has at most {TEXT_BYTES_MAX} bytes and no control characters");
        return Err(Refusal::field(&format!("events.{place}.text"), text));
    }
    Ok(())
}

fn actor(host: HostId) -> String {
    format!("host:{host}")
}
