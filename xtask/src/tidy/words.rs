//! Names that say nothing, words that must not be left behind, and who may ask the outside what.

use super::{Finding, Tree, code_lines, crate_of, finding, is_test_file};
use crate::source::Code;

/// Not names: everything is a thing one could put there.
const NO_NAMES: &[&str] = &[
    "utils", "util", "helpers", "helper", "common", "misc", "manager", "service", "handler", "impl", "data", "info",
    "core",
];

/// Crates that call into C or the kernel themselves.
const MAY_BE_UNSAFE: &[&str] = &["confine", "guest", "hypervisor", "network", "probe", "cli"];

/// Only `clock` asks the operating system for time or randomness; these run where no simulation does,
/// or (`sim`) on the paused clock of the simulation itself.
const MAY_ASK_OUTSIDE: &[&str] = &["clock", "guest", "cli", "sim", "bench", "xtask"];
const OUTSIDE: &[&str] = &["SystemTime::now", "Instant::now", "thread_rng", "rand::rng()"];

pub fn names(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, _) in tree.with_end(".rs") {
        let name = path.trim_end_matches(".rs").split('/').find(|piece| NO_NAMES.contains(piece));
        findings.extend(name.map(|name| finding(path, format!("`{name}` is no name: say what it owns"))));
    }
    findings
}

pub fn forbidden(tree: &Tree) -> Vec<Finding> {
    // In pieces, so that this file may be checked as well.
    let places = [concat!("../", "shared"), concat!("/wo", "rk/")];
    let mark = concat!("TO", "DO");
    let mut findings = Vec::new();
    for (path, text) in &tree.files {
        for (number, line) in (1..).zip(text.lines()) {
            let at = || format!("{path}:{number}");
            let outside = places.iter().filter(|place| line.contains(**place) && starts_outside(line, place));
            findings.extend(outside.map(|place| finding(at(), format!("`{place}` is not a part of the project"))));
            if line.split(mark).skip(1).any(|rest| !names_an_issue(rest)) {
                findings.push(finding(at(), format!("{mark} without its issue: write {mark}(#12)")));
            }
        }
    }
    findings
}

/// The folder as the beginning of a path, not in the midst of one.
fn starts_outside(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "-_.}$".contains(c)))
}

fn names_an_issue(rest: &str) -> bool {
    let number = rest.strip_prefix("(#").and_then(|rest| rest.split_once(')'));
    number.is_some_and(|(number, _)| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

pub fn unsafe_code(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.with_end("/src/lib.rs") {
        let may = crate_of(path).is_some_and(|name| MAY_BE_UNSAFE.contains(&name));
        if !may && !Code::of(text).has("#![forbid(unsafe_code)]") {
            findings.push(finding(path, "say #![forbid(unsafe_code)], or be in the list in xtask/src/tidy/words.rs"));
        }
    }
    findings
}

pub fn outside(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust() {
        if is_test_file(path) || crate_of(path).is_none_or(|name| MAY_ASK_OUTSIDE.contains(&name)) {
            continue;
        }
        let code = Code::of(text);
        for (number, line) in code_lines(&code, path) {
            // tokio's own time is virtual in a simulation.
            let line = line.replace("tokio::time::Instant::now", "");
            let asked = OUTSIDE.iter().filter(|call| line.contains(**call));
            findings.extend(asked.map(|call| {
                finding(format!("{path}:{number}"), format!("`{call}`: time and randomness come from perigee-clock"))
            }));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::places;
    use super::*;

    #[test]
    fn a_name_says_what_it_owns() {
        let found = places(
            names,
            &[
                ("crates/core/src/lib.rs", ""),
                ("crates/model/src/utils.rs", ""),
                ("crates/model/src/helpers/x.rs", ""),
                ("crates/model/src/host_info.rs", ""),
                ("crates/model/src/database.rs", ""),
            ],
        );
        assert_eq!(found, ["crates/core/src/lib.rs", "crates/model/src/helpers/x.rs", "crates/model/src/utils.rs"]);
    }

    #[test]
    fn what_is_left_to_do_has_an_issue() {
        let mark = concat!("TO", "DO");
        let text = format!("// {mark}(#12) later\n// {mark}: later\n// {mark}(#)\n{mark}(#1) {mark}\n");
        assert_eq!(places(forbidden, &[("a.rs", &text)]), ["a.rs:2", "a.rs:3", "a.rs:4"]);
    }

    #[test]
    fn nothing_outside_the_project_is_named() {
        let place = concat!("/wo", "rk/");
        let text = format!("see {}/x\ncd {place}main\nroot{place}lock\n`{place}`\n", concat!("../", "shared"));
        assert_eq!(places(forbidden, &[("Makefile", &text)]), ["Makefile:1", "Makefile:2", "Makefile:4"]);
    }

    #[test]
    fn unsafe_code_is_forbidden_but_where_it_must_be() {
        let forbids = "//! x\n#![forbid(unsafe_code)]\n";
        let files = [
            ("crates/model/src/lib.rs", forbids),
            ("crates/store/src/lib.rs", "// #![forbid(unsafe_code)]\n"),
            ("crates/guest/src/lib.rs", ""),
            ("crates/api/src/lib.rs", ""),
        ];
        assert_eq!(places(unsafe_code, &files), ["crates/api/src/lib.rs", "crates/store/src/lib.rs"]);
    }

    #[test]
    fn only_the_clock_asks_for_time() {
        let asks = "use std::time::Instant;\nfn f() { Instant::now(); }\n";
        let in_tests = "fn f() {}\n#[cfg(test)]\nmod tests {\n    fn g() { SystemTime::now(); }\n}\n";
        let files = [
            ("crates/agent/src/a.rs", asks),
            ("crates/agent/src/b.rs", "// Instant::now\nfn f() { tokio::time::Instant::now(); }\n"),
            ("crates/agent/src/c.rs", in_tests),
            ("crates/agent/tests/d.rs", asks),
            ("crates/clock/src/lib.rs", asks),
            ("crates/store/src/e.rs", "fn f() { rand::rng().fill(); rand::thread_rng(); }\n"),
        ];
        assert_eq!(
            places(outside, &files),
            ["crates/agent/src/a.rs:2", "crates/store/src/e.rs:1", "crates/store/src/e.rs:1"]
        );
    }
}
