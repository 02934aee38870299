//! What `make test` plays on real guests: of the drivers' contract a third, and a third of the long tests and of those
//! that kill, fill and cut off, drawn from the commit. The contract is played whole on the simulated driver each time,
//! and what faults do to the agent by the simulation; on real guests all of it is in `make soak`.

use crate::shell::root;
use anyhow::{Context, Result};

/// Where the cases are listed.
const CONTRACT: &str = "crates/hypervisor/tests/it/contract.rs";
/// One of so many is played.
const OF: u32 = 3;

/// Tests on real guests of some ten seconds to four minutes of emulated machines: file, and names that end their
/// paths. A commit plays every third one. Neighbours take about as long, but for the first, in whose third the others
/// are short.
const DRAWN: &[(&str, &[&str])] = &[
    ("crates/cli/tests/it/real/debian.rs", &["real_debian_is_built_booted_and_logged_in_to"]),
    ("crates/cli/tests/it/real/matrix/mod.rs", &["real_vms_survive_a_kill_in_each_verb"]),
    ("crates/cli/tests/it/real/vm_cards.rs", &["real_a_vm_reaches_what_its_owner_opens"]),
    ("crates/cli/tests/it/real/networks.rs", &["real_a_vm_on_a_bridge_is_found_by_arp"]),
    ("crates/cli/tests/it/real/hostile.rs", &["real_nothing_that_a_hostile_disk_names_is_opened"]),
    ("crates/cli/tests/it/real/debian.rs", &["real_sandboxes_have_debian_for_their_root"]),
    ("crates/cli/tests/it/real/forwards.rs", &["real_a_policy_changes_while_its_guest_runs"]),
    ("crates/cli/tests/it/real/backups.rs", &["real_what_is_remembered_of_a_disk_is_never_wrong"]),
    ("crates/cli/tests/it/real/kills.rs", &["real_kill_in_the_middle_of_exec", "real_kill_in_the_middle_of_create"]),
    ("crates/cli/tests/it/real/backups.rs", &["real_a_backup_that_was_cut_short_is_whole_or_gone"]),
    ("crates/cli/tests/it/real/cards.rs", &["real_a_sandbox_reaches_what_its_owner_opens_by_ipv6"]),
    ("crates/cli/tests/it/real/forwards.rs", &["real_a_port_of_the_host_leads_to_a_sandbox"]),
    ("crates/cli/tests/it/real/snapshots.rs", &["real_a_snapshot_that_was_cut_short_is_whole_or_gone"]),
    ("crates/cli/tests/it/real/backups.rs", &["real_a_backup_is_booted_to_see_whether_it_does"]),
    ("crates/cli/tests/it/real/volumes.rs", &["real_a_backup_needs_room_on_its_host_and_loses_nothing_without"]),
    ("crates/cli/tests/it/real/volumes.rs", &["real_volumes_come_through_kills"]),
    ("crates/cli/tests/it/real/life.rs", &["real_twenty_runs_at_once_all_answer"]),
    (
        "crates/hypervisor/tests/it/libvirt/faults.rs",
        &[
            "real_a_domain_that_libvirt_keeps_locked_is_told_with_the_way_out",
            "real_libvirtd_killed_in_the_middle_of_a_start_and_of_an_end_leaves_what_can_be_removed",
            "real_a_full_disk_is_told_and_leaves_nothing",
            "real_guests_outlive_libvirtd_and_what_happened_meanwhile_is_told",
        ],
    ),
    (
        "crates/hypervisor/tests/it/libvirt/far.rs",
        &["real_a_guest_of_a_libvirt_behind_ssh", "real_a_guest_of_a_libvirt_behind_tls"],
    ),
    ("crates/hypervisor/src/libvirt/create/tests.rs", &["real_a_start_that_fails_or_dies_at_any_step_leaves_nothing"]),
    (
        "crates/hypervisor/tests/it/libvirt/snapshots.rs",
        &[
            "real_a_full_disk_ends_a_snapshot_and_not_its_guest",
            "real_a_snapshot_of_which_half_is_left_is_none_and_can_be_made_again",
        ],
    ),
    (
        "crates/hypervisor/tests/it/libvirt/firmware.rs",
        &[
            "real_an_empty_disk_leaves_uefi_in_its_shell",
            "real_an_installation_medium_boots_where_the_disk_is_empty_and_finds_the_tpm",
        ],
    ),
];

/// Nextest's words for everything but what is left out this time.
pub fn filter(seed: u32) -> Result<String> {
    let source = std::fs::read_to_string(root().join(CONTRACT)).with_context(|| CONTRACT.to_owned())?;
    let drawn = drawn(&source, seed).join("|");
    let left_out = drawn_by_name().zip(0..).filter(|(_, place)| !(seed % OF + place).is_multiple_of(OF));
    let left_out: Vec<_> = left_out.map(|((_, name), _)| name).collect();
    let left_out = left_out.join("|");
    Ok(format!(
        r"(not test(/^contract::real_/) | test(/^contract::real_\w+::({drawn})$/)) - test(/(^|::)({left_out})$/)"
    ))
}

/// All of them, on real guests: for nextest.
pub fn whole() -> String {
    let names: Vec<_> = drawn_by_name().map(|(_, name)| name).collect();
    format!(r"test(/^contract::real_/) | test(/(^|::)({})$/)", names.join("|"))
}

fn drawn_by_name() -> impl Iterator<Item = (&'static str, &'static str)> {
    DRAWN.iter().flat_map(|(file, names)| names.iter().map(|name| (*file, *name)))
}

/// The cases in the macro's call, one to a line: `room: case`.
fn drawn(source: &str, seed: u32) -> Vec<&str> {
    let calls = source.lines().skip_while(|line| *line != "contract! {").skip(1).take_while(|line| *line != "}");
    let cases = calls.filter_map(|line| line.trim().split_once(": ").map(|(_, case)| case));
    cases.zip(0..).filter(|(_, place)| (seed % OF + place).is_multiple_of(OF)).map(|(case, _)| case).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_commits_play_every_case_once() {
        let source = "macro_rules! contract {\n}\ncontract! {\n    a: one\n    a: two\n    b: three\n    b: four\n}\n";
        assert_eq!(drawn(source, 0), ["one", "four"]);
        assert_eq!(drawn(source, 1), ["three"]);
        assert_eq!(drawn(source, u32::MAX - 1), ["two"], "2 more than a multiple of 3");
        let mut all: Vec<_> = (0..3).flat_map(|seed| drawn(source, seed)).collect();
        all.sort_unstable();
        assert_eq!(all, ["four", "one", "three", "two"]);
    }

    #[test]
    fn tests_by_name_are_found_and_three_commits_play_each_once() {
        for (file, name) in drawn_by_name() {
            let source = std::fs::read_to_string(root().join(file)).unwrap();
            assert!(source.contains(&format!("fn {name}()")), "{name} is not in {file}");
            let plays = (6..9).filter(|seed| !filter(*seed).unwrap().contains(name)).count();
            assert_eq!(plays, 1, "{name}");
        }
        assert!(filter(u32::MAX).is_ok());
    }

    #[test]
    fn the_contract_is_found() {
        let source = std::fs::read_to_string(root().join(CONTRACT)).unwrap();
        let (some, all): (usize, usize) =
            (drawn(&source, 0).len(), (0..3).map(|seed| drawn(&source, seed).len()).sum());
        assert!(some >= 5 && all >= 20, "{some} of {all}");
    }
}
