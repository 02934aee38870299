//! The contract on SQLite, and what only a file can suffer.

use crate::contract::{self, Shared, cases};
use crate::samples::*;
use perigee_store::{Noun, Record, SqlStore, Store, StoreError};
use sqlx::{Connection, SqliteConnection};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

pub async fn open(path: &Path) -> Shared {
    Arc::new(SqlStore::open_sqlite(path).await.unwrap())
}

macro_rules! run {
    ($($case:ident),* $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            let folder = tempfile::tempdir().unwrap();
            contract::$case(open(&folder.path().join("perigee.db")).await).await;
        }
    )*};
}
cases!(run);

#[tokio::test]
async fn reopening_keeps_everything() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("perigee.db");
    contract::reopening_keeps_everything(|| open(&path)).await;
}

/// Changes the file behind the store's back.
async fn meddle(path: &Path, text: &'static str) {
    let url = format!("sqlite://{}", path.display());
    let mut link = SqliteConnection::connect(&url).await.unwrap();
    sqlx::raw_sql(text).execute(&mut link).await.unwrap();
    link.close().await.unwrap();
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("perigee.db");
    open(&path).await.close().await;
    meddle(&path, "INSERT INTO schema_version VALUES (1000)").await;
    let Err(StoreError::Version(text)) = SqlStore::open_sqlite(&path).await else { panic!("accepted") };
    assert!(text.contains("newer Perigee"), "{text}");
    meddle(&path, "DELETE FROM schema_version WHERE version = 1000").await;
    open(&path).await.ping().await.unwrap();
}

#[tokio::test]
async fn files_are_for_their_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("perigee.db");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let store = open(&path).await;
    store.commit(batch(zoo())).await.unwrap();
    let mut files = 0;
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        files += 1;
    }
    assert!(files >= 4, "database, log, index of the log, reserve: {files}");
}

#[tokio::test]
async fn the_settings_are_what_the_promise_needs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("perigee.db");
    let store = open(&path).await;
    store.commit(batch(zoo())).await.unwrap();
    let mut link = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    let mode: (String,) = sqlx::query_as("PRAGMA journal_mode").fetch_one(&mut link).await.unwrap();
    assert_eq!(mode.0, "wal");
    let check: (String,) = sqlx::query_as("PRAGMA integrity_check").fetch_one(&mut link).await.unwrap();
    assert_eq!(check.0, "ok");
    let loose: (i64,) = sqlx::query_as("SELECT count(*) FROM pragma_table_list WHERE type = 'table' AND schema = 'main' AND NOT strict AND name NOT LIKE 'sqlite_%'")
        .fetch_one(&mut link)
        .await
        .unwrap();
    assert_eq!(loose.0, 0);
}

#[tokio::test]
async fn the_columns_say_what_the_record_says() {
    type Task = (String, String, i64, i64, Option<String>, i64, Option<i64>);
    type Execution = (String, i64, Vec<u8>, i64, i64);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("perigee.db");
    let store = open(&path).await;
    store
        .commit(batch([Record::Task(task(4)), Record::Execution(execution(5)), Record::Guest(guest(2, "a"))]))
        .await
        .unwrap();
    let later = perigee_model::Task { state: perigee_model::TaskState::Running, revision: 1, ..task(4) };
    store.commit(update(Record::Task(later))).await.unwrap();
    let mut link = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    let row: Task =
        sqlx::query_as("SELECT kind, state, attempts, attempts_max, worker, scheduled_at, completed_at FROM tasks")
            .fetch_one(&mut link)
            .await
            .unwrap();
    let expected = (
        "vm:execute".into(),
        "running".into(),
        3,
        i64::from(u32::MAX),
        Some("w-1".into()),
        at(2).micros(),
        Some(at(4).micros()),
    );
    assert_eq!(row, expected);
    let row: Execution = sqlx::query_as("SELECT command, exit_code, stdout, duration_ms, length(doc) FROM executions")
        .fetch_one(&mut link)
        .await
        .unwrap();
    assert_eq!((row.0.as_str(), row.1, row.2, row.3), ("sh", 127, (0..=255).collect(), 1));
    assert!(row.4 < 2000, "output lies in the doc: {} bytes", row.4);
    let row: (String, i64, i64, String) =
        sqlx::query_as("SELECT host_id, cpus, memory_bytes, phase FROM guests").fetch_one(&mut link).await.unwrap();
    assert_eq!(row, (uuid(8).to_string(), 4, 512 << 20, "failed".into()));
}

#[tokio::test]
async fn a_row_changed_by_something_else_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("perigee.db");
    for change in [
        "UPDATE tasks SET doc = '{'",
        "UPDATE tasks SET revision = 7",
        "UPDATE tasks SET doc = CAST(x'ff' AS TEXT)",
        "UPDATE tasks SET doc = replace(doc, 'dead', 'undead')",
    ] {
        let _ = std::fs::remove_file(&path);
        let store = open(&path).await;
        store.commit(batch([Record::Task(task(1)), Record::Image(image(2, "a"))])).await.unwrap();
        meddle(&path, change).await;
        let outcome = store.all(Noun::Task).await;
        assert!(matches!(outcome, Err(StoreError::Damaged { noun: Noun::Task, .. })), "{change}: {outcome:?}");
        assert_eq!(store.all(Noun::Image).await.unwrap().len(), 1);
        store.close().await;
    }
}

/// Flips bytes all over the file: whatever happens is an error of ours or the right answer.
#[tokio::test]
async fn a_damaged_file_gives_an_error_and_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("perigee.db");
    let store = open(&path).await;
    store.commit(batch(zoo())).await.unwrap();
    for n in 0..200_u64 {
        let mut batch = batch([Record::Guest(guest(1000 + n, &format!("g-{n}")))]);
        batch.events.push(event(n, "x"));
        store.commit(batch).await.unwrap();
    }
    store.close().await;
    let whole = std::fs::read(&path).unwrap();
    let mut spots: Vec<(usize, usize)> = vec![(0, 16), (16, 2), (18, 2), (24, 16), (40, 60), (100, 8), (0, 4096)];
    spots.extend((0..whole.len() / 4096).map(|page| (page * 4096 + page % 11, 64)));
    let (mut refused, mut survived) = (0, 0);
    for (start, length) in spots {
        let mut damaged = whole.clone();
        let end = (start + length).min(damaged.len());
        damaged[start..end].iter_mut().for_each(|byte| *byte ^= 0x5a);
        for left in ["perigee.db-wal", "perigee.db-shm"] {
            let _ = std::fs::remove_file(folder.path().join(left));
        }
        std::fs::write(&path, damaged).unwrap();
        match touch_all(&path).await {
            Ok(()) => survived += 1,
            Err(StoreError::Damaged { .. } | StoreError::Engine(_) | StoreError::Version(_)) => refused += 1,
            Err(StoreError::Stale { .. } | StoreError::NameTaken { .. }) => refused += 1,
            Err(other) => panic!("{start}+{length}: {other:?}"),
        }
    }
    assert!(refused > 10, "refused {refused}, survived {survived}");
    std::fs::write(&path, &whole[..whole.len() / 2 - 100]).unwrap();
    assert!(touch_all(&path).await.is_err());
    std::fs::write(&path, "this is not a database, it is a letter".repeat(300)).unwrap();
    assert!(matches!(SqlStore::open_sqlite(&path).await, Err(StoreError::Engine(_))));
}

async fn touch_all(path: &Path) -> Result<(), StoreError> {
    let store = SqlStore::open_sqlite(path).await?;
    let mut outcome = Ok(());
    for noun in Noun::ALL {
        outcome = outcome.and(store.all(noun).await.map(|_| ()));
    }
    outcome = outcome.and(store.events(0, 10_000).await.map(|_| ()));
    outcome = outcome.and(store.commit(batch([Record::Guest(guest(5000, "new"))])).await);
    store.close().await;
    outcome
}

/// A second process on the file is not meant to be, but it breaks nothing.
#[tokio::test]
async fn two_stores_on_one_file_keep_the_promise() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("perigee.db");
    let (one, two) = (open(&path).await, open(&path).await);
    one.commit(batch([Record::Guest(guest(1, "a"))])).await.unwrap();
    assert!(matches!(two.commit(batch([Record::Guest(guest(1, "a"))])).await, Err(StoreError::Stale { .. })));
    two.commit(update(Record::Guest(next(&guest(1, "a"))))).await.unwrap();
    contract::holds(&one, &[Record::Guest(next(&guest(1, "a")))]).await;
}
