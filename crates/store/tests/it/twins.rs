//! Memory and SQLite tell the same story, whatever the story.

use crate::contract::Shared;
use crate::samples::*;
use crate::sqlite;
use perigee_store::{Batch, Change, Expect, IdempotencyRow, MemoryStore, Noun, Record};
use proptest::prelude::*;
use std::sync::Arc;

#[derive(Clone, Debug)]
enum Op {
    Commit(Batch),
    Answer(String, u16),
    Prune(i64, i64),
}

fn record() -> impl Strategy<Value = Record> {
    let called = prop::sample::select(vec!["a", "b", "c"]);
    (0..8_u8, 0..4_u64, called, 0..3_u64, any::<bool>(), any::<bool>()).prop_map(
        |(noun, n, called, revision, gone, blue)| {
            let owned = tenant(if blue { "blue" } else { "default" });
            match noun {
                0 => Record::Host(perigee_model::Host { name: name(called), revision, ..host(n) }),
                1 | 2 => {
                    let gone_at = gone.then(|| at(5));
                    Record::Guest(perigee_model::Guest { tenant: owned, gone_at, revision, ..guest(n, called) })
                }
                6 => Record::Volume(perigee_model::Volume { tenant: owned, revision, ..volume(n, called) }),
                7 => Record::Network(perigee_model::Network { tenant: owned, revision, ..network(n, called) }),
                3 => Record::Image(perigee_model::Image { tenant: owned, revision, ..image(n, called) }),
                4 => Record::Execution(perigee_model::Execution { revision, ..execution(n) }),
                _ => Record::Key(perigee_store::Key { revision, ..key(n) }),
            }
        },
    )
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => record().prop_map(|r| Change::Put(r, Expect::New)),
        3 => (record(), 0..3_u64).prop_map(|(r, was)| Change::Put(r, Expect::Revision(was))),
        1 => (prop::sample::select(Noun::ALL.to_vec()), 0..4_u64).prop_map(|(noun, n)| Change::Delete(noun, uuid(n).to_string())),
    ]
}

fn batches() -> impl Strategy<Value = Batch> {
    let events = prop::collection::vec((0..20_u64).prop_map(|n| event(n, "e")), 0..3);
    let key = prop::option::weighted(0.3, (0..5_u8, 0..20_i64));
    (prop::collection::vec(change(), 0..4), events, key).prop_map(|(changes, events, key)| Batch {
        changes,
        events,
        idempotency: key.map(|(k, t)| IdempotencyRow { at: at(t), ..idempotency(&k.to_string()) }),
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        10 => batches().prop_map(Op::Commit),
        1 => (0..5_u8, any::<u16>()).prop_map(|(k, status)| Op::Answer(k.to_string(), status)),
        1 => (0..20_i64, 0..20_i64).prop_map(|(k, e)| Op::Prune(k, e)),
    ]
}

async fn tell(store: &Shared, op: Op) -> String {
    match op {
        Op::Commit(batch) => format!("{:?}", store.commit(batch).await),
        Op::Answer(key, status) => {
            format!("{:?}", store.answer_idempotency(&idempotency("").scope, &key, status, "body").await)
        }
        Op::Prune(keys, events) => format!("{:?}", store.prune(at(keys), at(events)).await),
    }
}

async fn picture(store: &Shared) -> String {
    let mut lines = Vec::new();
    for noun in Noun::ALL {
        lines.push(format!("{:?}", store.all(noun).await.unwrap()));
    }
    lines.push(format!("{:?}", store.events(0, 1000).await.unwrap()));
    for key in 0..5_u8 {
        lines.push(format!("{:?}", store.idempotency(&idempotency("").scope, &key.to_string()).await.unwrap()));
    }
    lines.join("\n")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn memory_and_sqlite_agree(ops in prop::collection::vec(op(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let memory: Shared = Arc::new(MemoryStore::new());
            let sqlite = sqlite::open(&folder.path().join("perigee.db")).await;
            for op in ops {
                let (one, other) = (tell(&memory, op.clone()).await, tell(&sqlite, op.clone()).await);
                assert_eq!(one, other, "after {op:?}");
            }
            assert_eq!(picture(&memory).await, picture(&sqlite).await);
            sqlite.close().await;
        });
    }
}
