//! Pages and code tell the same story: error pages, decision records, links.

use super::{Finding, Tree, finding, is_test_file};
use std::collections::{BTreeMap, BTreeSet};

const ERRORS: &str = "docs/errors/";
const DECISIONS: &str = "docs/decisions/";

/// Every published code has a page; every page is about a code in use.
pub fn error_pages(tree: &Tree) -> Vec<Finding> {
    let mut used = BTreeMap::new();
    for (path, text) in tree.rust().filter(|(path, _)| path.starts_with("crates/") && !is_test_file(path)) {
        for (number, line) in (1..).zip(text.lines()).take_while(|(_, line)| line.trim() != "mod tests {") {
            for code in codes_in(line) {
                used.entry(code).or_insert_with(|| format!("{path}:{number}"));
            }
        }
    }
    let pages: BTreeSet<&str> = tree
        .with_end(".md")
        .filter_map(|(path, _)| path.strip_prefix(ERRORS)?.strip_suffix(".md"))
        .filter(|name| name.starts_with("PRG-"))
        .collect();
    let without = used.iter().filter(|(code, _)| !pages.contains(code.as_str()));
    let mut findings: Vec<_> =
        without.map(|(code, place)| finding(place, format!("{code} has no page {ERRORS}{code}.md"))).collect();
    let unused = pages.iter().filter(|page| !used.contains_key(**page));
    findings.extend(unused.map(|page| finding(format!("{ERRORS}{page}.md"), "nothing uses this code")));
    findings
}

/// `PRG-` and four digits, each as a word.
fn codes_in(line: &str) -> impl Iterator<Item = String> {
    line.split("PRG-").skip(1).filter_map(|rest| {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        (digits == 4).then(|| format!("PRG-{}", &rest[..4]))
    })
}

/// Records are numbered from 0001 without gaps or twins.
pub fn decisions(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut next = 1u32;
    for (path, _) in tree.with_end(".md") {
        let Some(name) = path.strip_prefix(DECISIONS).filter(|name| *name != "README.md") else { continue };
        let number: Option<u32> =
            name.split_once('-').filter(|(digits, _)| digits.len() == 4).and_then(|(d, _)| d.parse().ok());
        match number {
            Some(number) if number == next => next += 1,
            Some(number) => {
                findings.push(finding(path, format!("its number should be {next:04}")));
                next = number + 1;
            }
            None => findings.push(finding(path, "a record is named NNNN-title.md")),
        }
    }
    findings
}

/// Links between files lead somewhere.
pub fn links(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.with_end(".md") {
        for (number, target) in links_in(text) {
            if !tree.has(&resolve(path, target)) {
                findings.push(finding(format!("{path}:{number}"), format!("{target} is not there")));
            }
        }
    }
    findings
}

/// Relative links outside code, without their anchors, with their lines.
fn links_in(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for rest in line.split("](").skip(1) {
            let target = rest.split([')', ' ', '#']).next().unwrap_or_default();
            let elsewhere = target.contains("://") || target.starts_with("mailto:") || target.starts_with('/');
            if !target.is_empty() && !elsewhere {
                found.push((number, target));
            }
        }
    }
    found
}

fn resolve(from: &str, target: &str) -> String {
    let mut pieces: Vec<&str> = from.split('/').collect();
    pieces.pop();
    for piece in target.split('/') {
        match piece {
            "" | "." => {}
            ".." => _ = pieces.pop(),
            other => pieces.push(other),
        }
    }
    pieces.join("/")
}

#[cfg(test)]
mod tests {
    use super::super::places;
    use super::*;

    #[test]
    fn codes_and_pages_are_the_same() {
        let files = [
            ("crates/model/src/refusal.rs", "A \"PRG-1001\"\nB \"PRG-1002\" // PRG-10023\nmod tests {\n\"PRG-9999\"\n"),
            ("crates/model/src/task/tests.rs", "PRG-8888"),
            ("docs/errors/PRG-1001.md", ""),
            ("docs/errors/PRG-3003.md", ""),
            ("docs/errors/README.md", ""),
        ];
        assert_eq!(places(error_pages, &files), ["crates/model/src/refusal.rs:2", "docs/errors/PRG-3003.md"]);
    }

    #[test]
    fn records_are_numbered_without_gaps() {
        let good =
            [("docs/decisions/0001-a.md", ""), ("docs/decisions/0002-b.md", ""), ("docs/decisions/README.md", "")];
        assert!(places(decisions, &good).is_empty());
        let bad = [
            ("docs/decisions/0001-a.md", ""),
            ("docs/decisions/0003-b.md", ""),
            ("docs/decisions/0003-c.md", ""),
            ("docs/decisions/notes.md", ""),
        ];
        let expected = ["docs/decisions/0003-b.md", "docs/decisions/0003-c.md", "docs/decisions/notes.md"];
        assert_eq!(places(decisions, &bad), expected);
    }

    #[test]
    fn links_lead_somewhere() {
        let text = "[a](b.md) [c](../README.md#top) [d](gone.md)\n```\n[e](no.md)\n```\n[f](https://x.y) [g](#here)\n\
                    [h](./errors) ![i](none.png)\n";
        let files = [("docs/a.md", text), ("docs/b.md", ""), ("README.md", ""), ("docs/errors/x.md", "")];
        assert_eq!(places(links, &files), ["docs/a.md:1", "docs/a.md:6"]);
    }
}
