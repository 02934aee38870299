//! What is stored comes back, once, under its name.

use crate::world::*;
use bytes::Bytes;
use perigee_backups::{RepositoryError, Stored, Usage, digest_of};
use perigee_model::limits::BACKUP_INDEX_BYTES_MAX;
use proptest::prelude::*;
use std::os::unix::fs::{PermissionsExt, symlink};

#[tokio::test]
async fn a_chunk_is_a_frame_that_zstd_reads_under_the_name_that_sha256sum_gives() {
    let world = World::new();
    let plain = b"hello from a disk ".repeat(1000);
    let digest = world.put(false, &plain).await;
    let file = world.file();
    let shard = world.repository.root().join("plain").join(&digest.as_str()[..2]);
    assert_eq!(file, shard.join(digest.as_str()));
    assert!(std::fs::metadata(&file).unwrap().len() < 1000, "it is packed");
    assert_eq!(zstd::decode_all(std::fs::File::open(&file).unwrap()).unwrap(), plain);
    std::fs::write(world.folder.path().join("plain"), &plain).unwrap();
    let sum = std::process::Command::new("sha256sum").arg(world.folder.path().join("plain")).output().unwrap();
    assert_eq!(digest.as_str(), &String::from_utf8(sum.stdout).unwrap()[..64]);
    for path in [world.repository.root(), &shard, &file] {
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} is open to others", path.display());
    }
}

#[tokio::test]
async fn a_chunk_that_is_there_is_not_written_again() {
    for sealed in [false, true] {
        let world = World::new();
        let plain = noise(1, 10_000);
        let digest = digest_of(&plain);
        assert_eq!(world.repository.has(sealed, &digest).await.unwrap(), None);
        let first = world.repository.put(sealed, &digest, plain.clone()).await.unwrap();
        let bytes = std::fs::metadata(world.file()).unwrap().len();
        assert_eq!(first, Stored { new: true, stored_bytes: bytes });
        let written = std::fs::read(world.file()).unwrap();
        // Would it be written, this would go.
        std::fs::write(world.file(), b"mark").unwrap();
        let again = world.repository.put(sealed, &digest, plain.clone()).await.unwrap();
        assert_eq!(again, Stored { new: false, stored_bytes: 4 });
        assert_eq!(world.repository.has(sealed, &digest).await.unwrap(), Some(4));
        assert_eq!(std::fs::read(world.file()).unwrap(), b"mark");
        std::fs::write(world.file(), written).unwrap();
        assert_eq!(world.repository.get(sealed, &digest).await.unwrap(), plain);
        assert_eq!(world.repository.usage().await.unwrap(), Usage { files: 1, bytes });
        assert!(entries(&world.repository.root().join("temp")).is_empty());
        // As it is and sealed are two.
        assert_eq!(world.repository.has(!sealed, &digest).await.unwrap(), None);
        assert!(world.repository.put(!sealed, &digest, plain).await.unwrap().new);
        assert_eq!(world.repository.usage().await.unwrap().files, 2);
    }
}

#[tokio::test]
async fn what_is_no_file_with_bytes_counts_for_nothing() {
    let plain = noise(2, 100);
    let digest = digest_of(&plain);
    let elsewhere = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(elsewhere.path(), "not ours").unwrap();
    for what in ["empty", "link"] {
        let world = World::new();
        let shard = world.repository.root().join("plain").join(&digest.as_str()[..2]);
        std::fs::create_dir(&shard).unwrap();
        let place = shard.join(digest.as_str());
        match what {
            "empty" => drop(std::fs::File::create(&place).unwrap()),
            _ => symlink(elsewhere.path(), &place).unwrap(),
        }
        assert_eq!(world.repository.has(false, &digest).await.unwrap(), None, "{what}");
        assert!(world.repository.get(false, &digest).await.is_err(), "{what}");
        assert!(world.repository.put(false, &digest, plain.clone()).await.unwrap().new, "{what}");
        assert_eq!(world.repository.get(false, &digest).await.unwrap(), plain);
        assert_eq!(std::fs::read(elsewhere.path()).unwrap(), b"not ours");
    }
}

#[tokio::test]
async fn other_bytes_and_too_many_are_refused() {
    let world = World::new();
    let named = digest_of(b"something else");
    let refused = world.repository.put(false, &named, Bytes::from_static(b"this")).await;
    assert!(matches!(refused, Err(RepositoryError::WrongDigest { expected, .. }) if expected == named));
    let large = Bytes::from(vec![0; BACKUP_INDEX_BYTES_MAX + 1]);
    let refused = world.repository.put(false, &digest_of(&large), large).await;
    assert!(matches!(refused, Err(RepositoryError::TooLarge(_))));
    let missing = world.repository.get(false, &named).await;
    assert!(matches!(missing, Err(RepositoryError::NotFound(digest)) if digest == named));
    assert!(matches!(world.repository.get(true, &named).await, Err(RepositoryError::NotFound(_))));
    assert!(world.files().is_empty() && entries(&world.repository.root().join("temp")).is_empty());
    assert!(!world.folder.path().join("backups.key").exists(), "nothing was sealed");
}

#[tokio::test]
async fn the_largest_index_comes_back() {
    let world = World::new();
    let mut large = vec![0; BACKUP_INDEX_BYTES_MAX];
    large[..1 << 20].copy_from_slice(&noise(3, 1 << 20));
    let digest = world.put(true, &large).await;
    assert_eq!(world.repository.get(true, &digest).await.unwrap(), large);
}

#[tokio::test]
async fn it_is_opened_again_as_it_was_and_another_format_is_refused_by_name() {
    let world = World::new();
    let digest = world.put(true, b"a chunk").await;
    let again = open(world.folder.path()).unwrap();
    assert_eq!(again.id(), world.repository.id());
    assert_eq!(again.get(true, &digest).await.unwrap(), &b"a chunk"[..]);
    let description = world.repository.root().join("repository.json");
    let told = |text: &str| {
        std::fs::write(&description, text).unwrap();
        open(world.folder.path()).unwrap_err().to_string()
    };
    let other = told(r#"{"format":2,"chunks":"elsewhere"}"#);
    assert!(other.ends_with("is a repository of format 2, and this release knows format 1"), "{other}");
    for (text, why) in
        [("{}", "names no format"), ("what", "repository.json"), (r#"{"format":1}"#, "missing field `id`")]
    {
        let said = told(text);
        assert!(said.contains("is no repository of backups") && said.contains(why), "{said}");
    }
    std::fs::remove_file(&description).unwrap();
    let gone = open(world.folder.path()).unwrap_err().to_string();
    assert!(gone.contains("repository.json is missing"), "{gone}");
}

fn chunks() -> impl Strategy<Value = Vec<u8>> {
    let noisy = (any::<u64>(), 0..20_000usize).prop_map(|(number, length)| noise(number, length).to_vec());
    let even = (any::<u8>(), 0..200_000usize).prop_map(|(byte, length)| vec![byte; length]);
    prop_oneof![noisy, even, prop::collection::vec(any::<u8>(), 0..300)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn whatever_is_put_is_got(plain in prop::collection::vec((any::<bool>(), chunks()), 1..5)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (world, twin) = (World::new(), World::new());
            for (sealed, plain) in &plain {
                let digest = world.put(*sealed, plain).await;
                assert!(world.repository.has(*sealed, &digest).await.unwrap().is_some());
                twin.put(*sealed, plain).await;
            }
            for (sealed, plain) in &plain {
                let got = world.repository.get(*sealed, &digest_of(plain)).await.unwrap();
                assert!(got == plain[..]);
            }
            // With one key the same chunks are the same files.
            let contents = |world: &World| -> Vec<_> {
                let files = world.files();
                files.iter().map(|f| (f.file_name().unwrap().to_owned(), std::fs::read(f).unwrap())).collect()
            };
            assert!(contents(&world) == contents(&twin));
        });
    }
}
