//! The same seed tells the same story.

use crate::play;

// tokio's own dice can be seeded with this flag only.
#[cfg(tokio_unstable)]
#[test]
fn the_same_seed_tells_the_same_story_byte_for_byte() {
    for seed in [7, 8, 9] {
        let (first, second) = (play(seed), play(seed));
        assert_eq!(first.story, second.story, "seed {seed}");
        assert_eq!(first.tally, second.tally, "seed {seed}");
        // Another thread has other hash keys.
        let third = std::thread::spawn(move || play(seed)).join().unwrap();
        assert_eq!(first.story, third.story, "seed {seed} on another thread");
    }
}

#[test]
fn another_seed_tells_another_story() {
    assert_ne!(play(7).story, play(8).story);
}

#[test]
fn a_story_can_be_read_by_a_newcomer() {
    let story = play(7).story;
    let lines: Vec<&str> = story.lines().collect();
    let timed = |line: &&str| line.split_once(' ').is_some_and(|(time, _)| time.contains(':') && time.contains('.'));
    assert_eq!(lines.iter().find(|line| !timed(line)), None);
    for said in ["the control plane reigns", "host a joins", " runs on ", "all faults have ended", "the end"] {
        assert!(lines.iter().any(|line| line.contains(said)), "nobody says {said:?}");
    }
}
