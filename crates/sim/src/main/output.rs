//! What `perigee-sim` prints.
#![allow(clippy::print_stdout, reason = "printing is this module's work")]

use perigee_sim::{Ending, Tally};
use std::collections::BTreeMap;
use std::time::Duration;

/// Stories of this many failed worlds are told; the others can be asked for by seed.
const STORIES_MAX: usize = 1;

pub fn help() {
    println!("perigee-sim: seeded worlds of agents and a control plane under faults");
    println!();
    println!("  --seed N [--story]      play one world; --story tells it line by line");
    println!("  --seeds COUNT [--from N]  play many; exit code 1 when an invariant was broken");
    println!("  fleet OPTIONS           played hosts for a real control plane; see fleet --help");
}

pub fn story(ending: &Ending) {
    print!("{}", ending.story);
}

/// Says which worlds broke an invariant, and how.
pub fn failures(endings: &[Ending]) {
    let failed: Vec<&Ending> = endings.iter().filter(|e| !e.tally.violations.is_empty()).collect();
    for ending in failed.iter().take(STORIES_MAX) {
        story(ending);
    }
    for ending in failed {
        for violation in &ending.tally.violations {
            println!("seed {}: {violation}", ending.seed);
        }
    }
}

/// One line.
pub fn summary(seeds: u64, tally: &Tally, took: Option<Duration>) {
    let list = |counts: &BTreeMap<&'static str, u64>| {
        let parts: Vec<String> = counts.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        parts.join(", ")
    };
    let speed = took.map_or_else(String::new, |t| {
        format!(" in {:.1} s ({:.1} seeds/s)", t.as_secs_f64(), seeds as f64 / t.as_secs_f64().max(0.001))
    });
    println!(
        "{seeds} seeds{speed}: {} violations, {} checks; faults: {}; deeds: {}",
        tally.violations.len(),
        tally.checks,
        list(&tally.faults),
        list(&tally.deeds)
    );
}
