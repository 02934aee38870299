//! Two processes on one repository, killed at any moment.

use crate::world::*;
use perigee_backups::{Kept, digest_of};
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

const PLACE: &str = "PERIGEE_BACKUPS_CHILD";
/// Chunks that both children store again and again, beside their own.
const SHARED: u64 = 20;

/// The child of the next test; alone it does nothing.
#[tokio::test]
async fn child_that_is_killed() {
    let Some(folder) = std::env::var_os(PLACE).map(PathBuf::from) else { return };
    let repository = open(&folder).unwrap();
    println!("opened");
    for number in 0u64.. {
        let own = u64::from(std::process::id()) * 1_000_000 + number;
        let chunk = noise(if number % 2 == 0 { number / 2 % SHARED } else { own }, 40_000);
        repository.put(number % 3 == 0, &digest_of(&chunk), chunk.clone()).await.unwrap();
        println!("stored {} {}", number % 3 == 0, digest_of(&chunk));
        if number % 16 == 15 {
            repository.sweep(Kept::default(), hour_ago()).await.unwrap();
        }
    }
}

fn child(folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::child_that_is_killed", "--nocapture"])
        .env(PLACE, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What it says until it was killed after so many words.
fn until_killed(mut child: Child, words: usize) -> Vec<(bool, String)> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut stored = Vec::new();
    for line in lines.map_while(Result::ok) {
        if let Some((sealed, digest)) = line.strip_prefix("stored ").and_then(|said| said.split_once(' ')) {
            stored.push((sealed == "true", digest.to_owned()));
            if stored.len() == words {
                child.kill().unwrap();
            }
        }
    }
    child.wait().unwrap();
    stored
}

#[tokio::test]
async fn nothing_that_was_stored_is_lost_and_nothing_is_half_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut stored = BTreeSet::new();
    for round in 0..6 {
        let (one, other) = (child(folder.path()), child(folder.path()));
        let path = folder.path().to_owned();
        let other = std::thread::spawn(move || until_killed(other, 3 + round * 7));
        let first = until_killed(one, 5 + round * 5);
        assert!(path.exists() && !first.is_empty());
        stored.extend(first);
        stored.extend(other.join().unwrap());
    }
    let world = World { repository: open(folder.path()).unwrap(), folder };
    assert!(entries(&world.repository.root().join("temp")).is_empty(), "the next one to open it tidies up");
    for (sealed, digest) in &stored {
        world.repository.get(*sealed, &perigee_model::Digest::parse(digest).unwrap()).await.unwrap();
    }
    // Whatever has a name is whole, also what nobody was told of.
    let plain = world.files().into_iter().filter(|file| file.starts_with(world.repository.root().join("plain")));
    for file in plain {
        let name = perigee_model::Digest::parse(file.file_name().unwrap().to_str().unwrap()).unwrap();
        world.repository.get(false, &name).await.unwrap();
    }
    let sealed: Vec<_> = stored.iter().filter(|(sealed, _)| *sealed).collect();
    assert!(sealed.len() > SHARED as usize / 2, "{}", sealed.len());
    let all = world.repository.sweep(Kept::default(), SystemTime::now() + Duration::from_secs(9)).await.unwrap();
    assert!(all.files >= stored.len() as u64);
    assert_eq!(world.repository.usage().await.unwrap().files, 0);
}
