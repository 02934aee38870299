//! What no index names goes, and nothing else.

use crate::world::*;
use perigee_backups::{Kept, RepositoryError, Swept, Usage, digest_of};
use std::fs::File;
use std::time::{Duration, SystemTime};

/// What does not wait is done by then.
const MOMENT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn what_is_old_and_not_kept_goes() {
    let world = World::new();
    let mut kept = Kept::default();
    for sealed in [false, true] {
        for number in 0..4 {
            let digest = world.put(sealed, &noise(number, 1000)).await;
            if number == 0 {
                if sealed {
                    kept.sealed.insert(digest)
                } else {
                    kept.plain.insert(digest)
                };
            }
        }
    }
    let before = world.repository.usage().await.unwrap();
    let nothing = world.repository.sweep(kept.clone(), hour_ago()).await.unwrap();
    assert_eq!(nothing, Swept::default(), "all of it is young");
    world.files().iter().for_each(|file| age(file));
    // Asked for, so somebody counts on it; and stored again.
    world.repository.has(false, &digest_of(&noise(1, 1000))).await.unwrap().unwrap();
    world.put(true, &noise(2, 1000)).await;
    // What is not ours is left alone.
    let stranger = world.repository.root().join("plain").join("00");
    std::fs::create_dir_all(&stranger).unwrap();
    std::fs::write(stranger.join("README"), "x").unwrap();
    age(&stranger.join("README"));
    let swept = world.repository.sweep(kept.clone(), hour_ago()).await.unwrap();
    assert_eq!(swept.files, 4);
    let after = world.repository.usage().await.unwrap();
    assert_eq!(after, Usage { files: 4, bytes: before.bytes - swept.bytes });
    for (sealed, number) in [(false, 0), (false, 1), (true, 0), (true, 2)] {
        world.repository.get(sealed, &digest_of(&noise(number, 1000))).await.unwrap();
    }
    assert!(stranger.join("README").exists());
    let all = world.repository.sweep(kept, SystemTime::now() + Duration::from_secs(9)).await.unwrap();
    let left = world.repository.usage().await.unwrap().files;
    assert_eq!((all.files, left), (2, 2), "what is kept stays, however old");
}

#[tokio::test]
async fn without_the_key_nothing_is_swept_that_might_be_kept() {
    let world = World::new();
    let digest = world.put(true, b"sealed").await;
    age(&world.file());
    std::fs::remove_file(world.folder.path().join("backups.key")).unwrap();
    let next = open(world.folder.path()).unwrap();
    let kept = Kept { sealed: [digest].into(), ..Kept::default() };
    let refused = next.sweep(kept, hour_ago()).await;
    assert!(matches!(refused, Err(RepositoryError::KeyMissing(_))), "{refused:?}");
    assert_eq!(world.files().len(), 1);
    assert_eq!(next.sweep(Kept::default(), hour_ago()).await.unwrap().files, 1, "unless none is");
}

/// Where the repository's lock is held as a sweep holds it, nobody is told that a chunk is there.
#[tokio::test]
async fn what_is_being_swept_is_not_told_to_be_there() {
    let world = World::new();
    let chunk = noise(1, 1000);
    let digest = world.put(false, &chunk).await;
    for put in [false, true] {
        let lock = File::open(world.repository.root().join("lock")).unwrap();
        lock.lock().unwrap();
        let (repository, of, bytes) = (world.repository.clone(), digest.clone(), chunk.clone());
        let mut asked = tokio::spawn(async move {
            if put {
                Some(repository.put(false, &of, bytes).await)
            } else {
                assert_none(repository.has(false, &of).await)
            }
        });
        assert!(tokio::time::timeout(MOMENT, &mut asked).await.is_err(), "it is told while a sweep goes on");
        std::fs::remove_file(world.file()).unwrap();
        lock.unlock().unwrap();
        let stored = asked.await.unwrap();
        assert!(stored.is_none_or(|stored| stored.unwrap().new));
        world.put(false, &chunk).await;
    }
}

fn assert_none<T>(found: Result<Option<u64>, RepositoryError>) -> Option<T> {
    assert_eq!(found.unwrap(), None);
    None
}

/// Where it is held as somebody holds it who was just told, nothing is swept, and then it is young.
#[tokio::test]
async fn what_somebody_is_being_told_of_is_not_swept() {
    let world = World::new();
    world.put(false, b"old").await;
    age(&world.file());
    let lock = File::open(world.repository.root().join("lock")).unwrap();
    lock.lock_shared().unwrap();
    let repository = world.repository.clone();
    let mut sweeping = tokio::spawn(async move { repository.sweep(Kept::default(), hour_ago()).await.unwrap() });
    assert!(tokio::time::timeout(MOMENT, &mut sweeping).await.is_err(), "it sweeps all the same");
    File::open(world.file()).unwrap().set_modified(SystemTime::now()).unwrap();
    lock.unlock().unwrap();
    assert_eq!(sweeping.await.unwrap(), Swept::default());
    assert_eq!(world.files().len(), 1);
}
