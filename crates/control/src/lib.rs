//! The brain: who may do what, what should be so, and what to do next.
//!
//! Owns: verbs, the queue, settling tasks against what agents report, the in-memory view, links.
//! Refuses: protocols. No HTTP, GraphQL or protobuf type is known here; `server` adapts.
//!
//! ```text
//!   verb ──▶ commit (task + desired + audit) ──▶ view ──▶ queue claims ──▶ links ──▶ agent
//!                                                  ▲                                   │
//!                                                  └── settle ◀── reports ◀────────────┘
//! ```
//! Every write goes through [`truth`]: the store first, then the view. Losing any nudge costs time
//! only: the [`reconcile`] pass finds what is not yet as it should be and asks again.
#![forbid(unsafe_code)]

pub mod backups;
pub mod cards;
pub mod consoles;
pub mod executions;
pub mod guests;
pub mod hosts;
pub mod images;
pub mod imports;
pub mod ingest;
mod intents;
pub mod keys;
pub mod links;
pub mod networks;
pub mod operations;
mod own_work;
mod queue;
mod reconcile;
pub mod restores;
mod settle;
pub mod snapshots;
mod span;
pub mod tasks;
pub mod trials;
mod truth;
pub mod verifications;
pub mod view;
pub mod vms;
pub mod volumes;
pub mod watch;

pub use links::{LinkEnd, Tunnel};
pub use span::Span;
pub use truth::Cause;
pub use view::View;

use links::Links;
use perigee_clock::Clock;
use perigee_model::{Code, InstanceId, Refusal};
use perigee_store::{Store, StoreError};
use std::sync::Arc;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The control plane. Cheap to clone; every clone is the same one.
#[derive(Clone)]
pub struct Control(Arc<Parts>);

struct Parts {
    clock: Clock,
    store: Arc<dyn Store>,
    view: View,
    links: Links,
    instance: InstanceId,
    worker: String,
    epoch: u64,
    queue_wake: Notify,
    own_work_wake: Notify,
    /// Tells that the view has something new.
    shown: Notify,
    tasks_done: tasks::Waiters,
    report_rates: ingest::Rates,
    tickets: consoles::Tickets,
}

impl Control {
    /// Reads the whole truth into the view. `epoch` is this reign's number, higher than any before.
    ///
    /// # Errors
    /// What the store says when it cannot be read.
    pub async fn open(
        clock: Clock,
        store: Arc<dyn Store>,
        instance: InstanceId,
        epoch: u64,
    ) -> Result<Self, StoreError> {
        let view = View::load(store.as_ref()).await?;
        let links = Links::new(clock.clone());
        let worker = format!("perigeed-{instance}");
        Ok(Self(Arc::new(Parts {
            clock,
            store,
            view,
            links,
            instance,
            worker,
            epoch,
            queue_wake: Notify::new(),
            own_work_wake: Notify::new(),
            shown: Notify::new(),
            tasks_done: tasks::Waiters::default(),
            report_rates: ingest::Rates::default(),
            tickets: consoles::Tickets::default(),
        })))
    }

    /// Runs the queue and the reconcilers until cancelled.
    pub async fn run(&self, workers: bool, cancel: CancellationToken) {
        let queue = async {
            if workers {
                self.run_queue(&cancel).await;
            }
        };
        tokio::join!(queue, self.run_reconcile(&cancel));
    }

    /// What everybody reads.
    pub fn view(&self) -> &View {
        &self.0.view
    }
    /// The links to agents.
    pub fn links(&self) -> &Links {
        &self.0.links
    }
    /// Time and randomness.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }
    /// Marks everything made on hosts.
    pub fn instance(&self) -> &InstanceId {
        &self.0.instance
    }
    /// The durable truth, for health and audit reads.
    pub fn store(&self) -> &dyn Store {
        self.0.store.as_ref()
    }
    /// This reign's number.
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }
}

/// Says a store's error in published words.
pub(crate) fn refuse_store(error: StoreError) -> Refusal {
    match error {
        StoreError::Stale { .. } => {
            Refusal::new(Code::WriteConflict, "another request changed the object first; read it and try again")
        }
        StoreError::NameTaken { name } => Refusal::new(Code::NameTaken, format!("the name {name} is taken")),
        StoreError::KeyUsed => {
            Refusal::new(Code::IdempotencyInFlight, "a request with this idempotency key is already there")
        }
        StoreError::DiskFull => {
            Refusal::new(Code::DiskFull, "the disk under the store is full; reads and deletes still work")
        }
        StoreError::Engine(_) | StoreError::Damaged { .. } | StoreError::Version(_) => {
            Refusal::new(Code::StoreDown, "the store does not answer; try again").because(error)
        }
    }
}
