//! A file that changed is never wrong bytes.

use crate::world::*;
use perigee_backups::{RepositoryError, digest_of};

/// Every byte of a small file is changed, and of a large one some of each region.
#[tokio::test]
async fn a_changed_byte_anywhere_is_told() {
    for sealed in [false, true] {
        for plain in [noise(1, 300).to_vec(), b"text ".repeat(100), noise(2, 300_000).to_vec()] {
            let world = World::new();
            let digest = world.put(sealed, &plain).await;
            let file = world.file();
            let good = std::fs::read(&file).unwrap();
            let (mut told, mut tried) = (0, 0);
            let step = (good.len() / 400).max(1);
            let regions = (0..good.len()).filter(|at| *at < 64 || good.len() - at <= 64 || at % step == 0);
            for (at, bits) in regions.flat_map(|at| [(at, 0x01), (at, 0x80), (at, 0xff)]) {
                let mut bad = good.clone();
                bad[at] ^= bits;
                tried += 1;
                std::fs::write(&file, &bad).unwrap();
                match world.repository.get(sealed, &digest).await {
                    Err(RepositoryError::Damaged { digest: named, .. }) => {
                        assert_eq!(named, digest);
                        told += 1;
                    }
                    // A bit that zstd itself does not look at.
                    Ok(got) => assert!(!sealed && got == plain, "byte {at}"),
                    Err(other) => panic!("byte {at}: {other}"),
                }
            }
            assert!(tried > 60 && told * 10 > tried * 9, "{told} of {tried}");
        }
    }
}

#[tokio::test]
async fn a_shorter_a_longer_and_an_empty_file_are_told() {
    for sealed in [false, true] {
        let world = World::new();
        let plain = noise(1, 5_000);
        let digest = world.put(sealed, &plain).await;
        let good = std::fs::read(world.file()).unwrap();
        for length in [0, 1, 11, 12, 27, 28, 29, good.len() / 2, good.len() - 1] {
            std::fs::write(world.file(), &good[..length]).unwrap();
            let got = world.repository.get(sealed, &digest).await;
            assert!(matches!(got, Err(RepositoryError::Damaged { .. })), "{length} bytes: {got:?}");
        }
        for more in [&b"x"[..], &good] {
            std::fs::write(world.file(), [&good[..], more].concat()).unwrap();
            let got = world.repository.get(sealed, &digest).await;
            assert!(matches!(got, Err(RepositoryError::Damaged { .. })), "{got:?}");
        }
    }
}

/// A bomb: a small file that says it holds a lot, and one that holds a lot and does not say so.
#[tokio::test]
async fn what_would_unpack_to_too_much_is_not_unpacked() {
    let world = World::new();
    let digest = world.put(false, b"small").await;
    let lot = vec![0; (64 << 20) + 1];
    let bomb = zstd::bulk::compress(&lot, 1).unwrap();
    assert!(bomb.len() < 10_000);
    std::fs::write(world.file(), &bomb).unwrap();
    let got = world.repository.get(false, &digest).await;
    assert!(matches!(got, Err(RepositoryError::Damaged { why: "it cannot be unpacked", .. })), "{got:?}");
    let whole = zstd::bulk::compress(b"other", 1).unwrap();
    std::fs::write(world.file(), whole).unwrap();
    let got = world.repository.get(false, &digest).await;
    assert!(matches!(got, Err(RepositoryError::Damaged { why: "it holds other bytes", .. })), "{got:?}");
}

#[tokio::test]
async fn a_damaged_chunk_is_put_aside_and_stored_anew() {
    let world = World::new();
    let plain = noise(1, 500);
    let digest = world.put(true, &plain).await;
    world.repository.verify(true, &digest).await.unwrap();
    assert_eq!(world.files().len(), 1, "a good one stays");
    let mut bad = std::fs::read(world.file()).unwrap();
    bad[100] ^= 4;
    std::fs::write(world.file(), &bad).unwrap();
    assert!(world.repository.has(true, &digest).await.unwrap().is_some(), "nobody looked into it");
    let found = world.repository.verify(true, &digest).await;
    assert!(matches!(found, Err(RepositoryError::Damaged { .. })), "{found:?}");
    assert!(world.files().is_empty());
    let aside = entries(&world.repository.root().join("damaged"));
    assert_eq!(std::fs::read(&aside[0]).unwrap(), bad, "for whoever wants to know");
    assert_eq!(world.put(true, &plain).await, digest_of(&plain));
    world.repository.verify(true, &digest).await.unwrap();
    let missing = world.repository.verify(true, &digest_of(b"never stored")).await;
    assert!(matches!(missing, Err(RepositoryError::NotFound(_))));
}
