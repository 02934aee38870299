//! A full disk, on a file system of 4 MiB in a mount namespace of its own.

use crate::world::*;
use bytes::Bytes;
use perigee_backups::{Kept, RepositoryError, digest_of};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

const PLACE: &str = "PERIGEE_BACKUPS_FULL";

/// The child of the next test; alone it does nothing.
#[tokio::test]
async fn child_on_a_full_disk() {
    let Some(folder) = std::env::var_os(PLACE).map(PathBuf::from) else { return };
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "none"]).arg(&folder).status().unwrap();
    assert!(mounted.success());
    let repository = open(&folder).unwrap();
    let mut stored = Vec::new();
    let refused = loop {
        let chunk = noise(stored.len() as u64, 300_000);
        match repository.put(true, &digest_of(&chunk), chunk.clone()).await {
            Ok(_) => stored.push(chunk),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, RepositoryError::NoSpace(_)), "{refused}");
    assert!(stored.len() > 8);
    assert!(entries(&repository.root().join("temp")).is_empty(), "nothing half there");
    for chunk in &stored {
        let digest = digest_of(chunk);
        assert_eq!(repository.get(true, &digest).await.unwrap(), chunk, "what is there is read");
        assert!(!repository.put(true, &digest, chunk.clone()).await.unwrap().new, "and touched");
    }
    // Removing makes room again.
    let kept = Kept { sealed: stored[1..].iter().map(|chunk| digest_of(chunk)).collect(), ..Kept::default() };
    let swept = repository.sweep(kept, SystemTime::now() + Duration::from_secs(9)).await.unwrap();
    assert_eq!(swept.files, 1);
    repository.put(true, &digest_of(b"small"), Bytes::from_static(b"small")).await.unwrap();
    println!("all of it held");
}

#[test]
fn a_full_disk_is_told_and_what_is_there_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let child = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "full::child_on_a_full_disk", "--nocapture"])
        .env(PLACE, folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && said.contains("all of it held"),
        "{said}{}",
        String::from_utf8_lossy(&child.stderr)
    );
}
