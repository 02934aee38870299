//! Every list and get verb in every format. `UPDATE_EXPECT=1` writes the snapshots anew.

use crate::canned::{answers, id};
use crate::fake::{Fake, Reply};
use expect_test::expect_file;
use std::fmt::Write;

const FORMATS: [&str; 7] = ["table", "wide", "json", "jsonl", "yaml", "csv", "name"];

/// What each command line prints in each format.
fn told(lines: &[&[&str]]) -> String {
    let fake = Fake::start(answers);
    let mut text = String::new();
    for line in lines {
        for format in FORMATS {
            let mut arguments = line.to_vec();
            arguments.extend(["-o", format]);
            let ran = fake.run(&arguments);
            assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{arguments:?}");
            assert!(!ran.out.contains('\u{1b}'), "escape sequences in a pipe: {arguments:?}");
            write!(text, "$ perigee {}\n{}\n", arguments.join(" "), ran.out).unwrap();
        }
    }
    text
}

#[test]
fn sandboxes() {
    expect_file!["./snapshots/sandbox.txt"].assert_eq(&told(&[&["sandbox", "list"], &["sandbox", "get", "web"]]));
}

#[test]
fn virtual_machines() {
    expect_file!["./snapshots/vm.txt"].assert_eq(&told(&[&["vm", "list"], &["vm", "get", "db"]]));
}

#[test]
fn volumes() {
    expect_file!["./snapshots/volume.txt"].assert_eq(&told(&[&["volume", "list"], &["volume", "get", "data"]]));
}

#[test]
fn networks() {
    expect_file!["./snapshots/network.txt"].assert_eq(&told(&[&["network", "list"], &["network", "get", "lab"]]));
}

#[test]
fn hosts() {
    expect_file!["./snapshots/host.txt"].assert_eq(&told(&[
        &["host", "list"],
        &["host", "get", "host-1"],
        &["host", "token"],
    ]));
}

#[test]
fn images() {
    expect_file!["./snapshots/image.txt"].assert_eq(&told(&[&["image", "list"], &["image", "get", "base"]]));
}

#[test]
fn tasks() {
    let get = ["task", "get", &id(0xd1)];
    expect_file!["./snapshots/task.txt"].assert_eq(&told(&[&["task", "list"], &get]));
}

#[test]
fn executions() {
    let get = ["execution", "get", &id(0xe1)];
    expect_file!["./snapshots/execution.txt"].assert_eq(&told(&[&["execution", "list"], &get]));
}

#[test]
fn events() {
    expect_file!["./snapshots/event.txt"].assert_eq(&told(&[&["event", "list"]]));
}

#[test]
fn headers_can_be_left_out() {
    let fake = Fake::start(answers);
    let ran = fake.run(&["sandbox", "list", "--no-headers"]);
    assert_eq!(ran.out.lines().count(), 2, "{}", ran.out);
    assert!(ran.out.starts_with("web\trunning\t"), "{}", ran.out);
}

#[test]
fn an_empty_list_is_no_failure() {
    let empty = |_: &_| Reply { status: 200, media: "application/json", body: br#"{"items":[]}"#.to_vec() };
    let fake = Fake::start(empty);
    for (format, out) in [("json", "[]\n"), ("jsonl", ""), ("yaml", "[]\n"), ("name", "")] {
        let ran = fake.run(&["sandbox", "list", "-o", format]);
        assert_eq!((ran.code, ran.out.as_str()), (0, out), "{format}");
        assert!(ran.err.contains("perigee sandbox create"), "{}", ran.err);
    }
    let quiet = fake.run(&["sandbox", "list", "-q"]);
    assert_eq!((quiet.out.lines().count(), quiet.err.as_str()), (1, ""));
}

#[test]
fn lists_turn_pages_and_stop_at_the_limit() {
    let fake = Fake::start(answers);
    let all = fake.run(&["sandbox", "list", "-o", "name", "--label", "team=blue", "--status", "running"]);
    assert_eq!(all.out, "web\nhostile\n");
    let lines = fake.lines();
    assert_eq!(lines[0], "GET /api/v1/sandboxes?limit=1000&status=running&label=team%3Dblue");
    assert_eq!(lines[1], "GET /api/v1/sandboxes?limit=1000&page_token=two&status=running&label=team%3Dblue");
    assert_eq!(fake.run(&["sandbox", "list", "-o", "name", "--limit", "1"]).out, "web\n");
}

#[test]
fn the_format_may_come_from_the_environment() {
    let fake = Fake::start(answers);
    let run = |value: &str| fake.command(&["sandbox", "list"]).env("PERIGEE_OUTPUT", value).output().unwrap();
    assert_eq!(run("name").stdout, b"web\nhostile\n");
    assert_eq!(run("nonsense").status.code(), Some(2));
}
