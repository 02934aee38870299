//! The grammar itself: help and examples everywhere, completions, manual pages.

use crate::fake::{Ran, perigee};
use clap::Command;
use perigee_cli::args::grammar;

fn walk(command: &Command, path: &str, seen: &mut Vec<String>) {
    if command.is_hide_set() {
        return;
    }
    seen.push(path.to_owned());
    assert!(command.get_about().is_some(), "{path} has no help");
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    assert!(after.contains("Example:\n  ") && after.contains(path.split(' ').next().unwrap()), "{path} has no example");
    for argument in command.get_arguments() {
        assert!(argument.get_help().is_some(), "{path} {} has no help", argument.get_id());
        let secret = argument.get_long().is_some_and(|l| l.contains("token") && l != "token-file");
        assert!(!secret, "{path}: tokens are never options");
    }
    command.get_subcommands().for_each(|sub| walk(sub, &format!("{path} {}", sub.get_name()), seen));
}

#[test]
fn every_command_has_help_and_an_example() {
    let mut seen = Vec::new();
    walk(&grammar(), "perigee", &mut seen);
    assert!(seen.len() > 35, "{seen:?}");
    grammar().debug_assert();
}

#[test]
fn examples_are_themselves_in_the_grammar() {
    fn examples(command: &Command, found: &mut Vec<String>) {
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        found.extend(after.lines().filter_map(|l| l.strip_prefix("  perigee ")).map(str::to_owned));
        command.get_subcommands().for_each(|sub| examples(sub, found));
    }
    let mut found = Vec::new();
    examples(&grammar(), &mut found);
    for example in found {
        // What a shell would do with the rest is not ours.
        let line = example.split([';', '|', '>']).next().unwrap().replace('\'', "");
        let words = std::iter::once("perigee").chain(line.split_whitespace());
        let parsed = grammar().try_get_matches_from(words);
        assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
    }
}

#[test]
fn help_is_data() {
    for arguments in [&["--help"][..], &["sandbox", "run", "--help"], &["help", "sandbox", "run"], &["--version"]] {
        let ran = Ran::of(perigee(arguments).output().unwrap());
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{arguments:?}");
        assert!(ran.out.contains("perigee") && !ran.out.contains('\u{1b}'), "{arguments:?}");
    }
    let ran = Ran::of(perigee(&["help", "exit-codes"]).output().unwrap());
    assert!(ran.code == 0 && ran.out.contains("125  sandbox run"), "{ran:?}");
    assert_eq!(perigee(&["help", "nonsense"]).output().unwrap().status.code(), Some(2));
}

#[test]
fn completions_and_manual_pages_are_made() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let ran = Ran::of(perigee(&["completion", shell]).output().unwrap());
        assert!(
            ran.code == 0 && ran.out.contains("sandbox") && !ran.out.contains("start-session"),
            "{shell}: {}",
            ran.err
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let ran = Ran::of(perigee(&["man", dir.path().to_str().unwrap()]).output().unwrap());
    assert_eq!((ran.code, ran.out.as_str()), (0, ""));
    let page = std::fs::read_to_string(dir.path().join("perigee-sandbox-run.1")).unwrap();
    assert!(page.contains(".SH SYNOPSIS") && page.contains("Example"));
}
