//! A full disk, on a file system of 16 MiB in a mount namespace of its own; and a disk that fails.

use crate::contract::{Shared, holds};
use crate::durability::again;
use crate::samples::*;
use crate::sqlite;
use nix::unistd::geteuid;
use perigee_store::{Batch, Change, Noun, Record, StoreError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

const PLACE: &str = "PERIGEE_TEST_DISK";
const FAILING: &str = "PERIGEE_TEST_FAILING";

fn fat(n: u64) -> Record {
    let mut record = execution(n);
    record.stdout.head = vec![0xa5; 64 << 10];
    Record::Execution(record)
}

fn mount(folder: &Path) {
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "none"]).arg(folder).status().unwrap();
    assert!(mounted.success());
}

#[tokio::test]
async fn child() {
    let Some(folder) = std::env::var_os(PLACE).map(PathBuf::from) else { return };
    mount(&folder);
    let ballast = folder.join("ballast");
    std::fs::write(&ballast, vec![1; 1 << 20]).unwrap();
    let store = sqlite::open(&folder.join("perigee.db")).await;
    let mut written = fill(&store, 0).await;
    holds(&store, &written).await;

    // It can be opened on the full disk, too.
    store.close().await;
    std::fs::OpenOptions::new().append(true).open(&ballast).unwrap().write_all(&vec![1; 16 << 20]).unwrap_err();
    let store = sqlite::open(&folder.join("perigee.db")).await;
    holds(&store, &written).await;
    let mut refused = 0;
    // Deletes work for as long as there is something to delete, other writes say why they do not.
    let half = written.split_off(written.len() / 2);
    for (n, record) in half.iter().enumerate() {
        let mut batch = Batch::default();
        batch.changes.push(Change::Delete(record.noun(), record.id()));
        batch.events.push(event(u64::try_from(n).unwrap(), "deleted"));
        store.commit(batch).await.unwrap();
        // What was given back may do for a while; what is refused is told why.
        if n.is_multiple_of(3) {
            let id = 50_000 + u64::try_from(n).unwrap();
            match store.commit(batch_of(id)).await {
                Ok(()) => written.push(fat(id)),
                Err(StoreError::DiskFull) => refused += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
    }
    holds(&store, &written).await;
    assert_eq!(store.events(0, 1000).await.unwrap().len(), half.len());

    // Once there is room again everything works again.
    std::fs::remove_file(&ballast).unwrap();
    let more = fill(&store, 100_000).await;
    assert!(!more.is_empty());
    written.extend(more);
    store.close().await;
    let store = sqlite::open(&folder.join("perigee.db")).await;
    holds(&store, &written).await;
    println!("{} records, {refused} refused between deletes", written.len());
}

fn batch_of(n: u64) -> Batch {
    batch([fat(n)])
}

async fn fill(store: &Shared, first: u64) -> Vec<Record> {
    let mut written = Vec::new();
    for n in first..first + 10_000 {
        match store.commit(batch_of(n)).await {
            Ok(()) => written.push(fat(n)),
            Err(StoreError::DiskFull) => return written,
            Err(other) => panic!("{other:?}"),
        }
    }
    panic!("the disk is never full");
}

fn in_a_namespace(variable: &str, test: &str) {
    let folder = tempfile::tempdir().unwrap();
    let inner = again(test);
    let mut command = Command::new("unshare");
    command.arg("--mount").args((!geteuid().is_root()).then_some("--map-root-user"));
    command.arg("--").arg(inner.get_program()).args(inner.get_args());
    let done = command.env(variable, folder.path()).output().unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success() && told.contains("1 passed"), "{told}");
    println!("{told}");
}

#[test]
fn a_full_disk_is_told_and_deletes_work() {
    in_a_namespace(PLACE, "disk::child");
}

/// A write that fails for another reason than room (here: the limit of a file's size) ends all
/// acknowledgements.
#[tokio::test]
async fn failing_child() {
    let Some(folder) = std::env::var_os(FAILING).map(PathBuf::from) else { return };
    let store = sqlite::open(&folder.join("perigee.db")).await;
    let mut written = Vec::new();
    let broken = loop {
        let n = u64::try_from(written.len()).unwrap();
        match store.commit(batch_of(n)).await {
            Ok(()) => written.push(fat(n)),
            Err(error) => break error,
        }
    };
    assert!(matches!(broken, StoreError::Engine(_)), "{broken:?}");
    assert!(matches!(store.commit(batch([Record::Task(task(1))])).await, Err(StoreError::Engine(_))));
    assert!(matches!(store.prune(at(0), at(0)).await, Err(StoreError::Engine(_))));
    assert!(matches!(store.ping().await, Err(StoreError::Engine(_))));
    assert_eq!(store.all(Noun::Execution).await.unwrap().len(), written.len());
    println!("broke after {} records", written.len());
}

#[tokio::test]
async fn after_a_failed_write_nothing_is_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let inner = again("disk::failing_child");
    let mut command = Command::new("prlimit");
    // The shell lets its child ignore SIGXFSZ: a write beyond the limit fails instead of killing.
    command.arg("--fsize=6000000").args(["sh", "-c", "trap '' XFSZ; exec \"$0\" \"$@\""]);
    command.arg(inner.get_program()).args(inner.get_args());
    let done = command.env(FAILING, folder.path()).output().unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success() && told.contains("broke after"), "{told}");
    let store = sqlite::open(&folder.path().join("perigee.db")).await;
    store.commit(batch([Record::Task(task(1))])).await.unwrap();
    assert!(!store.all(Noun::Execution).await.unwrap().is_empty());
}
