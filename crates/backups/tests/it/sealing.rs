//! What is sealed tells nothing.

use crate::world::*;
use perigee_backups::digest_of;

#[tokio::test]
async fn neither_bytes_nor_digest_are_to_be_seen() {
    let world = World::new();
    let plain = b"the password is swordfish ".repeat(50);
    let digest = world.put(true, &plain).await;
    let file = world.file();
    assert!(file.starts_with(world.repository.root().join("sealed")));
    assert_ne!(file.file_name().unwrap().to_str().unwrap(), digest.as_str());
    let sealed = std::fs::read(&file).unwrap();
    assert!(!sealed.windows(9).any(|seen| seen == b"swordfish"));
    assert_eq!(zstd::zstd_safe::find_frame_compressed_size(&sealed[12..]).ok(), None, "no frame lies open");
    // The negative: as it is, the frame is one.
    world.put(false, &plain).await;
    let open = std::fs::read(&world.files()[0]).unwrap();
    assert_eq!(zstd::zstd_safe::find_frame_compressed_size(&open).ok(), Some(open.len()));
}

#[tokio::test]
async fn a_file_under_another_chunks_name_is_damage() {
    let world = World::new();
    let (one, other) = (noise(1, 500), noise(2, 500));
    world.put(true, &one).await;
    let first = world.file();
    world.put(true, &other).await;
    let second = world.files().into_iter().find(|file| *file != first).unwrap();
    std::fs::copy(&first, &second).unwrap();
    let got = world.repository.get(true, &digest_of(&other)).await.unwrap_err().to_string();
    assert!(got.contains("is damaged: its seal is broken"), "{got}");
    assert_eq!(world.repository.get(true, &digest_of(&one)).await.unwrap(), one);
}
