//! The API as its callers meet it: the real router and control plane on the in-memory store.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod backups;
mod chunks;
mod conformance;
mod console;
mod forwards;
mod hostile;
mod idempotency;
mod images;
mod ingest;
mod link;
mod networks;
mod refusals;
mod snapshots;
mod stories;
mod trials;
mod volumes;
mod watch;
mod world;
