//! What every store promises, as functions of a store.

use crate::samples::*;
use perigee_store::{Batch, Change, Expect, Noun, Record, Store, StoreError};
use std::sync::Arc;

pub type Shared = Arc<dyn Store>;

/// Runs `$run!` with each case: the one list, so that no store can leave one out.
macro_rules! cases {
    ($run:ident) => {
        $run!(
            every_field_survives,
            a_refused_batch_leaves_nothing,
            an_old_revision_is_stale,
            a_record_is_made_once,
            names_are_unique_among_the_living,
            changes_apply_in_their_order,
            of_two_writers_one_wins,
            many_writers_lose_nothing,
            a_key_is_used_once,
            events_keep_their_order,
            a_deleted_record_is_gone,
            old_rows_are_pruned,
            records_come_in_the_order_of_ids,
            reigns_only_grow,
            a_closed_store_refuses,
        );
    };
}
pub(crate) use cases;

/// Fails when what is stored differs from `records`.
pub async fn holds(store: &Shared, records: &[Record]) {
    for noun in Noun::ALL {
        assert_eq!(store.all(noun).await.unwrap(), of(noun, records), "{noun:?}");
    }
}

pub async fn every_field_survives(store: Shared) {
    holds(&store, &[]).await;
    store.ping().await.unwrap();
    store.commit(Batch::default()).await.unwrap();
    store.commit(batch(zoo())).await.unwrap();
    holds(&store, &zoo()).await;
    let mut later = zoo();
    for record in &mut later {
        match record {
            Record::Host(r) => (r.revision, r.revoked, r.inventory) = (1, true, None),
            Record::Guest(r) => (r.revision, r.gone_at) = (1, Some(at(99))),
            Record::Image(r) => (r.revision, r.state) = (1, perigee_model::ImageState::Ready),
            Record::Task(r) => (r.revision, r.note) = (1, None),
            Record::Execution(r) => (r.revision, r.stdout.head) = (1, vec![0x80]),
            Record::Key(r) => (r.revision, r.expires_at) = (1, Some(at(3))),
            Record::Backup(r) => (r.revision, r.verified) = (1, None),
            Record::Volume(r) => (r.revision, r.guest) = (1, None),
            Record::Network(r) => (r.revision, r.made) = (1, !r.made),
        }
    }
    let mut updates = Batch::default();
    later.iter().for_each(|r| updates.update(r.clone()));
    store.commit(updates).await.unwrap();
    holds(&store, &later).await;
}

pub async fn a_refused_batch_leaves_nothing(store: Shared) {
    let first = guest(1, "first");
    store.commit(batch([Record::Guest(first.clone())])).await.unwrap();
    let stale = Change::Put(Record::Guest(next(&first)), Expect::Revision(5));
    let refusals: [(Change, &str); 3] = [
        (stale, "moved on"),
        (Change::Put(Record::Guest(first.clone()), Expect::New), "moved on"),
        (Change::Put(Record::Guest(guest(3, "first")), Expect::New), "is taken"),
    ];
    for (change, text) in refusals {
        let mut torn = batch([Record::Guest(guest(2, "second")), Record::Host(host(1))]);
        torn.changes.push(change);
        torn.changes.push(Change::Delete(Noun::Guest, first.id.to_string()));
        torn.events.push(event(1, "never"));
        torn.idempotency = Some(idempotency("k"));
        let error = store.commit(torn).await.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
        holds(&store, &[Record::Guest(first.clone())]).await;
        assert_eq!(store.events(0, 10).await.unwrap(), []);
        assert_eq!(store.idempotency(&idempotency("k").scope, "k").await.unwrap(), None);
    }
}

pub async fn an_old_revision_is_stale(store: Shared) {
    let first = guest(1, "a");
    store.commit(batch([Record::Guest(first.clone())])).await.unwrap();
    store.commit(update(Record::Guest(next(&first)))).await.unwrap();
    let StoreError::Stale { noun, id } = store.commit(update(Record::Guest(next(&first)))).await.unwrap_err() else {
        panic!("not stale");
    };
    assert_eq!((noun, id), (Noun::Guest, first.id.to_string()));
    let absent = update(Record::Task(task(9)));
    assert!(matches!(store.commit(absent).await, Err(StoreError::Stale { noun: Noun::Task, .. })));
    let second = next(&next(&first));
    store.commit(update(Record::Guest(second.clone()))).await.unwrap();
    holds(&store, &[Record::Guest(second)]).await;
}

pub async fn a_record_is_made_once(store: Shared) {
    for record in zoo() {
        store.commit(batch([record.clone()])).await.unwrap();
        let (noun, id) = (record.noun(), record.id());
        let Err(StoreError::Stale { noun: stale, id: of }) = store.commit(batch([record])).await else {
            panic!("{noun:?} was made twice");
        };
        assert_eq!((stale, of), (noun, id));
    }
    holds(&store, &zoo()).await;
}

pub async fn names_are_unique_among_the_living(store: Shared) {
    let taken = |outcome: Result<(), StoreError>, is: &str| match outcome {
        Err(StoreError::NameTaken { name }) => assert_eq!(name, is),
        other => panic!("{other:?}"),
    };
    let first = guest(1, "web");
    store.commit(batch([Record::Guest(first.clone()), Record::Image(image(2, "web"))])).await.unwrap();
    taken(store.commit(batch([Record::Guest(guest(3, "web"))])).await, "web");
    taken(store.commit(batch([Record::Image(image(3, "web"))])).await, "web");
    let mut elsewhere = guest(4, "web");
    elsewhere.tenant = tenant("blue");
    store.commit(batch([Record::Guest(elsewhere.clone())])).await.unwrap();
    store.commit(batch([Record::Host(host(5))])).await.unwrap();
    let mut twin = host(6);
    twin.name = name("host-5");
    taken(store.commit(batch([Record::Host(twin.clone())])).await, "host-5");
    twin.name = name("host-6");
    store.commit(batch([Record::Host(twin.clone())])).await.unwrap();
    twin = perigee_model::Host { name: name("host-5"), revision: 1, ..twin };
    taken(store.commit(update(Record::Host(twin))).await, "host-5");

    let mut gone = next(&first);
    gone.gone_at = Some(at(3));
    store.commit(update(Record::Guest(gone.clone()))).await.unwrap();
    store.commit(batch([Record::Guest(guest(7, "web"))])).await.unwrap();
    gone = next(&gone);
    gone.gone_at = None;
    taken(store.commit(update(Record::Guest(gone))).await, "web");
}

pub async fn changes_apply_in_their_order(store: Shared) {
    let first = guest(1, "web");
    store.commit(batch([Record::Guest(first.clone())])).await.unwrap();
    let mut gone = next(&first);
    gone.gone_at = Some(at(3));
    let mut wrong = batch([Record::Guest(guest(2, "web"))]);
    wrong.update(Record::Guest(gone.clone()));
    assert!(matches!(store.commit(wrong).await, Err(StoreError::NameTaken { .. })));
    let mut right = update(Record::Guest(gone.clone()));
    right.insert(Record::Guest(guest(2, "web")));
    right.update(Record::Guest(next(&guest(2, "web"))));
    right.changes.push(Change::Delete(Noun::Guest, gone.id.to_string()));
    right.insert(Record::Guest(guest(1, "other")));
    store.commit(right).await.unwrap();
    holds(&store, &[Record::Guest(guest(1, "other")), Record::Guest(next(&guest(2, "web")))]).await;
}

pub async fn of_two_writers_one_wins(store: Shared) {
    let mut now = guest(1, "a");
    store.commit(batch([Record::Guest(now.clone())])).await.unwrap();
    for round in 0..100 {
        let with = |owner: &str| {
            let mut batch = update(Record::Guest(perigee_model::Guest { owner: owner.into(), ..next(&now) }));
            batch.events.push(event(round, owner));
            batch
        };
        let (one, two) = (Arc::clone(&store), Arc::clone(&store));
        let (one, two) = (tokio::spawn(with_commit(one, with("one"))), tokio::spawn(with_commit(two, with("two"))));
        let (one, two) = (one.await.unwrap(), two.await.unwrap());
        let winner = match (&one, &two) {
            (Ok(()), Err(StoreError::Stale { .. })) => "one",
            (Err(StoreError::Stale { .. }), Ok(())) => "two",
            other => panic!("round {round}: {other:?}"),
        };
        now = perigee_model::Guest { owner: winner.into(), ..next(&now) };
        holds(&store, &[Record::Guest(now.clone())]).await;
        let events = store.events(0, 1000).await.unwrap();
        assert_eq!(events.len(), usize::try_from(round).unwrap() + 1);
        assert_eq!(events.last().unwrap().1.detail, winner);
    }
}

async fn with_commit(store: Shared, batch: Batch) -> Result<(), StoreError> {
    store.commit(batch).await
}

/// Many at once, half of them refused: those that were told yes are there, the others are not.
pub async fn many_writers_lose_nothing(store: Shared) {
    let writers: Vec<_> = (0..200_u64)
        .map(|n| {
            let called = format!("g-{}", n / 2);
            let mut batch = batch([Record::Guest(guest(n, &called))]);
            batch.events.push(event(n, &n.to_string()));
            batch.idempotency = Some(idempotency(&n.to_string()));
            (n, tokio::spawn(with_commit(Arc::clone(&store), batch)))
        })
        .collect();
    let mut written = Vec::new();
    for (n, writer) in writers {
        match writer.await.unwrap() {
            Ok(()) => written.push(n),
            Err(StoreError::NameTaken { name }) => assert_eq!(name, format!("g-{}", n / 2)),
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(written.len(), 100);
    let records: Vec<Record> = written.iter().map(|n| Record::Guest(guest(*n, &format!("g-{}", n / 2)))).collect();
    holds(&store, &records).await;
    let mut told: Vec<u64> =
        store.events(0, 1000).await.unwrap().iter().map(|(_, e)| e.detail.parse().unwrap()).collect();
    told.sort_unstable();
    assert_eq!(told, written);
    for n in 0..200 {
        let row = store.idempotency(&idempotency("").scope, &n.to_string()).await.unwrap();
        assert_eq!(row.is_some(), written.contains(&n), "{n}");
    }
}

pub async fn a_key_is_used_once(store: Shared) {
    let row = idempotency("käse");
    let mut first = batch([Record::Task(task(1))]);
    first.idempotency = Some(row.clone());
    store.commit(first.clone()).await.unwrap();
    assert_eq!(store.idempotency(&row.scope, &row.key).await.unwrap(), Some(row.clone()));
    assert_eq!(store.idempotency("else", &row.key).await.unwrap(), None);
    // The key is told before anything else that is wrong with the batch.
    assert!(matches!(store.commit(first).await, Err(StoreError::KeyUsed)));
    let mut second = batch([Record::Task(task(2))]);
    second.events.push(event(1, ""));
    second.idempotency = Some(row.clone());
    assert!(matches!(store.commit(second.clone()).await, Err(StoreError::KeyUsed)));
    holds(&store, &[Record::Task(task(1))]).await;
    assert_eq!(store.events(0, 9).await.unwrap(), []);

    store.answer_idempotency(&row.scope, &row.key, 202, "{\"ü\":1}").await.unwrap();
    store.answer_idempotency("else", &row.key, 500, "never").await.unwrap();
    let answered = store.idempotency(&row.scope, &row.key).await.unwrap().unwrap();
    assert_eq!(answered.answer, Some((202, "{\"ü\":1}".to_owned())));
    assert_eq!(perigee_store::IdempotencyRow { answer: None, ..answered }, row);

    let elsewhere = perigee_store::IdempotencyRow { scope: "else".into(), answer: Some((200, String::new())), ..row };
    second.idempotency = Some(elsewhere.clone());
    store.commit(second).await.unwrap();
    assert_eq!(store.idempotency("else", &elsewhere.key).await.unwrap(), Some(elsewhere));
}

pub async fn events_keep_their_order(store: Shared) {
    let mut expected = Vec::new();
    for n in 0..30_u64 {
        let mut batch = Batch::default();
        for part in 0..3 {
            let event = event(n, &format!("{n}.{part} ü\0"));
            expected.push(event.clone());
            batch.events.push(event);
        }
        if n == 15 {
            let mut refused = update(Record::Task(task(1)));
            refused.events.push(event(99, "never"));
            store.commit(refused).await.unwrap_err();
        }
        store.commit(batch).await.unwrap();
    }
    let all = store.events(0, 1000).await.unwrap();
    assert!(all.windows(2).all(|w| w[0].0 < w[1].0) && all[0].0 > 0);
    assert_eq!(all.iter().map(|(_, e)| e.clone()).collect::<Vec<_>>(), expected);
    let (mut paged, mut after) = (Vec::new(), 0);
    loop {
        let page = store.events(after, 7).await.unwrap();
        assert!(page.len() <= 7);
        let Some(last) = page.last() else { break };
        after = last.0;
        paged.extend(page);
    }
    assert_eq!(paged, all);
    assert_eq!(store.events(0, 0).await.unwrap(), []);
    assert_eq!(store.events(i64::MAX, 5).await.unwrap(), []);
    assert_eq!(store.events(-5, 1).await.unwrap(), all[..1]);
}

pub async fn a_deleted_record_is_gone(store: Shared) {
    store.commit(batch(zoo())).await.unwrap();
    let mut left = zoo();
    while let Some(record) = left.pop() {
        let mut batch = Batch::default();
        batch.changes.push(Change::Delete(record.noun(), record.id()));
        batch.changes.push(Change::Delete(record.noun(), "no-such-id".into()));
        store.commit(batch).await.unwrap();
        holds(&store, &left).await;
    }
    store.commit(batch(zoo())).await.unwrap();
    holds(&store, &zoo()).await;
}

pub async fn old_rows_are_pruned(store: Shared) {
    for n in 0..10_u64 {
        let mut batch = Batch::default();
        batch.events.push(event(n, "x"));
        let row = idempotency(&n.to_string());
        batch.idempotency = Some(perigee_store::IdempotencyRow { at: at(i64::try_from(n).unwrap()), ..row });
        store.commit(batch).await.unwrap();
    }
    assert_eq!(store.prune(at(0), at(0)).await.unwrap(), 0);
    assert_eq!(store.prune(at(4), at(7)).await.unwrap(), 11);
    let left = store.events(0, 100).await.unwrap();
    assert_eq!(left.iter().map(|(_, e)| e.at).collect::<Vec<_>>(), [at(7), at(8), at(9)]);
    let scope = idempotency("").scope;
    assert!(store.idempotency(&scope, "3").await.unwrap().is_none());
    assert!(store.idempotency(&scope, "4").await.unwrap().is_some());
    assert_eq!(store.prune(at(100), at(100)).await.unwrap(), 9);
    let mut batch = Batch::default();
    batch.events.push(event(1, "after"));
    store.commit(batch).await.unwrap();
    // A number is never given twice.
    assert!(store.events(left[2].0, 5).await.unwrap().len() == 1);
}

pub async fn records_come_in_the_order_of_ids(store: Shared) {
    let ids = ["a", "B", "aa", "Z", "-", "0f", "0F", "ab"];
    let keys = ids.map(|id| Record::Key(perigee_store::Key { digest: id.into(), ..key(0) }));
    store.commit(batch(keys)).await.unwrap();
    for n in [5, 3, 9, 1, 7] {
        store.commit(batch([Record::Task(task(n))])).await.unwrap();
    }
    let listed = |records: Vec<Record>| records.iter().map(Record::id).collect::<Vec<_>>();
    assert_eq!(listed(store.all(Noun::Key).await.unwrap()), ["-", "0F", "0f", "B", "Z", "a", "aa", "ab"]);
    let tasks = [1, 3, 5, 7, 9].map(|n| uuid(n).to_string());
    assert_eq!(listed(store.all(Noun::Task).await.unwrap()), tasks);
}

pub async fn a_closed_store_refuses(store: Shared) {
    store.commit(batch(zoo())).await.unwrap();
    store.close().await;
    store.close().await;
    assert!(matches!(store.commit(batch([Record::Task(task(50))])).await, Err(StoreError::Engine(_))));
    assert!(matches!(store.all(Noun::Guest).await, Err(StoreError::Engine(_))));
    assert!(matches!(store.events(0, 1).await, Err(StoreError::Engine(_))));
    assert!(matches!(store.ping().await, Err(StoreError::Engine(_))));
}

/// What was acknowledged is there when the store is opened again, and numbers go on.
pub async fn reopening_keeps_everything<F: Future<Output = Shared>>(open: impl Fn() -> F) {
    let store = open().await;
    let mut first = batch(zoo());
    first.events.push(event(1, "one"));
    first.idempotency = Some(idempotency("k"));
    store.commit(first).await.unwrap();
    store.answer_idempotency(&idempotency("k").scope, "k", 200, "ok").await.unwrap();
    let before = store.events(0, 10).await.unwrap();
    store.close().await;
    let store = open().await;
    holds(&store, &zoo()).await;
    assert_eq!(store.events(0, 10).await.unwrap(), before);
    let row = store.idempotency(&idempotency("k").scope, "k").await.unwrap().unwrap();
    assert_eq!(row.answer, Some((200, "ok".to_owned())));
    let mut second = Batch::default();
    second.events.push(event(2, "two"));
    store.commit(second).await.unwrap();
    let after = store.events(before[0].0, 10).await.unwrap();
    assert_eq!(after.len(), 1);
    assert_eq!(after[0].1.detail, "two");
    store.close().await;
}

pub async fn reigns_only_grow(store: Shared) {
    let at = perigee_model::Timestamp::from_micros(1);
    let mut last = 0;
    for holder in ["a", "b", "c"] {
        let epoch = store.begin_reign(holder, at).await.unwrap();
        assert!(epoch > last, "{epoch} after {last}");
        last = epoch;
    }
}
