//! What failures look like, and which exit code they give.

use crate::canned::answers;
use crate::fake::{Fake, Ran, Reply, json, perigee, refusal, write_private};
use expect_test::expect;
use perigee_api::prometheus::QueryFault;
use perigee_model::Code;
use std::net::TcpListener;

fn refused(code: Code, status: u16, arguments: &[&str]) -> Ran {
    Fake::start(move |_| refusal(code, status, "because")).run(arguments)
}

#[test]
fn refusals_give_their_exit_codes() {
    for (code, status, exit) in [
        (Code::BadField, 422, 2),
        (Code::UnknownField, 400, 2),
        (Code::NoToken, 401, 4),
        (Code::Denied, 403, 9),
        (Code::NoSuchGuest, 404, 3),
        (Code::GuestNotRunning, 409, 5),
        (Code::PreconditionFailed, 412, 5),
        (Code::PreconditionRequired, 428, 5),
        (Code::WaitTimedOut, 504, 6),
        (Code::StoreDown, 503, 7),
        (Code::HostAway, 503, 7),
        (Code::NoRoom, 507, 1),
        (Code::Bug, 500, 1),
    ] {
        let ran = refused(code, status, &["sandbox", "get", "web"]);
        assert_eq!(ran.code, exit, "{code}: {}", ran.err);
        assert_eq!(ran.out, "", "{code}");
        assert!(ran.err.contains(code.number()), "{}", ran.err);
        assert!(!ran.err.contains('\u{1b}'), "{}", ran.err);
        // Around a command every one of them is ours.
        let ran = refused(code, status, &["sandbox", "exec", "web", "--", "true"]);
        assert_eq!((ran.code, ran.out.as_str()), (125, ""), "{code}: {}", ran.err);
    }
}

#[test]
fn a_refusal_is_told_in_four_lines() {
    let ran = refused(Code::NoSuchImage, 404, &["sandbox", "create", "--image", "nope"]);
    expect![[r#"
        error: There is no such image
          cause: because
          try: perigee image list; perigee image build base
          code: PRG-3003  request-id: 0199c0de-0000-7000-8000-00000000beef
    "#]]
    .assert_eq(&ran.err);
}

#[test]
fn a_query_that_is_refused_can_be_found_in_the_log() {
    let fault = QueryFault { error: "unclosed".to_owned(), code: Code::BadQuery.number().to_owned() };
    let fake = Fake::start(move |_| json(400, &fault));
    let ran = fake.run(&["metrics", "query", "rate(up"]);
    let id = fake.seen()[0].header("x-request-id").to_owned();
    let expected = format!("error: The query was refused\n  cause: unclosed\n  code: PRG-1014  request-id: {id}\n");
    assert_eq!((ran.err, ran.code), (expected, 2));
}

#[test]
fn scripts_get_the_problem_document() {
    let ran = refused(Code::NoSuchImage, 404, &["sandbox", "create", "-o", "json"]);
    let document: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!((&document["code"], &document["status"]), (&"PRG-3003".into(), &404.into()));
    let ran = Ran::of(perigee(&["--data-dir", "/nowhere", "host", "list", "-o", "json"]).output().unwrap());
    let document: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!((ran.code, &document["exit_code"]), (7, &7.into()));
}

#[test]
fn nobody_there_is_unreachable() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    write_private(&dir.path().join("token"), "secret\n");
    let token = dir.path().join("token");
    let url = format!("http://{free}");
    let run = |words: &[&str]| {
        let mut arguments = vec!["--url", &url, "--token-file", token.to_str().unwrap()];
        arguments.extend(words);
        Ran::of(perigee(&arguments).output().unwrap())
    };
    let ran = run(&["sandbox", "list"]);
    assert_eq!((ran.code, ran.out.as_str()), (7, ""));
    assert!(ran.err.contains("refused") && ran.err.contains("try: perigee up"), "{}", ran.err);
    assert_eq!(run(&["sandbox", "run", "--", "true"]).code, 125);
}

#[test]
fn an_answer_of_something_else_is_told() {
    let fake = Fake::start(|_| Reply { status: 200, media: "text/html", body: b"<html>hello".to_vec() });
    let ran = fake.run(&["sandbox", "list"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    let fake = Fake::start(|_| Reply { status: 502, media: "text/html", body: b"<html>\x1b[31mbad gateway".to_vec() });
    let ran = fake.run(&["sandbox", "list"]);
    assert!(ran.code == 1 && ran.err.contains("502") && !ran.err.contains('\u{1b}'), "{}", ran.err);
}

#[test]
fn tokens_are_neither_shown_nor_read_from_open_files() {
    let fake = Fake::start(answers);
    let ran = fake.run(&["sandbox", "list"]);
    assert_eq!(fake.seen()[0].header("authorization"), "Bearer secret-token");
    assert!(!ran.out.contains("secret-token") && !ran.err.contains("secret-token"));
    let file = fake.dir.path().join("cli.toml");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let ran = fake.run(&["sandbox", "list"]);
    assert!(ran.code == 4 && ran.err.contains("chmod 600"), "{}", ran.err);
    write_private(&file, "url = \"x\"\ntoken = secret-token\n");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let ran = fake.run(&["sandbox", "list"]);
    assert!(ran.code == 1 && ran.err.contains("damaged") && !ran.err.contains("secret-token"), "{}", ran.err);
}

#[test]
fn wrong_usage_is_2() {
    for arguments in [
        &["sandbox"][..],
        &["sandbox", "create", "--memory", "256"],
        &["sandbox", "create", "--ttl", "1m1h"],
        &["sandbox", "create", "--cpus", "-1"],
        &["sandbox", "create", "--env", "novalue"],
        &["sandbox", "run", "--image", "base"],
        &["sandbox", "delete"],
        &["sandbox", "list", "-o", "xml"],
        &["nonsense"],
        &["--url", "http://127.0.0.1:1", "host", "list"],
    ] {
        let ran = Ran::of(perigee(arguments).output().unwrap());
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{arguments:?}: {}", ran.err);
    }
}

#[test]
fn beginnings_of_ids_are_looked_up() {
    let fake = Fake::start(answers);
    let ran = fake.run(&["task", "get", "0199c0de"]);
    expect![[r#"
        error: 0199c0de is the beginning of 2 ids, of a task each
          cause: 0199c0de-7000-7000-8000-0000000000d1 vm:create
          cause: 0199c0de-7000-7000-8000-0000000000d2 vm:delete
          try: perigee task list -o wide
    "#]]
    .assert_eq(&ran.err);
    assert_eq!(ran.code, 2);
    let ran = fake.run(&["task", "get", "0199C0DE-7000-7000-8000-0000000000D1", "-o", "name"]);
    assert_eq!(ran.code, 3, "a whole id is not looked up: {}", ran.err);
    let ran = fake.run(&["task", "get", "0199C0DE-7000-7000-8000-0000000000d", "-o", "name"]);
    assert_eq!(ran.code, 2, "{}", ran.err);
    assert_eq!(fake.run(&["task", "get", "0199ffff"]).code, 3);
    assert_eq!(fake.run(&["task", "get", "0199c0de-7000-7000-8000-0000000000d1", "-o", "name"]).code, 0);
}
