//! Negative controls: a broken guard is noticed.

use perigee_sim::{Sabotage, Settings, run};

/// Some guards are leant on in one world of ten only.
const WORLDS: u64 = 100;

/// Plays worlds with a broken guard until the law is seen broken.
fn is_noticed(sabotage: Sabotage, law: &str) {
    let mut seen = Vec::new();
    for seed in 1..=WORLDS {
        let ending = run(Settings { sabotage, ..Settings::of(seed) }).unwrap();
        if ending.tally.violations.iter().any(|v| v.starts_with(law)) {
            return;
        }
        seen.extend(ending.tally.violations);
    }
    panic!("{sabotage:?} was not noticed as {law:?}, only {seen:#?}");
}

#[test]
fn a_forged_copy_on_another_host_is_noticed() {
    is_noticed(Sabotage::CopyElsewhere, "a guest lives once");
}

#[test]
fn a_forged_generation_that_brings_a_gone_guest_back_is_noticed() {
    is_noticed(Sabotage::ReplayForged, "only what is desired here is started");
}

#[test]
fn a_lost_journal_is_noticed_as_a_command_that_runs_twice() {
    is_noticed(Sabotage::Amnesia, "a command runs once");
}

#[test]
fn without_admission_more_boots_are_in_flight() {
    is_noticed(Sabotage::NoAdmission, "no more guests boot at once than the host bears");
}

#[test]
fn an_agent_that_starts_what_is_never_to_start_again_is_noticed() {
    is_noticed(Sabotage::Restless, "nobody starts what is never to start again");
}

#[test]
fn a_host_that_hides_its_pauses_is_noticed() {
    is_noticed(Sabotage::HidesPauses, "a paused guest is told as paused");
}
