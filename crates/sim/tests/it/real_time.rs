//! The same world on a real SQLite store, in real time: threads, disk and all.

use perigee_sim::{Ending, Sabotage, Settings, play};

fn on_sqlite(seed: u64) -> Ending {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let settings = Settings { seed, sabotage: Sabotage::None, real_time: true };
    runtime.block_on(play(settings, Some(folder.path().join("perigee.db"))))
}

#[test]
fn ten_seeds_break_nothing_on_sqlite_in_real_time() {
    let worlds: Vec<_> = (1..=10).map(|seed| std::thread::spawn(move || on_sqlite(seed))).collect();
    for world in worlds {
        let ending = world.join().unwrap();
        let violations = &ending.tally.violations;
        assert!(violations.is_empty(), "seed {}: {violations:#?}\n{}", ending.seed, ending.story);
        assert!(ending.tally.deeds.contains_key("creates"), "seed {} did nothing", ending.seed);
    }
}
