//! The contract, in memory.

use crate::contract::{self, Shared, cases};
use perigee_store::MemoryStore;
use std::sync::Arc;

macro_rules! run {
    ($($case:ident),* $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            contract::$case(Arc::new(MemoryStore::new())).await;
        }
    )*};
}
cases!(run);

#[tokio::test]
async fn reopening_keeps_everything() {
    let truth = MemoryStore::new();
    contract::reopening_keeps_everything(async || Arc::new(truth.reopen()) as Shared).await;
}
