//! The API as its callers meet it: the real router and control plane on the in-memory store.

mod conformance;
mod idempotency;
mod refusals;
mod stories;
mod world;
