//! The key: made once, private, the right one or none.

use crate::world::*;
use bytes::Bytes;
use perigee_backups::{RepositoryError, digest_of};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn it_is_made_by_the_first_sealed_chunk_and_used_from_then_on() {
    let world = World::new();
    let key = world.folder.path().join("backups.key");
    world.put(false, b"as it is").await;
    assert!(!key.exists());
    let digest = world.put(true, b"sealed").await;
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_to_string(&key).unwrap(), format!("{}\n", "07".repeat(32)));
    // Another life, which would make another key.
    let next = open_with(world.folder.path(), 9).unwrap();
    assert_eq!(next.get(true, &digest).await.unwrap(), &b"sealed"[..]);
    assert!(!next.put(true, &digest, Bytes::from_static(b"sealed")).await.unwrap().new);
    let left: Vec<_> = entries(world.folder.path());
    assert_eq!(left.len(), 2, "nothing but the repository and the key: {left:?}");
}

#[tokio::test]
async fn one_that_was_there_before_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("backups.key");
    std::fs::write(&key, format!("  {}\n\n", "aB".repeat(32))).unwrap();
    mode(&key, 0o400);
    let repository = open(folder.path()).unwrap();
    let digest = digest_of(b"sealed");
    repository.put(true, &digest, Bytes::from_static(b"sealed")).await.unwrap();
    assert_eq!(std::fs::read_to_string(&key).unwrap().trim(), "aB".repeat(32));
    assert_eq!(open(folder.path()).unwrap().get(true, &digest).await.unwrap(), &b"sealed"[..]);
}

#[tokio::test]
async fn an_open_a_strange_a_wrong_and_a_missing_one_are_refused_with_what_to_do() {
    let world = World::new();
    let digest = world.put(true, b"sealed").await;
    let key = world.folder.path().join("backups.key");
    let good = std::fs::read(&key).unwrap();
    let told = async || {
        let next = open_with(world.folder.path(), 9).unwrap();
        assert!(next.put(false, &digest, Bytes::from_static(b"sealed")).await.is_ok(), "that needs no key");
        let asked = next.get(true, &digest).await.unwrap_err();
        let put = next.put(true, &digest, Bytes::from_static(b"sealed")).await.unwrap_err();
        let has = next.has(true, &digest).await.unwrap_err();
        assert!(asked.to_string() == put.to_string() && put.to_string() == has.to_string());
        asked
    };
    mode(&key, 0o640);
    let readable = told().await;
    assert!(matches!(&readable, RepositoryError::KeyOpen { mode: 0o640, .. }), "{readable}");
    assert!(readable.to_string().ends_with(&format!("chmod 600 {}", key.display())), "{readable}");
    mode(&key, 0o600);
    for strange in ["", "07", &"07".repeat(33), &"zz".repeat(32), &"0".repeat(4096)] {
        std::fs::write(&key, strange).unwrap();
        assert!(matches!(told().await, RepositoryError::KeyMalformed(_)), "{strange}");
    }
    std::fs::write(&key, "08".repeat(32)).unwrap();
    let wrong = told().await.to_string();
    assert!(wrong.ends_with("is not the key that this repository was sealed with"), "{wrong}");
    std::fs::remove_file(&key).unwrap();
    assert!(matches!(told().await, RepositoryError::KeyMissing(_)));
    assert!(!key.exists(), "no other one is made");
    std::fs::write(&key, good).unwrap();
    mode(&key, 0o600);
    let next = open(world.folder.path()).unwrap();
    assert_eq!(next.get(true, &digest).await.unwrap(), &b"sealed"[..]);
}
