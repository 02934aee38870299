//! Writing: the store first, then the view, then whoever waits.
//!
//! A verb reads records from the view, computes new ones, and commits them with the revisions it
//! read. When another write came first the store says `Stale`, and the verb computes again.

use crate::{Control, refuse_store};
use perigee_model::{Event, EventId, Refusal, Subject, Tenant};
use perigee_store::{Batch, Change, IdempotencyRow, Record, StoreError};
use std::time::Duration;
use tokio::sync::futures::Notified;

/// Tries of one verb against a record that others write too.
const STALE_TRIES_MAX: u32 = 8;
/// A writer whose record was stored first shows it within this time, or it is looked at again.
const SHOWN_WITHIN: Duration = Duration::from_millis(100);

/// Who caused a change, for its audit event.
#[derive(Clone, Debug, Default)]
pub struct Cause {
    /// The request's id.
    pub request_id: Option<String>,
    /// The caller's idempotency key; written with the change.
    pub idempotency: Option<IdempotencyRow>,
}

impl Cause {
    /// The caller's idempotency row, now that it is known what the request made.
    pub(crate) fn row(&self, subject: impl ToString) -> Option<IdempotencyRow> {
        let row = self.idempotency.clone()?;
        Some(IdempotencyRow { subject: subject.to_string(), ..row })
    }
}

impl Control {
    /// Writes a batch and shows it to everybody. Both happen even when the caller is dropped
    /// half-way (a client or a link that goes): a record that is stored and never shown would
    /// refuse every later write as stale.
    pub(crate) async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        let control = self.clone();
        let written = tokio::spawn(async move { control.write(batch).await }).await;
        written.unwrap_or_else(|error| Err(StoreError::Engine(Box::new(error))))
    }

    async fn write(&self, batch: Batch) -> Result<(), StoreError> {
        let changes = batch.changes.clone();
        self.0.store.commit(batch).await?;
        for change in changes {
            match change {
                Change::Put(record, _) => self.show(record),
                Change::Delete(noun, id) => self.0.view.remove(noun, &id),
            }
        }
        self.0.shown.notify_waiters();
        Ok(())
    }

    /// After a `Stale`: the other writer is between its commit and its view. `shown` was made
    /// before the view was read, so that nothing shown since is missed.
    pub(crate) async fn let_show(&self, shown: Notified<'_>) {
        // Too late: then the view is read again as it is.
        drop(tokio::time::timeout(SHOWN_WITHIN, shown).await);
    }

    /// Computes and commits until no other write comes between. `decide` reads the view afresh each
    /// time and gives the batch with what to return.
    pub(crate) async fn decide<T>(
        &self,
        mut decide: impl FnMut() -> Result<(Batch, T), Refusal>,
    ) -> Result<T, Refusal> {
        for _ in 0..STALE_TRIES_MAX {
            let shown = self.0.shown.notified();
            let (batch, answer) = decide()?;
            match self.commit(batch).await {
                Ok(()) => return Ok(answer),
                Err(StoreError::Stale { .. }) => self.let_show(shown).await,
                Err(other) => return Err(refuse_store(other)),
            }
        }
        Err(refuse_store(StoreError::Stale { noun: perigee_store::Noun::Guest, id: "busy".to_owned() }))
    }

    /// An audit event about a change that is being made.
    pub(crate) fn event(
        &self,
        (tenant, actor): (&Tenant, &str),
        verb: &str,
        (noun, id): (&str, String),
        cause: &Cause,
        detail: impl Into<String>,
    ) -> Event {
        Event {
            id: EventId::new(self.0.clock.uuid()),
            at: self.0.clock.now(),
            tenant: tenant.clone(),
            actor: actor.to_owned(),
            verb: verb.to_owned(),
            subject: Subject { noun: noun.to_owned(), id },
            request_id: cause.request_id.clone(),
            detail: detail.into(),
        }
    }

    fn show(&self, record: Record) {
        let task = match &record {
            Record::Task(task) => Some((task.id, task.state.is_final())),
            Record::Host(_)
            | Record::Guest(_)
            | Record::Image(_)
            | Record::Execution(_)
            | Record::Key(_)
            | Record::Backup(_)
            | Record::Volume(_)
            | Record::Network(_) => None,
        };
        self.0.view.put(record);
        if let Some((id, is_final)) = task {
            self.0.tasks_done.changed(id, is_final);
        }
    }
}
