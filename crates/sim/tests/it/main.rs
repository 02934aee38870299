//! Seeded worlds: what must hold, and that the checkers would notice if it did not.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod determinism;
mod real_time;
mod sabotage;

use perigee_sim::{Ending, Settings, run};

fn play(seed: u64) -> Ending {
    run(Settings::of(seed)).unwrap()
}

#[test]
fn twenty_seeds_break_nothing() {
    for seed in 1..=20 {
        let ending = play(seed);
        let tally = &ending.tally;
        assert!(tally.violations.is_empty(), "seed {seed}: {:#?}\n{}", tally.violations, ending.story);
        assert!(tally.checks > 100 && tally.deeds["creates"] > 0, "seed {seed} checked next to nothing: {tally:?}");
    }
}
