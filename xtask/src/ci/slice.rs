//! Which cases of the drivers' contract `make test` plays on real guests: a third of them, drawn from the
//! commit. On the simulated driver all are played each time; on real guests all are in `make soak`.

use crate::shell::root;
use anyhow::{Context, Result};

/// Where the cases are listed.
const CONTRACT: &str = "crates/hypervisor/tests/it/contract.rs";
/// One of so many is played.
const OF: u32 = 3;

/// Nextest's words for everything but what is left out this time.
pub fn filter(seed: u32) -> Result<String> {
    let source = std::fs::read_to_string(root().join(CONTRACT)).with_context(|| CONTRACT.to_owned())?;
    let drawn = drawn(&source, seed).join("|");
    Ok(format!(r"not test(/^contract::real_/) | test(/^contract::real_\w+::({drawn})$/)"))
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
    fn the_contract_is_found() {
        let source = std::fs::read_to_string(root().join(CONTRACT)).unwrap();
        let (some, all): (usize, usize) =
            (drawn(&source, 0).len(), (0..3).map(|seed| drawn(&source, seed).len()).sum());
        assert!(some >= 5 && all >= 20, "{some} of {all}");
    }
}
